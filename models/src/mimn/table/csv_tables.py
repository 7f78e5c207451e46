"""What `curves`, `weeks` and `trials` left as CSV, as Markdown tables for the appendix."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

from mimn.table import weeks
from mimn.table.at_the_time import differences
from mimn.table.plan import Plan
from mimn.table.wording import grid, prose

CURVES = "curves"
WEEKS = "weeks"
TRIALS = "trials"
TITLES = {
    "length": (
        "AUC by events read",
        "On the test rows whose users have at least 1,000 events, however few of them are read (the paper's Figure 1).",
    ),
    "delay": (
        "AUC by hours that the state is behind",
        "The state lacks the events of the last hours before the request, which stays where it is (out-of-sync states "
        "in the paper's Table 5). The latest 200 events before that are read.",
    ),
    "long": (
        "AUC when the same behavior goes on, by events read",
        "Test users with at least 1,000 events, whose whole history is repeated before the real one, as often as the "
        "length needs. Their tastes stay the same, and the models were trained on windows of 256 events, with a ledger "
        "of 1,024: if the AUC falls, the state loses information.",
    ),
    "utilization": (
        "Share of the writes by slot",
        "Of the latest 200 events, a user's most written slot first, averaged over test users (Figure 6).",
    ),
}
QUESTIONS = {
    "sizes": "What do the sizes of a state give?",
    "memories": "Does a memory add to counters, and do counters add to a model that reads the events?",
    "longer": "What does longer training give?",
    "short": "What does training on short histories, too, cost users with longer ones?",
}
"""What a plan of trials asks, by the name of its record's folder."""


def csv_tables(records: Path, plan: Plan) -> list[str]:
    """Markdown lines: a section for each curve of each data set that has files, then weeks and trials.

    Raises:
        OSError, msgspec.ValidationError: a file cannot be read.
    """
    lines: list[str] = []
    datasets = sorted({path.stem.rpartition("_")[0] for path in (records / CURVES).glob("*.csv")})
    for (curve, (title, text)), dataset in itertools.product(TITLES.items(), datasets):
        path = records / CURVES / f"{dataset}_{curve}.csv"
        if path.exists():
            lines += ["", f"## {plan.title(dataset)}: {title}", "", *prose(text), "", *_pivot(path)]
            lines += ["", f"![{title}]({CURVES}/{path.stem}.png)"]
    counted = {plan.title(path.stem): path for path in sorted((records / WEEKS).glob("*.csv"))}
    if counted:
        lines += ["", "## Purchases in seven days", ""]
        lines += prose("Of any seven days in a row, UTC: the most purchases, and the median.")
        lines += ["", *_weeks(counted)]
    for path in sorted((records / TRIALS).glob("*/trials.csv")):
        lines += _trials(path, plan)
    return lines + differences(records, plan)


def _trials(path: Path, plan: Plan) -> list[str]:
    """A record of trials: each row by the bytes of its state, and against the first of its stage."""
    with path.open(encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    key = path.parent.name
    titles = ", ".join(plan.title(dataset) for dataset in dict.fromkeys(trial["dataset"] for trial in trials))
    folds = ", ".join(dict.fromkeys(trial["fold"] for trial in trials))
    lines = ["", f"## Trials `{key}`", ""]
    text = (
        f"{QUESTIONS.get(key, '')} Validation AUC on {titles}, fold {folds}, the mean of the folds that a row has; the "
        "users of these trials are tested in another fold. Intervals are over the users; another seed moves a figure "
        "by some thousandths."
    )
    lines += prose(text.lstrip())
    lines += ["", *_sizes(trials, plan)]
    if (differences := path.with_name("differences.csv")).exists():
        lines += ["", *_differences(differences, plan)]
    return [*lines, "", f"![AUC by KiB of a state]({TRIALS}/{key}/trials.png)"]


def _pivot(path: Path) -> list[str]:
    """A curve's points: a line for each model, a column for each x. The third field is x, the fourth y."""
    with path.open(encoding="utf-8", newline="") as file:
        names, *points = csv.reader(file)
    row, x, y = 1, 2, 3
    of_row = [name for name in ("folds", "trainings") if name in names]
    values: dict[tuple[str, ...], dict[str, str]] = {}
    for point in points:
        key = (point[row], *(point[names.index(name)] for name in of_row))
        values.setdefault(key, {})[point[x]] = f"{float(point[y]):.4f}"
    columns = list(dict.fromkeys(point[x] for point in points))
    body = ([*key, *(of.get(at, "-") for at in columns)] for key, of in values.items())
    return grid(["row", *of_row, *(f"{int(at):,}" for at in columns)], body)


def _weeks(paths: Mapping[str, Path]) -> list[str]:
    body = []
    for name, path in paths.items():
        counted = weeks.read(path)
        most, usual = weeks.busiest(counted), weeks.median(counted)
        times = f"{most.purchases / usual:.2f}"
        body.append([name, f"{most.first_day}", f"{most.purchases:,}", f"{usual:,}", times])
    return grid(["data set", "most from", "purchases", "median", "times"], body)


def _differences(path: Path, plan: Plan) -> list[str]:
    body = []
    with path.open(encoding="utf-8", newline="") as file:
        for one in csv.DictReader(file):
            auc, low, high = (float(one[name]) for name in ("auc", "low", "high"))
            difference = f"{auc:+.4f} [{low:+.4f}, {high:+.4f}]"
            body.append([plan.title(one["dataset"]), f"`{one['difference']}`", f"{int(one['length']):,}", difference])
    return grid(["data set", "difference", "events", "AUC"], body)


def _sizes(trials: list[dict[str, str]], plan: Plan) -> list[str]:
    """The means over folds, by the bytes of a state. A model that reads the events has none: it comes last."""
    lengths = list(dict.fromkeys(trial["length"] for trial in trials))
    values: dict[tuple[str, float, str, str], dict[str, dict[str, float]]] = {}
    for trial in trials:
        key = (plan.title(trial["dataset"]), float(trial["state_bytes"] or math.inf), trial["name"], trial["row"])
        of_fold = values.setdefault(key, {}).setdefault(trial["length"], {})
        of_fold[trial["fold"]] = float(trial["validation_auc"])
    body = (
        [
            title,
            f"{size:,.0f}" if size < math.inf else "-",
            name,
            f"`{row}`",
            f"{max(map(len, of.values()))}",
            *(f"{statistics.fmean(of[length].values()):.4f}" if length in of else "-" for length in lengths),
        ]
        for (title, size, name, row), of in sorted(values.items())
    )
    events = (f"{int(length):,} events" for length in lengths)
    return grid(["data set", "bytes", "name", "row", "folds", *events], body)
