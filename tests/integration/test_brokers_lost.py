"""Brokers of a real Kafka of three nodes are lost, one, or two at once: what `ctr doctor`, `/readyz`, callers and
commands say names those that are away, and no other reason."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from ctr.uic.v1.uic_service_pb2 import LogPosition
from localstack.wait import until
from support.doctor_running import set_doctors_environment
from support.for_test import RedisForTest, TopicsForTest
from support.kafka_cluster import Brokers
from support.uic_running import RunningUic, click, running_uic
from uic.errors import LogUnavailable
from uic.log.event_log import KafkaLog
from uic.log.topic_reader import read_to_end
from uic.tools.doctor.command import main as doctor

pytestmark = pytest.mark.servers

N = 6
NODES = 1, 2, 3
NEEDED = "a broker that is needed does not answer: "
NEVER = ("no broker answers", "does it exist", "wants TLS")
"""Of two of three brokers that are away, nothing says so: that no one answers, that a topic may be missing, and that a
port wants TLS."""
SETTLES_S = 120
CALLS = 4
"""Each takes 5 s, while a worker asks the brokers again and again."""


@pytest.fixture
def topics(three_real_brokers: Brokers) -> TopicsForTest:
    """Each node leads a third of the partitions, and has all of them."""
    named = TopicsForTest(three_real_brokers.address, "events", N)
    at = {p: [p % 3 + 1, (p + 1) % 3 + 1, (p + 2) % 3 + 1] for p in range(N)}
    with closing(KafkaAdminClient(bootstrap_servers=three_real_brokers.address)) as admin:
        admin.create_topics(
            [
                NewTopic(name, -1, -1, replica_assignments=at, topic_configs={"min.insync.replicas": "2"} | more)
                for name, more in ((named.events, {}), (named.dlq, {}), (named.erased, {"cleanup.policy": "compact"}))
            ]
        )
    return named


def address(broker: Brokers, node: int) -> str:
    return broker.address.split(",")[node - 1]


def diagnosed(named: TopicsForTest, valkey: RedisForTest, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """What the doctor finds, by check."""
    set_doctors_environment(monkeypatch, named, valkey)
    out = io.StringIO()
    doctor(["--json", "--timeout", "5"], out)
    return {finding["check"]: finding for finding in json.loads(out.getvalue())["findings"]}


def test_a_broker_that_is_lost_is_named_by_the_doctor_until_its_replicas_are_in_sync_again(
    three_real_brokers: Brokers,
    topics: TopicsForTest,
    valkey: RedisForTest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = [f"replicas of {name}" for name in (topics.events, topics.dlq, topics.erased)]

    def told() -> set[tuple[str, str]]:
        found = diagnosed(topics, valkey, monkeypatch)
        return {(found[check]["verdict"], found[check]["seen"]) for check in checks if check in found}

    until(lambda: told() == {("OK", "all in sync")}, "all are in sync", within_s=SETTLES_S)
    three_real_brokers.kill(2)
    said = f"{N} of {N} partitions are not in sync on broker 2"
    until(lambda: all(v == "WARN" and said in seen for v, seen in told()), "each topic says so", within_s=SETTLES_S)
    three_real_brokers.start(2)
    until(lambda: told() == {("OK", "all in sync")}, "all are in sync again", within_s=SETTLES_S)


class Lost:
    """Two of the three brokers, and what a worker and commands say meanwhile."""

    def __init__(self, broker: Brokers, uic: RunningUic, answering: int) -> None:
        self.uic = uic
        self.answering = address(broker, answering)
        self.away = [address(broker, node) for node in NODES if node != answering]
        self.said: list[str] = []
        self.called: list[str] = []
        """How calls failed. A producer that is new gets no id without the brokers that are away, from the third either,
        which it may name."""

    def listen(self) -> str:
        """What `/readyz` says of the log."""
        reasons = self.uic.admin("/readyz").get("degraded", [])
        self.said += [reason for reason in reasons if reason not in self.said]
        return "; ".join(reason for reason in reasons if reason.startswith("log_unavailable"))

    def publish(self) -> None:
        try:
            self.uic.publish(*[click(f"u{i}") for i in range(N)], timeout_s=8)
        except grpc.RpcError as error:
            self.called.append(str(error.details()))


@contextmanager
def lost(broker: Brokers, uic: RunningUic, answering: int) -> Iterator[Lost]:
    away = [node for node in NODES if node != answering]
    for node in away:
        broker.kill(node)
    yield Lost(broker, uic, answering)
    for node in away:
        broker.start(node)


@pytest.mark.full
def test_of_two_brokers_of_three_that_are_lost_everything_that_is_said_names_one_and_nothing_else_is_blamed(
    three_real_brokers: Brokers, topics: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    with running_uic(tmp_path / "uic", valkey, topics) as uic:
        published: list[LogPosition] = []

        def is_published() -> bool:
            """Brokers that have just started may take longer for the first call than a worker waits for them."""
            with suppress(grpc.RpcError):
                published.extend(uic.publish(*[click(f"u{i}") for i in range(N)]))
            return bool(published)

        until(is_published, "events are published", within_s=60)
        uic.wait_folded(published)
        with lost(three_real_brokers, uic, 3) as seen:
            until(lambda: NEEDED in seen.listen(), "/readyz says so", within_s=SETTLES_S)
            with pytest.raises(LogUnavailable) as command:
                list(read_to_end({"bootstrap_servers": topics.bootstrap.split(",")}, topics.events, idle_s=5))
            seen.said.append(command.value.detail)
            producer = KafkaLog(
                {"bootstrap_servers": topics.bootstrap.split(",")}, timeout_s=3, max_request_bytes=1 << 20
            )
            producer.must_be_writable(topics.erased)
            producer.close()
            for _ in range(CALLS):
                seen.publish()
                seen.listen()
        assert all(any(at in said for at in seen.away) for said in seen.said if said.startswith("log_unavailable"))
        assert not [said for said in seen.said if seen.answering in said]
        assert not [said for said in seen.said + seen.called for words in NEVER if words in said]
        until(lambda: seen.listen() == "", "it goes on by itself", within_s=3 * SETTLES_S)
