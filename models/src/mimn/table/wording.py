"""Names and sentences about comparisons, as `AUC.md` and its appendix print them."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable

from mimn.data.split import FOLDS
from mimn.table.compare import Comparison, Entry, Group, Results

COUNTS = "counts"
FLOOR_TITLES = {
    "constant": "floor: constant",
    "popularity": "floor: popularity alone",
    "last_category": "floor: category of the last item",
    COUNTS: "floor: logistic regression on counts",
}
NOT_RUN = ": not run."


def prose(text: str) -> list[str]:
    """`text` in lines of at most 118 characters."""
    return textwrap.wrap(text, 118, break_on_hyphens=False)


def grid(head: list[str], body: Iterable[list[str]]) -> list[str]:
    """A Markdown table."""
    return [_line(head), _line(["---"] * len(head)), *(_line(cells) for cells in body)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def name(one: Results, key: str) -> str:
    """What a row is called; a row without a record by its key."""
    return FLOOR_TITLES.get(key) or (one.name(key) if key in one.models else f"`{key}`")


def against(one: Results, first: Entry, second: Entry, group: Group = "all") -> tuple[str, str]:
    """A sentence on a comparison, and its verdict or `not run`."""
    names = f"{name(one, first.key)} against {name(one, second.key)}"
    length = f"{first.length:,} events"
    if group == "all":
        names = f"{length}: {names}"
    comparison = one.compare(first, second, group)
    if comparison is None:
        return f"* {names}{NOT_RUN}", "not run"
    values = " and ".join(mean(values) for values in comparison.aucs)
    counted = f", {comparison.folds} of {FOLDS} folds" if comparison.folds < FOLDS else ""
    if comparison.trainings != (1, 1):
        counted += f", {' and '.join(map(str, comparison.trainings))} trainings"
    return f"* {names} ({values}{counted}): {figures(comparison)}, {comparison.verdict}.", comparison.verdict


def interval(comparison: Comparison) -> str:
    """A difference with its interval."""
    found = comparison.difference
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def figures(comparison: Comparison) -> str:
    """A difference with its interval, and in how many folds the first side is ahead."""
    return f"{interval(comparison)}, ahead in {comparison.won} of {comparison.folds}"


def state_size(state: int | None) -> str:
    """The bytes of a user's state; a model without a state reads the events, however many there are."""
    return "reads the events" if state is None else f"{state:,}"


def mean(values: list[float]) -> str:
    """Four decimals; `-` without values."""
    return f"{statistics.fmean(values):.4f}" if values else "-"


def mean_std(values: list[float]) -> str:
    """Mean ± sample standard deviation, four decimals; the mean alone for a single value, `-` without values."""
    average = mean(values)
    return f"{average} ± {statistics.stdev(values):.4f}" if len(values) > 1 else average
