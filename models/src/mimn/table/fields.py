"""What fields add to the rows of the table: each row with fields against the same row without, on the same test rows.

    python -m mimn.table.fields [--plan models/plans/fields.toml] [--cpu-minutes 60]

runs what the plan lacks and writes `fields.md` and `fields.json` into the plan's records. The rows without fields are
those of the table (`models/experiments`); fields change neither events nor instances, so both sides have the same
positives, negatives and histories. Heads are compared with the paper's head over the same state and fields.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from mimn import run
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.evaluate import EvaluationFailed
from mimn.metrics import UndefinedMetric
from mimn.table.compare import Comparison, Entry, Results
from mimn.table.plan import Plan, read_plan, remaining
from mimn.table.records import FLOOR_ROW, NoRecord, Record, read_records
from mimn.table.run import run_open
from mimn.table.wording import grid, prose
from mimn.training.command import resumable
from mimn.training.folder import TrainingFailed

PLAN = Path("models/plans/fields.toml")
RECORDS = Path("models/experiments")
WITH = " with fields"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison, as `fields.json` has it."""

    row: str
    against: str
    folds: tuple[int, ...]
    auc: tuple[float, ...]
    """By fold."""
    auc_against: tuple[float, ...]
    difference: float
    low: float
    high: float


def lines(plan: Plan, without: Sequence[Record], having: Sequence[Record]) -> list[Line]:
    """Every comparison of the plan that has been run: fields first, heads behind them.

    Raises:
        NoRecord: the rows without fields lack the floors, or were made on other instances.
    """
    found: list[Line] = []
    for dataset in dict.fromkeys(stage.dataset for stage in plan.stages):
        mine = {record.key: record for record in without if record.dataset == dataset}
        if FLOOR_ROW not in mine:
            raise NoRecord(f"{dataset} has no record {FLOOR_ROW!r}: run `python -m mimn.table` first")
        floors = mine.pop(FLOOR_ROW)
        described = {key for stage in plan.stages if stage.description for key in stage.rows}
        added = {
            record.key + WITH * (record.key in described): replace(record, key=record.key)
            for record in having
            if record.dataset == dataset
        }
        results = Results(dataset, floors, {key: [record] for key, record in (mine | added).items()})
        lengths = {length for stage in plan.stages for length in stage.lengths}
        for length in sorted(lengths):
            for row, against in _pairs(plan, added):
                compared = results.compare(Entry(row, length), Entry(against, length))
                if compared is not None:
                    folds = sorted(set(results.folds(Entry(row, length))) & set(results.folds(Entry(against, length))))
                    found.append(_line(row, against, folds, compared))
    return found


def _pairs(plan: Plan, added: Iterable[str]) -> list[tuple[str, str]]:
    """Rows and what each is compared with: a variation of the head with its own configuration's row, a row of another
    seed with the same seed without fields, any other row with the same one without fields."""
    pairs = []
    for row in added:
        if not row.endswith(WITH):
            continue
        key = row.removesuffix(WITH)
        variation = plan.variations.get(key)
        if variation is None:
            pairs.append((row, key))
        elif "head" in variation.model:
            pairs.append((row, variation.config + WITH))
        else:
            pairs.append((row, key.replace("_fields", "")))
    return pairs


def _line(row: str, against: str, folds: Iterable[int], compared: Comparison) -> Line:
    ours, theirs = compared.aucs
    found = compared.difference
    return Line(
        row=row,
        against=against,
        folds=tuple(folds),
        auc=tuple(round(auc, 4) for auc in ours),
        auc_against=tuple(round(auc, 4) for auc in theirs),
        difference=round(found.difference, 4),
        low=round(found.low, 4),
        high=round(found.high, 4),
    )


def page(plan: Plan, found: Sequence[Line], left: Sequence[str]) -> str:
    """The comparisons as Markdown."""
    title = ", ".join(of.title for of in plan.datasets.values())
    text = [f"# {title}", "", *prose(_INTRODUCTION), ""]
    for heading, of in (
        ("What fields add", [line for line in found if not line.against.endswith(WITH)]),
        ("Heads over the same state and fields", [line for line in found if line.against.endswith(WITH)]),
    ):
        body = [
            [
                line.row,
                " ".join(f"{auc:.4f}" for auc in line.auc),
                line.against,
                " ".join(f"{auc:.4f}" for auc in line.auc_against),
                f"{line.difference:+.4f} [{line.low:+.4f}, {line.high:+.4f}]",
            ]
            for line in of
        ]
        if body:
            head = ["row", "test AUC by fold", "against", "test AUC by fold", "difference"]
            text += [f"## {heading}", "", *grid(head, body), ""]
            best = max(of, key=lambda line: statistics.fmean(line.auc))
            text += [*prose(f"Highest: {best.row}, {statistics.fmean(best.auc):.4f}."), ""]
    if left:
        text += ["Not run:", "", *(f"* {line}" for line in left), ""]
    return "\n".join(text).rstrip() + "\n"


_INTRODUCTION = (
    "Made by `python -m mimn.table.fields`; nothing here is written by hand. Test AUC with popularity negatives, the "
    "latest 200 events, training settings of the table, on the folds shown. A negative is offered to the same user in "
    "the same context as its positive, so a field of user or context helps only by what it says of the candidate. "
    "Differences have 95 % intervals over test users, paired."
)


def main(arguments: list[str] | None = None) -> int:
    """Run and compare; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.fields", description="What fields add to the table.")
    parser.add_argument("--plan", type=Path, default=PLAN, help=f"TOML file (default {PLAN})")
    parser.add_argument("--without", type=Path, default=RECORDS, help=f"rows without fields (default {RECORDS})")
    parser.add_argument("--cpu-minutes", type=float, default=60.0, help="start no run after this many (default 60)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with resumable(ConfigError, DataError, TrainingFailed, EvaluationFailed, NoRecord, UndefinedMetric) as ended:
        plan = read_plan(options.plan)
        for _ in run_open(plan, options.cpu_minutes):
            pass  # each cell writes its record
        records = Path(plan.records)
        found = lines(plan, read_records(options.without), read_records(records))
        run.write_json(records / "fields.json", msgspec.to_builtins(found))
        (records / "fields.md").write_text(page(plan, found, list(remaining(plan))), "utf-8")
        print(f"wrote {records / 'fields.md'}")
    return ended.status


if __name__ == "__main__":
    sys.exit(main())
