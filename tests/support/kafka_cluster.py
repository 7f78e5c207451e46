"""A real Apache Kafka of one or more nodes on loopback, each of which a test may stop, kill and freeze."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from localstack.apache_kafka import ApacheKafka
from localstack.ports import free_ports
from support.kafka_home import kafka_home

SETTINGS = {
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "controller.quorum.election.timeout.ms": "500",
    "group.min.session.timeout.ms": "1000",  # so that tests of killed members need not wait
    "log.retention.check.interval.ms": "2000",
    "log.retention.ms": "-1",
    "log.segment.bytes": "67108864",
    "num.io.threads": "4",
    "num.network.threads": "2",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "4",
}


class Brokers(Protocol):
    """What a test may do to a Kafka. Without the number of a node, counted from 1, all of them are meant."""

    @property
    def address(self) -> str:
        """The nodes' addresses, in order, with commas between them."""

    @property
    def folder(self) -> Path:
        """Has the log of node 1 in `node-1/data`, and so on."""

    def start(self, node: int | None = None) -> None:
        """Start what does not run, and wait until it serves."""

    def stop(self, node: int | None = None) -> None:
        """Orderly stop, data kept."""

    def kill(self, node: int | None = None) -> None:
        """SIGKILL, data kept as the crash left it."""

    def freeze(self, node: int | None = None) -> None:
        """SIGSTOP: connections stay open, nothing answers."""

    def thaw(self, node: int | None = None) -> None:
        """SIGCONT."""


class KafkaCluster:
    """`Brokers` whose processes are ours."""

    def __init__(self, home: Path, folder: Path, *, nodes: int = 1, settings: Mapping[str, str] | None = None) -> None:
        """`home` is the distribution; `settings` of the brokers replace ours."""
        self.folder = folder
        ports = free_ports(2 * nodes)
        voters = ",".join(f"{i + 1}@127.0.0.1:{port}" for i, port in enumerate(ports[nodes:]))
        replicas = {
            "default.replication.factor": str(nodes),
            "min.insync.replicas": str(max(1, nodes - 1)),
            "offsets.topic.replication.factor": str(nodes),
            "transaction.state.log.replication.factor": str(nodes),
            "transaction.state.log.min.isr": str(max(1, nodes - 1)),
        }
        common = {**SETTINGS, **replicas, **(settings or {}), "controller.quorum.voters": voters}
        self._nodes = [
            _Node(home, folder / f"node-{i + 1}", ports[i], ports[nodes + i], common | {"node.id": str(i + 1)})
            for i in range(nodes)
        ]

    @property
    def address(self) -> str:
        """The nodes' addresses, in order."""
        return ",".join(node.address for node in self._nodes)

    def start(self, node: int | None = None) -> None:
        away = [one for one in self._of(node) if not one.alive()]
        for one in away:
            one.spawn()
        for one in away:
            one.wait_ready()

    def stop(self, node: int | None = None) -> None:
        for one in self._of(node):
            one.stop()

    def kill(self, node: int | None = None) -> None:
        for one in self._of(node):
            one.kill()

    def freeze(self, node: int | None = None) -> None:
        for one in self._of(node):
            one.freeze()

    def thaw(self, node: int | None = None) -> None:
        for one in self._of(node):
            one.thaw()

    def _of(self, node: int | None) -> list[_Node]:
        return self._nodes if node is None else [self._nodes[node - 1]]


@contextmanager
def kafka_cluster(folder: Path, *, nodes: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[KafkaCluster]:
    """A started one of the test's own (about 4 s), killed afterwards. Skips the test where there is no Kafka."""
    cluster = KafkaCluster(kafka_home(), folder, nodes=nodes, settings=settings)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()  # stopped together, the last one can wait minutes for the others to elect a controller


class _Node(ApacheKafka):
    """One of several; all nodes have the same cluster id, which has no other meaning."""

    def __init__(self, home: Path, folder: Path, port: int, controller: int, settings: Mapping[str, str]) -> None:
        super().__init__(home, folder, port=port)
        self.ports["controller"] = controller
        self._settings = settings

    def settings(self) -> dict[str, str]:
        """Its `server.properties`."""
        return super().settings() | dict(self._settings)

    def cluster_id(self) -> str:
        """The same for all nodes."""
        return "kTestsTestsTestsTestsQ"
