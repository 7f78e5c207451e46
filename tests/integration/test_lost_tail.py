"""A log that loses its tail and is written again, on a real Kafka: an unclean election among three brokers."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from localstack.wait import until
from support.for_test import RedisForTest, TopicsForTest
from support.kafka_cluster import Brokers
from support.uic_running import RunningUic, click, running_uic
from torture.watching import metric
from uic.tools import partitions

pytestmark = pytest.mark.servers

USER = "user"
LEADER, FOLLOWER, OTHER = 1, 2, 3
"""Nodes. The other one has a part in elections and holds all that is not lost."""


class Cluster:
    """Three brokers, and a topic of which two have a replica."""

    def __init__(self, broker: Brokers, name: str) -> None:
        self.broker = broker
        self.topics = TopicsForTest(broker.address, name, 1)
        self.there = broker.address.split(",")[OTHER - 1]
        lossy = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
        safe = {"min.insync.replicas": "1"}
        with closing(self.admin()) as admin:
            admin.create_topics(
                [
                    NewTopic(name, -1, -1, replica_assignments={0: [LEADER, FOLLOWER]}, topic_configs=lossy),
                    NewTopic(self.topics.dlq, -1, -1, replica_assignments={0: [OTHER, LEADER, FOLLOWER]}),
                    NewTopic(
                        self.topics.erased,
                        -1,
                        -1,
                        replica_assignments={0: [OTHER, LEADER, FOLLOWER]},
                        topic_configs=safe | {"cleanup.policy": "compact"},
                    ),
                ]
            )
        self.wait_led_by(LEADER, [LEADER, FOLLOWER])

    def admin(self, timeout_ms: int = 60_000) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.there, request_timeout_ms=timeout_ms)

    def wait_led_by(self, node: int, in_sync: list[int]) -> None:
        with closing(self.admin(3000)) as admin:

            def led() -> bool:
                try:
                    [found] = admin.describe_topics([self.topics.events])
                except KafkaError:  # it has asked one that is away
                    return False
                if not found["partitions"]:  # it has asked one that has not heard of the topic
                    return False
                [one] = found["partitions"]
                return (one["leader_id"], sorted(one["isr_nodes"])) == (node, in_sync)

            until(led, f"node {node} leads, and {in_sync} are in sync", within_s=60)

    def append(self, events: int) -> int:
        """Acknowledged by all that are in sync; the offset behind the last."""
        last = -1
        with closing(KafkaProducer(bootstrap_servers=self.there, acks="all")) as producer:
            for _ in range(events):
                value = click(USER).SerializeToString()
                last = producer.send(self.topics.events, key=USER.encode(), value=value).get(timeout=60).offset
        return last + 1

    def lose_what_is_appended_from_now_on(self) -> None:
        """The follower is away, and no longer in sync."""
        self.broker.freeze(FOLLOWER)
        self.wait_led_by(LEADER, [LEADER])

    def lose_it(self) -> None:
        """The leader goes, and the follower is elected without what it has not got."""
        self.broker.kill(LEADER)
        self.broker.thaw(FOLLOWER)
        self.wait_led_by(FOLLOWER, [FOLLOWER])


@pytest.fixture
def cluster(three_real_brokers: Brokers) -> Cluster:
    return Cluster(three_real_brokers, "events")


def stands(uic: RunningUic) -> dict[str, Any]:
    """The partition; before it is assigned, nothing of it."""
    found = uic.admin("/partitions")["partitions"]
    return dict(found[0]) if found else {"phase": "", "reason": "", "lag": None}


def count(uic: RunningUic) -> int:
    state = uic.state(USER)
    return state.event_count if state else 0


def continued(uic: RunningUic, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    given = ["--partition", "0", *arguments, "--admin", uic.worker.admin_url]
    return partitions.main("continue", given, out), out.getvalue()


ELSEWHERE = "the states end at offset 50, and the log has other records"


@pytest.mark.parametrize("since", [7, pytest.param(60, marks=pytest.mark.full)])
def test_what_is_written_after_an_unclean_election_is_folded_once(
    since: int, cluster: Cluster, valkey: RedisForTest, tmp_path: Path
) -> None:
    """They write on at once, with offsets below the old progress and, if they write much, beyond."""
    with running_uic(tmp_path / "before", valkey, cluster.topics, UIC_KAFKA__REQUEST_TIMEOUT_MS="5000") as uic:
        cluster.append(20)
        cluster.lose_what_is_appended_from_now_on()
        assert cluster.append(30) == 50
        until(lambda: count(uic) == 50, "all is folded", within_s=60)
        cluster.lose_it()
        until(lambda: stands(uic)["phase"] == "broken", "the worker sees it", within_s=60)
        assert cluster.append(since) == 20 + since
        assert ELSEWHERE in uic.worker.log.read_text()
    with running_uic(
        tmp_path / "after", valkey, cluster.topics, serving=False, UIC_KAFKA__REQUEST_TIMEOUT_MS="5000"
    ) as uic:  # what is kept tells
        until(lambda: stands(uic)["phase"] == "broken", "it is found again", within_s=60)
        reason = "truncated" if since < 30 else "witness"
        until(lambda: f"broken_log: {reason}: {ELSEWHERE}" in stands(uic)["reason"], "and why", within_s=60)
        assert continued(uic)[0] != 0, "an operator says from where on"
        until(lambda: continued(uic, "--offset", "20")[0] == 0, "it is looked at again, and goes on", within_s=60)
        cluster.append(5)
        until(lambda: count(uic) == 50 + since + 5, "each event is folded once", within_s=60)
        until(lambda: stands(uic)["lag"] == 0, "none waits", within_s=60)
        assert metric(uic.worker, "uic_data_gaps_total") == 0
