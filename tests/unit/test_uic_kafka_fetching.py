"""A poll ends with the first answer, and a refused fetch ends none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import InvalidReceiveError

from uic.log.kafka_repairs.fetching import MemberFetcher, fetch_refused, poll_once

TOPIC = "behavior-events"
ALL = [TopicPartition(TOPIC, p) for p in range(8)]


def test_a_poll_ends_with_the_first_answer_although_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def answered_at_once(self: Any, timer: Any, max_records: int, **more: Any) -> dict[Any, Any]:
        rounds.append(max_records)
        return {}

    monkeypatch.setattr(KafkaConsumer, "_poll_once", answered_at_once)
    consumer: Any = object.__new__(KafkaConsumer)
    consumer.config, consumer._closed = {"max_poll_records": 500}, False
    assert poll_once(consumer, 20) == {}
    assert rounds == [500]
    assert consumer.poll(timeout_ms=20) == {}
    assert len(rounds) > 10, "the library asks again until its time is over"


def test_plain_text_that_a_broker_refuses_with_a_tls_alert_is_no_answer_that_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Fetcher, "_handle_fetch_error", lambda *_: None)
    made: Any = object.__new__(MemberFetcher)
    made._handle_fetch_error(1, InvalidReceiveError(f"Invalid frame length: {0x15030300}"))
    assert made.too_large == ""
    made._handle_fetch_error(1, InvalidReceiveError("Invalid frame length: 104857601"))
    assert made.too_large.endswith("Invalid frame length: 104857601")


REFUSED = 29
"""TOPIC_AUTHORIZATION_FAILED."""


def fetcher() -> Any:
    made: Any = object.__new__(MemberFetcher)
    vars(made).update(
        _subscriptions=SimpleNamespace(move_partition_to_end=lambda tp: None),
        _session_handlers={},
        _sensors=None,
        _completed_fetches=[],
        _manager=SimpleNamespace(broker_version=(0, 10)),
        config={"enable_incremental_fetch_sessions": False},
    )
    return made


def fetched(error: int, **partitions: int) -> Any:
    """An answer to a fetch; `partitions`: error code of each, by `p0` and so on."""
    told = [SimpleNamespace(partition_index=int(p[1:]), error_code=code) for p, code in partitions.items()]
    topics = [SimpleNamespace(topic=TOPIC, partitions=told)] if told else []
    return SimpleNamespace(API_VERSION=4, error_code=error, responses=topics)


def test_a_topic_that_may_not_be_read_is_known_until_a_fetch_of_it_is_answered() -> None:
    made = fetcher()
    member: Any = SimpleNamespace(_fetcher=made, assignment=lambda: set(ALL[:3]))
    here, there = dict.fromkeys(ALL[:2], 0), {ALL[2]: 0}
    assert fetch_refused(member) is None
    made._handle_fetch_response(1, here, 0.0, fetched(0, p0=REFUSED, p1=REFUSED))
    assert fetch_refused(member) is True
    made._handle_fetch_response(2, there, 0.0, fetched(0, p2=0))
    assert fetch_refused(member) is True, "another broker answers"
    made._handle_fetch_response(1, here, 0.0, fetched(70))
    assert fetch_refused(member) is True, "that was an error of the whole fetch"
    made._handle_fetch_response(1, here, 0.0, fetched(0))
    assert fetch_refused(member) is False, "an answer with nothing new names no partitions"


def test_a_refused_fetch_ends_no_poll() -> None:
    refused = SimpleNamespace(partition_data=SimpleNamespace(error_code=REFUSED), topic_partition=ALL[0])
    assert fetcher()._parse_fetched_data(refused) is None
