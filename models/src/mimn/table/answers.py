"""What the records answer: questions in words, each with the comparisons that its answer follows from."""

from __future__ import annotations

from mimn.data.split import FOLDS
from mimn.table.compare import LONG, Comparison, Entry, Group, Results
from mimn.table.plan import DataSetPlan
from mimn.table.wording import COUNTS, NOT_RUN, against, figures, mean, name, prose

SMALL = 6 * 1024
"""Bytes of the largest state that the default recipe may have."""
LIKE_MIMN = {
    "mimn": ("pooling", "din_product", "dien_product"),
    "mimn_bounded": ("pooling_product", "din_product", "dien_product"),
    "mimn_sketch": ("pooling_sketch", "din_sketch", "din_product", "dien_product"),
    "mimn_sketch_16": ("pooling_sketch_16_1280",),
    "mimn_ledger": ("pooling_ledger", "din_ledger", "dien_ledger", "din_product", "dien_product"),
}
"""Each form of MIMN, and the rows that it is compared with: sum pooling with everything but the memory, DIN (also with
counters) and DIEN. `mimn_sketch_16`, trained longer, and `mimn_ledger` show what its memory adds within 6 KiB."""
LONGEST = ("mimn", "mimn_bounded", "mimn_ledger")
"""Forms that are compared as they were trained longest, with others as these were. The rest have one length."""
ABLATIONS = (
    "mimn_product",
    "mimn_no_utilization",
    "mimn_no_induction",
    "ntm",
    "mimn_auxiliary",
    "mimn_slots_6",
    "mimn_slots_8",
)
"""Rows that are `mimn` with one thing changed."""
OFFICIAL = tuple(f"{key}_official" for key in ("dnn", "din", "gru4rec", "arnn", "rum", "dien"))
"""The other models as MIMN's authors ran them."""


def answers(one: Results, settings: DataSetPlan) -> list[str]:
    """Markdown: every question, its answer, and the comparisons that it follows from."""
    return [
        *_beats_models(one),
        *_beats_published(one),
        *_beats_counting(one),
        *_length_effect(one),
        *_larger_state(one),
        *_where_it_loses(one),
        *_busy_week(one, settings),
        *_best_small(one, settings),
    ]


def _form(one: Results, key: str) -> str:
    return one.longest(key) if key in LONGEST else key


def _pairs(one: Results, form: str) -> list[tuple[str, str]]:
    """A form of MIMN, as often as there are rows that it is compared with, and these."""
    long = form in LONGEST
    return [(_form(one, form), one.longest(rival) if long else rival) for rival in LIKE_MIMN[form]]


def _alike(one: Results, first: str, second: str) -> tuple[str, str]:
    """Two rows as they were trained longest, if both were trained longer; else both as the table trains all rows."""
    long = one.longest(first), one.longest(second)
    return long if first not in long and second not in long else (first, second)


def _beats_models(one: Results) -> list[str]:
    lines, verdicts = [], []
    for length in one.lengths():
        for form in LIKE_MIMN:
            for key, rival in _pairs(one, form):
                sentence, verdict = against(one, Entry(key, length), Entry(rival, length))
                lines.append(sentence)
                verdicts.append(verdict)
    return _question("Does MIMN beat DIEN, DIN and sum pooling at equal length?", verdicts, lines)


def _beats_published(one: Results) -> list[str]:
    pairs = [against(one, Entry("mimn_official", 200), Entry(rival, 200)) for rival in OFFICIAL]
    if all(verdict == "not run" for _, verdict in pairs):
        return []
    question = "Does MIMN beat the others in the form in which its authors ran them all (Table 2)?"
    lines = _question(question, [verdict for _, verdict in pairs], [line for line, _ in pairs])
    note = (
        "Of these DIEN alone has candidate times history in its head. What that is worth to MIMN: its row with the "
        "history product against its row without, below."
    )
    return [*lines, "", *prose(note)]


def _beats_counting(one: Results) -> list[str]:
    forms = [_form(one, key) for key in LIKE_MIMN]
    pairs = [against(one, Entry(key, length), Entry(COUNTS, length)) for length in one.lengths() for key in forms]
    return _question("Does MIMN beat counting?", [verdict for _, verdict in pairs], [line for line, _ in pairs])


def _length_effect(one: Results) -> list[str]:
    lines = ["", "**How much of the length effect survives in a constant state?**", ""]
    if not {200, LONG} <= set(one.lengths()):
        return [*lines, f"Not run: no row was read at both 200 and {LONG:,} events."]
    for key in (COUNTS, *one.models):
        comparison = one.compare(Entry(key, LONG), Entry(key, 200), "long")
        if comparison is not None:
            state = None if key == COUNTS else one.state_bytes(key)
            kind = "reads the events" if state is None else f"{state:,} bytes"
            lines.append(f"* {name(one, key)} ({kind}): {figures(comparison)}, {_gain(comparison)}.")
    lines += [
        "",
        *prose(
            f"The same models, read at {LONG:,} events in place of 200, on the {one.share('long'):.0%} of the test "
            f"rows that have at least {LONG:,}. Training windows hold at most 256 events, with a ledger at most "
            "1,024: most rows read further than they were trained."
        ),
    ]
    return lines


def _larger_state(one: Results) -> list[str]:
    lines = ["", "**What does a larger state buy?**", ""]
    sized = sorted(
        (state, key) for key in one.models if (state := one.state_bytes(key)) is not None and one.has(Entry(key, 200))
    )
    lines += ["| bytes | row | folds | " + " | ".join(f"AUC, {length:,} events" for length in one.lengths()) + " |"]
    lines += ["| --- | --- | --- |" + " --- |" * len(one.lengths())]
    for state, key in sized:
        values = [mean(one.aucs(Entry(key, length))) for length in one.lengths()]
        lines.append(f"| {state:,} | {name(one, key)} | {len(one.folds(Entry(key, 200)))} | {' | '.join(values)} |")
    pairs = (
        _alike(one, "mimn_slots_6", "mimn"),
        _alike(one, "mimn_slots_8", "mimn"),
        ("hashed", "mimn_bounded"),
        ("pooling_sketch", "pooling_product"),
        ("mimn_sketch", "mimn_bounded"),
        ("mimn_sketch", "pooling_sketch"),
        ("pooling_ledger", one.longest("pooling_product")),
        ("pooling_ledger", "pooling_sketch"),
        ("mimn_ledger", one.longest("mimn_bounded")),
        ("mimn_ledger", "mimn_sketch_16"),
        ("mimn_ledger", "pooling_ledger"),
        ("mimn_ledger_taught", "mimn_ledger"),
        ("default", "mimn_ledger"),
        ("default", "default_without_short"),
    )
    return [*lines, "", *_known([_line(one, *pair) for pair in pairs])]


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
            for form in ("mimn_bounded", "mimn_sketch", "mimn_ledger")
            for key, rival in (*_pairs(one, form), (_form(one, form), COUNTS))
            if not rival.startswith("dien_product")
        ]
        lines += [*_known([_line(one, *pair, group) for pair in pairs]), ""]
    lines += ["The paper's MIMN with one thing changed, against itself:"]
    return [*lines, "", *_known([_line(one, *_alike(one, key, "mimn")) for key in ABLATIONS])]


def _busy_week(one: Results, settings: DataSetPlan) -> list[str]:
    if not settings.week_rows:
        return []
    pairs = [_line(one, key, "mimn_bounded") for key in settings.week_rows]
    return [
        "",
        "**Should a model be trained on a sale?** (The paper's Table 5: 0.6627 with a sale's data, 0.6644 without.)",
        "",
        *prose(
            "No target of the busiest week is trained on; its events stay in the histories, and test users are tested "
            "on all days. `python -m mimn.table.weeks` counts how busy it is."
        ),
        "",
        *_known(pairs),
    ]


def _best_small(one: Results, settings: DataSetPlan) -> list[str]:
    lines = ["", f"**Which is the best model with at most {SMALL:,} bytes a user?** Chosen on validation users:", ""]
    expected = dict(settings.expected)
    for length in one.lengths():
        best = one.best_on_validation(length, lambda state: state is not None and state <= SMALL)
        if best is None:
            lines.append(f"* {length:,} events: not run.")
            continue
        value, folds = one.auc(Entry(best, length)), len(one.folds(Entry(best, length)))
        of = f" ({folds} of {FOLDS} folds)" if folds < FOLDS else ""
        text = f"* {length:,} events: {name(one, best)}, {value:.4f}{of} with {one.state_bytes(best):,} bytes"
        if length in expected:
            reached = "reaches" if value >= expected[length] else "misses"
            text += f"; expected were {expected[length]}, which it {reached}"
        lines += [text + ".", against(one, Entry(best, length), Entry(one.longest("din_product"), length))[0]]
    return lines


def _line(one: Results, first: str, second: str, group: Group = "all") -> str:
    """The line of two rows with 200 events."""
    return against(one, Entry(first, 200), Entry(second, 200), group)[0]


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


def _gain(comparison: Comparison) -> str:
    return {"better": "gains", "worse": "loses", "not established": "no difference established"}[comparison.verdict]
