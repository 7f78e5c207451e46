"""`AUC.md` from the records: the tables, and what they answer in plain words. Nothing is typed.

    python -m mimn.table.render [models/experiments] [--plan models/plans/table.toml]

It needs no data set and no model. A sentence says "better" or "worse" only where the interval of the difference
excludes 0 and the difference exceeds 0.001 (`compare`); what speaks against a model stands in the first lines.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mimn import metrics
from mimn.config import ConfigError
from mimn.data.split import FOLDS
from mimn.table.appendix import appendix
from mimn.table.compare import LONG, Comparison, Entry, Group, Results, results
from mimn.table.plan import PLAN, read_plan, remaining
from mimn.table.records import NoRecord, Record, read_records

MARGIN = 0.01
"""A floor nearer than this to a form of MIMN is said first."""
SMALL = 6 * 1024
"""Bytes of the largest state that the default recipe may have."""
TABLE = "AUC.md"
RECORDS = Path("models/experiments")
TITLES = {
    "online_retail": "Online Retail",
    "complete_journey": "The Complete Journey",
    "synthetic": "Synthetic",
    "movielens_100k": "MovieLens 100K",
}
COUNTS = "counts"
FLOOR_TITLES = {
    "constant": "floor: constant",
    "popularity": "floor: popularity alone",
    "last_category": "floor: category of the last item",
    COUNTS: "floor: logistic regression on counts",
}
LIKE_MIMN = {
    "mimn": ("pooling", "din_product", "dien_product"),
    "mimn_bounded": ("pooling_product", "din_product", "dien_product"),
    "mimn_sketch": ("pooling_sketch", "din_sketch", "din_product", "dien_product"),
    "mimn_sketch_16": ("pooling_sketch_16_1280",),
}
"""Each form of MIMN, and whom it is asked to beat: sum pooling with all that is not memory, DIN, with counters too, and
DIEN. The last one, trained longer, is asked what its memory adds within the same 6 KiB."""
REFERENCES = (COUNTS, "pooling_product", "din_product", "pooling_sketch")
ABLATIONS = (
    "mimn_other_seeds",
    "mimn_product",
    "mimn_no_utilization",
    "mimn_no_induction",
    "ntm",
    "mimn_auxiliary",
    "mimn_slots_6",
    "mimn_slots_8",
)
"""Rows that are `mimn` with one thing changed: the seed, to begin with."""
OFFICIAL = tuple(f"{key}_official" for key in ("dnn", "din", "gru4rec", "arnn", "rum", "dien"))
"""The other models as MIMN's authors ran them."""
WEEKS = {
    "complete_journey": ("mimn_without_busy_week", "mimn_without_plain_week"),
    "online_retail": ("mimn_without_busy_november", "mimn_without_plain_june"),
}
"""Rows that are `mimn_bounded` without the targets of one week: of the busiest, and of one with as many purchases
as the median (`mimn.table.weeks`)."""
LONGER = ("pooling_sketch_16_1280", "mimn_sketch_16")
"""Rows that were trained longer than the others."""
_TRIALS = (
    "The rows of 16 epochs were chosen on the validation users of fold 0, who are tested in fold 1: of three more "
    "schedules and sizes for sum pooling with a sketch, of two for MIMN with a sketch, of none for any other row "
    "(`trials/longer`). "
)
NOT_RUN = ": not run."
EXPECTED = {200: 0.775, 1000: 0.785}
"""What the best model within `SMALL` bytes is expected to reach on The Complete Journey, by length."""


def table(
    records: list[Record],
    open_rows: Iterable[str] = (),
    command: str = "python -m mimn.table",
    others: Iterable[str] = (),
) -> str:
    """The whole of `AUC.md`.

    `open_rows` are the lines of what is still to be run, `command` runs it; `others` are lines on what is no row.

    Raises:
        NoRecord: there are no records, or they cannot be compared.
    """
    if not records:
        raise NoRecord(f"there are no records: make them with `{command}`")
    found = results(records)
    open_rows = list(open_rows)
    lines = [line for one in found for line in _near_floors(one)] or [
        f"No floor is within {MARGIN} of a form of MIMN, popularity negatives."
    ]
    if open_rows:
        lines.append(f"The table is not complete: {len(open_rows)} rows lack folds (see its end).  ")
    lines += [
        "",
        "# AUC",
        "",
        *_prose(
            "Made by `python -m mimn.table.render` from the records beside it; `python -m mimn.table` makes those. "
            "Clean protocol: users disjoint, history strictly before the target's basket, vocabulary of train users, "
            "checkpoint chosen on validation users. Five folds: each tests two tenths of the users, validates on one "
            "and trains on seven, so that every user is tested once; the fold is the seed as well. One negative a "
            "positive, drawn by popularity (the figure to read) or uniformly; the models learn from popularity "
            "negatives alone, to which popularity says nothing, and the floors are fitted anew on each kind: those "
            "two columns are not one contest."
        ),
        "",
        *_prose(
            "Two folds are two models, whose scores are not ranked against each other: an AUC is the mean of the "
            "folds' AUCs, ± their sample standard deviation. Differences are on the same rows and on the folds that "
            "both have, with 95 % intervals from 2,000 resamples of users within folds. Those cover who the users "
            "are. How training fell out shows in how many folds each side won, and in the row `MIMN, other seeds`, "
            "which differs from `MIMN` in nothing else: a difference like theirs says nothing of two models. Better or "
            "worse: the interval excludes 0 and the difference exceeds 0.001."
        ),
        "",
        *_prose(
            "But for rows named here, none has trials of its own: epochs, rates, dropout and weight decay are "
            "the same for all, chosen with sum pooling on validation users of an earlier split. The sketch's cells and "
            "half-life were chosen there as well, and those users, a tenth of all, are tested here in the last fold. "
            + (_TRIALS if any(record.key in LONGER for record in records) else "")
            + "The Complete Journey is taken for real purchases at shifted dates (see `models/README.md`). All runs in "
            f"this file together took {_cpu_hours(records):.1f} CPU-hours."
        ),
    ]
    for one in found:
        lines += ["", f"## {TITLES[one.dataset]}: answers", *_answers(one)]
    for one in found:
        for length in one.lengths():
            lines += _section(one, length)
    lines += others
    if open_rows:
        lines += ["", "## Not run", "", f"`{command}` runs them, cheapest answers first:", ""]
        lines += [f"* {line}" for line in open_rows]
    return "\n".join(lines) + "\n"


def _cpu_hours(records: list[Record]) -> float:
    return float(sum(found["cpu_s"] for record in records for found in record.folds.values()) / 3600)


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, 118, break_on_hyphens=False)


def _near_floors(one: Results) -> list[str]:
    lines = []
    for length in one.lengths():
        for key in (*LIKE_MIMN, *ABLATIONS):
            if not one.has(Entry(key, length)):
                continue
            for floor, title in FLOOR_TITLES.items():
                comparison = one.compare(Entry(floor, length), Entry(key, length))
                if comparison is not None and comparison.difference.difference > -MARGIN:
                    by = comparison.difference.difference
                    relation = f"{by:.4f} above" if by > 0 else f"{-by:.4f} below, so within {MARGIN} of,"
                    counted = f", {comparison.folds} of {FOLDS} folds" if comparison.folds < FOLDS else ""
                    ours, theirs = (_mean(values) for values in comparison.aucs)
                    lines.append(
                        f"**{TITLES[one.dataset]}, {length:,} events{counted}: {title} ({ours}) is {relation} "
                        f"{_name(one, key)} ({theirs}).**  "
                    )
    return lines


def _answers(one: Results) -> list[str]:
    return [
        *_beats_models(one),
        *_beats_published(one),
        *_beats_counting(one),
        *_length_effect(one),
        *_larger_state(one),
        *_where_it_loses(one),
        *_busy_week(one),
        *_best_small(one),
    ]


def _beats_models(one: Results) -> list[str]:
    lines, verdicts = [], []
    for length in one.lengths():
        for key, rivals in LIKE_MIMN.items():
            for rival in rivals:
                sentence, verdict = _against(one, Entry(key, length), Entry(rival, length))
                lines.append(sentence)
                verdicts.append(verdict)
    return _question("Does MIMN beat DIEN, DIN and sum pooling at equal length?", verdicts, lines)


def _beats_published(one: Results) -> list[str]:
    pairs = [_against(one, Entry("mimn_official", 200), Entry(rival, 200)) for rival in OFFICIAL]
    if all(verdict == "not run" for _, verdict in pairs):
        return []
    question = "Does MIMN beat the others in the form in which its authors ran them all (Table 2)?"
    lines = _question(question, [verdict for _, verdict in pairs], [line for line, _ in pairs])
    note = (
        "Of these DIEN alone has candidate times history in its head. What that is worth to MIMN: its row with the "
        "history product against its row without, below."
    )
    return [*lines, "", *_prose(note)]


def _beats_counting(one: Results) -> list[str]:
    pairs = [_against(one, Entry(key, length), Entry(COUNTS, length)) for length in one.lengths() for key in LIKE_MIMN]
    return _question("Does MIMN beat counting?", [verdict for _, verdict in pairs], [line for line, _ in pairs])


def _length_effect(one: Results) -> list[str]:
    lines = ["", "**How much of the length effect survives in a constant state?**", ""]
    if not {200, LONG} <= set(one.lengths()):
        return [*lines, f"Not run: no row was read at both 200 and {LONG:,} events."]
    for key in (COUNTS, *one.models):
        comparison = one.compare(Entry(key, LONG), Entry(key, 200), "long")
        if comparison is not None:
            state = None if key == COUNTS else _state_bytes(one, key)
            kind = "reads the events" if state is None else f"{state:,} bytes"
            lines.append(f"* {_name(one, key)} ({kind}): {_figures(comparison)}, {_gain(comparison)}.")
    lines += [
        "",
        *_prose(
            f"The same models, read at {LONG:,} events in place of 200, on the {one.share('long'):.0%} of the test "
            f"rows that have at least {LONG:,}. Training windows hold at most 256 events: this reads further than was "
            "trained."
        ),
    ]
    return lines


def _larger_state(one: Results) -> list[str]:
    lines = ["", "**What does a larger state buy?**", ""]
    sized = sorted(
        (state, key) for key in one.models if (state := _state_bytes(one, key)) is not None and one.has(Entry(key, 200))
    )
    lines += ["| bytes | row | folds | " + " | ".join(f"AUC, {length:,} events" for length in one.lengths()) + " |"]
    lines += ["| --- | --- | --- |" + " --- |" * len(one.lengths())]
    for state, key in sized:
        values = [_mean(one.aucs(Entry(key, length))) for length in one.lengths()]
        lines.append(f"| {state:,} | {_name(one, key)} | {len(one.folds(Entry(key, 200)))} | {' | '.join(values)} |")
    pairs = (
        ("mimn_slots_6", "mimn"),
        ("mimn_slots_8", "mimn"),
        ("hashed", "mimn_bounded"),
        ("pooling_sketch", "pooling_product"),
        ("mimn_sketch", "mimn_bounded"),
        ("mimn_sketch", "pooling_sketch"),
    )
    return [*lines, "", *_known([_against(one, Entry(a, 200), Entry(b, 200))[0] for a, b in pairs])]


def _where_it_loses(one: Results) -> list[str]:
    lines = ["", "**Where MIMN loses, why?**", ""]
    groups: tuple[tuple[Group, str], ...] = (
        ("bought", "Positives that the user had bought before"),
        ("new", "Positives that are new to the user"),
    )
    for group, title in groups:
        lines.append(f"{title}, {one.share(group):.0%} of the rows, 200 events:")
        lines.append("")
        pairs = [
            (key, rival)
            for key in ("mimn_bounded", "mimn_sketch")
            for rival in (*LIKE_MIMN[key], COUNTS)
            if rival != "dien_product"
        ]
        lines += [*_known([_against(one, Entry(a, 200), Entry(b, 200), group)[0] for a, b in pairs]), ""]
    lines += _prose(
        "The paper's MIMN with one thing changed, which is in the first line the seed alone, against itself:"
    )
    return [*lines, "", *_known([_against(one, Entry(key, 200), Entry("mimn", 200))[0] for key in ABLATIONS])]


def _busy_week(one: Results) -> list[str]:
    if one.dataset not in WEEKS:
        return []
    pairs = [_against(one, Entry(key, 200), Entry("mimn_bounded", 200))[0] for key in WEEKS[one.dataset]]
    return [
        "",
        "**Is it well to train on a sale?** (The paper's Table 5: 0.6627 with a sale's data, 0.6644 without.)",
        "",
        *_prose(
            "No target of the busiest week is trained on; its events stay in the histories, and test users are tested "
            "on all days. `python -m mimn.table.weeks` counts how busy it is."
        ),
        "",
        *_known(pairs),
    ]


def _best_small(one: Results) -> list[str]:
    lines = ["", f"**Which is the best model with at most {SMALL:,} bytes a user?** As validation users say:", ""]
    for length in one.lengths():
        small = [
            key
            for key in one.models
            if (state := _state_bytes(one, key)) is not None and state <= SMALL and one.has(Entry(key, length))
        ]
        if not small:
            lines.append(f"* {length:,} events: not run.")
            continue
        best = _chosen_on_validation(one, small)
        value = one.auc(Entry(best, length))
        folds = len(one.folds(Entry(best, length)))
        of = f" ({folds} of {FOLDS} folds)" if folds < FOLDS else ""
        text = f"* {length:,} events: {_name(one, best)}, {value:.4f}{of} with {_state_bytes(one, best):,} bytes"
        if one.dataset == "complete_journey" and length in EXPECTED:
            text += (
                f"; expected were {EXPECTED[length]}, which it {'reaches' if value >= EXPECTED[length] else 'misses'}"
            )
        lines += [text + ".", _against(one, Entry(best, length), Entry("din_product", length))[0]]
    return lines


def _chosen_on_validation(one: Results, keys: list[str]) -> str:
    """The row with the highest validation AUC; two rows are compared on the folds that both have."""
    best = keys[0]
    for key in keys[1:]:
        ours, theirs = one.models[key].folds, one.models[best].folds
        common = ours.keys() & theirs.keys()
        if common and sum(ours[fold]["validation_auc"] - theirs[fold]["validation_auc"] for fold in common) > 0:
            best = key
    return best


def _question(question: str, verdicts: list[str], lines: list[str]) -> list[str]:
    known = [verdict for verdict in verdicts if verdict != "not run"]
    better, worse = known.count("better"), known.count("worse")
    answer = (
        "Not run."
        if not known
        else f"{'Yes' if better == len(known) else 'No' if not better else 'In part'}: better in {better} of "
        f"{len(known)} comparisons, worse in {worse}."
    )
    return ["", f"**{question}** {answer}", "", *_known(lines)]


def _known(lines: list[str]) -> list[str]:
    """The lines whose comparison was run, and how many were not."""
    known = [line for line in lines if not line.endswith(NOT_RUN)]
    missing = len(lines) - len(known)
    return [*known, f"* {missing} more comparison{'s' if missing > 1 else ''}{NOT_RUN}"] if missing else known


def _against(one: Results, first: Entry, second: Entry, group: Group = "all") -> tuple[str, str]:
    """A sentence on a comparison, and its verdict or `not run`."""
    names = f"{_name(one, first.key)} against {_name(one, second.key)}"
    length = f"{first.length:,} events"
    if group == "all":
        names = f"{length}: {names}"
    comparison = one.compare(first, second, group)
    if comparison is None:
        return f"* {names}{NOT_RUN}", "not run"
    values = " and ".join(_mean(values) for values in comparison.aucs)
    counted = f", {comparison.folds} of {FOLDS} folds" if comparison.folds < FOLDS else ""
    return f"* {names} ({values}{counted}): {_figures(comparison)}, {comparison.verdict}.", comparison.verdict


def _section(one: Results, length: int) -> list[str]:
    floors = one.floors.folds[min(one.floors.folds)]
    positives = sum(len(one.floors.of_fold(fold)["user_id"]) for fold in one.floors.folds)
    users = sum(len(set(one.floors.of_fold(fold)["user_id"].tolist())) for fold in one.floors.folds)
    hashes = ", ".join(f"`{one.floors.folds[fold]['instances_sha256'][:12]}`" for fold in sorted(one.floors.folds))
    lines = [
        "",
        f"## {TITLES[one.dataset]}, latest {length:,} events",
        "",
        *_prose(
            f"{positives:,} positives of {users:,} users, as many negatives; data `{floors['data_sha256'][:16]}`, "
            f"instances by fold {hashes}."
        ),
        "",
        "| row | folds | AUC, popularity | AUC, uniform | GAUC | logloss | NE | PCOC | state bytes "
        "| targets a CPU-second | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = [*FLOOR_TITLES, *sorted(one.models, key=lambda key: _order(one, Entry(key, length)))]
    entries = [entry for key in keys if one.has(entry := Entry(key, length))]
    lines += [_row(one, entry) for entry in entries]
    references = [key for key in REFERENCES if one.has(Entry(key, length))]
    lines += [
        "",
        "Differences of AUC, popularity negatives; the last figure says in how many folds the row is ahead.",
        "",
        "| row | " + " | ".join(f"− {_name(one, key)}" for key in references) + " |",
        "| --- |" + " --- |" * len(references),
    ]
    for entry in entries:
        if entry.key in one.models:
            cells = [_cell(one, entry, Entry(key, length)) for key in references]
            lines.append(f"| {_name(one, entry.key)} | {' | '.join(cells)} |")
    return [*lines, *_calibration(one, entries)]


def _order(one: Results, entry: Entry) -> float:
    return one.auc(entry) if one.has(entry) else 0.0


def _row(one: Results, entry: Entry) -> str:
    found = [one.record(entry.key).folds[fold] for fold in one.folds(entry)]
    figures = [statistics.fmean(one.figures(entry, "popularity", name)) for name in _FIGURES]
    aucs = [mean_std(one.figures(entry, sampling, "auc")) for sampling in ("popularity", "uniform")]
    model = entry.key in one.models
    speed = f"{statistics.fmean(f['targets_per_cpu_s'] for f in found):,.0f}" if model else "-"
    state = _bytes(_state_bytes(one, entry.key)) if model else "-"
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(f["commit"] for f in found))
    values = [
        _name(one, entry.key),
        str(len(found)),
        *aucs,
        *(f"{figure:.4f}" for figure in figures),
        state,
        speed,
        commits,
    ]
    return f"| {' | '.join(values)} |"


_FIGURES = ("gauc", "logloss", "normalized_entropy", "pcoc")


def _calibration(one: Results, entries: list[Entry]) -> list[str]:
    """PCOC by the length of the whole history; its rows' mean label is 1/2 throughout, so folds are weighed by rows."""
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
    lines = [
        "",
        "PCOC by how many events the user had in all:",
        "",
        "| row | " + " | ".join(spans) + " |",
        "| --- |" + " --- |" * len(spans),
    ]
    for entry, found in values.items():
        cells = [f"{found[span]:.3f}" if span in found else "-" for span in spans]
        lines.append(f"| {_name(one, entry.key)} | {' | '.join(cells)} |")
    return lines


def _cell(one: Results, first: Entry, second: Entry) -> str:
    if first == second:
        return "-"
    comparison = one.compare(first, second)
    return "not on one fold" if comparison is None else f"{_figures(comparison)}, {comparison.verdict}"


def _figures(comparison: Comparison) -> str:
    found = comparison.difference
    interval = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    return f"{interval}, ahead in {comparison.won} of {comparison.folds}"


def _gain(comparison: Comparison) -> str:
    return {"better": "gains", "worse": "loses", "not established": "no difference established"}[comparison.verdict]


def _name(one: Results, key: str) -> str:
    return FLOOR_TITLES.get(key) or (one.models[key].name if key in one.models else f"`{key}`")


def _state_bytes(one: Results, key: str) -> int | None:
    found: int | None = next(iter(one.models[key].folds.values()))["state_bytes"]
    return found


def _bytes(state: int | None) -> str:
    """The size of a user's state; a model without one reads the events, of which there is no end."""
    return "reads the events" if state is None else f"{state:,}"


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.4f}" if values else "-"


def mean_std(values: list[float]) -> str:
    """Mean ± sample standard deviation, four decimals; the mean alone for a single value."""
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def write_table(records: Path, plan: Path) -> Path:
    """Write `AUC.md` of the records in a folder, and of what a plan still has to run, into that folder.

    Raises:
        NoRecord, ConfigError: a record, the plan or a configuration cannot be used.
    """
    lines = remaining(read_plan(plan))
    command = "python -m mimn.table" if plan == PLAN else f"python -m mimn.table --plan {plan.as_posix()}"
    text = table(read_records(records), lines, command, appendix(records, TITLES))
    (records / TABLE).write_text(text, "utf-8")
    return records / TABLE


def main(arguments: list[str] | None = None) -> int:
    """Write the table; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.render", description="AUC.md from the records.")
    parser.add_argument("folder", type=Path, nargs="?", default=RECORDS, help=f"all records (default {RECORDS})")
    parser.add_argument("--plan", type=Path, default=PLAN, help=f"what there is to run (default {PLAN})")
    options = parser.parse_args(arguments)
    try:
        print(f"wrote {write_table(options.folder, options.plan)}")
    except (NoRecord, ConfigError, metrics.UndefinedMetric, msgspec.ValidationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
