"""Cutting: how many of a partition's pending records make one batch, and what each of them is.

A batch is cut by offset before anything is folded, so that it writes a bounded number of states and needs a bounded
number of waves. The result is arrays over operations (fold an event, or erase a user), in log order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mimn.state import partition_of
from uic.core.event import Reason, Record, check_key, decode_all

ERASE = 0
"""In place of an item id: the operation erases the user. No event has item 0."""
LARGE = 128
"""Records. Of one user alone they take 5 ms to fold (0.04 ms a wave); a round of its own costs 1 to 2 ms."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One batch of one partition.

    Invariant: operations are in log order; `user_of`, `record_of`, `offsets`, `items`, `categories` and `times` run in
    parallel over them. Every record is an operation, rejected, or counted in `erased_later`; every user has one.
    """

    partition: int
    records: Sequence[Record]
    keys: list[bytes]
    """Keys of the users that the operations touch, in order of appearance."""
    users: list[str]
    user_of: NDArray[np.int64]
    """Index into `users`."""
    record_of: NDArray[np.int64]
    """Index into `records`."""
    offsets: NDArray[np.int64]
    items: NDArray[np.uint64]
    """`ERASE` where the operation is no event."""
    categories: NDArray[np.uint64]
    times: NDArray[np.int64]
    rejected: list[tuple[int, Reason]]
    """Index into `records`, and why."""
    misrouted: int = 0
    erased_later: int = 0
    """Events left out of a replay because their user was erased further on in the log."""

    @property
    def large(self) -> bool:
        """Whether it takes much longer to fold than a round costs: small batches do not wait for it."""
        return len(self.records) >= LARGE

    def without(self, operations: Sequence[int], reason: Reason) -> Cut:
        """The same batch with some operations rejected."""
        rejected = [*self.rejected, *((int(at), reason) for at in np.sort(self.record_of[operations]))]
        stays = np.ones(len(self.items), np.bool_)
        stays[operations] = False
        return replace(self._of(stays), rejected=rejected)

    def _of(self, stays: NDArray[np.bool_]) -> Cut:
        """The same batch with some operations alone."""
        touched, user_of = np.unique(self.user_of[stays], return_inverse=True)
        return replace(
            self,
            keys=[self.keys[i] for i in touched.tolist()],
            users=[self.users[i] for i in touched.tolist()],
            user_of=user_of,
            record_of=self.record_of[stays],
            offsets=self.offsets[stays],
            items=self.items[stays],
            categories=self.categories[stays],
            times=self.times[stays],
        )


class OutOfOrder(Exception):
    """Offsets do not rise, or begin below progress: the client did not read what it was told to."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a batch may become."""

    max_states: int
    max_waves: int
    max_records: int


def cut(
    pending: Sequence[Record],
    *,
    floor: int,
    partition: int,
    partitions: int,
    known: Collection[bytes],
    erased: Mapping[bytes, int],
    bounds: Bounds,
) -> Cut:
    """A long batch from the front of `pending` that keeps within `bounds`, counting records that turn out to be no
    events as if they were.

    Args:
        pending: records in log order.
        floor: the lowest offset that the first may have.
        partition: where they lie.
        partitions: N.
        known: keys that were found to belong here before; theirs are not hashed again.
        erased: key → offset up to which the user's events are left out; an erasure never is: there may be a state.
        bounds: at least one record is taken, whatever they say.

    Raises:
        OutOfOrder: as the name says.
    """
    taken = _take(pending, partition, partitions, known, bounds)
    offsets = np.fromiter((record.offset for record in taken.records), np.int64, len(taken.records))
    if len(offsets) and (offsets[0] < floor or (offsets[1:] <= offsets[:-1]).any()):
        raise OutOfOrder(f"offsets {offsets[0]} to {offsets[-1]} do not rise from {floor} or more")
    return _decoded(partition, taken, offsets, erased)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Records of a batch, and whose they are."""

    records: Sequence[Record]
    keys: list[bytes]
    places: NDArray[np.int64]
    """By record: index into `keys`, -1 where the key is refused."""
    refused: dict[bytes | None, Reason]


def _take(
    pending: Sequence[Record], partition: int, partitions: int, known: Collection[bytes], bounds: Bounds
) -> _Taken:
    keys: list[bytes] = []
    index: dict[bytes | None, int] = {}
    depth: list[int] = []
    places: list[int] = []
    refused: dict[bytes | None, Reason] = {}
    max_states, max_waves = bounds.max_states, bounds.max_waves
    for record in pending[: bounds.max_records]:
        key = record.key
        place = index.get(key, -1)
        if place >= 0:
            if record.value is not None:
                if depth[place] == max_waves:
                    break
                depth[place] += 1
        elif key not in refused:
            reason = None if key in known else _misplaced(key, partition, partitions)
            if reason is not None or key is None:
                refused[key] = reason or Reason.MISSING_KEY
            elif len(keys) == max_states:
                break
            else:
                place = index[key] = len(keys)
                keys.append(key)
                depth.append(record.value is not None)
        places.append(place)
    return _Taken(pending[: len(places)], keys, np.array(places, np.int64), refused)


def _misplaced(key: bytes | None, partition: int, partitions: int) -> Reason | None:
    """What is wrong with a key here, or None."""
    reason = check_key(key)
    if reason is None and key is not None and partition_of(key, partitions) != partition:
        reason = Reason.MISROUTED
    return reason


def _decoded(partition: int, taken: _Taken, offsets: NDArray[np.int64], erased: Mapping[bytes, int]) -> Cut:
    records, keys, places = taken.records, taken.keys, taken.places
    values = [record.value for record in records]
    here = places >= 0
    erases = np.fromiter((value is None for value in values), np.bool_, len(values)) & here
    record_of = np.flatnonzero(here & ~erases)
    chosen = record_of.tolist()
    items, categories = np.zeros(len(records), np.uint64), np.zeros(len(records), np.uint64)
    times = np.zeros(len(records), np.int64)
    items[record_of], categories[record_of], times[record_of], reasons = decode_all(
        [values[at] or b"" for at in chosen],
        [records[at].headers for at in chosen],
        [keys[place] for place in places[record_of].tolist()],
        np.fromiter((records[at].timestamp for at in chosen), np.int64, len(chosen)),
    )
    rejected = {chosen[at]: reason for at, reason in reasons.items()}
    if taken.refused:
        rejected |= {at: taken.refused[records[at].key] for at in np.flatnonzero(~here).tolist()}
    stays = here.copy()
    stays[list(rejected)] = False
    erased_later = 0
    if erased and keys:
        upto = np.array([erased.get(key, -1) for key in keys], np.int64)
        left_out = stays & ~erases & (upto[places] >= offsets)
        erased_later = int(np.count_nonzero(left_out))
        stays &= ~left_out
    batch = Cut(
        partition=partition,
        records=records,
        keys=keys,
        users=[key.decode() for key in keys],
        user_of=places,
        record_of=np.arange(len(records)),
        offsets=offsets,
        items=items,
        categories=categories,
        times=times,
        rejected=sorted(rejected.items()),
        misrouted=sum(reason is Reason.MISROUTED for reason in rejected.values()),
        erased_later=erased_later,
    )
    return batch if stays.all() else batch._of(stays)
