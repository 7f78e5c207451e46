"""`AUC.md`, one page of answers, and `AUC-appendix.md`, everything behind them. Both are made from the records alone.

    python -m mimn.table.render [models/experiments] [--plan models/plans/table.toml]

No data set and no model is needed. A sentence says that one row is better than another only where the interval of the
difference excludes 0 and the difference exceeds 0.001 (`compare`); what speaks against MIMN is on the first page.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from mimn import metrics
from mimn.config import ConfigError
from mimn.data.split import FOLDS
from mimn.table.answers import ABLATIONS, LIKE_MIMN, SMALL
from mimn.table.appendix import appendix
from mimn.table.at_the_time import Validation, at_the_time, chosen_by
from mimn.table.boosting import BOOSTING_ROW
from mimn.table.compare import Comparison, Entry, Results, results
from mimn.table.csv_tables import csv_tables
from mimn.table.labelled import labelled
from mimn.table.plan import PLAN, Plan, plan_files, read_plan, remaining
from mimn.table.records import NoRecord, Record, read_records
from mimn.table.wording import COUNTS, FLOOR_TITLES, grid, interval, mean, name, prose, state_size

TABLE = "AUC.md"
APPENDIX = "AUC-appendix.md"
RECORDS = Path("models/experiments")
MOSTLY = 0.8
"""Share of a data set's targets that are new to their user from which on it counts as one of new targets."""
MARGIN = 0.01
"""A floor that is less than this below a form of MIMN is named on the first page."""
DEFAULT = "default"
"""Key of the row of the default recipe."""
MAIN_ROWS = (
    COUNTS,
    BOOSTING_ROW,
    "pooling",
    "pooling_product",
    "mimn",
    "mimn_bounded",
    "pooling_ledger",
    "mimn_ledger",
    DEFAULT,
    "dien_product",
    "din_product",
    "dien_ledger",
    "din_ledger",
)
"""Each as it was trained longest."""
EIGHT_EPOCHS = (
    "pooling",
    "pooling_product",
    "mimn",
    "mimn_bounded",
    "dien_product",
    "din_product",
    "dien_ledger",
    "din_ledger",
)
"""Rows of which there is a longer training where they had only the table's eight epochs."""
SAID_LONG = ", trained long"
"""Ends the name of a row whose key ends with `TRAINED_LONG`."""
MEMORY = (
    ("mimn_ledger", "pooling_ledger"),
    ("mimn_bounded", "pooling_product"),
    ("mimn_sketch", "pooling_sketch"),
    ("mimn", "pooling"),
)
"""Rows that differ in MIMN's memory alone: same features, same head."""
OURS = (DEFAULT, "mimn_ledger")
RIVALS = ((BOOSTING_ROW,), ("din_ledger", "din_product"), ("dien_ledger", "dien_product"))
"""What the first of `OURS` that was run is compared with: of each group the first that was run, too, which has most of
the same side information."""


def page(
    found: Sequence[Results],
    plan: Plan,
    open_rows: Mapping[str, Sequence[str]],
    *,
    recent: Sequence[str] = (),
    validation: Validation = MappingProxyType({}),
    more: Sequence[str] = (),
) -> str:
    """The text of `AUC.md`.

    Args:
        found: the results of each data set.
        plan: their titles and rows.
        open_rows: what is still to be run.
        recent: the lines on negatives at the time.
        validation: what `_best` chooses by.
        more: lines of the summary on what is not in the table.
    """
    lines = ["# AUC: which model to use", ""]
    missing = sum(map(len, open_rows.values()))
    left = f"**The table is not complete**: {missing} rows lack folds ([which]({APPENDIX}#not-run)). "
    lines += prose(
        (left if missing else "")
        + "Mean test AUC of five folds of users, one negative by popularity a positive; 95 % intervals over users and "
        "trainings. Made by `python -m mimn.table.render`. How, every row, every comparison: "
        f"[{APPENDIX}]({APPENDIX})."
    )
    lines += ["", "## What to use", "", *_best(found, plan, validation), "", *_summary(found, plan), *more]
    for one in found:
        lines += ["", f"**{plan.title(one.dataset)}** ({_bought(one)} of the targets were bought before):", ""]
        lines += _evidence(one)
    lines += ["", "## Main rows", "", *_main_rows(found, plan)]
    if recent:
        lines += ["", *recent]
    return "\n".join(lines) + "\n"


def _best(found: Sequence[Results], plan: Plan, validation: Validation) -> list[str]:
    """What validation users choose among the rows with a small state, and among those that read the events."""

    def cell(one: Results, accepts: Callable[[int | None], bool]) -> str:
        known = validation.get(one.dataset)
        key = one.best_of(known, accepts) if known else one.best_on_validation(one.lengths()[-1], accepts)
        return "-" if key is None else f"{name(one, key)}: {_aucs(one, key)}"

    def is_small(state: int | None) -> bool:
        return state is not None and state <= SMALL

    def reads_events(state: int | None) -> bool:
        return state is None

    body = [[plan.title(one.dataset), _bought(one), cell(one, is_small), cell(one, reads_events)] for one in found]
    other = [plan.title(one.dataset) for one in found if not validation.get(one.dataset)]
    over_the_year = f" (of the whole data set: {', '.join(other)})" if other else ""
    head = ["data set", "targets bought before", f"best state of at most {SMALL:,} bytes", "best that reads the events"]
    return [
        *grid(head, body),
        "",
        *prose(
            f"Chosen by validation users, negatives at the time{over_the_year}; test AUC with "
            f"{_lengths(found)} events. Close rows may be level."
        ),
    ]


def _summary(found: Sequence[Results], plan: Plan) -> list[str]:
    """What holds for all data sets of a kind: those with many repeated targets, and those with mostly new ones."""
    new = [one for one in found if one.share("new") >= MOSTLY]
    repeated = [one for one in found if one.share("new") < MOSTLY]
    lines = []
    if repeated:
        counters = [of for one in repeated for of in _found(one, (("pooling_ledger", "pooling_product"),))]
        memory = [of for one in repeated for of in _found(one, MEMORY[:1])]
        where = f"Where users often buy what they bought before ({_titles(repeated, plan)})"
        if counters and memory:
            signal = all(of.verdict == "better" for of in counters)
            text = "the ledger carries the signal" if signal else "the ledger does not always help"
            better = any(of.verdict == "better" for of in memory)
            adds = "MIMN's memory adds to it in part" if better else "MIMN's memory adds nothing to it"
            lines.append(f"* {where}, {text}, and {adds}.")
    for one in new:
        gains = sorted(of.difference.difference for of in _found(one, MEMORY) if of.verdict == "better")
        if gains:
            by = f"{gains[0]:+.4f}" if len(gains) == 1 else f"{gains[0]:+.4f} to {gains[-1]:+.4f}"
            lines.append(
                f"* Where targets are mostly new ({plan.title(one.dataset)}), MIMN's memory adds {by} to pooling with "
                "the same head."
            )
    if any(DEFAULT in one.models for one in found):
        untaught = [
            f"{interval(of)} ({plan.title(one.dataset)})"
            for one in found
            for of in _found(one, (("mimn_ledger", "din_ledger"),))
        ]
        alone = f" Without teachers, MIMN with a ledger minus DIN with one: {', '.join(untaught)}." if untaught else ""
        lines.append(
            "* The default recipe learned from teachers, and in the shops from more targets (Online Retail: and more "
            "negatives) of each occasion than rows that read the events. No other row had teachers, or learned from "
            f"histories of fewer than 20 events.{alone}"
        )
    spreads = [(of, one, key) for one in found for key in one.models if (of := one.spread(key)) is not None]
    if spreads:
        widest, of_row, row = max(spreads, key=lambda of: of[0])
        usual = statistics.median(of for of, _, _ in spreads)
        lines.append(
            f"* Trainings of one row that differ only in their seeds are {usual:.4f} apart in the median of "
            f"{len(spreads)} rows, and at most {widest:.4f} ({name(of_row, row)} on {plan.title(of_row.dataset)})."
        )
    return lines


def _found(one: Results, pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    comparisons = (one.compare(Entry(one.longest(a), 200), Entry(one.longest(b), 200)) for a, b in pairs)
    return [comparison for comparison in comparisons if comparison is not None]


def _titles(found: Iterable[Results], plan: Plan) -> str:
    return ", ".join(plan.title(one.dataset) for one in found)


def _bought(one: Results) -> str:
    return f"{one.share('bought'):.0%}"


def _evidence(one: Results) -> list[str]:
    """A data set's main comparisons at 200 events, and the floors that are near or above forms of MIMN."""
    lines = []
    ledger = ("The ledger", "pooling_ledger", "pooling_product")
    parts = [ledger, *(("MIMN's memory", *pair) for pair in MEMORY[:2])]
    for what, ours, theirs in parts:
        for comparison in _found(one, ((ours, theirs),)):
            lines.append(f"* {_effect(comparison, what, _model(one, theirs))}")
    for rivals in RIVALS:
        pairs = ((ours, theirs) for ours in OURS for theirs in rivals)
        found = next(((pair, of) for pair in pairs for of in _found(one, [pair])), None)
        if found is not None:
            (ours, theirs), comparison = found
            verb = {"better": "beats", "worse": "loses to"}.get(comparison.verdict, "is level with")
            subject = "The default recipe" if ours == DEFAULT else name(one, ours)
            lines.append(f"* {subject} {verb} {_model(one, theirs)}: {interval(comparison)}.")
    return [*lines, *_near_floors(one)] or ["* Not run."]


def _effect(comparison: Comparison, what: str, base: str) -> str:
    found = interval(comparison)
    return {
        "better": f"{what} adds {found} to {base}.",
        "worse": f"{what} makes {base} worse: {found}.",
    }.get(comparison.verdict, f"{what} adds nothing measurable to {base}: {found}.")


def _near_floors(one: Results) -> list[str]:
    """A line for each floor: how many forms of MIMN it is above, or less than `MARGIN` below, by longest histories."""
    lines = []
    for length in one.lengths()[-1:]:
        forms = [key for key in map(one.longest, (*LIKE_MIMN, *ABLATIONS)) if one.has(Entry(key, length))]
        for floor, title in FLOOR_TITLES.items():
            ahead = {}
            for key in forms:
                comparison = one.compare(Entry(floor, length), Entry(key, length))
                if comparison is not None and comparison.difference.difference > -MARGIN:
                    ahead[key] = comparison.difference.difference
            if ahead:
                above = sum(by > 0 for by in ahead.values())
                near = f" and less than {MARGIN} below {len(ahead) - above}" if above < len(ahead) else ""
                nearest = min(ahead, key=lambda key: ahead[key])
                lines.append(
                    f"* {length:,} events: {title} ({mean(one.aucs(Entry(floor, length)))}) is above {above} of "
                    f"{len(forms)} forms of MIMN{near}; the best of these is {name(one, nearest)} "
                    f"({mean(one.aucs(Entry(nearest, length)))})."
                )
    return lines


def _main_rows(found: Sequence[Results], plan: Plan) -> list[str]:
    body = []
    for key in MAIN_ROWS:
        having = [one for one in found if any(one.has(Entry(one.longest(key), length)) for length in one.lengths())]
        if having:
            sizes = dict.fromkeys(
                state_size(one.state_bytes(of)) for one in having if (of := one.longest(key)) in one.models
            )
            cells = [_aucs(one, one.longest(key)) if one in having else "-" for one in found]
            row = _model(having[0], key) + (" (the default recipe)" if key == DEFAULT else "")
            body.append([row, " or ".join(sizes) or "reads the events", *cells])
    text = f"{_lengths(found)} events, each row as trained longest."
    if short := _short(found, plan):
        text += f" Eight epochs only: {'; '.join(short)}."
    head = ["row", "bytes of a state", *(plan.title(one.dataset) for one in found)]
    return [*grid(head, body), "", *prose(text)]


def _short(found: Sequence[Results], plan: Plan) -> list[str]:
    """The rows of data sets with longer trainings that were not trained longer."""
    lines = []
    for one in found:
        rows = [key for key in EIGHT_EPOCHS if one.longest(key) == key and key in one.models]
        if rows and any(one.longest(key) != key for key in EIGHT_EPOCHS):
            lines.append(f"{', '.join(name(one, key) for key in rows)} ({plan.title(one.dataset)})")
    return lines


def _model(one: Results, key: str) -> str:
    """What a row is called that stands for all its trainings, of whatever length."""
    return name(one, one.longest(key)).removesuffix(SAID_LONG)


def _lengths(found: Iterable[Results]) -> str:
    return " / ".join(f"{length:,}" for length in sorted({length for one in found for length in one.lengths()}))


def _aucs(one: Results, key: str) -> str:
    folds = len(one.folds(Entry(key, one.lengths()[0])))
    counted = f" ({folds} of {FOLDS} folds)" if 0 < folds < FOLDS else ""
    entries = [Entry(key, length) for length in one.lengths()]
    trained = [len(one.found(entry)) for entry in entries]
    # A row that was not trained as often for one length as for the other shows no effect of the length.
    often = [f" ({n} runs)" if n and len({*trained} - {0}) > 1 else "" for n in trained]
    return " / ".join(mean(one.aucs(entry)) + n for entry, n in zip(entries, often, strict=True)) + counted


def texts(
    records: list[Record],
    plan: Plan,
    open_rows: Mapping[str, Sequence[str]] | None = None,
    others: Iterable[str] = (),
    folder: Path | None = None,
) -> dict[str, str]:
    """Both files by name.

    `open_rows` has the lines of what is still to be run, by the command that runs it; `others` are lines of the
    appendix on what is not a row; `folder` has the records that are no rows.

    Raises:
        NoRecord: there are no records, or they cannot be compared.
    """
    if not records:
        raise NoRecord("there are no records: make them with `python -m mimn.table`")
    found = results(records)
    to_run = {command: rows for command, rows in (open_rows or {}).items() if rows}
    recent = [] if folder is None else at_the_time(folder, found, plan)
    validation = {} if folder is None else chosen_by(folder, found)
    more = [] if folder is None else labelled(folder)
    return {
        TABLE: page(found, plan, to_run, recent=recent, validation=validation, more=more),
        APPENDIX: appendix(found, plan, to_run, others),
    }


def write(records: Path, path: Path) -> list[Path]:
    """Write both files into a folder, from its records and from the plan in `path` with those next to it that write to
    the same records.

    Raises:
        NoRecord, ConfigError: a record, a plan or a configuration cannot be used.
    """
    plan, open_rows = together(path)
    found = texts(read_records(records), plan, open_rows, csv_tables(records, plan), records)
    for file, text in found.items():
        (records / file).write_text(text, "utf-8")
    return [records / file for file in found]


def together(path: Path) -> tuple[Plan, dict[str, list[str]]]:
    """A plan that also names the data sets of the plans next to it with the same records; what each still has to run,
    by its command.

    Raises:
        ConfigError, NoRecord: a plan, a configuration or a record cannot be used.
    """
    first = read_plan(path)
    plans = {path: first}
    for other in plan_files(path.parent):
        if other != path and (of := read_plan(other)).records == first.records:
            plans[other] = of
    datasets = {key: of for one in reversed(plans.values()) for key, of in one.datasets.items()}
    commands = {file: "" if file == PLAN else f" --plan {file.as_posix()}" for file in plans}
    open_rows = {f"python -m mimn.table{commands[file]}": list(remaining(one)) for file, one in plans.items()}
    return msgspec.structs.replace(first, datasets=datasets), open_rows


def main(arguments: list[str] | None = None) -> int:
    """Write both files; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m mimn.table.render", description="AUC.md and its appendix from the records."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=RECORDS, help=f"all records (default {RECORDS})")
    parser.add_argument("--plan", type=Path, default=PLAN, help=f"rows and titles (default {PLAN})")
    options = parser.parse_args(arguments)
    try:
        for path in write(options.folder, options.plan):
            print(f"wrote {path}")
    except (NoRecord, ConfigError, metrics.UndefinedMetric, msgspec.ValidationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
