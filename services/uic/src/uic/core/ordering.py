"""Batches: how many of a partition's pending records make one, and what each of them is.

A batch ends by offset before anything is folded, so that it writes a bounded number of states and needs a bounded
number of waves. The result is arrays over operations (fold an event, or erase a user), in log order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import lt

import numpy as np
from numpy.typing import NDArray

from mimn.state import partition_of
from uic.core.event import Reason, Record, check_key, decode_all

ERASE = 0
"""In place of an item id: the operation erases the user. No event has item 0."""
LARGE = 128
"""Records. Of one user alone they take 5 ms to fold (0.04 ms a wave); a round of its own costs 1 to 2 ms."""


@dataclass(frozen=True, slots=True)
class Batch:
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
    erased_later: int = 0
    """Events left out of a replay because their user was erased further on in the log."""
    extended: int = 0
    """Events with protobuf fields that this version does not know."""

    def misrouted_from(self, offset: int) -> int:
        """How many records at or above `offset` do not lie in their key's partition."""
        return sum(reason is Reason.MISROUTED and self.records[at].offset >= offset for at, reason in self.rejected)

    def without(self, operations: Sequence[int], reason: Reason) -> Batch:
        """The same batch with some operations rejected."""
        rejected = [*self.rejected, *((int(at), reason) for at in np.sort(self.record_of[operations]))]
        stays = np.ones(len(self.items), np.bool_)
        stays[operations] = False
        return replace(self._of(stays), rejected=rejected)

    def _of_those_that_stay(self, erased: Mapping[bytes, int], rejected: list[tuple[int, Reason]]) -> Batch:
        """The same batch, all of whose records are operations yet, without those that are `rejected` or left out."""
        stays = np.ones(len(self.records), np.bool_)
        stays[[at for at, _ in rejected]] = False
        left_out = np.zeros(len(self.records), np.bool_)
        if erased and self.keys:
            upto = np.array([erased.get(key, -1) for key in self.keys], np.int64)
            left_out = stays & (self.items != ERASE) & (upto[self.user_of] >= self.offsets)
        return replace(
            self._of(stays & ~left_out),
            rejected=rejected,
            erased_later=int(np.count_nonzero(left_out)),
        )

    def _of(self, stays: NDArray[np.bool_]) -> Batch:
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


@dataclass(frozen=True, slots=True)
class Front:
    """The records at the head of a partition's queue that make the next batch, and whose they are; none is decoded."""

    partition: int
    records: Sequence[Record]
    keys: list[bytes]
    """In order of appearance."""
    places: list[int]
    """By record: index into `keys`, -1 where the key is refused."""
    refused: Mapping[bytes | None, Reason]
    erased: Mapping[bytes, int]
    """Key → offset up to which the user's events are left out."""


def take(
    pending: Sequence[Record],
    *,
    floor: int,
    partition: int,
    partitions: int,
    known: Collection[bytes],
    erased: Mapping[bytes, int],
    bounds: Bounds,
) -> Front:
    """The longest front of `pending` that keeps within `bounds`, counting records that turn out to be no
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
    records = pending[: len(places)]
    offsets = [record.offset for record in records]
    if offsets and (offsets[0] < floor or not all(map(lt, offsets, offsets[1:]))):
        raise OutOfOrder(f"offsets {offsets[0]} to {offsets[-1]} do not rise from {floor} or more")
    return Front(partition, records, keys, places, refused, erased)


def _misplaced(key: bytes | None, partition: int, partitions: int) -> Reason | None:
    """What is wrong with a key here, or None."""
    reason = check_key(key)
    if reason is None and key is not None and partition_of(key, partitions) != partition:
        reason = Reason.MISROUTED
    return reason


def decode(fronts: Sequence[Front]) -> list[Batch]:
    """The batches that fronts make. All their records are decoded together, because each front has few where events
    arrive at a steady rate; a batch's arrays are parts of common ones.

    Records that are no events, or whose key is refused, are rejected; events of users that are erased further on in the
    log are left out.
    """
    records = [record for front in fronts for record in front.records]
    places = np.array([place for front in fronts for place in front.places], np.int64)
    offsets = np.array([record.offset for record in records], np.int64)
    record_of = np.concatenate([np.arange(len(front.records)) for front in fronts])
    stays = places >= 0
    events = np.flatnonzero(stays & np.array([record.value is not None for record in records], np.bool_))
    chosen = [records[at] for at in events.tolist()]
    items, categories = np.full(len(records), ERASE, np.uint64), np.zeros(len(records), np.uint64)
    times = np.zeros(len(records), np.int64)
    items[events], categories[events], times[events], reasons, extended = decode_all(
        [record.value or b"" for record in chosen],
        [record.headers for record in chosen],
        [record.key or b"" for record in chosen],
        np.array([record.timestamp for record in chosen], np.int64),
    )
    rejected = {int(events[at]): reason for at, reason in reasons.items()}
    unknown = np.sort(events[extended])
    stays[list(rejected)] = False
    all_stay = bool(stays.all())
    batches = []
    end = 0
    for front in fronts:
        begin, end = end, end + len(front.records)
        batch = Batch(
            partition=front.partition,
            records=front.records,
            keys=front.keys,
            users=[key.decode() for key in front.keys],
            user_of=places[begin:end],
            record_of=record_of[begin:end],
            offsets=offsets[begin:end],
            items=items[begin:end],
            categories=categories[begin:end],
            times=times[begin:end],
            rejected=[],
            extended=int(np.diff(np.searchsorted(unknown, (begin, end)))[0]) if extended else 0,
        )
        if front.erased or not all_stay:
            away = np.flatnonzero(~stays[begin:end]).tolist()
            batch = batch._of_those_that_stay(
                front.erased, [(at, rejected.get(begin + at) or front.refused[front.records[at].key]) for at in away]
            )
        batches.append(batch)
    return batches
