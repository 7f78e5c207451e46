"""`AUC-appendix.md`: how the table is measured, what it answers, and every row, at every length."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

from mimn.table.answers import answers
from mimn.table.compare import TRAINED_LONG, Entry, Results
from mimn.table.plan import Plan
from mimn.table.wording import (
    COUNTS,
    FLOOR_TITLES,
    figures,
    grid,
    mean_std,
    name,
    prose,
    state_size,
)

REFERENCES = (COUNTS, "pooling_product", "din_product", "pooling_sketch")
"""The rows that every other row is compared with."""
LONGER = ("pooling_sketch_16_1280", "mimn_sketch_16")
"""Rows that were trained longer than the others."""
_TRIALS = (
    "The rows of 16 epochs were chosen on the validation users of fold 0, who are tested in fold 1: sum pooling with a "
    "sketch had trials of three more schedules and sizes, MIMN with a sketch of two (`trials/longer`). "
)
_LEDGERS = (
    "Rows with a ledger beside a mean or MIMN's memory had trials of their own on validation users (`trials/ledger`, "
    "`trials/teachers`, `trials/narrow`). On the shops they have more epochs (12 on The Complete Journey, 18 on Online "
    "Retail), windows of 1,024 events and all types of items. "
)
_TRAINED_LONG = (
    "Eight epochs turned out to be too few for some rows, so the main ones were trained again with the schedules of "
    "their own configurations, without trials: they are called `trained long`. On The Complete Journey that is 14 "
    "epochs and on Online Retail 20; with a ledger it is what rows with a ledger have. DIN and DIEN with a ledger that "
    "are not called so have windows of 256 events and one type. The first page and the answers below take the long "
    "training of a row where there is one. On MovieLens 100K all rows have the same schedule, windows and types; DIN "
    "and DIEN with a ledger also read 16 neighbors, the others none. "
)


def appendix(
    found: Sequence[Results], plan: Plan, open_rows: Mapping[str, Sequence[str]], others: Iterable[str]
) -> str:
    """The text of `AUC-appendix.md`.

    `open_rows` has the lines of what is still to be run, by the command that runs it; `others` are lines on what is not
    a row.
    """
    lines = [
        "# AUC: appendix",
        "",
        *prose(
            "Made by `python -m mimn.table.render` from the records in this folder, which `python -m mimn.table` "
            "makes. The answers are in [AUC.md](AUC.md)."
        ),
        "",
        "## How it is measured",
        "",
        *prose(
            "Users of train, validation and test are disjoint. A history ends before the target's basket begins. The "
            "vocabulary is that of the train users, and the checkpoint is chosen on validation users. Each of five "
            "folds tests two tenths of the users, validates on one and trains on seven, so that every user is tested "
            "once; the fold is also the seed. Each positive has one negative, drawn by popularity (the figure to read) "
            "or uniformly. The models learn from popularity negatives only, for which popularity is no evidence, while "
            "the floors are fitted separately for each kind of negative: do not compare the two columns."
        ),
        "",
        *prose(
            "Two folds are two models, and their scores are not ranked against each other: an AUC is the mean of the "
            "folds' AUCs, ± the sample standard deviation over folds and trainings. Differences are on the same rows "
            "and on the folds that both sides have, with 95 % intervals from 2,000 resamples of users within folds. "
            "Where a row was trained more than once, with other seeds, its figures are the means of its trainings, and "
            "each resample takes one of them at random: the interval then covers the randomness of training too. "
            "Where it was trained once, the interval covers the choice of users alone. How far one training is from "
            "another is said on the first page. `better` and `worse` mean that the interval excludes 0 and that the "
            "difference exceeds 0.001."
        ),
        "",
        *prose(
            "No row has trials of its own, except those named here: epochs, rates, dropout and weight decay are the "
            "same for all others and were chosen with sum pooling on validation users of an earlier split. The "
            "sketch's cells and half-life were chosen there too; those users, a tenth of all, are tested here in the "
            "last fold. "
            + (_TRIALS if any(key in one.models for one in found for key in LONGER) else "")
            + (_LEDGERS if any("pooling_ledger" in one.models for one in found) else "")
            + (_TRAINED_LONG if any(key.endswith(TRAINED_LONG) for one in found for key in one.models) else "")
            + f"All runs in this file together took {_cpu_hours(found):.1f} CPU-hours."
        ),
    ]
    for one in found:
        lines += ["", f"## {plan.title(one.dataset)}: answers", *answers(one, plan.of(one.dataset))]
    for one in found:
        for length in one.lengths():
            lines += _section(one, plan.title(one.dataset), length)
    lines += others
    if open_rows:
        lines += ["", "## Not run"]
    for command, rows in open_rows.items():
        lines += ["", f"`{command}` runs them, cheapest answers first:", "", *(f"* {line}" for line in rows)]
    return "\n".join(lines) + "\n"


def _cpu_hours(found: Sequence[Results]) -> float:
    records = (record for one in found for record in itertools.chain([one.floors], *one.models.values()))
    return float(sum(fold["cpu_s"] for record in records for fold in record.folds.values()) / 3600)


def _section(one: Results, title: str, length: int) -> list[str]:
    floors = one.floors.folds[min(one.floors.folds)]
    positives = sum(len(one.floors.of_fold(fold)["user"]) for fold in one.floors.folds)
    users = sum(len(set(one.floors.of_fold(fold)["user"].tolist())) for fold in one.floors.folds)
    hashes = ", ".join(f"`{one.floors.folds[fold]['instances_sha256'][:12]}`" for fold in sorted(one.floors.folds))
    lines = [
        "",
        f"## {title}, latest {length:,} events",
        "",
        *prose(
            f"{positives:,} positives of {users:,} users, as many negatives; data `{floors['data_sha256'][:16]}`, "
            f"instances by fold {hashes}."
        ),
        "",
    ]
    keys = [*FLOOR_TITLES, *sorted(one.models, key=lambda key: _order(one, Entry(key, length)))]
    entries = [entry for key in keys if one.has(entry := Entry(key, length))]
    samplings = [f"AUC, {sampling}" for sampling in one.samplings(length)]
    lines += grid(["row", "folds", *samplings, *_COLUMNS], (_row(one, entry) for entry in entries))
    references = [key for key in REFERENCES if one.has(Entry(key, length))]
    lines += [
        "",
        "Differences of AUC, popularity negatives; the last figure says in how many folds the row is ahead.",
        "",
        *grid(
            ["row", *(f"− {name(one, key)}" for key in references)],
            (
                [name(one, entry.key), *(_cell(one, entry, Entry(key, length)) for key in references)]
                for entry in entries
                if entry.key in one.models
            ),
        ),
    ]
    return [*lines, *_calibration(one, entries)]


def _order(one: Results, entry: Entry) -> float:
    return one.auc(entry) if one.has(entry) else 0.0


def _row(one: Results, entry: Entry) -> list[str]:
    found, folds = one.found(entry), len(one.folds(entry))
    others = [statistics.fmean(one.figures(entry, "popularity", figure)) for figure in _FIGURES]
    aucs = [mean_std(one.figures(entry, sampling, "auc")) for sampling in one.samplings(entry.length)]
    model = entry.key in one.models
    speeds = [f["targets_per_cpu_s"] for f in found if "targets_per_cpu_s" in f]
    speed = f"{statistics.fmean(speeds):,.0f}" if speeds else "-"
    state = state_size(one.state_bytes(entry.key)) if model else "-"
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(f["commit"] for f in found))
    count = str(folds) if len(found) == folds else f"{folds}, {len(found)} trainings"
    return [name(one, entry.key), count, *aucs, *(f"{value:.4f}" for value in others), state, speed, commits]


_COLUMNS = ["GAUC", "logloss", "NE", "PCOC", "state bytes", "targets a CPU-second", "commit"]
_FIGURES = ("gauc", "logloss", "normalized_entropy", "pcoc")


def _calibration(one: Results, entries: list[Entry]) -> list[str]:
    """PCOC by the length of the whole history. The mean label is 1/2 in every fold, so folds are weighted by rows."""
    spans: dict[str, None] = {}
    values: dict[Entry, dict[str, float]] = {}
    for entry in entries:
        rows: dict[str, int] = {}
        sums: dict[str, float] = {}
        for by_length in one.figures(entry, "popularity", "pcoc_by_history"):
            for span, found in dict(by_length).items():  # type: ignore[call-overload]  # this figure is a table
                rows[span] = rows.get(span, 0) + found["rows"]
                sums[span] = sums.get(span, 0.0) + found["rows"] * found["pcoc"]
        values[entry] = {span: sums[span] / rows[span] for span in rows}
        spans |= dict.fromkeys(rows)
    body = (
        [name(one, entry.key), *(f"{found[span]:.3f}" if span in found else "-" for span in spans)]
        for entry, found in values.items()
    )
    return ["", "PCOC by the number of events in the user's whole history:", "", *grid(["row", *spans], body)]


def _cell(one: Results, first: Entry, second: Entry) -> str:
    if first == second:
        return "-"
    comparison = one.compare(first, second)
    return "not on one fold" if comparison is None else f"{figures(comparison)}, {comparison.verdict}"
