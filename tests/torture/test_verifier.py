"""The judge finds what it is there to find: it is torture's own test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ctr.event.v1.behavior_event_pb2 import ACTION_CLICK, BehaviorEvent
from judge import Findings, Judge, Log, Logged, Stored
from mimn.bundle import load_bundle
from mimn.bundle.graph import StepGraph
from mimn.state import (
    EMPTY_DIGEST,
    Progress,
    StateHeader,
    UserState,
    encode_progress,
    encode_state,
    extend_digest,
    partition_of,
    user_hash,
    witness,
)
from support.world import BUNDLE

N = 2
TOPIC_ID = bytes(range(16))
BUNDLE_TINY = load_bundle(BUNDLE)
STEP = StepGraph(BUNDLE_TINY)
JUDGE = Judge(BUNDLE_TINY, STEP, N)
USERS = ("ann", "bob", "kim")


def logged(offset: int, user: str, item: int) -> Logged:
    event = BehaviorEvent(user_id=user, item_id=item, category_id=2, action=ACTION_CLICK, event_time=10**12)
    return Logged(offset, 10**12 + offset, user.encode(), event.SerializeToString())


def a_log() -> Log:
    records: dict[int, list[Logged]] = {p: [] for p in range(N)}
    for i in range(30):
        user = USERS[i % 3]
        p = partition_of(user.encode(), N)
        records[p].append(logged(len(records[p]), user, 1 + i % 7))
    return Log(records, {p: len(some) for p, some in records.items()}, TOPIC_ID)


LOG = a_log()


def stored(
    fold: Callable[[str, list[Logged]], Sequence[Logged]] = lambda _, own: own, upto: int | None = None
) -> Stored:
    """What a UIC that folds `fold(user, events)` would have stored, made without UIC and one event at a time."""
    progress, states = {}, {}
    for p, records in LOG.records.items():
        covered = records[:upto]
        last = covered[-1]
        progress[p] = encode_progress(
            Progress(
                partitions=N,
                next_offset=last.offset + 1,
                last_offset=last.offset,
                witness=witness(last.key, last.value, last.timestamp),
                topic_id=TOPIC_ID,
                lineage=7,
                writer=1,
                base=0,
                as_of_ms=0,
            )
        )
        for user in USERS:
            own = [r for r in covered if r.key == user.encode()]
            if own:
                states[p, user] = state(user, fold(user, own))
    return Stored(progress, states)


def state(user: str, events: Sequence[Logged], nudge: float = 0.0) -> bytes:
    tensors, digest = BUNDLE_TINY.initial_state[np.newaxis], EMPTY_DIGEST
    for record in events:
        event = BehaviorEvent.FromString(record.value or b"")
        ids = np.array([event.item_id], np.uint64), np.array([event.category_id], np.uint64)
        tensors = STEP(BUNDLE_TINY.vectors(*ids), tensors)
        digest = extend_digest(digest, record.offset, record.value or b"")
    header = StateHeader(user_hash(user), 7, 0, max(r.offset for r in events), len(events), 10**12, digest, False)
    return encode_state(UserState(header, tensors[0] + np.float32(nudge)), BUNDLE_TINY.fingerprint, BUNDLE_TINY.layout)


def findings(store: Stored, *, snapshot: bool = False) -> Findings:
    return JUDGE.compare(LOG, store, snapshot=snapshot)


def test_the_right_store_is_found_right() -> None:
    assert not findings(stored())


def only_bob(change: Callable[[list[Logged]], list[Logged]]) -> Stored:
    return stored(lambda user, own: change(own) if user == "bob" else own)


@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_dropped_event_is_found(at: int) -> None:
    found = findings(only_bob(lambda own: own[:at] + own[at + 1 :]))
    assert (found.lost, found.doubled) == (1, 0)
    assert "bob" in str(found)


@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_doubled_event_is_found(at: int) -> None:
    found = findings(only_bob(lambda own: own[: at + 1] + own[at:]))
    assert (found.lost, found.doubled) == (0, 1)
    assert "one was doubled" in str(found)


def test_two_events_in_the_wrong_order_are_found() -> None:
    found = findings(only_bob(lambda own: [*own[:3], own[4], own[3], *own[5:]]))
    assert (found.lost, found.doubled) == (0, 0)
    assert "wrong order" in str(found)


def test_an_event_that_another_replaced_is_found() -> None:
    found = findings(only_bob(lambda own: [*own[:3], own[4], *own[4:]]))
    assert (found.lost, found.doubled) == (1, 1)


def test_a_changed_tensor_under_the_right_digest_is_found() -> None:
    store = stored()
    own = [r for r in LOG.records[partition_of(b"bob", N)] if r.key == b"bob"]
    store.states[partition_of(b"bob", N), "bob"] = state("bob", own, nudge=0.001)
    assert "other tensors" in str(findings(store))


def test_a_damaged_value_is_found() -> None:
    store = stored()
    place = next(iter(store.states))
    store.states[place] = store.states[place][:-1] + b"\xff"
    assert "CorruptState" in str(findings(store))


def test_a_missing_state_and_one_of_an_unknown_user_are_found() -> None:
    store = stored()
    place = next(iter(store.states))
    store.states[place[0], "nobody"] = state("nobody", [logged(3, "nobody", 1)])
    lost = store.states.pop(place)
    assert lost
    found = findings(store)
    assert (found.lost, found.doubled) == (10, 1)


def test_progress_that_does_not_cover_the_log_is_found_even_if_it_skips_no_event() -> None:
    store = stored()
    behind = stored(upto=-1).progress
    for p in range(N):
        assert f"progress of partition {p}" in str(findings(replace(store, progress=store.progress | {p: behind[p]})))
        without = {q: value for q, value in store.progress.items() if q != p}
        assert f"partition {p} has no progress" in str(findings(replace(store, progress=without)))


def test_a_snapshot_is_the_fold_of_as_much_as_its_progress_says() -> None:
    half = stored(upto=6)
    assert not findings(half, snapshot=True)
    assert findings(half)
    ahead = replace(half, states=stored(upto=7).states)
    found = findings(ahead, snapshot=True)
    assert found.doubled
    assert not found.lost
    behind = replace(half, states=stored(upto=5).states)
    assert findings(behind, snapshot=True).lost


def test_the_witness_of_another_record_is_found() -> None:
    other = {p: [*some[:-1], some[-1]._replace(timestamp=1)] for p, some in LOG.records.items()}
    found = JUDGE.compare(replace(LOG, records=other), stored())
    assert "witness" in str(found)
