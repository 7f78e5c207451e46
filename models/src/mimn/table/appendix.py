"""What `curves`, `weeks` and `trials` left as CSV, as tables for `AUC.md`."""

from __future__ import annotations

import csv
import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from mimn.table import weeks

CURVES = "curves"
WEEKS = "weeks"
SIZES = "trials/sizes"
MEMORIES = "trials/memories"
VALIDATION = "On The Complete Journey's validation users of fold 0, who are tested in fold 1."
TITLES = {
    "length": (
        "AUC by events read",
        "On the test rows whose users have at least 1,000 events, whatever is read of them (the paper's Figure 1).",
    ),
    "delay": (
        "AUC by hours that the state lacks",
        "The latest 200 events of those up to so many hours before the request; the request stays where it is (Table "
        "5's row for states that are out of step).",
    ),
    "long": (
        "AUC when the same behavior goes on, by events read",
        "Test users with at least 1,000 events who did all of it again and again before, the last time when they "
        "really did. What there is to know of them stays the same, and the models were trained on windows of 256 "
        "events: a fall is the state's.",
    ),
    "utilization": (
        "Share of the writes by slot",
        "Of the latest 200 events, a user's most written slot first, the mean over test users (Figure 6).",
    ),
}


def appendix(records: Path, datasets: Mapping[str, str]) -> list[str]:
    """Markdown lines: a section for each curve of a data set, which `datasets` gives its title, then weeks and trials.

    Raises:
        OSError, msgspec.ValidationError: a file cannot be read.
    """
    lines: list[str] = []
    for (curve, (title, text)), (dataset, name) in itertools.product(TITLES.items(), datasets.items()):
        path = records / CURVES / f"{dataset}_{curve}.csv"
        if path.exists():
            lines += ["", f"## {name}: {title}", "", *_wrapped(text), "", *_pivot(path)]
            lines += ["", f"![{title}]({CURVES}/{path.stem}.png)"]
    counted = {name: records / WEEKS / f"{dataset}.csv" for dataset, name in datasets.items()}
    if any(path.exists() for path in counted.values()):
        lines += ["", "## Purchases in seven days", ""]
        lines += _wrapped("Any seven days in a row, UTC: the most, and the median.")
        lines += ["", *_weeks({name: path for name, path in counted.items() if path.exists()})]
    if (path := records / SIZES / "trials.csv").exists():
        lines += ["", "## Trials: AUC by the bytes of a state", "", *_wrapped(VALIDATION)]
        lines += ["", *_sizes(path), "", f"![AUC by KiB]({SIZES}/trials.png)"]
    if (path := records / MEMORIES / "trials.csv").exists():
        lines += ["", "## Trials: does a memory earn its place?", ""]
        lines += _wrapped(
            f"{VALIDATION} What a memory gives is what it adds to the same model without one; a sketch is a memory, "
            "of counts. Intervals are over the users; another seed moves a figure by some thousandths."
        )
        lines += ["", *_sizes(path), "", *_differences(path.with_name("differences.csv"))]
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, break_on_hyphens=False)


def _pivot(path: Path) -> list[str]:
    """A curve's points: a line for each model, a column for each x. The third field is x, the fourth y."""
    with path.open(encoding="utf-8", newline="") as file:
        names, *points = csv.reader(file)
    row, x, y, folds = 1, 2, 3, names.index("folds")
    values: dict[tuple[str, str], dict[str, str]] = {}
    for point in points:
        values.setdefault((point[row], point[folds]), {})[point[x]] = f"{float(point[y]):.4f}"
    columns = list(dict.fromkeys(point[x] for point in points))
    body = ([name, count, *(of.get(at, "-") for at in columns)] for (name, count), of in values.items())
    return _table(["row", "folds", *(f"{int(at):,}" for at in columns)], body)


def _weeks(paths: Mapping[str, Path]) -> list[str]:
    body = []
    for name, path in paths.items():
        counted = weeks.read(path)
        most, usual = weeks.busiest(counted), weeks.median(counted)
        times = f"{most.purchases / usual:.2f}"
        body.append([name, f"{most.first_day}", f"{most.purchases:,}", f"{usual:,}", times])
    return _table(["data set", "most from", "purchases", "median", "times"], body)


def _differences(path: Path) -> list[str]:
    body = []
    with path.open(encoding="utf-8", newline="") as file:
        for one in csv.DictReader(file):
            auc, low, high = (float(one[name]) for name in ("auc", "low", "high"))
            body.append([f"`{one['difference']}`", f"{int(one['length']):,}", f"{auc:+.4f} [{low:+.4f}, {high:+.4f}]"])
    return _table(["difference", "events", "AUC"], body)


def _sizes(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    lengths = list(dict.fromkeys(trial["length"] for trial in trials))
    values: dict[tuple[float, str, str], dict[str, str]] = {}
    for trial in trials:
        # A model that reads the events has no state: it comes last.
        key = (float(trial["state_bytes"] or math.inf), trial["name"], trial["row"])
        values.setdefault(key, {})[trial["length"]] = f"{float(trial['validation_auc']):.4f}"
    body = (
        [f"{size:,.0f}" if size < math.inf else "-", name, f"`{row}`", *(of.get(length, "-") for length in lengths)]
        for (size, name, row), of in sorted(values.items())
    )
    return _table(["bytes", "name", "row", *(f"{int(length):,} events" for length in lengths)], body)


def _table(head: list[str], body: Iterable[list[str]]) -> list[str]:
    rule = "| " + " | ".join(["---"] * len(head)) + " |"
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(cells)} |" for cells in body)]
