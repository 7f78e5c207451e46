"""What the fold does when the log is in trouble: an unreadable batch, a lost membership, an open transaction."""

from __future__ import annotations

import logging

import pytest

from support.fake_state_store import FakeStore
from support.fake_topics import FakeErasures, FakeTopic
from support.fold_worker import Worker
from support.hand_model import users_of
from support.replayed import assert_exactly_once
from uic.core.log_throttle import QUIET_S
from uic.core.ports import (
    Advised,
    Assigned,
    BrokersSilent,
    DeadLettersAway,
    Described,
    ErasuresAway,
    LogAway,
    LogBlocked,
    LostGroup,
    PartitionCount,
    Revoked,
    TopicAway,
    TopicCompacted,
    Unreadable,
)
from uic.core.start_position import LogBounds
from uic.core.status import PartitionStatus, Phase
from uic.fold.health import NOT_LET_IN, UNHEARD, UNREAD

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
    (reason,) = worker.updater.status.reasons
    assert not worker.updater.status.serving
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


def test_a_worker_that_lost_its_group_is_not_ready_until_it_is_a_member_again(worker: Worker) -> None:
    worker.log.reading.clear()
    worker.log.queued.append(LostGroup("the coordinator does not know this member"))
    worker.settle()
    status = worker.updater.status
    assert not status.serving
    assert not status.partitions
    assert any(reason.startswith("out_of_group: the coordinator") for reason in status.reasons)
    assert worker.counted("uic_group_losses_total") == 1
    worker.log.assign(0)
    worker.catch_up()
    worker.settle()
    assert worker.updater.status.serving
    assert not worker.updater.status.reasons
    assert_exactly_once(worker.store, worker.log.topic)


def test_a_worker_that_no_broker_answers_says_so_and_is_not_ready_once_it_may_be_out_of_the_group(
    worker: Worker,
) -> None:
    def heard(message: BrokersSilent) -> tuple[bool, tuple[str, ...]]:
        worker.log.queued.append(message)
        worker.settle()
        return worker.updater.status.serving, worker.updater.status.reasons

    silent = "log_unavailable: no broker answers"
    assert heard(BrokersSilent("no broker answers")) == (True, (silent,))
    assert heard(BrokersSilent("no broker answers", out_of_group=True)) == (False, (UNHEARD, silent))
    assert heard(BrokersSilent("", out_of_group=True)) == (False, (UNHEARD,))
    assert heard(BrokersSilent("")) == (True, ())
    assert worker.phase() is Phase.FOLDING


def test_a_worker_that_cannot_be_in_its_group_is_not_ready_until_it_is_and_a_failure_that_passes_changes_nothing(
    worker: Worker,
) -> None:
    def heard(message: LogAway) -> tuple[bool, tuple[str, ...]]:
        worker.log.reading.clear()
        worker.log.queued.append(message)
        worker.settle()
        return worker.updater.status.serving, worker.updater.status.reasons

    assert heard(LogAway("a moment")) == (True, ("log_unavailable: a moment",))
    refused = "group g is refused: user uic needs READ on it"
    assert heard(LogAway(refused, out_of_group=True)) == (False, (NOT_LET_IN, f"log_unavailable: {refused}"))
    assert heard(LogAway("no broker answers")) == (False, (NOT_LET_IN, "log_unavailable: no broker answers"))
    worker.log.assign(0)
    worker.catch_up()
    worker.settle()
    assert (worker.updater.status.serving, worker.updater.status.reasons) == (True, ())
    assert_exactly_once(worker.store, worker.log.topic)


def test_a_worker_that_starts_and_may_not_join_is_still_said_to_start() -> None:
    worker = Worker(FakeTopic(), FakeStore())
    worker.log.queued.append(LogAway("group g is refused", out_of_group=True))
    worker.settle()
    first, *_ = worker.updater.status.reasons
    assert first.startswith("starting: ")


def test_a_worker_whose_poll_thread_is_blocked_says_so_and_tells_no_lag_that_it_does_not_know(worker: Worker) -> None:
    def heard(message: LogBlocked) -> tuple[bool, tuple[str, ...], int | None]:
        worker.log.queued.append(message)
        worker.settle()
        status = worker.updater.status
        return status.serving, status.reasons, status.partitions[0].lag

    worker.settle()
    assert worker.partition().lag == 0
    said = "log_unavailable: blocked for 20 s"
    assert heard(LogBlocked("blocked for 20 s")) == (True, (said,), None)
    assert heard(LogBlocked("blocked for 20 s", out_of_group=True)) == (False, (UNREAD, said), None)
    assert heard(LogBlocked("", out_of_group=True)) == (False, (UNREAD,), 0)
    assert heard(LogBlocked("")) == (True, (), 0)


def test_offset_commits_that_fail_all_the_time_are_logged_once_a_minute_with_how_many_were_left_out(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[dict[str, object]]:
        return [vars(record)["uic_fields"] for record in caplog.records if record.msg == "offset commit failed"]

    with caplog.at_level(logging.INFO, "uic.fold"):
        worker.log.queued += [Advised((0,), "CommitFailedError: x")] * 50
        worker.settle()
        assert [line.get("left_out") for line in lines()] == [None]
        worker.now += QUIET_S
        worker.log.queued.append(Advised((0,), "CommitFailedError: x"))
        worker.settle()
        assert [line.get("left_out") for line in lines()] == [None, 49]
    assert worker.updater.status.reasons == (), "the coordinator may only be moving"


def test_an_offset_commit_that_is_refused_is_told_until_one_is_accepted(worker: Worker) -> None:
    refused = "group g is refused: user uic needs READ on it"
    worker.log.queued.append(Advised((0,), refused, refused=True))
    worker.settle()
    assert list(worker.updater.status.reasons) == [f"log_unavailable: {refused}"]
    worker.log.queued.append(Advised((0,), None))
    worker.settle()
    assert list(worker.updater.status.reasons) == []


def test_a_worker_whose_partitions_are_taken_away_commits_nothing_that_could_be_refused(worker: Worker) -> None:
    worker.log.queued += [Advised((0,), "group g is refused", refused=True), Revoked((0,))]
    worker.settle()
    assert not [reason for reason in worker.updater.status.reasons if "refused" in reason]


def test_a_member_without_partitions_is_ready() -> None:
    worker = Worker(FakeTopic(), FakeStore())
    worker.settle()
    assert not worker.updater.status.serving
    worker.log.queued.append(Assigned(()))
    worker.settle()
    assert worker.updater.status.serving


def test_events_behind_an_open_transaction_are_lag_and_hold_as_of_back(worker: Worker) -> None:
    topic = worker.log.topic
    tag, position = worker.log.reading[0]
    worker.settle()
    before = worker.partition().as_of_ms

    def described(log_end: int, asked_ms: int) -> Described:
        return Described(0, tag, LogBounds(0, 20, topic.topic_id), asked_ms, position, log_end)

    worker.log.describe = lambda tags, epochs=None: None  # type: ignore[method-assign]  # answered by hand here
    worker.log.queued.append(described(23, worker.log.wall_ms + 60_000))
    worker.settle()
    view = worker.partition()
    assert (view.phase, view.lag, view.as_of_ms) == (Phase.FOLDING, 3, before)
    assert "open transaction" in view.reason
    assert worker.updater.status.serving
    assert any(reason.startswith("open_transaction: ") for reason in worker.updater.status.reasons)
    worker.log.queued.append(described(20, worker.log.wall_ms + 60_000))  # it ended, and left nothing
    worker.settle()
    view = worker.partition()
    assert (view.lag, view.reason) == (0, "")
    assert view.as_of_ms is not None
    assert before is not None
    assert view.as_of_ms > before
    assert not worker.updater.status.reasons


def test_a_log_that_goes_away_and_comes_back_has_a_line_for_each(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    worker.log.away = True
    worker.until(lambda: any("log_unavailable" in reason for reason in worker.updater.status.reasons))
    worker.settle(60)
    assert [message for message in caplog.messages if message.startswith("log ")] == ["log unavailable"]
    worker.log.away = False
    worker.until(lambda: not worker.updater.status.reasons)
    worker.settle()
    assert [message for message in caplog.messages if message.startswith("log ")] == [
        "log unavailable",
        "log available again",
    ]


def test_partitions_without_a_leader_are_named_and_the_others_are_folded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    topic = FakeTopic(4)
    for p in range(4):
        topic.event(users_of(p, 4, 1)[0])
    worker = Worker(topic, FakeStore())
    worker.log.leaderless = {1, 3}
    worker.log.assign(0, 1, 2, 3)
    worker.settle(60)
    reason = "log_unavailable: partitions 1,3 have no leader: bring their replicas back"
    assert worker.updater.status.serving
    assert list(worker.updater.status.reasons) == [reason]
    views = {view.partition: view for view in worker.updater.status.partitions}
    assert {p: view.phase for p, view in views.items()} == {
        0: Phase.FOLDING,
        1: Phase.TAKING_UP,
        2: Phase.FOLDING,
        3: Phase.TAKING_UP,
    }
    assert {p: (view.lag, view.reason) for p, view in views.items() if p in (0, 1)} == {
        0: (0, ""),
        1: (None, "has no leader: bring its replicas back"),
    }
    worker.log.leaderless = {0, 3}  # of one that is read
    topic.event(users_of(0, 4, 1)[0])
    worker.settle(60)
    reason = "log_unavailable: partitions 0,3 have no leader: bring their replicas back"
    assert list(worker.updater.status.reasons) == [reason]
    assert worker.partition(0).reason == "has no leader: bring its replicas back"
    assert worker.partition(1).phase is Phase.FOLDING
    worker.log.leaderless = set()
    worker.catch_up()
    worker.settle()
    assert list(worker.updater.status.reasons) == []
    assert worker.counted("uic_records_total", outcome="folded") == 5
    assert caplog.messages.count("has no leader") == 2
    assert caplog.messages.count("has a leader again") == 3
    assert not any("available" in message for message in caplog.messages)


def test_partitions_whose_leader_refuses_are_named_have_no_lag_and_keep_no_other_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    topic = FakeTopic(4)
    worker = Worker(topic, FakeStore())

    def events() -> None:
        for p in range(4):
            topic.event(users_of(p, 4, 1)[0])

    def lag(partition: str) -> float | None:
        return worker.metrics.registry.get_sample_value("uic_lag_records", {"partition": partition})

    def views() -> dict[int, PartitionStatus]:
        return {view.partition: view for view in worker.updater.status.partitions}

    events()
    worker.log.assign(0, 1)
    worker.catch_up()
    worker.settle()
    before = views()
    worker.log.refused = {1: "b:9093 (expired)", 2: "c:9094 (silent)"}
    worker.log.assign(2, 3)
    events()
    worker.settle(60)
    assert worker.updater.status.serving
    assert list(worker.updater.status.reasons) == [
        "log_unavailable: partition 1: b:9093 (expired); partition 2: c:9094 (silent)"
    ]
    now = views()
    assert {p: (view.phase, view.end_offset, view.lag, view.reason) for p, view in now.items()} == {
        0: (Phase.FOLDING, 2, 0, ""),
        1: (Phase.FOLDING, None, None, "the log does not say where it ends: b:9093 (expired)"),
        2: (Phase.TAKING_UP, None, None, "the log does not answer: c:9094 (silent)"),
        3: (Phase.FOLDING, 2, 0, ""),
    }
    assert [one for one in ("0", "1", "2", "3") if lag(one) is not None] == ["0", "3"]
    assert (now[0].as_of_ms or 0) > (before[0].as_of_ms or 0), "it says that it is caught up"
    assert now[1].as_of_ms == before[1].as_of_ms
    worker.log.refused = {}
    worker.catch_up()
    worker.settle(60)
    assert list(worker.updater.status.reasons) == []
    assert {p: (view.lag, view.reason) for p, view in views().items()} == dict.fromkeys(range(4), (0, ""))
    assert worker.counted("uic_records_total", outcome="folded") == 8
    assert [message for message in caplog.messages if message.startswith("log ")] == [
        "log unavailable",
        "log available again",
    ]


def test_erasures_without_a_leader_keep_their_partition_waiting_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    erasures = FakeErasures()
    worker = Worker(FakeTopic(3), FakeStore(), erasures=erasures)
    erasures.leaderless = {1}
    worker.log.assign(0, 1, 2)
    worker.settle(60)
    assert worker.updater.status.reasons == (
        "erasures_unavailable: partition 1 has no leader: bring its replicas back",
    )
    assert [worker.phase(p) for p in range(3)] == [Phase.FOLDING, Phase.CLAIMING, Phase.FOLDING]
    erasures.leaderless = set()
    worker.until(lambda: worker.phase(1) is Phase.FOLDING)
    said = [message for message in caplog.messages if message.startswith("erasures ")]
    assert said == ["erasures cannot be read", "erasures can be read again"]


def test_a_topic_that_is_gone_is_named_until_it_is_there_again(worker: Worker) -> None:
    worker.log.queued.append(TopicAway("does not exist"))
    worker.log.revoke(0)
    worker.settle()
    status = worker.updater.status
    assert status.serving, "it ends by itself"
    assert status.reasons == ("log_unavailable: topic behavior-events does not exist",)
    assert worker.counted("uic_topic_partitions") == 1
    assert worker.counted("uic_partitions", status="folding") == 0
    worker.log.queued.append(TopicAway(""))
    worker.settle()
    assert worker.updater.status.reasons == ()


def test_erasures_that_a_replay_waits_for_have_a_line_when_they_go_away_and_one_when_they_are_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    erasures = FakeErasures()
    worker = Worker(FakeTopic(), FakeStore(), erasures=erasures)
    erasures.away = True
    worker.log.assign(0)
    worker.until(lambda: any("erasures_unavailable" in reason for reason in worker.updater.status.reasons))
    worker.settle(60)

    def said() -> list[str]:
        return [message for message in caplog.messages if message.startswith("erasures ")]

    assert said() == ["erasures cannot be read"]
    erasures.away = False
    worker.until(lambda: not worker.updater.status.reasons)
    assert said() == ["erasures cannot be read", "erasures can be read again"]


def test_a_topic_of_erasures_that_is_gone_is_one_reason_also_while_a_replay_waits_for_it() -> None:
    erasures = FakeErasures()
    worker = Worker(FakeTopic(), FakeStore(), erasures=erasures)
    erasures.away = True
    worker.log.assign(0)
    worker.until(lambda: any("erasures_unavailable" in reason for reason in worker.updater.status.reasons))
    worker.log.queued.append(ErasuresAway("does not exist"))
    worker.settle()
    assert worker.updater.status.reasons == ("erasures_unavailable: topic behavior-events.erased does not exist",)
    worker.log.queued.append(ErasuresAway(""))
    worker.settle()
    assert worker.updater.status.reasons == ("erasures_unavailable: away",), "the replay still cannot read them"
    erasures.away = False
    worker.until(lambda: not worker.updater.status.reasons)


def test_a_topic_of_erasures_that_is_gone_is_degraded_before_a_replay_needs_it(worker: Worker) -> None:
    worker.log.queued.append(ErasuresAway("does not exist"))
    worker.settle()
    status = worker.updater.status
    assert status.serving
    assert status.reasons == ("erasures_unavailable: topic behavior-events.erased does not exist",)
    worker.log.queued.append(ErasuresAway(""))
    worker.settle()
    assert worker.updater.status.reasons == ()


def test_a_topic_that_is_compacted_while_it_is_folded_is_named_and_counted_until_it_is_not(worker: Worker) -> None:
    assert worker.counted("uic_topic_compacted") == 0
    worker.log.queued.append(TopicCompacted("compact"))
    worker.settle()
    assert worker.updater.status.serving
    (reason,) = worker.updater.status.reasons
    assert reason.startswith("log_compacted: topic behavior-events has cleanup.policy compact")
    assert worker.counted("uic_topic_compacted") == 1
    worker.log.queued.append(TopicCompacted(""))
    worker.settle()
    assert worker.updater.status.reasons == ()
    assert worker.counted("uic_topic_compacted") == 0


def test_after_consumption_has_stopped_lag_goes_on_to_grow_and_as_of_stands_still(worker: Worker) -> None:
    worker.settle()
    as_of_ms = worker.partition().as_of_ms
    assert worker.counted("uic_lag_records", partition="0") == 0
    worker.log.queued.append(PartitionCount(2))
    worker.settle(40)
    for i in range(7):
        worker.log.topic.event(USERS[i % 5], item=1 + i)
    worker.settle(40)
    assert not worker.updater.status.serving
    assert (worker.partition().lag, worker.partition().as_of_ms) == (7, as_of_ms)
    assert worker.counted("uic_lag_records", partition="0") == 7
    worker.log.topic.make_anew()
    worker.log.topic.partitions[0].end = 3
    worker.settle(40)
    assert worker.partition().next_offset == 20, "a session that has stopped is not taken up again"
    assert worker.updater.status.partitions[0].as_of_ms == as_of_ms


def test_a_dead_letter_topic_that_is_gone_is_degraded_before_a_bad_record_needs_it_and_said_once(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    gone = "dead_letter_topic_unavailable: away"
    worker.log.queued.append(DeadLettersAway("away"))
    worker.settle()
    assert worker.updater.status.serving
    assert list(worker.updater.status.reasons) == [gone]
    worker.dead_letters.away = True  # which says "away" as well
    worker.log.topic.append(0, USERS[0].encode(), b"junk")
    worker.until(lambda: worker.partition().reason)
    worker.settle()
    assert list(worker.updater.status.reasons) == [gone]
    worker.dead_letters.away = False
    worker.log.queued.append(DeadLettersAway(""))
    worker.catch_up()
    worker.settle()
    assert not worker.updater.status.reasons
    said = [message for message in caplog.messages if message.startswith("dead letters can")]
    assert said == ["dead letters cannot be written", "dead letters can be written again"]
