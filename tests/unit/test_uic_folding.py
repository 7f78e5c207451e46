"""Cutting, folding, caching and dead letters; then all of it together under random schedules and failures."""

from __future__ import annotations

import ast
import re
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.state import Progress, decode_progress, partition_of
from mimn.state.codec import HEADER_BYTES
from support import fake_topics, hand_model
from support.fake_state_store import FakeStore
from support.fake_topics import FakeDeadLetters, FakeRecord, FakeTopic
from support.fold_worker import Worker
from support.hand_model import COMPILED_MODEL, MODEL, event_value, users_of
from support.replayed import assert_exactly_once, stored_state
from uic.core.cache import ENTRY_BYTES, StateCache
from uic.core.commit import Answer, Commit
from uic.core.event import Reason
from uic.core.fold import Part, fold
from uic.core.letters import KEY_BYTES, NULL, REASON, Letter, to_wire
from uic.core.model import Model
from uic.core.ordering import LARGE, Batch, Bounds, Front, OutOfOrder, decode, take
from uic.core.ports import PartitionCount
from uic.core.routing import MisroutedWindow
from uic.core.status import Phase
from uic.errors import InvalidField
from uic.fold import partition as partition_module
from uic.fold.decoding import SHORT_RECORDS, SHORT_WAVES
from uic.fold.partition import Resolution

USERS = users_of(0, 1, 30)


def front_of(records: Sequence[FakeRecord], **changes: object) -> Front:
    arguments: dict[str, object] = {
        "floor": 0,
        "partition": 0,
        "partitions": 1,
        "known": (),
        "erased": {},
        "bounds": Bounds(256, 64, 10_000),
    }
    return take(records, **{**arguments, **changes})  # type: ignore[arg-type]  # each by its own type


def test_taking_all_is_taking_one_after_another() -> None:
    random = np.random.default_rng(0)
    keys = [
        *(user.encode() for user in users_of(0, 2, 8)),
        *(user.encode() for user in users_of(1, 2, 4)),
        None,
        b"",
        b"\xff",
    ]
    for n in (0, 1, 2, 50, 400):
        records = [
            FakeRecord(
                offset, keys[random.integers(len(keys))], None if random.random() < 0.1 else b"x", hand_model.WALL_MS
            )
            for offset in range(n + 1)
        ]
        known = [key for key in keys[:3] if key is not None]
        all_of_them = front_of(records[:n], partitions=2, known=known, bounds=Bounds(1000, 1000, 1000))
        some = front_of(records, partitions=2, known=known, bounds=Bounds(1000, 1000, n))
        np.testing.assert_equal(tuple(all_of_them), tuple(some))


def batch_of(records: Sequence[FakeRecord], **changes: object) -> Batch:
    return decode([front_of(records, **changes)])[0]


def records_of(users: Sequence[str]) -> list[FakeRecord]:
    return [FakeRecord(i, u.encode(), event_value(u), hand_model.WALL_MS) for i, u in enumerate(users)]


def test_a_batch_ends_before_the_user_or_the_wave_that_would_be_too_many() -> None:
    a, b, c = USERS[:3]
    assert len(batch_of(records_of([a, b, a, c, a]), bounds=Bounds(2, 64, 100)).records) == 3
    assert len(batch_of(records_of([a, b, a, c, a]), bounds=Bounds(9, 2, 100)).records) == 4
    assert len(batch_of(records_of([a, b, a, c, a]), bounds=Bounds(9, 9, 2)).records) == 2
    assert len(batch_of(records_of([a, a]), bounds=Bounds(1, 1, 1)).records) == 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 5), st.integers(1, 5))
def test_cuts_keep_within_their_bounds_and_lose_nothing(order: list[int], max_states: int, max_waves: int) -> None:
    pending = records_of([USERS[i] for i in order])
    taken: list[int] = []
    while pending:
        batch = batch_of(pending, bounds=Bounds(max_states, max_waves, 1000))
        assert batch.records == pending[: len(batch.records)]
        assert 0 < len(batch.users) <= max_states
        assert max(np.bincount(batch.user_of)) <= max_waves
        taken += [r.offset for r in batch.records]
        pending = pending[len(batch.records) :]
    assert taken == list(range(len(order)))


@pytest.mark.parametrize("offsets", [[5], [0, 0], [0, 2, 1]])
def test_offsets_that_do_not_rise_or_begin_below_progress_are_refused(offsets: list[int]) -> None:
    user = USERS[0]
    records = [FakeRecord(o, user.encode(), event_value(user), hand_model.WALL_MS) for o in offsets]
    with pytest.raises(OutOfOrder):
        batch_of(records, floor=6 if offsets == [5] else 0)


def test_each_malformed_record_is_rejected_with_its_reason_and_its_neighbors_are_not() -> None:
    here, elsewhere = users_of(0, 4, 3), users_of(1, 4, 1)[0]
    good = here[0]
    bad: list[tuple[bytes | None, bytes | None, Reason]] = [
        (None, event_value(good), Reason.MISSING_KEY),
        (None, None, Reason.MISSING_KEY),
        (b"", event_value(good), Reason.MISSING_KEY),
        (b"\xff" * 4, event_value(good), Reason.BAD_KEY),
        (b"k" * 200, None, Reason.BAD_KEY),
        (elsewhere.encode(), event_value(elsewhere), Reason.MISROUTED),
        (elsewhere.encode(), None, Reason.MISROUTED),
        (here[1].encode(), b"\xff\xff", Reason.MALFORMED_PROTOBUF),
        (here[1].encode(), event_value(here[2]), Reason.KEY_MISMATCH),
        (here[1].encode(), event_value(here[1], item=0), Reason.ITEM_ZERO),
        (here[1].encode(), b"x" * (2 << 20), Reason.TOO_LARGE),
    ]
    records: list[FakeRecord] = []
    for key, value, _ in bad:
        records.append(FakeRecord(len(records), good.encode(), event_value(good), hand_model.WALL_MS))
        records.append(FakeRecord(len(records), key, value, hand_model.WALL_MS))
    batch = batch_of(records, partitions=4)
    assert batch.rejected == [(2 * i + 1, reason) for i, (_, _, reason) in enumerate(bad)]
    assert batch.misrouted_from(0) == 2
    assert batch.users == [good]
    assert len(batch.items) == len(bad)


def test_a_replay_leaves_out_the_events_of_users_erased_later_and_still_erases() -> None:
    a, b = USERS[:2]
    records = records_of([a, b, a, a, a])
    records[3] = records[3]._replace(value=None)
    batch = batch_of(records, erased={a.encode(): 3})
    assert [batch.records[i].offset for i in batch.record_of] == [1, 3, 4]
    assert batch.erased_later == 2


def test_a_batch_of_refused_records_alone_is_cut_in_a_replay_too() -> None:
    refused = [FakeRecord(0, None, b"x", hand_model.WALL_MS), FakeRecord(1, b"a" * 129, b"x", hand_model.WALL_MS)]
    batch = batch_of(refused, erased={b"somebody": 7})
    assert [reason for _, reason in batch.rejected] == [Reason.MISSING_KEY, Reason.BAD_KEY]
    assert (len(batch.items), batch.erased_later) == (0, 0)


KINDS = ("event", "poison", "erasure", "garbage", "no key")


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(KINDS)), max_size=12), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_partitions_cut_and_folded_together_come_out_as_each_does_alone(
    partitions: list[tuple[list[tuple[int, str]], bool]],
) -> None:
    count = len(partitions)
    taken = []
    for p, (touches, replay_) in enumerate(partitions):
        users = users_of(p, count, 4)
        records = []
        for offset, (user, kind) in enumerate(touches):
            name, item = users[user], hand_model.POISON_ITEM if kind == "poison" else offset + 1
            value = {"erasure": None, "garbage": b"\xff"}.get(kind, event_value(name, item))
            records.append(FakeRecord(offset, None if kind == "no key" else name.encode(), value, hand_model.WALL_MS))
        erased = {users[0].encode(): len(touches) // 2} if replay_ else {}
        taken.append(front_of(records, partition=p, partitions=count, erased=erased))

    together = decode(taken)
    alone = [decode([one])[0] for one in taken]
    for ours, theirs in zip(together, alone, strict=True):
        for name in Batch._fields:
            one, other = getattr(ours, name), getattr(theirs, name)
            assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name

    def parts_of(cuts: list[Batch]) -> list[Part]:
        return [
            Part(
                batch,
                Progress(partitions=count, next_offset=0, lineage=p + 1, writer=1, base=p % 2, as_of_ms=0, era=p),
                [None] * len(batch.keys),
            )
            for p, batch in enumerate(cuts)
        ]

    pooled = parts_of(together)
    values = fold(MODEL, pooled).states.encoded
    for part, lone in zip(pooled, parts_of(alone), strict=True):
        own_values = fold(MODEL, [lone]).states.encoded
        assert sorted(part.not_finite) == sorted(lone.not_finite)
        assert part.already_folded == lone.already_folded
        for row, own_row in zip(part.row_of, lone.row_of, strict=True):
            assert (values[row] if row >= 0 else row) == (own_values[own_row] if own_row >= 0 else own_row)


def test_misrouted_records_are_tolerated_up_to_their_share_of_the_last_ten_thousand() -> None:
    window = MisroutedWindow(0.01)
    assert not window.exceeded_by(100)
    assert window.exceeded_by(101)
    window.add(500, 60)
    assert window.exceeded_by(41)
    assert not window.exceeded_by(40)
    for _ in range(10):
        window.add(1000, 0)
    assert window.misrouted == 0
    assert not MisroutedWindow(1.0).exceeded_by(10_000)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 5)), max_size=60))
def test_the_window_counts_the_newest_batches_that_hold_its_size(batches: list[tuple[int, int]]) -> None:
    window = MisroutedWindow(0.01, size=1000)
    for records, misrouted in batches:
        window.add(records, misrouted)
    held, expected = 0, 0
    for records, misrouted in reversed(batches):
        if held >= 1000:
            break
        held, expected = held + records, expected + misrouted
    assert window.misrouted == expected


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True),
            st.integers(80, 300),
            st.sampled_from(["put", "drop", "close"]),
        ),
        max_size=200,
    )
)
def test_a_shelf_keeps_what_was_put_last_and_memory_is_bounded(steps: list[tuple[int, list[int], int, str]]) -> None:
    cache = StateCache(8 * (ENTRY_BYTES + 200))
    shelves = [cache.open() for _ in range(4)]
    known: list[dict[bytes, bytes]] = [{} for _ in shelves]
    for at, users, size, action in steps:
        keys = [b"%d" % user for user in users]
        if action == "put":
            values = [bytes([at + 1]) * (size + i) for i in range(len(keys))]
            shelves[at].put(keys, values)
            for key in keys:
                known[at].pop(key, None)
            known[at] |= dict(zip(keys, values, strict=True))
            assert list(shelves[at])[-1:] == keys[-1:], "what was used last stays"
        elif action == "drop":
            for key in keys:
                shelves[at].drop(key)
                known[at].pop(key, None)
                assert shelves[at].find([key]) == [None]
        else:
            cache.close(shelves[at])
            shelves[at], known[at] = cache.open(), {}
        for shelf, ever in zip(shelves, known, strict=True):
            assert list(shelf) == list(ever)[len(ever) - len(shelf) :], "the least recently used went first"
            assert shelf.find(list(shelf)) == [ever[key] for key in shelf]
        sizes = [sum(len(value) + ENTRY_BYTES for value in shelf.values.values()) for shelf in shelves]
        assert sizes == [shelf.used for shelf in shelves]
        assert sum(sizes) == cache.used <= cache.size
        assert len(cache) == sum(map(len, shelves))


@pytest.mark.parametrize("size", [80, 2145, 6136])
def test_a_cache_takes_no_more_than_its_bytes_even_with_the_longest_keys(size: int) -> None:
    tracemalloc.start()
    try:
        cache = StateCache(1 << 20)
        shelves = [cache.open() for _ in range(3)]
        for i in range(3 * cache.size // size):
            shelves[i % 3].put([b"%0128d" % i], [bytes(size)])
        assert cache.size - size - ENTRY_BYTES < cache.used <= cache.size
        assert tracemalloc.get_traced_memory()[0] <= cache.size
    finally:
        tracemalloc.stop()


def test_the_least_recently_used_state_of_the_greediest_partition_goes_first() -> None:
    cache = StateCache(4 * (ENTRY_BYTES + 1))
    greedy, modest = cache.open(), cache.open()
    greedy.put([b"a", b"b", b"c", b"d"], [b"1"] * 4)
    greedy.put([b"a"], [b"2"])
    modest.put([b"x"], [b"3"])
    assert list(greedy) == [b"c", b"d", b"a"]
    modest.put([b"y", b"z"], [b"4", b"5"])
    assert list(modest) == [b"y", b"z"], "with its fair share it makes room itself"
    assert list(greedy) == [b"d", b"a"]


def letter(key: bytes | None = b"ann", value: bytes | None = b"v", headers: int = 1) -> Letter:
    return Letter(Reason.TOO_LARGE, "t", 3, 42, 5, key, value, tuple((f"h{i}", b"x" * 10) for i in range(headers)))


def test_a_letter_of_a_replayed_letter_has_our_headers_once() -> None:
    _, _, headers = to_wire(Letter(Reason.ITEM_ZERO, "t", 0, 9, 5, b"k", b"v", ((REASON, b"too_large"),)), 10_000)
    assert [v for name, v in headers if name == REASON] == [b"item_zero"]


@given(
    st.one_of(st.none(), st.integers(0, 20_000)),
    st.one_of(st.none(), st.integers(0, 20_000)),
    st.integers(0, 900),
)
def test_every_letter_fits_and_can_be_produced(key: int | None, value: int | None, headers: int) -> None:
    made = letter(None if key is None else b"k" * key, None if value is None else b"v" * value, headers)
    wire_key, wire_value, wire_headers = to_wire(made, 4096)
    size = len(wire_key or b"") + len(wire_value or b"") + sum(len(n) + len(v) + 8 for n, v in wire_headers)
    assert size <= 4096
    assert wire_key is not None or wire_value is not None, "Kafka's clients refuse a record of neither"
    said = dict(wire_headers)
    assert (NULL in said) == (key is None and value is None)
    if wire_key != made.key:
        assert said[KEY_BYTES] == str(key).encode()


# Whole workers


def test_dead_letters_are_acknowledged_before_the_batch_is_committed() -> None:
    topic, store, letters = FakeTopic(), FakeStore(), FakeDeadLetters()
    user = USERS[0]
    topic.event(user)
    topic.append(0, user.encode(), b"junk")
    topic.event(user)
    letters.slow = True
    worker = Worker(topic, store, dead_letters=letters)
    worker.log.assign(0)
    worker.settle()
    assert store.states == {}
    letters.finish()
    worker.catch_up()
    assert letters.reasons == {1: "malformed_protobuf"}
    assert worker.counted("uic_dead_letters_total", reason="malformed_protobuf") == 1
    state = stored_state(store, user)
    assert state is not None
    assert state.header.event_count == 2
    assert (letters.arrived[0].key, letters.arrived[0].value, letters.arrived[0].topic) == (
        user.encode(),
        b"junk",
        fake_topics.TOPIC,
    )


def test_letters_that_were_cut_are_counted() -> None:
    topic, letters = FakeTopic(), FakeDeadLetters()
    user = USERS[0].encode()
    for value in (b"junk", b"x" * (2 << 20), b"more junk"):
        topic.append(0, user, value)
    worker = Worker(topic, FakeStore(), dead_letters=letters)
    worker.log.assign(0)
    worker.catch_up()
    assert len(letters.arrived) == 3
    assert worker.counted("uic_cut_dead_letters_total") == 1


def test_a_dead_letter_topic_that_is_away_pauses_its_partition_and_no_other() -> None:
    topic, store, letters = FakeTopic(2), FakeStore(), FakeDeadLetters()
    a, b = users_of(0, 2, 1)[0], users_of(1, 2, 1)[0]
    letters.away = True
    worker = Worker(topic, store, dead_letters=letters)
    worker.log.assign(0, 1)
    topic.append(0, a.encode(), b"junk")
    for _ in range(3):
        topic.event(a)
        topic.event(b)
    worker.settle(30)
    assert stored_state(store, a, 2) is None
    state = stored_state(store, b, 2)
    assert state is not None
    assert state.header.event_count == 3
    assert "dead_letter" in worker.fold.status.reasons[0]
    assert worker.fold.status.serving
    letters.away = False
    worker.catch_up()
    assert_exactly_once_but(store, topic, {0: {0}})
    worker.settle()
    assert worker.fold.status.reasons == ()


def test_dead_letters_of_a_partition_that_has_moved_are_not_this_workers_trouble() -> None:
    topic, store, letters = FakeTopic(2), FakeStore(), FakeDeadLetters()
    letters.away = True
    worker = Worker(topic, store, dead_letters=letters)
    worker.log.assign(0, 1)
    topic.append(0, users_of(0, 2, 1)[0].encode(), b"junk")
    worker.until(lambda: "dead_letter_topic_unavailable" in "".join(worker.fold.status.reasons))
    worker.log.revoke(0)
    worker.until(lambda: worker.fold.status.reasons == ())


def assert_exactly_once_but(store: FakeStore, topic: FakeTopic, rejected: dict[int, set[int]]) -> None:
    """As `assert_exactly_once`, for a log with records that are no events."""
    for p, log in topic.partitions.items():
        log.records = [r for r in log.records if r.offset not in rejected.get(p, set())]
    assert_exactly_once(store, topic)


def test_an_operator_accepts_misrouted_records_and_no_restart_or_new_owner_stops_at_them_again() -> None:
    topic, store, letters = FakeTopic(2), FakeStore(), FakeDeadLetters()
    here, elsewhere = users_of(0, 2, 1)[0], users_of(1, 2, 1)[0]
    worker = Worker(topic, store, dead_letters=letters, chunk=40)
    worker.log.assign(0, 1)
    topic.event(here)
    worker.catch_up()
    for _ in range(300):
        topic.append(0, elsewhere.encode(), event_value(elsewhere))
    topic.event(here)
    worker.until(lambda: worker.phase(0) is Phase.BROKEN)
    assert worker.partition(0).reason.startswith("misrouted: ")
    topic.event(elsewhere)
    worker.until(lambda: stored_state(store, elsewhere, 2) is not None)  # the other partition goes on

    for action, offset in (("rebuild", None), ("continue", 7)):
        refused = resolve(worker, 0, action, offset)
        with pytest.raises(InvalidField, match="continue without an offset"):
            refused.outcome.result(0)
    resolve(worker, 0, "continue").outcome.result(0)
    worker.until(lambda: letters.arrived)
    heir = Worker(topic, store, dead_letters=letters, chunk=40, seed=1)
    worker.log.revoke(0, 1)
    heir.log.assign(0, 1)
    heir.catch_up()
    assert {letter.offset for letter in letters.arrived} >= set(range(2, 301)), "every one is a dead letter"
    assert heir.fold.status.serving
    state = stored_state(store, here, 2)
    assert state is not None
    assert state.header.event_count == 2

    for _ in range(101):
        topic.append(0, elsewhere.encode(), event_value(elsewhere))
    heir.until(lambda: heir.phase(0) is Phase.BROKEN)  # what came later was not accepted


def resolve(worker: Worker, partition: int, action: str, from_offset: int | None = None) -> Resolution:
    """What an operator's call does, without its thread."""
    assert action in ("continue", "rebuild")
    outcome: Future[Progress] = Future()
    resolution = Resolution(partition, "continue" if action == "continue" else "rebuild", from_offset, outcome)
    worker.fold._resolutions.append(resolution)
    worker.until(outcome.done)
    return resolution


class GivenUp(Future[Progress]):
    """What an operator waits for, who gives up, on a thread of their own, as soon as there is an answer."""

    def set_result(self, result: Progress) -> None:
        self.cancel()
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        self.cancel()
        super().set_exception(exception)


def test_the_fold_goes_on_if_an_operator_gives_up_just_then() -> None:
    worker = Worker(FakeTopic(2), FakeStore())
    worker.log.assign(0)
    worker.settle()
    for partition in (0, 1):  # one that is not broken, and one of another process
        outcome = GivenUp()
        worker.fold._resolutions.append(Resolution(partition, "rebuild", None, outcome))
        worker.until(outcome.done)
    resolution = Resolution(0, "continue", None, GivenUp())
    resolution.fulfil(Progress(partitions=1, next_offset=0, lineage=1, writer=1, base=0, as_of_ms=0))
    assert resolution.outcome.cancelled()


def test_another_partition_count_stops_consumption() -> None:
    topic, store = FakeTopic(2), FakeStore()
    worker = Worker(topic, store)
    worker.log.assign(0, 1)
    worker.log.queued.append(PartitionCount(3))
    topic.event(users_of(0, 2, 1)[0])
    worker.settle()
    assert store.states == {}
    assert worker.fold.status.reasons[0].startswith("partition_count")


def test_a_grown_topic_stops_consumption() -> None:
    topic, store = FakeTopic(2), FakeStore()
    worker = Worker(topic, store, partitions=2)
    worker.log.assign(0, 1)
    worker.catch_up()
    worker.log.queued.append(PartitionCount(3))
    worker.turn()
    assert worker.fold.status.reasons[0] == "partition_count: topic behavior-events has 3 partitions, not 2"
    assert set(store.progress) == {0, 1}


@pytest.mark.parametrize("model", [MODEL, COMPILED_MODEL], ids=["in waves", "compiled"])
def test_records_that_a_grown_topic_makes_look_misrouted_are_no_dead_letters(model: Model) -> None:
    topic, store = FakeTopic(2), FakeStore()
    worker = Worker(topic, store, partitions=2, model=model)
    worker.log.assign(0, 1)
    users = [f"u{i}" for i in range(20)]
    for user in users:
        topic.event(user)
    worker.catch_up()
    before = store.snapshot()
    topic.grow(3)
    moved = [user for user in users if partition_of(user.encode(), 3) == 1 - partition_of(user.encode(), 2)]
    assert moved, "their new partition is an old one"
    for user in moved:
        topic.event(user)
    worker.settle()
    assert worker.dead_letters.arrived == []
    assert store.snapshot() == before, "their batches stay unfolded"
    assert worker.fold.status.reasons[0] == "partition_count: topic behavior-events has 3 partitions, not 2"


def test_what_is_misrouted_waits_until_a_broker_says_how_many_partitions_there_are() -> None:
    topic, store = FakeTopic(2), FakeStore()
    here, elsewhere = users_of(0, 2, 1)[0], users_of(1, 2, 1)[0]
    worker = Worker(topic, store)
    worker.log.assign(0, 1)
    worker.catch_up()
    worker.log.no_count = True
    topic.append(0, elsewhere.encode(), event_value(elsewhere))
    topic.event(here)
    topic.event(elsewhere)
    worker.until(lambda: stored_state(store, elsewhere, 2) is not None)  # the other partition goes on
    worker.settle()
    assert worker.dead_letters.arrived == []
    assert worker.partition(0).reason == "the log does not answer: away"
    asked = worker.log.counts
    worker.log.no_count = False
    worker.catch_up()
    assert worker.dead_letters.reasons == {0: "misrouted"}
    assert worker.partition(0).reason == ""
    assert stored_state(store, here, 2) is not None
    assert worker.log.counts == asked + 1


def test_the_partitions_are_counted_once_for_all_batches_that_wait_and_never_for_sound_ones() -> None:
    topic, store = FakeTopic(4), FakeStore()
    worker = Worker(topic, store)
    worker.log.assign(0, 1, 2, 3)
    for i in range(40):
        topic.event(f"u{i}")
    worker.catch_up()
    assert worker.log.counts == 0
    for p in range(4):
        stray = users_of((p + 1) % 4, 4, 1)[0]
        topic.append(p, stray.encode(), event_value(stray))
    worker.catch_up()
    assert len(worker.dead_letters.arrived) == 4
    assert worker.log.counts == 1


def test_no_commit_writes_more_states_than_the_bound() -> None:
    topic, store = FakeTopic(), FakeStore()
    for i in range(300):
        topic.event(f"u{i % 60}")
    worker = Worker(topic, store, chunk=1000, max_states=16)
    worker.log.assign(0)
    worker.catch_up()
    assert max(len(c.values) for c in store.commits) == 16
    assert_exactly_once(store, topic)


def test_a_backlog_in_one_partition_does_not_keep_the_others_waiting() -> None:
    topic, store = FakeTopic(4), FakeStore()
    busy, calm = users_of(0, 4, 5), [users_of(p, 4, 1)[0] for p in (1, 2, 3)]
    for i in range(4000):
        topic.event(busy[i % 5])
    worker = Worker(topic, store, chunk=4000, max_records=100, max_waves=4)
    worker.log.assign(0, 1, 2, 3)
    worker.until(lambda: len(worker.fold.status.partitions) == 4 and worker.phase(0) is Phase.FOLDING)
    for user in calm:
        topic.event(user)
    for _ in range(6):
        worker.turn()
    assert not worker.drained()
    assert all(stored_state(store, user, 4) is not None for user in calm)


@pytest.mark.parametrize(
    ("model", "flooded", "longest"),
    [
        (MODEL, (0,), SHORT_WAVES),
        (MODEL, (0, 1), 2048),
        (COMPILED_MODEL, (0,), SHORT_RECORDS),
        (COMPILED_MODEL, (0, 1), 2048),
    ],
    ids=["waves, one", "waves, all", "compiled, one", "compiled, all"],
)
def test_a_user_who_floods_is_folded_in_short_batches_as_long_as_others_are_caught_up(
    model: Model, flooded: tuple[int, ...], longest: int
) -> None:
    topic, store = FakeTopic(2), FakeStore()
    worker = Worker(topic, store, chunk=5000, model=model, max_waves=2048)
    worker.log.assign(0, 1)
    worker.until(
        lambda: len(worker.fold.status.partitions) == 2 and worker.phase(0) is worker.phase(1) is Phase.FOLDING
    )
    store.commits.clear()
    for p in flooded:
        for _ in range(2 * longest + 200):
            topic.event(users_of(p, 2, 1)[0])
    worker.catch_up()
    assert_exactly_once(store, topic)
    offsets = [decode_progress(c.progress).next_offset for c in store.commits if c.partition == 0]
    assert offsets[:2] == [longest, 2 * longest]


def test_users_who_flood_together_are_folded_in_short_batches_too() -> None:
    topic, store = FakeTopic(2), FakeStore()
    worker = Worker(topic, store, chunk=3000, model=COMPILED_MODEL)
    worker.log.assign(0, 1)
    worker.until(
        lambda: len(worker.fold.status.partitions) == 2 and worker.phase(0) is worker.phase(1) is Phase.FOLDING
    )
    store.commits.clear()
    flooding = users_of(0, 2, 50)
    for i in range(2500):
        topic.event(flooding[i % 50])
    worker.catch_up()
    assert_exactly_once(store, topic)
    offsets = [decode_progress(c.progress).next_offset for c in store.commits if c.partition == 0]
    assert offsets == [SHORT_RECORDS, 2 * SHORT_RECORDS, 2500]


@pytest.mark.parametrize(("records", "rounds"), [(LARGE, [[1], [0]]), (LARGE - 1, [[0, 1]])])
def test_small_batches_are_written_before_a_large_one_is_folded(records: int, rounds: list[list[int]]) -> None:
    topic, store = FakeTopic(2), WitnessedStore()
    worker = Worker(topic, store, chunk=1000)
    worker.log.assign(0, 1)
    worker.until(
        lambda: len(worker.fold.status.partitions) == 2 and worker.phase(0) is worker.phase(1) is Phase.FOLDING
    )
    flooding, calm = (users_of(p, 2, 1)[0] for p in (0, 1))
    for user in [flooding] * records + [calm]:
        topic.event(user)
    store.rounds.clear()
    worker.until(lambda: store.rounds)
    assert [sorted(c.partition for c in commits) for commits in store.rounds] == rounds
    worker.catch_up()
    assert_exactly_once(store, topic)


class WitnessedStore(FakeStore):
    """Remembers which commits with states were sent together."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[list[Commit]] = []

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        if with_states := [c for c in commits if c.values]:
            self.rounds.append(with_states)
        return super().commit(commits)


def test_states_are_cached_within_bounds_and_read_again_after_they_had_to_go() -> None:
    topic, store = FakeTopic(), FakeStore()
    worker = Worker(topic, store, chunk=1000)
    worker.fold._partitions.cache = StateCache(8 * (ENTRY_BYTES + HEADER_BYTES + hand_model.LAYOUT.stored_bytes))
    worker.log.assign(0)
    for user in (*USERS[:20], *USERS[:20]):
        topic.event(user)
        worker.catch_up()
    assert len(worker.fold._partitions.cache) == 8
    assert store.reads == 40
    for user in USERS[15:20] * 3:
        topic.event(user)
        worker.catch_up()
    assert store.reads == 40, "the newest were in memory"
    assert_exactly_once(store, topic)


def test_the_cache_has_the_bytes_that_the_store_has_and_nothing_of_erased_users() -> None:
    topic, store = FakeTopic(), FakeStore()
    worker = Worker(topic, store)
    worker.log.assign(0)
    for user in (*USERS[:6], *USERS[:3]):
        topic.event(user)
    topic.erase(USERS[1])
    topic.erase(USERS[5])
    topic.event(USERS[5])
    worker.catch_up()
    cached = worker.fold._partitions[0].shelf.values
    assert set(cached) == {user.encode() for user in USERS[:6]} - {USERS[1].encode()}
    assert list(cached.values()) == store.load([(0, [key.decode() for key in cached])])[0]


def test_only_a_partition_writes_its_fields() -> None:
    its_file = Path(partition_module.__file__)
    for path in {*its_file.parent.glob("*.py")} - {its_file}:
        nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Attribute)]
        written = {ast.unparse(node) for node in nodes if isinstance(node.ctx, ast.Store)}
        assert all(re.fullmatch(r"self\.\w+", name) for name in written), (path.name, written)


def test_what_is_fetched_is_accounted_for_to_the_last_record() -> None:
    topic, store = FakeTopic(2), FakeStore()
    worker = Worker(topic, store)
    worker.log.assign(0, 1)
    for i in range(50):
        topic.event(f"u{i}")
    worker.catch_up()
    other = Worker(topic, store, seed=1)
    other.log.assign(0, 1)
    other.catch_up()
    other.settle()
    for log in (worker.log, other.log):
        assert set(log.outstanding.values()) == {0}
