"""What of kafka-python's lines appears in UIC's log, and with what."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from uic.logs import KINDS, REPEAT_S, Repeats, formatter


class Log:
    """A logger of kafka-python's, at a time that the test sets, and the lines that appear."""

    def __init__(self) -> None:
        self.now = 0.0
        self._written = io.StringIO()
        self._handler = logging.StreamHandler(self._written)
        self._handler.setFormatter(formatter("logfmt"))
        self._handler.addFilter(Repeats(lambda: self.now))

    def say(self, text: str, *arguments: object, name: str = "kafka.net.manager", level: int = logging.ERROR) -> None:
        record = logging.LogRecord(name, level, __file__, 1, text, arguments, None)
        self._handler.handle(record)

    def lines(self) -> list[str]:
        """New ones."""
        found = self._written.getvalue().splitlines()
        self._written.seek(0)
        self._written.truncate()
        return found


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made._handler.close()


def test_what_kafka_python_repeats_appears_once_in_a_while_and_says_how_much_was_left_out(log: Log) -> None:
    for i in range(100):
        log.now = i * REPEAT_S / 101
        log.say("Bootstrap to %s failed: %s (backoff %.2f secs)", f"10.0.0.{i}:9092", "refused", i / 10)
    [line] = log.lines()
    assert "left_out" not in line
    log.now = REPEAT_S
    log.say("Bootstrap to %s failed: %s (backoff %.2f secs)", "10.0.0.7:9092", "refused", 0.1)
    [line] = log.lines()
    assert "left_out=99" in line
    log.now = 2 * REPEAT_S
    log.say(f"Bootstrap to 10.0.0.8:9092 failed: refused (backoff {0.3:.2f} secs)")
    [line] = log.lines()
    assert "left_out" not in line, "nothing was, since the last one"


def test_different_lines_all_appear(log: Log) -> None:
    log.say("Topic %s not found", "events")
    log.say("Topic %s not found", "events.dlq")
    log.say("Topic %s not found", "events", level=logging.WARNING)
    log.say("Topic %s not found", "events", name="kafka.cluster")
    assert len(log.lines()) == 4


def test_lines_of_our_own_are_never_left_out(log: Log) -> None:
    for _ in range(3):
        log.say("log unavailable", name="uic.fold.health")
    assert len(log.lines()) == 3


def test_lines_without_end_take_no_memory_without_end(log: Log) -> None:
    for i in range(3 * KINDS):
        log.say("%s", "".join("ghijklmnop"[int(digit)] for digit in str(i)))
    assert len(log.lines()) == 3 * KINDS
    [repeats] = log._handler.filters
    assert isinstance(repeats, Repeats)
    assert len(repeats._said) <= KINDS


def test_the_lines_about_connections_that_break_for_one_reason_are_one_line(log: Log) -> None:
    reason = "KafkaConnectionError: Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
    for i in range(3):
        log.say(f"Connection failed: {reason} (_ssl.c:1006)")
        log.say(
            f"<KafkaConnection node_id=bootstrap-{i}>: Connection lost: {reason} (_ssl.c:1006)",
            name="kafka.net.connection",
        )
        log.say(f"<KafkaSSLTransport [h:1<-{i}]>: Abort ({reason} (_ssl.c:1006))", name="kafka.net.transport")
        log.say(f"Bootstrap to {i} failed: {reason} (_ssl.c:1006) (backoff 0.{i} secs)", level=logging.WARNING)
    assert len(log.lines()) == 1
    log.say("Connection failed: KafkaConnectionError: 111 ECONNREFUSED")
    log.say(f"OffsetCommit failed: {reason}", name="kafka.coordinator.consumer")
    assert len(log.lines()) == 2, "of another reason, and of something else"
