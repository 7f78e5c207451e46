"""Compares the users of two namespaces while both go on being folded.

Every user is looked for; of some whole partitions and of a sample, (events, last offset, digest) are compared. Whoever
does not agree at once is looked at again, because one namespace may be a moment ahead of the other: only what stays is
found.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimn.release import Comparison, Finding, Gate, Headers, compare
from mimn.state import Progress, partition_of
from uic.rollout.namespaces import Namespace

LOOKS: Final = 12
PAUSE_S: Final = 0.25
"""Between two looks at users who do not agree."""
OTHER_EVENTS: Final = (
    "if that is right (the new bundle folds other actions, or the states in service lack events or are spoiled), prove "
    "the new namespace by `ctr backfill --verify` and say --other-events"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is compared."""

    whole: int = 8
    """Partitions of which every user is."""
    sample: int = 2000
    """Users of the others, together."""


@dataclass
class Seen:
    """What a comparison found."""

    users: int = 0
    """Of the namespace in service."""
    compared: int = 0
    whole: tuple[int, ...] = ()
    """The partitions of which every user was compared."""
    missing: Counter[int] = field(default_factory=Counter)
    """Users without a state in the new namespace, by partition; and so on."""
    different: Counter[int] = field(default_factory=Counter)
    unerased: Counter[int] = field(default_factory=Counter)
    pending: Counter[int] = field(default_factory=Counter)
    partial: tuple[int, int] = (0, 0)
    """Compared users whose state lacks events, in the old namespace and in the new one."""

    def findings(self) -> Iterator[Finding]:
        """The gates that this closes."""
        if self.missing:
            text = f"{_where(self.missing)} of {self.users} have no state in the new namespace"
            yield Finding(Gate.COVERAGE, f"{text}; {OTHER_EVENTS}")
        if self.different:
            text = f"{_where(self.different)} of {self.compared} compared have another (events, last offset, digest)"
            yield Finding(Gate.DIGEST, f"{text}: the states are not made of the same events; {OTHER_EVENTS}")
        if self.unerased:
            yield Finding(
                Gate.ERASURES,
                f"{_where(self.unerased)} in the new namespace are not in the one in service: they were erased from it",
            )
        if self.pending:
            text = f"{_where(self.pending)} changed while they were compared"
            yield Finding(Gate.DIGEST, f"{text}: one of the two namespaces is behind", passes=True)
        old, new = self.partial
        if new > old:
            yield Finding(
                Gate.PARTIAL,
                f"{new} of {self.compared} compared states lack events, in service {old} do: the log no longer begins "
                "where those states did; fold an archive, or keep the ledgers of the states in service (ctr backfill "
                "--keep-ledgers) and say --accept-partial",
            )


def compare_users(
    old: Namespace,
    new: Namespace,
    partitions: int,
    extent: Extent,
    noted: Mapping[int, Mapping[str, int]],
    *,
    seed: str,
    same_events: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Compare two namespaces of the same log with `partitions` partitions.

    Args:
        noted: by partition, users whose erasure the log remembers, and the offset up to which they are erased; compared
            in any case.
        seed: chooses the partitions that are compared whole.
        same_events: both fold the same events. Otherwise only users of `noted` are compared, who may have events since
            in the new namespace alone, and a sample tells how many states lack events.
    """

    def since(p: int) -> Mapping[str, int] | None:
        return None if same_events else noted.get(p, {})

    whole = tuple(sorted(Random(seed).sample(range(partitions), min(extent.whole, partitions))))  # noqa: S311
    share = -(-extent.sample // max(1, partitions - len(whole)))
    seen = Seen(whole=whole)
    doubtful: dict[int, list[str]] = {}
    partial_old = partial_new = 0
    for p in range(partitions):
        known, found, lost = _names(old, new, p)
        seen.users += len(known)
        wanted = known if p in whole else {*old.sample(p, share)}
        remembered = set(noted.get(p, ()))
        wanted = wanted | remembered
        if same_events:
            wanted |= lost | (found - known)
        users = sorted(wanted)
        seen.compared += len(users)
        (next_old, ours), (next_new, theirs) = _states(old, new, p, users)
        first = compare(ours, theirs, next_old, next_new)
        settled = _settled(first, theirs, users, since(p))
        both = ours["there"] & theirs["there"]
        partial_old += int((ours["partial"] & both).sum())
        partial_new += int((theirs["partial"] & both).sum())
        if left := [users[i] for i in np.flatnonzero(~settled) if same_events or users[i] in remembered]:
            doubtful[p] = left
    seen.partial = (partial_old, partial_new)
    verdicts: dict[tuple[int, str], str] = {}
    for _ in range(LOOKS):
        if not doubtful:
            break
        sleep(PAUSE_S)
        doubtful = {
            p: left for p, users in doubtful.items() if (left := _again(old, new, p, users, verdicts, erased=since(p)))
        }
    counters = {"missing": seen.missing, "different": seen.different, "unerased": seen.unerased}
    for p, users in doubtful.items():
        for user in users:
            counters.get(verdicts.get((p, user), ""), seen.pending)[p] += 1
    return seen


def look_for_users(
    old: Namespace,
    new: Namespace,
    partitions: tuple[int, int],
    erased: Collection[str],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Look for every user of `old` in `new`, which is made of another log. Offsets and digests are of one log, so
    nothing else can be compared.

    Args:
        partitions: how many `old` and `new` have.
        erased: users whose erasure the other log remembers; they may be missing.
    """
    seen = Seen()
    missing: dict[int, set[str]] = {}
    for p in range(partitions[0]):
        known = {user for users in old.users(p) for user in users}
        seen.users += len(known)
        if left := _without_state(new, partitions[1], known.difference(erased)):
            missing[p] = left
    for _ in range(LOOKS):
        if not missing:
            break
        sleep(PAUSE_S)
        missing = {p: left for p, users in missing.items() if (left := _without_state(new, partitions[1], users))}
    seen.missing.update({p: len(users) for p, users in missing.items()})
    return seen


def _without_state(namespace: Namespace, partitions: int, users: Collection[str]) -> set[str]:
    """Those of some users, of whatever partitions, who have no state."""
    of_partition: dict[int, list[str]] = defaultdict(list)
    for user in users:
        of_partition[partition_of(user.encode(), partitions)].append(user)
    lost: set[str] = set()
    for p, mine in of_partition.items():
        [known] = namespace.progress([p])
        headers = _current(namespace.headers(p, mine), known)
        lost.update(mine[i] for i in np.flatnonzero(~headers["there"]))
    return lost


def _names(old: Namespace, new: Namespace, p: int) -> tuple[set[str], set[str], set[str]]:
    """The users of a partition in both namespaces, and those of the old one who are none, or have no state, in the new
    one."""
    known: set[str] = set()
    lost: set[str] = set()
    for users in old.users(p):
        known.update(users)
        if new.count(p, users) < len(users):
            headers = new.headers(p, users)
            lost.update(users[i] for i in np.flatnonzero(~headers["there"]))
    found = {user for users in new.users(p) for user in users}
    return known, found, lost | (known - found)


def _states(old: Namespace, new: Namespace, p: int, users: list[str]) -> list[tuple[int, Headers]]:
    """Of both namespaces, up to where the partition is folded, and then the headers of these users' states. A state of
    another lineage than the partition's does not count: UIC starts its user from nothing."""
    progress = [namespace.progress([p])[0] for namespace in (old, new)]
    found = []
    for namespace, known in zip((old, new), progress, strict=True):
        headers = _current(namespace.headers(p, users), known)
        found.append((0 if known is None else known.next_offset, headers))
    return found


def _current(headers: Headers, known: Progress | None) -> Headers:
    """The headers, of which those of another lineage than the partition's progress count as not there."""
    if known is not None:
        headers["there"] &= ~headers["readable"] | (headers["lineage"] == known.lineage)
    return headers


def _again(
    old: Namespace,
    new: Namespace,
    p: int,
    users: list[str],
    verdicts: dict[tuple[int, str], str],
    *,
    erased: Mapping[str, int] | None,
) -> list[str]:
    """Look at doubtful users once more; returns those who still are, and notes what is certain of them. Once certain, a
    verdict holds until the user agrees: a later look may meet one of the namespaces a moment ahead again."""
    (next_old, ours), (next_new, theirs) = _states(old, new, p, users)
    told = compare(ours, theirs, next_old, next_new)
    for verdict, mask in (("missing", told.missing), ("different", told.different), ("unerased", told.unerased)):
        verdicts.update({(p, users[i]): verdict for i in np.flatnonzero(mask)})
    return [users[i] for i in np.flatnonzero(~_settled(told, theirs, users, erased))]


def _settled(
    told: Comparison, theirs: Headers, users: Sequence[str], erased: Mapping[str, int] | None
) -> NDArray[np.bool_]:
    """Users who agree; and, with `erased` (up to which offset), those whom the new namespace alone has since. [n]"""
    if erased is None:
        return told.equal
    upto = np.array([erased.get(user, -1) for user in users], np.int64)
    since: NDArray[np.bool_] = told.unerased & theirs["readable"] & (theirs["last_offset"] > upto)
    return told.equal | since


def _where(found: Counter[int]) -> str:
    """How many users, and in which partitions. Never who."""
    some: Iterable[int] = sorted(found)[:5]
    more = "" if len(found) <= 5 else f" and {len(found) - 5} more"
    place = "partition" if len(found) == 1 else "partitions"
    return f"{found.total()} users ({place} {', '.join(map(str, some))}{more})"
