"""What recent records and progress say about a deployment: dead letters, unknown items, as-of times. Pure.

Thresholds, of the share of records or events: a warning and a failure each. A share below the warning is normal
operation (a few bad records, new items); above the failure a producer or the bundle is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mimn.state import Progress
from uic.core.deployment import Finding, Severity

INVALID: Final = (0.0, 0.01)
"""Of the newest records, which would become dead letters."""
DEAD: Final = (0.001, 0.01)
"""Dead letters of the last 24 hours, of the log's records in that time."""
UNKNOWN: Final = (0.1, 0.5)
"""Of the newest events, items outside the bundle's vocabulary: they are all folded as one item."""
RECENT_MS: Final = 24 * 3600 * 1000
OLD_S: Final = 60.0
"""An as-of time that is older makes states `stale`, by RTP's defaults."""


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest records, decoded."""

    records: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Of the invalid ones, by the reason that their dead letters would have."""
    events: int = 0
    unknown_items: int = 0


@dataclass(frozen=True, kw_only=True)
class Written:
    """Records of a topic."""

    recent: int
    """Of the last 24 hours."""
    retained: int
    """All that the topic still has."""


def newest_records(newest: Newest) -> Finding:
    """The newest records can be folded."""
    invalid = sum(newest.reasons.values())
    by_reason = ", ".join(f"{count} {reason}" for reason, count in sorted(newest.reasons.items()))
    seen = f"of the newest {newest.records} records {invalid} cannot be folded" + (f": {by_reason}" if invalid else "")
    fix = "fix the producer, by the table of reasons in docs/runbooks/dead-letters.md"
    return _by_share(Finding("newest records", Severity.OK, seen, fix), invalid / max(newest.records, 1), INVALID)


def unknown_items(newest: Newest) -> Finding:
    """The bundle knows the items that users act on."""
    share = newest.unknown_items / max(newest.events, 1)
    seen = f"{newest.unknown_items} of the newest {newest.events} events ({share:.0%}) have items that the bundle lacks"
    fix = "train and export on recent data; if nearly all are unknown, the bundle is of another catalog"
    return _by_share(Finding("items of the events", Severity.OK, seen, fix), share, UNKNOWN)


def dead_letters(log: Written | None, dead: Written | None, silent: str = "") -> Finding:
    """Few records become dead letters. None: the topics could not be read; `silent` is why, if the brokers did not
    answer.

    While a backlog is folded there may be more letters than new records; then all retained records count.
    """
    check = "dead letters"
    if log is None or dead is None:
        seen = "the topics' offsets cannot be read"
        if silent:
            return Finding(check, Severity.WARN, f"{seen}: {silent}", "run this again once all brokers answer")
        return Finding(check, Severity.WARN, seen, "allow this user to read both topics")
    records = log.recent if log.recent >= dead.recent else max(log.retained, dead.recent)
    share = dead.recent / max(records, 1)
    seen = f"{dead.recent} in the last 24 hours, for {records} records ({share:.1%})"
    fix = "`ctr dead-letters list` shows them; fix the cause, then replay those that can be"
    return _by_share(Finding(check, Severity.OK, seen, fix), share, DEAD)


def as_of_times(progress: Mapping[int, Progress], ends: Mapping[int, int], store_now_ms: float) -> Finding:
    """Partitions that have no lag say every few seconds that they are caught up; RTP calls states `stale` by that.

    Args:
        progress: by partition.
        ends: where the partitions end, as far as known.
        store_now_ms: the store's time.
    """
    caught_up = [one for p, one in progress.items() if p in ends and one.next_offset >= ends[p] and one.as_of_ms]
    ages_s = [age_s for one in caught_up if (age_s := (store_now_ms - one.as_of_ms) / 1000) > OLD_S]
    if not ages_s:
        return Finding("as-of times", Severity.OK, f"{len(caught_up)} partitions without a lag say so")
    return Finding(
        "as-of times",
        Severity.WARN,
        f"{len(ages_s)} of {len(caught_up)} partitions without a lag last said so up to {max(ages_s):.0f} s ago, by "
        "the store's clock, so their states are stale",
        "start a UIC worker; if one folds them, its /readyz says what is wrong, or its clock is slow "
        "(docs/runbooks/clocks.md)",
    )


def _by_share(finding: Finding, share: float, limits: tuple[float, float]) -> Finding:
    """The finding with the verdict that `share` deserves: above the first limit WARN, above the second FAIL."""
    warn, fail = limits
    if share > warn:
        return replace(finding, verdict=Severity.FAIL if share > fail else Severity.WARN)
    return replace(finding, fix="")
