"""Batches: how many of a partition's pending records form a batch, and what each record is.

The end of a batch is chosen before anything is folded, which bounds the number of states that it writes and the number
of waves that it needs. The result is arrays over operations (fold an event, erase a user, or erase one of a user's
items), in log order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from mimn.rows.records import Columns, Fronts, Texts
from mimn.state import Actions, partition_of
from uic.core.event import ERASE_ITEM, Reason, Record, check_key
from uic.core.event_columns import ReadsEvents, decode_all
from uic.core.records import Records, joined, joined_columns

ERASE = 0
"""Replaces the item id if the operation erases the user. No event has item 0."""
LARGE = 128
"""Records. If all are one user's, they take 5 ms to fold (0.04 ms per wave); a separate round costs 1 to 2 ms."""


PartitionOf = Callable[[bytes, int], int]


class ReadsRecords(ReadsEvents, Protocol):
    """Compiled code for records in columns."""

    def fronts(
        self, columns: Columns, waiting: Sequence[tuple[int, int, int]], bounds: tuple[int, int, int], /
    ) -> Fronts:
        """`mimn.rows.records.fronts`"""

    def split(self, texts: Texts, /) -> list[bytes]:
        """Each, as Python has it. None is missing."""

    def partition_of(self, key: bytes, partitions: int, /) -> int:
        """`mimn.state.partition_of`"""


class Batch(NamedTuple):
    """One batch of one partition. (A tuple, as `Front` is: at a steady rate there are a thousand a second.)

    Invariant: operations are in log order; `user_of`, `record_of`, `offsets`, `items`, `categories`, `times` and
    `actions` run in parallel over them. Every record is an operation, rejected, or counted in `erased_later` or
    `ignored`; every user has at least one operation.
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
    """`ERASE` if the operation is an erasure."""
    categories: NDArray[np.uint64]
    times: NDArray[np.int64]
    actions: NDArray[np.uint8]
    """Numbers on the wire; `ERASE_ITEM` if the operation erases the item."""
    rejected: list[tuple[int, Reason]]
    """Index into `records`, and why."""
    erased_later: int = 0
    """Events left out of a replay because their user was erased later in the log."""
    ignored: int = 0
    """Events left out because the bundle gives their action weight 0."""
    extended: int = 0
    """Events with protobuf fields that this version does not know."""

    @property
    def erases(self) -> bool:
        """Whether an operation erases a user or an item."""
        return bool(np.count_nonzero(self.items) < len(self.items) or ERASE_ITEM in self.actions)

    def misrouted_from(self, offset: int) -> int:
        """How many records at or above `offset` are not in their key's partition."""
        return sum(reason is Reason.MISROUTED and self.records[at].offset >= offset for at, reason in self.rejected)

    def without(self, operations: Sequence[int], reason: Reason) -> Batch:
        """The same batch with some operations rejected."""
        rejected = [*self.rejected, *((int(at), reason) for at in np.sort(self.record_of[operations]))]
        stays = np.ones(len(self.items), np.bool_)
        stays[operations] = False
        return self._of(stays)._replace(rejected=rejected)

    def of_those_that_stay(
        self, erased: Mapping[bytes, int], rejected: list[tuple[int, Reason]], ignored: NDArray[np.bool_]
    ) -> Batch:
        """For a batch in which every record is still an operation: the batch without `rejected`, `ignored` and left-out
        records."""
        stays = ~ignored
        stays[[at for at, _ in rejected]] = False
        left_out = np.zeros(len(self.records), np.bool_)
        if erased and self.keys:
            upto = np.array([erased.get(key, -1) for key in self.keys], np.int64)
            left_out = stays & (self.items != ERASE) & (upto[self.user_of] >= self.offsets)
        return self._of(stays & ~left_out)._replace(
            rejected=rejected,
            erased_later=int(np.count_nonzero(left_out)),
            ignored=int(np.count_nonzero(ignored)),
        )

    def _of(self, stays: NDArray[np.bool_]) -> Batch:
        """The same batch with only the operations in `stays`."""
        touched, user_of = np.unique(self.user_of[stays], return_inverse=True)
        return self._replace(
            keys=[self.keys[i] for i in touched.tolist()],
            users=[self.users[i] for i in touched.tolist()],
            user_of=user_of,
            record_of=self.record_of[stays],
            offsets=self.offsets[stays],
            items=self.items[stays],
            categories=self.categories[stays],
            times=self.times[stays],
            actions=self.actions[stays],
        )


class OutOfOrder(Exception):
    """Offsets do not rise, or begin below progress: the client did not read from the requested position."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on the size of a batch."""

    max_states: int
    max_waves: int
    max_records: int


class Front(NamedTuple):
    """The records at the head of a partition's queue that form the next batch, and their users. Nothing is decoded
    yet."""

    partition: int
    records: Sequence[Record]
    keys: list[bytes]
    """In order of appearance."""
    places: NDArray[np.int64]
    """By record: index into `keys`, -1 if the key is refused."""
    refused: Mapping[bytes | None, Reason]
    erased: Mapping[bytes, int]
    """Key → offset up to which the user's events are left out."""


class Waiting(NamedTuple):
    """The records of a partition that wait to be folded, as `take` is asked for a front of them."""

    partition: int
    pending: Sequence[Record]
    floor: int
    erased: Mapping[bytes, int]


def take_together(
    waiting: Sequence[Waiting], partitions: int, bounds: Bounds, compiled: ReadsRecords | None
) -> list[Front | None]:
    """What `take` finds for each, none of which has more than `bounds.max_records`, all at once: at a steady rate each
    partition has a record or two. None where only `take` can tell: there is no compiled code, records are not in
    columns, a key is not plain, or offsets do not rise."""
    mine = [each for each in waiting if isinstance(each.pending, Records)]
    if compiled is None or not mine:  # numpy has no table of keys: `take` walks the records instead
        return [None] * len(waiting)
    sizes = [len(each.pending) for each in mine]
    together = joined_columns([cast("Records", each.pending) for each in mine])
    asked = [(size, each.floor, each.partition) for size, each in zip(sizes, mine, strict=True)]
    found = compiled.fronts(together.columns, asked, (partitions, bounds.max_states, bounds.max_waves))
    keys = compiled.split(together.keys.take(found.first))
    fronts: list[Front | None] = []
    record = user = 0
    for each, size, taken, users in zip(mine, sizes, found.taken, found.users, strict=True):
        records = each.pending if taken == size else each.pending[:taken]
        places = found.user_of[record : record + taken]
        whose = keys[user : user + users]
        fronts.append(Front(each.partition, records, whose, places, {}, each.erased) if taken >= 0 else None)
        record, user = record + size, user + users
    told = iter(fronts)
    return [next(told) if isinstance(each.pending, Records) else None for each in waiting]


def take(
    pending: Sequence[Record],
    *,
    floor: int,
    partition: int,
    partitions: int,
    known: Collection[bytes],
    erased: Mapping[bytes, int],
    bounds: Bounds,
    partition_of: PartitionOf = partition_of,
) -> Front:
    """The longest front of `pending` within `bounds`. Records that later turn out to be invalid count as events.

    Args:
        pending: records in log order.
        floor: the lowest offset that the first record may have.
        partition: the records' partition.
        partitions: N.
        known: keys already known to belong to this partition; they are not hashed again.
        erased: key → offset up to which the user's events are left out. An erasure is never left out, because there
            may be a state.
        bounds: limits; at least one record is taken in any case.
        partition_of: `mimn.state.partition_of`, or what does the same.

    Raises:
        OutOfOrder: see the class.
    """
    refused: dict[bytes | None, Reason] = {}

    def misplaced(key: bytes | None) -> Reason | None:
        """Why a key does not belong in this partition, or None."""
        reason = check_key(key)
        if reason is None and key is not None and partition_of(key, partitions) != partition:
            reason = Reason.MISROUTED
        return reason

    if len(pending) <= min(bounds.max_states, bounds.max_waves, bounds.max_records):
        keys, places = _take_all(pending, known, refused, misplaced)
    else:
        keys, places = _take_some(pending, known, refused, misplaced, bounds)
    records = pending[: len(places)]
    offsets = _offsets(records)
    if len(offsets) and (offsets[0] < floor or (offsets[1:] <= offsets[:-1]).any()):
        raise OutOfOrder(f"offsets {offsets[0]} to {offsets[-1]} do not rise from {floor} or more")
    return Front(partition, records, keys, np.array(places, np.int64), refused, erased)


def _offsets(records: Sequence[Record]) -> NDArray[np.int64]:
    return records.offsets if isinstance(records, Records) else np.array([r.offset for r in records], np.int64)


def _take_all(
    pending: Sequence[Record],
    known: Collection[bytes],
    refused: dict[bytes | None, Reason],
    misplaced: Callable[[bytes | None], Reason | None],
) -> tuple[list[bytes], list[int]]:
    """Keys and places of so few records, or with such wide bounds, that all fit. Adds to `refused`."""
    each = [record.key for record in pending]
    index: dict[bytes | None, int] = {}
    keys: list[bytes] = []
    for key in dict.fromkeys(each):
        reason = None if key in known else misplaced(key)
        if reason is not None or key is None:
            refused[key] = reason or Reason.MISSING_KEY
            index[key] = -1
        else:
            index[key] = len(keys)
            keys.append(key)
    return keys, list(map(index.__getitem__, each))


def _take_some(
    pending: Sequence[Record],
    known: Collection[bytes],
    refused: dict[bytes | None, Reason],
    misplaced: Callable[[bytes | None], Reason | None],
    bounds: Bounds,
) -> tuple[list[bytes], list[int]]:
    """Keys and places of the first records, up to the first that does not fit. Adds to `refused`."""
    keys: list[bytes] = []
    index: dict[bytes | None, int] = {}
    depth: list[int] = []
    places: list[int] = []
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
            reason = None if key in known else misplaced(key)
            if reason is not None or key is None:
                refused[key] = reason or Reason.MISSING_KEY
            elif len(keys) == max_states:
                break
            else:
                place = index[key] = len(keys)
                keys.append(key)
                depth.append(record.value is not None)
        places.append(place)
    return keys, places


def decode(
    fronts: Sequence[Front],
    named: Actions | None = None,
    compiled: ReadsEvents | None = None,
    *,
    text_ids: bool = False,
) -> list[Batch]:
    """Decode fronts into batches. All records are decoded together, because at a steady rate each front has only a few;
    a batch's arrays are slices of shared ones.

    Invalid records and records whose key is refused are rejected; so are events whose action is not `named` (None: all
    actions are folded). Events of users who are erased later in the log are left out, and so are those whose action has
    weight 0. `compiled`, `text_ids`: see `decode_all`.
    """
    records = joined([front.records for front in fronts])
    user_of = np.concatenate([front.places for front in fronts])
    offsets = _offsets(records)
    sizes = np.array([len(front.records) for front in fronts])
    record_of = np.arange(len(records)) - (sizes.cumsum() - sizes).repeat(sizes)
    stays = user_of >= 0
    sound = stays & _have_values(records)
    items, categories, times, actions, rejected, extended = decode_all(records, sound, compiled, text_ids=text_ids)
    unknown = np.array(extended, np.int64)
    if rejected:
        stays[list(rejected)] = False
    ignored = np.zeros(len(records), np.bool_)
    if named is not None and not named.fold_all(actions):
        foreign, ignored = not_folded(named, stays, items, actions)
        rejected |= dict.fromkeys(np.flatnonzero(foreign).tolist(), Reason.UNKNOWN_ACTION)
        stays &= ~foreign
    all_stay = np.count_nonzero(stays) == len(records) and not np.count_nonzero(ignored)
    batches = []
    end = 0
    for front in fronts:
        begin, end = end, end + len(front.records)
        batch = Batch(
            partition=front.partition,
            records=front.records,
            keys=front.keys,
            users=[key.decode() for key in front.keys],
            user_of=user_of[begin:end],
            record_of=record_of[begin:end],
            offsets=offsets[begin:end],
            items=items[begin:end],
            categories=categories[begin:end],
            times=times[begin:end],
            actions=actions[begin:end],
            rejected=[],
            extended=int(np.diff(np.searchsorted(unknown, (begin, end)))[0]) if extended else 0,
        )
        if front.erased or not all_stay:
            away = np.flatnonzero(~stays[begin:end]).tolist()
            batch = batch.of_those_that_stay(
                front.erased,
                [(at, rejected.get(begin + at) or front.refused[front.records[at].key]) for at in away],
                ignored[begin:end],
            )
        batches.append(batch)
    return batches


def not_folded(
    named: Actions, among: NDArray[np.bool_], items: NDArray[np.uint64], actions: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which events have an action that the bundle does not name, and which have one that it names and does not fold.

    Args:
        named: the bundle's actions.
        among: the operations that are asked about. [n], as what follows.
        items: `ERASE` where an operation erases the user.
        actions: `ERASE_ITEM` where it erases an item.
    """
    events = among & (items != ERASE) & (actions != ERASE_ITEM)
    done = np.where(events, actions, 0)
    known = named.named[done]
    return events & ~known, events & known & ~named.folded[done]


def _have_values(records: Sequence[Record]) -> NDArray[np.bool_]:
    """By record, whether it has a value; one without erases the user."""
    if isinstance(records, Records):
        present: NDArray[np.bool_] = records.values.at != 0
        return present
    return np.array([record.value is not None for record in records], np.bool_)
