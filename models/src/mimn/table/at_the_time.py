"""What `slices` left of the test users, as Markdown: negatives drawn at the time of the target.

An item out of season gives itself away among negatives of a whole year, so models are chosen by these figures, on
validation users (`chosen_by`). The other protocol, which older rows were measured with, stays beside them in the table.
"""

from __future__ import annotations

import csv
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mimn.data.split import FOLDS
from mimn.table.boosting import BOOSTING_ROW
from mimn.table.compare import TRAINED_LONG, Results
from mimn.table.plan import Plan
from mimn.table.records import row_of
from mimn.table.wording import grid, name, prose

RECORDS = tuple(Path("trials") / plan / "slices-test.csv" for plan in ("first", "narrow", "ledger"))
"""In the folder of all records, the newest first, which counts where two have a fold of a row."""
REPLACED = frozenset({"default_without_short"})
"""Recipes that the default replaced: the first page has what to use now, the appendix compares the two."""
VALIDATION = tuple(path.with_name("slices-validation.csv") for path in RECORDS)
SLICES = ("all", "bought before", "new")
SAMPLING = "recent"
VALIDATION_LENGTH = "200"
"""Events that a row's `validation_auc` is measured with."""
SAME = 1e-4
"""Two AUCs of one training are at most this far apart: figures have five digits."""
Line = Mapping[str, str]
Validation = Mapping[str, Mapping[str, Mapping[int, float]]]
"""AUCs of validation users by data set, row and fold."""


def chosen_by(records: Path, found: Sequence[Results]) -> Validation:
    """What rows are chosen by: longest histories, the mean of a row's trainings. Boosting is a ceiling, and no choice.
    Figures of a training that the row's records no longer hold are left out.

    Raises:
        OSError: a file cannot be read.
    """
    old = _of_no_record(records, found)
    lines = [line for line in _longest(records, VALIDATION) if line["row"] != BOOSTING_ROW and _place(line) not in old]
    keys = {line["row"] for line in lines} | {key for one in found for key in one.models}
    of_fold = defaultdict[tuple[str, str, int], list[Line]](list)
    for line in lines:
        if line["targets"] == "all" and line["negatives"] == SAMPLING:
            of_fold[line["dataset"], row_of(line["row"], keys), int(line["fold"])].append(line)
    aucs: dict[str, dict[str, dict[int, float]]] = {}
    for (dataset, row, fold), mine in of_fold.items():
        aucs.setdefault(dataset, {}).setdefault(row, {})[fold] = _weighted(mine)
    return aucs


def _of_no_record(records: Path, found: Sequence[Results]) -> set[tuple[str, str, str]]:
    """Data set, row and fold of figures whose year-wide AUC on validation users is that of no training on record."""
    results = {one.dataset: one for one in found}
    keys = {key for one in found for key in one.models}
    old = set()
    for line in _kept(records, VALIDATION):
        row = row_of(line["row"], keys)
        if (line["negatives"], line["targets"], line["length"]) != ("popularity", "all", VALIDATION_LENGTH):
            continue
        if line["dataset"] in results and (trainings := results[line["dataset"]].models.get(row)):
            fold = int(line["fold"])
            recorded = [one.folds[fold].get("validation_auc", 0.0) for one in trainings if fold in one.folds]
            if all(abs(float(line["auc"]) - of) > SAME for of in [*recorded, statistics.fmean(recorded or [0.0])]):
                old.add(_place(line))
    return old


def at_the_time(records: Path, found: Sequence[Results], plan: Plan) -> list[str]:
    """The first page's lines: a row for each model, a column for each data set; none without a record.

    Raises:
        OSError: a file cannot be read.
    """
    lines = _longest(records, RECORDS)
    if not lines:
        return []
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    titled = {one.dataset: one for one in found}
    keys = {line["row"] for line in lines} | {key for one in found for key in one.models}
    lines_of = defaultdict[tuple[str, str], list[Line]](list)
    for line in lines:
        lines_of[line["dataset"], row_of(line["row"], keys)].append(line)
    body, better_short = [], []
    for row in dict.fromkeys(key.removesuffix(TRAINED_LONG) for _, key in lines_of):
        cells, named = [], f"`{row}`"
        for dataset in datasets:
            short, long = lines_of[dataset, row], lines_of[dataset, row + TRAINED_LONG]
            mine = long or short
            trainings = _trainings(mine)
            counted = f" ({len(trainings)} of {FOLDS} folds)" if 0 < len(trainings) < FOLDS else ""
            if (counts := set(trainings.values())) - {1}:
                counted += f" ({' or '.join(map(str, sorted(counts)))} trainings)"
            values = [_mean(mine, targets) for targets in SLICES]
            cells.append(" / ".join(value for value in values if value != "-") + counted if mine else "-")
            if mine and dataset in titled:
                named = name(titled[dataset], row)
            if long and short and _mean(short, "all") > _mean(long, "all"):
                better_short.append(f"{named} ({plan.title(dataset)}: {_mean(short, 'all')})")
        body.append([named, *cells])
    return [
        "## Negatives at the time",
        "",
        *prose(
            "Test AUC, negatives by popularity in the four weeks before the target, longest histories: targets all / "
            "bought before / new; each row as trained longest."
            + (f" Better after eight epochs: {', '.join(better_short)}." if better_short else "")
        ),
        "",
        *grid(["row", *(plan.title(dataset) for dataset in datasets)], body),
    ]


def differences(records: Path, plan: Plan) -> list[str]:
    """The appendix's lines: each model minus those that it is compared with, by slice; none without a record.

    Raises:
        OSError: a file cannot be read.
    """
    found = [line for path in RECORDS for line in read_lines(records / path.with_name(f"{path.stem}-differences.csv"))]
    if not found:
        return []
    body = [
        [
            plan.title(one["dataset"]),
            f"`{one['difference']}`",
            one["folds"],
            one["trainings"],
            f"{int(one['length']):,}",
            one["targets"],
            f"{float(one['auc']):+.4f} [{float(one['low']):+.4f}, {float(one['high']):+.4f}]",
        ]
        for one in found
        if one["negatives"] == SAMPLING
    ]
    head = ["data set", "difference", "folds", "trainings", "events", "targets", "AUC"]
    return [
        "",
        "## Differences with negatives at the time",
        "",
        *prose("By popularity in the four weeks before the target; intervals are over users and trainings."),
        "",
        *grid(head, body),
    ]


def _longest(records: Path, paths: Sequence[Path]) -> list[Line]:
    """The lines of the longest histories of each data set."""
    lines = _kept(records, paths)
    longest: dict[str, int] = {}
    for line in lines:
        longest[line["dataset"]] = max(longest.get(line["dataset"], 0), int(line["length"]))
    return [line for line in lines if int(line["length"]) == longest[line["dataset"]]]


def _kept(records: Path, paths: Sequence[Path]) -> list[Line]:
    """All lines of recipes that are not `REPLACED`, each fold of a row from the first file that has it."""
    lines: list[Line] = []
    for path in paths:
        known = {_place(line) for line in lines}
        current = [line for line in read_lines(records / path) if row_of(line["row"], REPLACED) not in REPLACED]
        lines += [line for line in current if _place(line) not in known]
    return lines


def _place(line: Line) -> tuple[str, str, str]:
    return line["dataset"], line["row"], line["fold"]


def read_lines(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file; none without the file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _trainings(lines: Sequence[Line]) -> dict[str, int]:
    """How many trainings each fold has; an older line is the mean of several."""
    of_training = {(line["fold"], line["row"]): int(line["trainings"]) for line in lines}
    counts = Counter[str]()
    for (fold, _), count in of_training.items():
        counts[fold] += count
    return counts


def _mean(lines: Sequence[Line], targets: str) -> str:
    """The mean over folds of the mean over trainings."""
    found = [of for of in lines if of["targets"] == targets and of["negatives"] == SAMPLING]
    values = [_weighted([of for of in found if of["fold"] == fold]) for fold in {of["fold"] for of in found}]
    return f"{statistics.fmean(values):.4f}" if values else "-"


def _weighted(lines: Sequence[Line]) -> float:
    """The mean over trainings; a line may be that of several."""
    return statistics.fmean([float(of["auc"]) for of in lines], [int(of["trainings"]) for of in lines])
