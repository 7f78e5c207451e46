"""The definition of correct: states computed from the log, one event at a time, and no other states in the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.state import EMPTY_DIGEST, UserState, decode_state, extend_digest, partition_of, user_hash
from support.fake_state_store import FakeStore
from support.fake_topics import FakeRecord, FakeTopic
from support.hand_model import FINGERPRINT, INITIAL, LAYOUT, POISON_ITEM, step, vectors


def stored_state(store: FakeStore, user: str, partitions: int = 1) -> UserState | None:
    """A user's stored state, with every check applied."""
    value = store.states.get((partition_of(user.encode(), partitions), user))
    return None if value is None else decode_state(value, FINGERPRINT, LAYOUT, user_hash(user))


@dataclass
class Replayed:
    """A state computed from the log, one event at a time."""

    tensors: NDArray[np.float32] = field(default_factory=INITIAL.copy)
    count: int = 0
    digest: bytes = EMPTY_DIGEST
    last_offset: int = -1


def replay(records: Iterable[FakeRecord], partition: int, partitions: int) -> dict[str, Replayed]:
    """Every user's state after `records` of one partition: the definition of correct."""
    states: dict[str, Replayed] = {}
    for record in records:
        absorb(states, record, partition, partitions)
    return states


def absorb(states: dict[str, Replayed], record: FakeRecord, partition: int, partitions: int) -> bool:
    """Fold one more record; False if it is not valid and belongs to the dead letters."""
    key = record.key
    if not key or partition_of(key, partitions) != partition:
        return False
    user = key.decode()
    if record.value is None:
        states.pop(user, None)
        return True
    try:
        event = BehaviorEvent.FromString(record.value)
    except DecodeError:
        return False
    if event.user_id != user or not event.item_id or event.item_id == POISON_ITEM:
        return False
    before = states.get(user, Replayed())
    inputs = vectors(np.array([event.item_id], np.uint64), np.array([event.category_id], np.uint64))
    states[user] = replace(
        before,
        tensors=step(inputs, before.tensors[np.newaxis])[0],
        count=before.count + 1,
        digest=extend_digest(before.digest, record.offset, record.value),
        last_offset=record.offset,
    )
    return True


def assert_exactly_once(store: FakeStore, topic: FakeTopic) -> None:
    """Every user's stored state is the replay of the log, and no other user has a state."""
    expected = {
        (p, user): state
        for p, log in topic.partitions.items()
        for user, state in replay(log.records, p, len(topic)).items()
    }
    assert set(store.states) == set(expected)
    for (p, user), want in expected.items():
        got = decode_state(store.states[p, user], FINGERPRINT, LAYOUT, user_hash(user))
        assert (got.header.event_count, got.header.digest, got.header.last_offset) == (
            want.count,
            want.digest,
            want.last_offset,
        ), user
        np.testing.assert_array_equal(got.tensors, want.tensors)
