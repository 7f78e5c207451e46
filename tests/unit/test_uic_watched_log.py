"""What is said while publishing fails: when it begins, when it is over, and what is no reason to say anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from localstack.wait import until
from support.fake_event_log import FakeEventLog
from uic.core.trouble import Cause, Trouble
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, WrongClock
from uic.log import watched_log
from uic.log.producer import NewRecord
from uic.log.watched_log import PATIENCE_S, QUIET_S, UNPROVEN_S, Appends, Failure, WatchedLog

T = "events"
SLOW = Failure("not acknowledged", refused=False)
NO_RIGHT = Failure("no right", refused=True)


@pytest.fixture
def appends() -> Appends:
    return Appends()


def test_calls_that_fail_for_a_second_without_a_success_are_told_until_one_gets_through(appends: Appends) -> None:
    appends.failed(T, [0], SLOW, 10.0, 10.1)
    appends.failed(T, [0], SLOW, 10.9, 10.0 + PATIENCE_S)
    assert appends.trouble == "not acknowledged"
    appends.worked(T, [0], 12.0)
    assert appends.trouble == ""


def test_a_partition_that_takes_nothing_is_told_though_others_do(appends: Appends) -> None:
    appends.failed(T, [0], SLOW, 10.0, 15.0)
    appends.worked(T, [1, 2], 15.5)
    assert appends.trouble == "not acknowledged"


def test_a_refusal_is_told_at_once_and_of_each_topic(appends: Appends) -> None:
    appends.failed(T, [0], NO_RIGHT, 10.0, 10.0)
    appends.failed("events.erased", [0], Failure("no right to notes", refused=True), 10.0, 10.0)
    assert appends.trouble == "no right; no right to notes"
    appends.answered(T)
    assert appends.trouble == "no right to notes"


@dataclass
class Clock:
    """Stands for the module `time` in the watched log."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watched_log, "time", clock)
    monkeypatch.setattr(watched_log, "LOOK_S", 0.005)
    return clock


def publish(log: WatchedLog, *partitions: int) -> None:
    log.append(T, 4, [NewRecord(p, b"user", b"event") for p in partitions], 1.0)


def test_the_message_comes_once_when_it_begins_and_once_when_a_call_gets_through(clock: Clock) -> None:
    fake = FakeEventLog({T: 4})
    log = WatchedLog(fake, 4, 1.0)
    fake.read_only = {T}
    for _ in range(3):
        with pytest.raises(LogRefused):
            publish(log, 0)
    [said] = log.messages()
    assert "no right" in said.detail
    assert log.messages() == []
    fake.read_only = set()
    publish(log, 0)
    assert log.messages() == [Trouble(Cause.PUBLISHING, "")]
    log.close()
    assert fake.closed


def test_while_no_one_publishes_the_brokers_are_asked_whether_it_works_again(clock: Clock) -> None:
    fake = FakeEventLog({T: 4})
    log = WatchedLog(fake, 4, 1.0)
    asked: list[float] = []
    checking: Callable[[str, int, float], None] = fake.check

    def check(topic: str, partitions: int, timeout_s: float) -> None:
        asked.append(clock.now)
        checking(topic, partitions, timeout_s)

    fake.check = check  # type: ignore[method-assign]
    fake.read_only = {T}
    with pytest.raises(LogRefused):
        publish(log, 0)
    log.messages()
    clock.now += QUIET_S
    until(lambda: asked, "the brokers are asked", within_s=30)
    assert all(said.detail for said in log.messages()), "the right is still missing"
    fake.read_only = set()
    clock.now += QUIET_S
    until(lambda: log.messages() == [Trouble(Cause.PUBLISHING, "")], "they say that it works", within_s=30)
    log.close()


def unanswered(log: WatchedLog, fake: FakeEventLog, clock: Clock) -> None:
    """A call whose record is not acknowledged for as long as it has patience."""
    fake.withheld = {0}
    appending = fake.append

    def slow(*given: Any) -> Any:
        clock.now += 2 * PATIENCE_S
        return appending(*given)

    fake.append = slow  # type: ignore[method-assign, assignment]
    with pytest.raises(NotAcknowledged):
        publish(log, 0)
    fake.append = appending  # type: ignore[method-assign]


def checks(fake: FakeEventLog) -> list[str]:
    """The topics that the brokers were asked about, each time that they were."""
    asked: list[str] = []
    checking: Callable[[str, int, float], None] = fake.check

    def check(topic: str, partitions: int, timeout_s: float) -> None:
        asked.append(topic)
        checking(topic, partitions, timeout_s)

    fake.check = check  # type: ignore[method-assign]
    return asked


def looks(fake: FakeEventLog) -> list[str | None]:
    """What the brokers said of the replicas, each time that they were asked."""
    said: list[str | None] = []
    asking = fake.obstacle

    def obstacle(topic: str) -> str | None:
        said.append(asking(topic))
        return said[-1]

    fake.obstacle = obstacle  # type: ignore[method-assign]
    return said


def test_what_is_not_acknowledged_stays_told_until_enough_replicas_are_in_sync(clock: Clock) -> None:
    fake = FakeEventLog({T: 4})
    log, said = WatchedLog(fake, 4, 1.0), looks(fake)
    unanswered(log, fake, clock)
    assert "not acknowledged" in log.messages()[0].detail
    fake.hindered = "too few replicas"
    for times in range(1, 8):  # for much longer than an alert waits
        clock.now += QUIET_S
        until(lambda times=times: len(said) == times, "the brokers are asked", within_s=30)  # type: ignore[misc]  # bound
        assert all(one.detail for one in log.messages())
    fake.hindered = ""
    clock.now += QUIET_S
    until(lambda: log.messages() == [Trouble(Cause.PUBLISHING, "")], "it works again without a call", within_s=30)
    log.close()


def test_neither_a_later_failure_nor_a_right_that_was_looked_at_ends_what_was_not_acknowledged(clock: Clock) -> None:
    fake = FakeEventLog({T: 4})
    log, said = WatchedLog(fake, 4, 1.0), looks(fake)
    unanswered(log, fake, clock)
    fake.away = True
    with pytest.raises(LogUnavailable):
        publish(log, 0)
    fake.away, fake.hindered = False, "too few replicas"
    assert log.messages()
    for times in range(1, 4):
        clock.now += QUIET_S
        until(lambda times=times: len(said) >= times, "the brokers are asked", within_s=30)  # type: ignore[misc]  # bound
        log.must_be_writable(T)  # as each erasure looks
        assert all(one.detail for one in log.messages())
    fake.hindered = ""
    clock.now += QUIET_S
    until(lambda: log.messages()[-1:] == [Trouble(Cause.PUBLISHING, "")], "it is over", within_s=30)
    log.close()


def test_a_record_that_is_too_large_is_no_trouble_of_publishing(clock: Clock) -> None:
    class Small(FakeEventLog):
        def append(self, *_: object) -> list[object]:  # type: ignore[override]
            raise LogRefused("too large", of_records=True)

    log = WatchedLog(Small({T: 4}), 4, 1.0)  # type: ignore[arg-type]
    with pytest.raises(LogRefused):
        publish(log, 0)
    assert log.messages() == []


def test_a_time_that_is_refused_is_told_whatever_the_brokers_say(clock: Clock) -> None:
    fake = FakeEventLog({T: 4})
    log, asked = WatchedLog(fake, 4, 1.0), checks(fake)
    fake.untimely = {T}
    with pytest.raises(WrongClock):
        publish(log, 0)
    assert "refuses the time" in log.messages()[0].detail
    clock.now += QUIET_S
    until(lambda: asked, "the brokers are asked", within_s=30)
    assert log.messages() == [], "they take connections, and know nothing of our clock"
    clock.now += UNPROVEN_S - QUIET_S
    until(
        lambda: log.messages() == [Trouble(Cause.PUBLISHING, "")],
        "nothing has failed for longer than an alert waits",
        within_s=30,
    )
    fake.untimely = set()
    publish(log, 0)
    log.close()


def test_of_a_call_that_got_through_in_part_only_the_other_partitions_fail(clock: Clock) -> None:
    fake = FakeEventLog({T: 4})
    log = WatchedLog(fake, 4, 1.0)

    def slow(error: type[Exception], *partitions: int) -> None:
        with pytest.raises(error):
            publish(log, *partitions)
        clock.now += PATIENCE_S

    fake.withheld = {1}
    slow(NotAcknowledged, 0, 1)
    fake.withheld = {1}
    slow(NotAcknowledged, 0, 1)
    assert "not acknowledged" in log.messages()[0].detail
    publish(log, 0)
    assert log.messages() == []
    publish(log, 1)
    assert log.messages() == [Trouble(Cause.PUBLISHING, "")]
    fake.away = True
    slow(LogUnavailable, 2)
    slow(LogUnavailable, 2)
    assert "no broker answers" in log.messages()[0].detail
    log.close()
