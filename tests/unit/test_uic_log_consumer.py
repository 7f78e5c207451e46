"""What the poll thread tells of the log when it is asked for the log's bounds."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from uic.core.ports import Described
from uic.log.consumer import LogConsumer
from uic.settings import KafkaSettings

PLACE = TopicPartition("events", 0)


class BusyLog:
    """A consumer and a broker's view of a log that gets another event with every question."""

    def __init__(self) -> None:
        self.end = 100
        self.open_from: int | None = None
        """Where a transaction begins that was left open."""
        self._subscription = SimpleNamespace(assignment={})
        self._cluster = SimpleNamespace(request_update=lambda: None, topic_id=lambda topic: None)
        self._net = SimpleNamespace(run=lambda *what: None)
        self._manager = SimpleNamespace(wait_for=None)

    def assignment(self) -> set[TopicPartition]:
        return {PLACE}

    def beginning_offsets(self, places: Collection[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        self.end += 1
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: Collection[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        """The last stable offsets."""
        self.end += 1
        return dict.fromkeys(places, self.end if self.open_from is None else self.open_from)

    def log_ends(self, partitions: Collection[int]) -> dict[int, int]:
        self.end += 1
        return dict.fromkeys(partitions, self.end)


def described(busy: BusyLog) -> Described:
    log = LogConsumer(KafkaSettings(topic="events", partitions=1), lambda store: "group", 100)
    consumer: Any = busy
    log._broker = consumer
    log.describe({0: 7})
    log._obey(consumer)
    (said,) = log.messages(0)
    assert isinstance(said, Described)
    return said


def test_what_is_produced_while_a_log_is_described_is_no_open_transaction() -> None:
    said = described(BusyLog())
    assert said.log_end == said.bounds.end


@pytest.mark.parametrize("open_from", [90, 100])
def test_what_lies_behind_an_open_transaction_is_told_apart(open_from: int) -> None:
    busy = BusyLog()
    busy.open_from = open_from
    said = described(busy)
    assert (said.bounds.end, said.log_end > open_from) == (open_from, True)
