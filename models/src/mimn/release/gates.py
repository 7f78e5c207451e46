"""What must hold before a release may serve users who have states under another one. Facts in, findings out.

The proof of a migration is the digest: it is made of the log alone, so two namespaces of two models must agree on
(events, last offset, digest) for every user up to which both have folded. Nothing else about a state can be compared
across models, and nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mimn.release.headers import Headers
from mimn.state import Progress

MOST_OF_A_NODE = 0.7
"""Share of a node's memory that data may take; the rest is for the copies that a fork makes, and for buffers."""


class Gate(StrEnum):
    """One condition, by the name that a refusal gives."""

    CONFLICT = "conflict"
    """Something else serves than what this rollout set out to replace."""
    LOG = "log"
    """Both namespaces are made of the same log, or the new one of the topic that the rollout names."""
    BUILT = "built"
    """Every partition of the new namespace has been taken up."""
    LAG = "lag"
    """Every partition is caught up to within the allowance."""
    STEADY = "steady"
    """It has been for long enough."""
    COVERAGE = "coverage"
    """Every user of the old namespace is in the new one."""
    DIGEST = "digest"
    """Users compared have the same (events, last offset, digest) in both."""
    PARTIAL = "partial"
    """No larger share of states lacks events in the new namespace."""
    ERASURES = "erasures"
    """No user who was erased from the old namespace is in the new one."""
    MEMORY = "memory"
    """Both namespaces fit, with room for a fork."""
    LOADED = "loaded"
    """Every scoring process has the release loaded."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A closed gate."""

    gate: Gate
    reason: str
    passes: bool = False
    """Time alone may open it."""


def foreign(
    old: tuple[int, str], new: tuple[int, str], old_ids: Sequence[bytes] = (), new_ids: Sequence[bytes] = ()
) -> Finding | None:
    """Whether two namespaces are made of two logs: another (partition count, topic), or another topic id."""
    if new != old:
        return Finding(
            Gate.LOG, f"it is made of topic {new[1]} with {new[0]} partitions, in service is {old[1]} with {old[0]}"
        )
    known, other = {one for one in old_ids if any(one)}, {one for one in new_ids if any(one)}
    if known and other and not other <= known:
        return Finding(Gate.LOG, f"topic {new[1]} was deleted and created again: the namespaces are of two logs")
    return None


def not_built(new: Sequence[Progress | None]) -> Finding | None:
    """Whether partitions have not been taken up."""
    if missing := sum(one is None for one in new):
        return Finding(Gate.BUILT, f"{missing} of {len(new)} partitions have no progress record", passes=True)
    return None


def behind(new: Sequence[Progress | None], now_ms: int, allowed_ms: int) -> Finding | None:
    """Whether a partition was caught up longer than `allowed_ms` ago, or it is unknown how long ago."""
    ages = {p: one.age_ms(now_ms) for p, one in enumerate(new) if one is not None}
    late = {p: age for p, age in ages.items() if age is None or age > allowed_ms}
    if not late:
        return None
    unknown = [p for p, age in late.items() if age is None]
    if unknown:
        worst = f"the as-of time of partition {unknown[0]} is ahead of the store's clock, which was set back"
    elif never := [p for p in late if (one := new[p]) is not None and not one.as_of_ms]:
        worst = f"partition {never[0]} was never caught up"
    else:
        age, p = max((age or 0, p) for p, age in late.items())
        worst = f"partition {p} was last caught up {age / 1000:.1f} s ago, {allowed_ms / 1000:g} s are allowed"
    return Finding(Gate.LAG, f"{len(late)} of {len(new)} partitions lag; {worst}", passes=True)


def out_of_memory(used: int, more: int, limit: int) -> Finding | None:
    """Whether `more` bytes beside those `used` leave too little of a node's `limit`. 0 for an unknown limit."""
    if limit and used + more > MOST_OF_A_NODE * limit:
        now, then, whole = (f"{size / 2**20:.1f} MiB" for size in (used, used + more, limit))
        return Finding(
            Gate.MEMORY,
            f"a node holds {now} and would hold {then}, {(used + more) / limit:.0%} of its {whole}; "
            f"{MOST_OF_A_NODE:.0%} are allowed, because a fork needs the rest",
        )
    return None


Offsets = int | NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """Users in two namespaces, by what became of each. Masks of [n] users."""

    equal: NDArray[np.bool_]
    pending: NDArray[np.bool_]
    """One of the two has not folded yet what the other has: nothing can be said, so look again."""
    missing: NDArray[np.bool_]
    different: NDArray[np.bool_]
    unerased: NDArray[np.bool_]
    """In the new namespace alone."""


def compare(old: Headers, new: Headers, old_next: Offsets, new_next: Offsets) -> Comparison:
    """What two namespaces say of the same users.

    Args:
        old: [n] headers in the namespace in service.
        new: [n] headers in the new one, of the same users.
        old_next: next offset of the old namespace's partition, or [n] of each user's, read before `old` was, so that
            every event below it is in `old`.
        new_next: the same of the new one.
    """
    both = old["there"] & new["there"]
    readable = old["readable"] & new["readable"]
    same = both & readable & (old["last_offset"] == new["last_offset"])
    equal = same & (old["event_count"] == new["event_count"]) & (old["digest"] == new["digest"])
    equal |= ~old["there"] & ~new["there"]
    # An event that one has and the other lacks is all right only if it lies beyond what the other has folded.
    old_ahead = old["there"] & old["readable"] & (old["last_offset"] >= new_next)
    new_ahead = new["there"] & new["readable"] & (new["last_offset"] >= old_next)
    # An erasure leaves no offset behind: whoever is further may have folded one that the other has not reached.
    erased = (~old["there"] & np.less(new_next, old_next)) | (~new["there"] & np.less(old_next, new_next))
    pending = ~equal & ~same & (old_ahead | new_ahead | erased)
    left = ~equal & ~pending
    return Comparison(
        equal=equal,
        pending=pending,
        missing=left & old["there"] & ~new["there"],
        different=left & both,
        unerased=left & ~old["there"] & new["there"],
    )
