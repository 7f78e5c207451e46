"""Whether a release may replace the one in service: only if users do not lose their states by it.

A namespace whose states are missing answers every user from the initial state: well-formed, fast and useless, and no
error rate shows it. So the evidence is asked for before the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rtp.core.fold_progress import FoldProgress


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of a sample of users with a state in the namespace in service, how many have one in the new namespace."""

    sampled: int
    found: int
    whole: bool = False
    """The sample is every user of the namespace in service. An empty sample proves nothing unless it is whole."""
    different: int = 0
    """Of those compared, how many have a state of other events there."""
    incomplete: int = 0
    """Of those compared, how many more states lack events there."""

    @property
    def share(self) -> float | None:
        """From 0 to 1; None if it is unknown."""
        if self.sampled:
            return self.found / self.sampled
        return 1.0 if self.whole else None


def objections(
    old: FoldProgress | None,
    new: FoldProgress,
    coverage: Coverage,
    *,
    now_ms: int,
    stale_after_ms: float,
    least_coverage: float,
) -> Iterator[str]:
    """Why `new` must not replace `old` (None if no progress was ever read in its namespace); nothing if it may."""
    if old is not None and new.topic != old.topic:
        yield f"its states are made of topic {new.topic}, those in service of {old.topic}"
    if old is not None and len(new.partitions) != len(old.partitions):
        yield f"it has {len(new.partitions)} partitions, the namespace in service has {len(old.partitions)}"
    if missing := sum(known is None for known in new.partitions):
        yield f"{missing} of its {len(new.partitions)} partitions have no progress record"
    elif never := new.never_caught_up:
        yield f"{never} of its {len(new.partitions)} partitions have not been folded to the end of the log yet"
    elif (age_ms := new.oldest_ms(now_ms)) is None:
        yield "the as-of time of a partition lies ahead of the store's clock"
    elif age_ms > stale_after_ms:
        yield f"a partition was last caught up {age_ms / 1000:.0f} s ago, more than {stale_after_ms / 1000:g} s"
    share = coverage.share
    if share is None:
        yield "no state of the namespace in service was found to compare with"
    elif share < least_coverage:
        yield (
            f"only {coverage.found} of {coverage.sampled} sampled users have a state in it ({share:.1%}, at least "
            f"{least_coverage:.1%} are required)"
        )
    if coverage.different:
        yield (
            f"{coverage.different} of the compared users have a state of other events in it: another (events, last "
            "offset, digest)"
        )
    if coverage.incomplete > 0:
        yield f"{coverage.incomplete} more of the compared states lack events in it: the log no longer begins at 0"
