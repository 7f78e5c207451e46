"""Whether stored states are the fold of the log: some users' events, folded again one by one, against what is stored.

Independent of `partition_fold` as far as that goes: records come from where the caller says (the log itself, if it has
them), each is decoded alone, digests are extended one at a time, and waves are built per user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimn.state import EMPTY_DIGEST, Actions, StateError, StateHeader, decode_state, extend_digest, user_hash
from uic.bulk.kept_ledgers import SharedBlocks
from uic.core.event import ERASE_ITEM, Reason, Record, check_key, parse
from uic.fold.rounds import Model

CLOSE: Final = 1e-5


@dataclass(slots=True)
class Expected:
    """One user's events in order, and what follows from them."""

    items: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    digest: bytes = EMPTY_DIGEST
    last_offset: int = -1


@dataclass(slots=True)
class Verified:
    """The comparison."""

    users: int = 0
    """Compared."""
    same_bits: int = 0
    """Of those, how many have the very same tensors."""
    moved_on: int = 0
    """Not compared: a worker has folded more events since."""
    missing: int = 0
    """Without a state, or with an unreadable one."""
    too_many: int = 0
    """With a state although no event of theirs is left."""
    count: int = 0
    """With another number of events."""
    digest: int = 0
    """With the right number, but not these events in this order."""
    tensors: int = 0
    """With other numbers in the state."""

    @property
    def wrong(self) -> int:
        """Users whose state is not the fold of the log."""
        return self.missing + self.too_many + self.count + self.digest + self.tensors


def expect(
    records: Iterable[Record],
    users: Collection[bytes],
    erased: Mapping[bytes, int],
    actions: Actions | None,
    *,
    text_ids: bool = False,
) -> dict[bytes, Expected]:
    """What the log says of some users; those without an event left are not in the result."""
    found: dict[bytes, Expected] = {}
    for record in records:
        key = record.key
        if key is None or key not in users or check_key(key) is not None:
            continue
        if record.value is None:
            found.pop(key, None)
            continue
        if erased.get(key, -1) >= record.offset:
            continue
        event = parse(record.value, record.headers, key.decode(), record.timestamp, text_ids=text_ids)
        if isinstance(event, Reason) or (
            actions is not None and event.action != ERASE_ITEM and not actions.folded[event.action]
        ):
            continue
        one = found.setdefault(key, Expected())
        one.items.append(event.item_id)
        one.categories.append(event.category_id)
        one.times.append(event.event_time)
        one.actions.append(event.action)
        one.digest = extend_digest(one.digest, record.offset, record.value)
        one.last_offset = record.offset
    return found


def tensors(expected: Mapping[bytes, Expected], model: Model) -> dict[bytes, NDArray[np.float32]]:
    """Every user's tensors, from the initial state, event by event; the k-th events of all users are one run."""
    users = sorted(expected, key=lambda user: -len(expected[user].items))
    states = np.tile(model.initial_state, (len(users), 1))
    counting, ledger, rest = model.counting, model.ledger, model.rest
    plain = states if ledger is None else states[:, : -ledger.words]
    for k in range(len(expected[users[0]].items) if users else 0):
        now = [expected[user] for user in users if len(expected[user].items) > k]
        width = len(now)
        ids = (np.array([e.items[k] for e in now], np.uint64), np.array([e.categories[k] for e in now], np.uint64))
        before = np.ascontiguousarray(states[:width, rest])
        actions = np.array([e.actions[k] for e in now], np.uint8)
        erases = actions == ERASE_ITEM
        actions[erases] = 0
        after = model.step(model.vectors(*ids, actions), before)
        sound: NDArray[np.bool_] = np.isfinite(after).min(axis=1) & ~erases
        states[:width, rest] = np.where(sound[:, np.newaxis], after, before)
        times = np.array([e.times[k] for e in now], np.int64)
        if counting is not None:
            counting.sketch.add(plain[:width], counting.addresses(*ids), counting.moments(times, actions), sound)
        if ledger is not None:
            ledger.add(states[:width], ledger.keys(ids[0]), times, sound)
        for at in np.flatnonzero(erases).tolist():
            model.forget(states[at], int(ids[0][at]))
    return dict(zip(users, states, strict=True))


def compare(
    stored: Mapping[bytes, bytes | None],
    expected: Mapping[bytes, Expected],
    model: Model,
    *,
    lineage: int,
    end: int,
    verified: Verified,
    kept: Mapping[bytes, SharedBlocks],
) -> None:
    """Compare users' stored values with what the log says, and count into `verified`.

    Args:
        stored: by record key of every user to compare.
        expected: see `expect`.
        lineage: the partition's; states of another one are as if absent.
        end: what lies at or above this offset was not read: states that reach further are not compared, unless they
            are as far as the kept ones, which may be ahead of progress or of an earlier era.
        verified: counted into.
        kept: what states have of earlier ones, with a backfill that keeps ledgers.
    """
    expected = {user: Expected() for user in kept} | dict(expected)
    numbers = tensors(expected, model)
    for user, shared in kept.items():
        for place, block in shared.blocks:
            numbers[user][place] = block
    for user, value in stored.items():
        due = expected.get(user)
        try:
            state = value and decode_state(value, model.fingerprint, model.layout, user_hash(user.decode()))
        except StateError:
            state = None
        if not state or state.header.lineage != lineage:
            if due is not None:
                verified.users += 1
                verified.missing += 1
            continue
        header = state.header
        if header.last_offset >= end and not (user in kept and _is_as_kept(header, kept[user].header)):
            verified.moved_on += 1
            continue
        verified.users += 1
        if due is None:
            verified.too_many += 1
            continue
        count, digest, last = len(due.items), due.digest, due.last_offset
        if user in kept:
            before = kept[user].header
            count, digest, last = before.event_count, before.digest, before.last_offset
        if header.event_count != count:
            verified.count += 1
        elif (header.digest, header.last_offset) != (digest, last):
            verified.digest += 1
        elif not model.layout.close(state.tensors, numbers[user], CLOSE):
            verified.tensors += 1
        else:
            verified.same_bits += int(state.tensors.tobytes() == numbers[user].tobytes())


def _is_as_kept(header: StateHeader, kept: StateHeader) -> bool:
    """Whether no event was folded into a state since its ledger was copied."""
    return (header.era, header.last_offset) == (kept.era, kept.last_offset)
