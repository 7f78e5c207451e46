"""Redis clusters for tests: a node that others can join, the smallest cluster, a single server with every slot, and one
with replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from localstack.ports import LOOPBACK, free_port
from localstack.valkey import Valkey
from localstack.wait import until

SLOTS = 16384


class ClusterNode(Valkey):
    """One node, which knows no other node and owns no slot yet. It enforces the cluster rules: slots, hash tags, and no
    script over two slots."""

    def __init__(self, folder: Path, *, appendfsync: str = "off") -> None:
        super().__init__(folder, appendfsync=appendfsync)
        # By default the bus listens at port + 10,000, which is out of range for a high port.
        self.bus = free_port()

    def command(self) -> list[str]:
        bus = ("--cluster-port", str(self.bus), "--cluster-node-timeout", "3000")
        return [*super().command(), "--cluster-enabled", "yes", *bus]


class OneNodeCluster(ClusterNode):
    """Owns every slot."""

    def ready(self) -> bool:
        """Owns every slot, and reports that the cluster is up."""
        if not super().ready():
            return False
        with redis.Redis.from_url(self.address, protocol=2, socket_timeout=1) as client:
            if client.cluster("INFO")["cluster_slots_assigned"] == "0":
                client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            return bool(client.cluster("INFO")["cluster_state"] == "ok")


def connect(node: ClusterNode) -> Any:
    """A client of one node, which knows nothing of clusters; redis-py leaves their commands without types."""
    return redis.Redis.from_url(node.address, protocol=2, socket_timeout=10)


def form(nodes: list[ClusterNode]) -> None:
    """Three masters that share the slots and know of each other."""
    bounds = [round(SLOTS * i / len(nodes)) for i in range(len(nodes) + 1)]
    for node, first, end in zip(nodes, bounds, bounds[1:], strict=False):
        with connect(node) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
    join(nodes)


def join(nodes: list[ClusterNode]) -> None:
    """Make nodes know of the first one and of each other."""
    for node in nodes[1:]:
        with connect(node) as client:
            client.execute_command("CLUSTER MEET", LOOPBACK, nodes[0].port, nodes[0].bus)

    def whole() -> bool:
        for node in nodes:
            with connect(node) as client:
                told = client.execute_command("CLUSTER INFO")
                if (told["cluster_state"], told["cluster_known_nodes"]) != ("ok", str(len(nodes))):
                    return False
        return True

    until(whole, "the cluster is whole", within_s=60)


def move_slot(
    nodes: list[ClusterNode], key: str, halfway: Callable[[], object] = lambda: None, *, to: int | None = None
) -> None:
    """Move the slot of a key to the next master, or to another of `nodes`, some keys at a time, as redis-cli does.
    `halfway` is called when the keys have moved and the slot has not."""
    with ExitStack() as ending:
        clients = [ending.enter_context(connect(node)) for node in nodes]
        slot = int(clients[0].execute_command("CLUSTER KEYSLOT", key))
        ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
        rows = clients[0].execute_command("CLUSTER SLOTS")
        at = next(ids.index(row[2][2].decode()) for row in rows if row[0] <= slot <= row[1])
        to = (at + 1) % len(nodes) if to is None else to
        clients[to].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[at])
        clients[at].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[to])
        while names := clients[at].execute_command("CLUSTER GETKEYSINSLOT", slot, 3):
            clients[at].execute_command("MIGRATE", LOOPBACK, nodes[to].port, "", 0, 5000, "KEYS", *names)
        halfway()
        for i in (to, at, *({*range(len(nodes))} - {at, to})):
            clients[i].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[to])


def replicate(replica: ClusterNode, master: ClusterNode) -> None:
    """Make a node that owns no slot the replica of a master."""
    with connect(replica) as client, connect(master) as of:
        client.execute_command("CLUSTER MEET", LOOPBACK, master.port, master.bus)
        identity = of.execute_command("CLUSTER MYID").decode()

        def replicates() -> bool:
            try:
                client.execute_command("CLUSTER REPLICATE", identity)
            except redis.ResponseError:  # it has not heard of the master yet
                return False
            return bool(client.info("replication")["master_link_status"] == "up")

        until(replicates, "the replica follows its master", within_s=60)


@contextmanager
def three_masters(folder: Path, *, each_alone: bool = False) -> Iterator[list[ClusterNode]]:
    """A cluster of three masters without replicas. `each_alone`: they go on answering while one is away."""
    with ExitStack() as ending:
        nodes = [ending.enter_context(ClusterNode(folder / f"node-{i}")) for i in range(3)]
        form(nodes)
        for node in nodes if each_alone else ():
            with connect(node) as client:
                client.config_set("cluster-require-full-coverage", "no")
        yield nodes


@contextmanager
def replicated(folder: Path) -> Iterator[list[ClusterNode]]:
    """A cluster of three masters, and then their three replicas in the same order."""
    with ExitStack() as ending:
        nodes = [ending.enter_context(ClusterNode(folder / f"node-{i}")) for i in range(6)]
        form(nodes[:3])
        for replica, master in zip(nodes[3:], nodes[:3], strict=True):
            replicate(replica, master)
        yield nodes
