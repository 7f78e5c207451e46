"""A real Apache Kafka of two nodes, for what a single one cannot show: partitions without a leader, and a broker that
comes back while the other one answers.

Node 1 is broker and controller and keeps the groups' offsets; node 2 is only a broker. Each partition of the topics
that `create` makes has one replica, so when node 2 is away, those that it leads have no leader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from localstack.apache_kafka import ApacheKafka
from localstack.ports import LOOPBACK
from localstack.wait import until
from support.cut_off import Cut
from support.for_test import TopicsForTest
from support.kafka_home import kafka_home

SESSION_MS = 3000
"""How long the controller waits for a broker that was killed."""
OFFSETS = "__consumer_offsets"


class First(ApacheKafka):
    """Node 1."""

    def settings(self) -> dict[str, str]:
        """Its `server.properties`."""
        return super().settings() | {
            "offsets.topic.num.partitions": "1",
            "broker.session.timeout.ms": str(SESSION_MS),
            "broker.heartbeat.interval.ms": "500",
        }

    def named_cluster(self) -> str:
        """The id that its storage was formatted with."""
        lines = (self.folder / "data" / "meta.properties").read_text().splitlines()
        return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))


class Second(ApacheKafka):
    """Node 2."""

    def __init__(self, home: Path, folder: Path, first: First, cut: Cut | None) -> None:
        super().__init__(home, folder, name="kafka-2")
        self._cut = cut
        del self.ports["controller"]
        self._free.remove("controller")
        self._first = first

    def cluster_id(self) -> str:
        """That of node 1."""
        return self._first.named_cluster()

    def settings(self) -> dict[str, str]:
        """Its `server.properties`."""
        listener = f"PLAINTEXT://{self.address}"
        if self._cut is not None:
            self._cut.upstream = self.port
        return self._first.settings() | {
            "process.roles": "broker",
            "node.id": "2",
            "listeners": listener,
            "advertised.listeners": listener if self._cut is None else f"PLAINTEXT://{LOOPBACK}:{self._cut.port}",
            "log.dirs": str(self.folder.resolve() / "data"),
        }


class TwoBrokers:
    """Both nodes, which run."""

    def __init__(self, first: First, second: Second) -> None:
        self.first = first
        self.second = second

    @property
    def bootstrap(self) -> str:
        """The addresses of both."""
        return f"{self.first.address},{self.second.address}"

    def create(self, events: str, leaders: Mapping[int, int]) -> TopicsForTest:
        """The three topics; partition → node of the events. Node 1 has all of the other two."""
        named = TopicsForTest(self.bootstrap, events, len(leaders))
        ours = {p: [1] for p in leaders}
        with closing(KafkaAdminClient(bootstrap_servers=self.first.address)) as admin:
            admin.create_topics(
                [
                    NewTopic(events, -1, -1, replica_assignments={p: [node] for p, node in leaders.items()}),
                    NewTopic(named.dlq, -1, -1, replica_assignments=ours),
                    NewTopic(
                        named.erased, -1, -1, replica_assignments=ours, topic_configs={"cleanup.policy": "compact"}
                    ),
                ]
            )
        self.wait_leaders(events, leaders)
        return named

    def wait_leaders(self, topic: str, wanted: Mapping[int, int]) -> None:
        """Wait until node 1 names these leaders; -1 for none."""
        with closing(KafkaAdminClient(bootstrap_servers=self.first.address)) as admin:

            def led() -> bool:
                try:
                    [found] = admin.describe_topics([topic])
                except KafkaError:  # it has asked the node that is away
                    return False
                return {p["partition_index"]: p["leader_id"] for p in found["partitions"]} == dict(wanted)

            until(led, f"the leaders of {topic} are {wanted}", within_s=60)


@contextmanager
def two_brokers(folder: Path, cut: Cut | None = None) -> Iterator[TwoBrokers]:
    """Start both (about 12 s), and stop them afterwards. Skips the test where there is no Kafka or no Java. All clients
    reach node 2 through `cut`, if that is given: it can refuse them, and node 2 goes on to lead its partitions."""
    home = kafka_home()
    with First(home, folder / "1") as first:
        _keep_offsets(first)
        with Second(home, folder / "2", first, cut) as second:
            yield TwoBrokers(first, second)


def _keep_offsets(first: First) -> None:
    """Have node 1 make the topic of the groups' offsets, while there is no other node."""
    with closing(KafkaAdminClient(bootstrap_servers=first.address)) as admin:

        def there() -> bool:
            try:
                admin.describe_groups(["any"])
            except KafkaError:
                return False
            return OFFSETS in admin.list_topics()

        until(there, "there is a coordinator", within_s=60)
