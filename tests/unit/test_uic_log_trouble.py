"""What the fold does when the log is in trouble: an unreadable batch, a lost lease, an open transaction."""

from __future__ import annotations

import pytest

from support.fake_state_store import FakeStore
from support.fake_topics import FakeErasures, FakeTopic
from support.fold_worker import Worker
from support.hand_model import users_of
from support.replayed import assert_exactly_once
from uic.core.ports import (
    LogAway,
    NoLease,
    Owned,
    PartitionCount,
    Unreadable,
)
from uic.core.status import Phase
from uic.core.trouble import TOPIC, Cause, Trouble

USERS = users_of(0, 1, 5)


@pytest.fixture
def worker() -> Worker:
    """Has folded 20 events."""
    made = Worker(FakeTopic(), FakeStore())
    for i in range(20):
        made.log.topic.event(USERS[i % 5], item=1 + i)
    made.log.assign(0)
    made.catch_up()
    return made


def unreadable(worker: Worker, offset: int) -> Unreadable:
    return Unreadable(0, worker.log.reading[0][0], offset, offset + 3, "codec 5 is unknown")


def test_what_lies_before_an_unreadable_batch_is_folded_and_then_the_partition_stops_by_name(worker: Worker) -> None:
    topic = worker.log.topic
    topic.event(USERS[0])
    event = worker.log.messages(0)
    worker.log.queued = [*event, unreadable(worker, 21)]
    worker.settle()
    assert worker.phase() is Phase.BROKEN
    assert_exactly_once(worker.store, topic)
    assert worker.partition().next_offset == 21
    (reason,) = worker.fold.status.reasons
    assert not worker.fold.status.serving
    for told in ("unreadable_batch", "offset 21", "codec 5 is unknown", "continue from offset 24", "partition 0"):
        assert told in reason


def test_an_unreadable_batch_of_an_earlier_session_stops_nothing(worker: Worker) -> None:
    late = unreadable(worker, 20)
    worker.log.revoke(0)
    worker.log.assign(0)
    worker.settle()
    worker.log.queued.append(late)
    worker.settle()
    assert worker.phase() is Phase.FOLDING


def test_a_worker_without_a_lease_is_not_ready(worker: Worker) -> None:
    worker.log.leases_away = True
    worker.log.reading.clear()
    worker.log.queued.append(NoLease("no broker has answered for 15 s"))
    worker.settle()
    status = worker.fold.status
    assert not status.serving
    assert not status.partitions
    assert any(reason.startswith("no_lease: no broker") for reason in status.reasons)
    worker.log.leases_away = False
    worker.catch_up()
    worker.settle()
    assert worker.fold.status.serving
    assert not worker.fold.status.reasons
    assert_exactly_once(worker.store, worker.log.topic)


def test_silence_of_the_brokers_is_told_while_it_lasts(worker: Worker) -> None:
    def heard(message: Trouble | LogAway) -> tuple[bool, tuple[str, ...]]:
        worker.log.queued.append(message)
        worker.turn()
        return worker.fold.status.serving, worker.fold.status.reasons

    silent = "log_unavailable: no broker answers"
    assert heard(Trouble(Cause.LOG, "no broker answers", "brokers")) == (True, (silent,))
    assert heard(Trouble(Cause.LOG, "", "brokers")) == (True, ())
    worker.log.leases_away = True
    assert heard(LogAway("no broker answers")) == (True, (silent,))
    worker.log.leases_away = False
    worker.settle()
    assert (worker.fold.status.serving, worker.fold.status.reasons) == (True, ())
    assert worker.phase() is Phase.FOLDING


def test_a_lease_without_partitions_is_ready() -> None:
    worker = Worker(FakeTopic(), FakeStore())
    worker.settle()
    assert not worker.fold.status.serving
    worker.log.queued.append(Owned(frozenset(), 0.0))
    worker.settle()
    assert worker.fold.status.serving


def test_a_store_that_begins_to_evict_is_named_while_it_may(worker: Worker) -> None:
    worker.store.evicts = "maxmemory_policy is allkeys-lru"
    worker.settle(30)
    assert worker.fold.status.serving
    assert worker.fold.status.reasons == ("store_evicts: maxmemory_policy is allkeys-lru",)
    worker.store.evicts = ""
    worker.settle(30)
    assert not worker.fold.status.reasons


def test_erasures_without_a_leader_keep_their_partition_waiting_and_no_other() -> None:
    erasures = FakeErasures()
    worker = Worker(FakeTopic(3), FakeStore(), erasures=erasures)
    erasures.leaderless = {1}
    worker.log.assign(0, 1, 2)
    worker.settle(60)
    (reason,) = worker.fold.status.reasons
    assert reason.startswith("erasures_unavailable: partition 1 has no leader")
    assert [worker.phase(p) for p in range(3)] == [Phase.FOLDING, Phase.CLAIMING, Phase.FOLDING]
    erasures.leaderless = set()
    worker.until(lambda: worker.phase(1) is Phase.FOLDING)


def test_a_topic_of_erasures_that_is_gone_is_one_reason_also_while_a_replay_waits_for_it() -> None:
    erasures = FakeErasures()
    worker = Worker(FakeTopic(), FakeStore(), erasures=erasures)
    erasures.away = True
    worker.log.assign(0)
    worker.until(lambda: any("erasures_unavailable" in reason for reason in worker.fold.status.reasons))
    worker.log.queued.append(Trouble(Cause.ERASURES, "topic behavior-events.erased does not exist", TOPIC))
    worker.settle()
    assert worker.fold.status.reasons == ("erasures_unavailable: topic behavior-events.erased does not exist",)
    worker.log.queued.append(Trouble(Cause.ERASURES, "", TOPIC))
    worker.settle()
    assert worker.fold.status.reasons == ("erasures_unavailable: away",), "the replay still cannot read them"
    erasures.away = False
    worker.until(lambda: not worker.fold.status.reasons)


def test_after_consumption_has_stopped_lag_goes_on_to_grow_and_as_of_stands_still(worker: Worker) -> None:
    worker.settle()
    as_of_ms = worker.partition().as_of_ms
    assert worker.counted("uic_lag_records", partition="0") == 0
    worker.log.queued.append(PartitionCount(2))
    worker.settle(40)
    for i in range(7):
        worker.log.topic.event(USERS[i % 5], item=1 + i)
    worker.settle(40)
    assert not worker.fold.status.serving
    assert (worker.partition().lag, worker.partition().as_of_ms) == (7, as_of_ms)
    assert worker.counted("uic_lag_records", partition="0") == 7
    worker.log.topic.make_anew()
    worker.log.topic.partitions[0].end = 3
    worker.settle(40)
    assert worker.partition().next_offset == 20, "a session that has stopped is not taken up again"
    assert worker.fold.status.partitions[0].as_of_ms == as_of_ms


def test_a_missing_dead_letter_topic_is_told_before_it_is_needed(worker: Worker) -> None:
    gone = "dead_letter_topic_unavailable: away"
    worker.log.queued.append(Trouble(Cause.DEAD_LETTERS, "away"))
    worker.settle()
    assert worker.fold.status.serving
    assert list(worker.fold.status.reasons) == [gone]
    worker.dead_letters.away = True  # which says "away" as well
    worker.log.topic.append(0, USERS[0].encode(), b"junk")
    worker.until(lambda: worker.partition().reason)
    worker.settle()
    assert list(worker.fold.status.reasons) == [gone]
    worker.dead_letters.away = False
    worker.log.queued.append(Trouble(Cause.DEAD_LETTERS, ""))
    worker.catch_up()
    worker.settle()
    assert not worker.fold.status.reasons
