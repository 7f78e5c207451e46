"""Cutting: how many of a partition's pending records make one batch, and what each of them is.

A batch is cut by offset before anything is folded, so that it writes a bounded number of states and needs a bounded
number of waves. The result is arrays over operations (fold an event, or erase a user), in log order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mimn.state import partition_of
from uic.core.cache import Entry
from uic.core.event import Reason, Record, check_key, decode

ERASE = 0
"""In place of an item id: the operation erases the user. No event has item 0."""


@dataclass(slots=True)
class Cut:
    """One batch of one partition.

    Invariant: operations are in log order; `user_of`, `record_of`, `items`, `categories` and `times` run in parallel
    over them. Every record is an operation, rejected, or counted in `erased_later`.
    """

    partition: int
    records: list[Record] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    """Keys of the users that the operations touch, in order of appearance."""
    users: list[str] = field(default_factory=list)
    user_of: list[int] = field(default_factory=list)
    """Index into `users`."""
    record_of: list[int] = field(default_factory=list)
    """Index into `records`."""
    items: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    rejected: list[tuple[int, Reason]] = field(default_factory=list)
    """Index into `records`, and why."""
    misrouted: int = 0
    erased_later: int = 0
    """Events left out of a replay because their user was erased further on in the log."""

    def without(self, operations: Iterable[int], reason: Reason) -> Cut:
        """The same batch with some operations rejected."""
        out = set(operations)
        kept = [i for i in range(len(self.items)) if i not in out]
        rejected = [*self.rejected, *((self.record_of[i], reason) for i in sorted(out))]
        return Cut(
            partition=self.partition,
            records=self.records,
            keys=self.keys,
            users=self.users,
            user_of=[self.user_of[i] for i in kept],
            record_of=[self.record_of[i] for i in kept],
            items=[self.items[i] for i in kept],
            categories=[self.categories[i] for i in kept],
            times=[self.times[i] for i in kept],
            rejected=rejected,
            misrouted=self.misrouted,
            erased_later=self.erased_later,
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
    known: Mapping[bytes, Entry],
    erased: Mapping[bytes, int],
    bounds: Bounds,
) -> Cut:
    """The longest batch from the front of `pending` that keeps within `bounds`.

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
    batch = Cut(partition)
    records, keys, users = batch.records, batch.keys, batch.users
    user_of, record_of, items = batch.user_of, batch.record_of, batch.items
    categories, times, rejected = batch.categories, batch.times, batch.rejected
    index: dict[bytes, int] = {}
    depth: list[int] = []
    max_states, max_waves = bounds.max_states, bounds.max_waves
    for at, record in enumerate(pending[: bounds.max_records]):
        key, offset = record.key, record.offset
        if offset < floor:
            raise OutOfOrder(f"offset {offset} where {floor} or more was due")
        floor = offset + 1
        if key is None:
            rejected.append((at, Reason.MISSING_KEY))
            records.append(record)
            continue
        reason: Reason | None = None
        place = index.get(key, -1)
        if place >= 0:
            user = users[place]
        elif (entry := known.get(key)) is not None:
            user = entry.user
        elif (reason := check_key(key)) is None:
            if partition_of(key, partitions) == partition:
                user = key.decode()
            else:
                reason = Reason.MISROUTED
                batch.misrouted += 1
        item, category, time = ERASE, 0, 0
        if reason is None and (value := record.value) is not None:
            event = decode(value, record.headers, user, record.timestamp)
            if isinstance(event, Reason):
                reason = event
            else:
                item, category, time = event
        if reason is not None:
            rejected.append((at, reason))
        elif item and erased and erased.get(key, -1) >= offset:
            batch.erased_later += 1
        else:
            if place < 0:
                if len(users) == max_states and at:
                    break
                place = index[key] = len(users)
                keys.append(key)
                users.append(user)
                depth.append(0)
            elif depth[place] == max_waves and item:
                break
            depth[place] += item != ERASE
            user_of.append(place)
            record_of.append(at)
            items.append(item)
            categories.append(category)
            times.append(time)
        records.append(record)
    return batch
