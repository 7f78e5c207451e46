"""A right to read that is missing on a real Kafka: what is said, how often, and that the work goes on once it is
there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from localstack.wait import until
from mimn.state import partition_of
from support.for_test import RedisForTest, TopicsForTest
from support.secured_kafka import SecuredKafka
from support.uic_running import RunningUic, click, running_uic
from torture.watching import metric

pytestmark = pytest.mark.servers

LONG_ENOUGH_S = 6
"""Several rounds of what a worker did when its client failed, was replaced and failed again."""


@pytest.fixture
def secured(secured_broker: SecuredKafka) -> SecuredKafka:
    return secured_broker


@pytest.fixture
def named(secured: SecuredKafka) -> TopicsForTest:
    """Topics with the rights that UIC needs, but for its groups."""
    made = secured.create(f"events-{time.time_ns()}", 4)
    for topic in (made.events, made.dlq, made.erased):
        for right in ("READ", "WRITE"):
            secured.grant(right, "topic", topic)
    return made


def login(secured: SecuredKafka) -> dict[str, Any]:
    """UIC's settings of how it connects."""
    return dict(secured.variables())


def append(secured: SecuredKafka, named: TopicsForTest, users: int, *, value: bytes | None = None) -> None:
    """An event of each of so many users; `value` in place of events."""
    producer = KafkaProducer(bootstrap_servers=secured.address, acks="all")
    for i in range(users):
        event = click(f"user {i}")
        key = event.user_id.encode()
        place = partition_of(key, named.partitions)
        producer.send(named.events, key=key, value=value or event.SerializeToString(), partition=place)
    producer.flush()
    producer.close()


def degraded(uic: RunningUic) -> list[str]:
    return list(uic.admin("/readyz").get("degraded", []))


def folded(uic: RunningUic) -> float:
    return metric(uic.worker, 'uic_records_total{outcome="folded"}')


def lines(uic: RunningUic) -> list[str]:
    return uic.worker.log.read_text().splitlines()


def watched(uic: RunningUic, reason: str) -> list[str]:
    """The lines that the log gets while `/readyz` is asked all the time, and gives this reason each time."""
    before = len(lines(uic))
    end = time.monotonic() + LONG_ENOUGH_S
    said: list[str] = []

    def asked_long_enough() -> bool:
        said.append("; ".join(degraded(uic)))
        return time.monotonic() > end

    until(asked_long_enough, "time is over", within_s=LONG_ENOUGH_S + 30)
    assert [one for one in said if reason not in one] == []
    return lines(uic)[before:]


def test_a_topic_that_may_not_be_read_stays_the_reason_until_it_may(
    secured: SecuredKafka, named: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    secured.grant("READ", "group", valkey.prefix, prefixed=True)
    with running_uic(tmp_path, valkey, named, **login(secured)) as uic:
        append(secured, named, 8)
        until(lambda: folded(uic) == 8, "events are folded", within_s=60)
        secured.revoke("READ", "topic", named.events)
        append(secured, named, 8)
        reason = f"log_unavailable: topic {named.events} is refused: user uic needs READ on it"
        until(lambda: reason in "; ".join(degraded(uic)), "/readyz says so", within_s=60)
        assert len(watched(uic, reason)) <= 5
        secured.grant("READ", "topic", named.events)
        until(lambda: folded(uic) == 16, "it goes on by itself", within_s=30)
        until(lambda: degraded(uic) == [], "/readyz says that it does", within_s=30)


def test_offsets_that_may_not_be_committed_stop_no_fold(
    secured: SecuredKafka, named: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    secured.grant("READ", "group", valkey.prefix, prefixed=True)
    with running_uic(tmp_path, valkey, named, **login(secured)) as uic:
        append(secured, named, 8)
        until(lambda: folded(uic) == 8, "events are folded", within_s=60)
        secured.revoke("READ", "group", valkey.prefix, prefixed=True)
        append(secured, named, 8)
        until(lambda: folded(uic) == 16, "events are folded all the same", within_s=60)
        reason = f"log_unavailable: group {valkey.prefix}."
        until(lambda: reason in "; ".join(degraded(uic)), "/readyz names the group", within_s=60)
        assert "is refused: user uic needs READ on it" in "; ".join(degraded(uic))
        secured.grant("READ", "group", valkey.prefix, prefixed=True)
        append(secured, named, 8)
        until(lambda: degraded(uic) == [], "/readyz says that it may again", within_s=60)


def test_notes_of_erasures_that_may_not_be_read_are_told_as_refused(
    secured: SecuredKafka, named: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    secured.grant("READ", "group", valkey.prefix, prefixed=True)
    secured.revoke("READ", "topic", named.erased)
    producer = KafkaProducer(bootstrap_servers=secured.address)
    for p in range(named.partitions):
        producer.send(named.erased, key=b"user", value=b"there is something to read", partition=p)
    producer.close()
    with running_uic(tmp_path, valkey, named, **login(secured)) as uic:
        reason = f"erasures_unavailable: topic {named.erased} is refused: user uic needs READ on it"
        until(lambda: reason in "; ".join(degraded(uic)), "/readyz says so", within_s=60)
        secured.grant("READ", "topic", named.erased)
        append(secured, named, 3)
        until(lambda: folded(uic) == 3, "it goes on by itself", within_s=60)
