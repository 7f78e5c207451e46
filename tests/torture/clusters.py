"""The store is a Redis cluster of three masters: slots move, one master is emptied, one dies and comes back."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import redis

from judge import Differs
from localstack.ports import LOOPBACK
from localstack.wait import until
from support.one_node_cluster import ClusterNode
from support.world import World
from torture.fleet import producing
from torture.stage import Size, Stage, Tally

N = 12
SLOTS = 16384
WITHIN_S = 30


def a_cluster_whose_slots_move_and_whose_masters_fail(stage: Stage, size: Size) -> Tally:
    """Under load: the slots of partitions move between masters one after another, a master is flushed, a master is
    killed and started again (AOF everysec). Five rounds (fast: one)."""
    tally = Tally()
    with ExitStack() as ending:
        nodes = [
            ending.enter_context(ClusterNode(stage.folder / f"node-{i}", appendfsync="everysec")) for i in range(3)
        ]
        form(nodes)
        world = stage.world("cluster", nodes[0].address, partitions=N, UIC_REDIS__MODE="cluster")
        ending.callback(world.close)
        world.worker()
        world.produce(300)
        world.wait_folded()
        for turn in range(5 if size == "full" else 1):
            with producing(world, 60, a_second=200) as produced:
                for p in range(4):
                    move(world, nodes, (turn + p) % N)
                at = produced()
                until(lambda at=at: produced() > at + 100, "the load goes on", within_s=60)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            tally += _back(world, "slots moved")
            with producing(world, 60, a_second=200), connect(nodes[turn % 3]) as client:
                client.flushall()
            tally += _back(world, "one master flushed")
            with producing(world, 60, a_second=200) as produced:
                nodes[(turn + 1) % 3].kill()
                at = produced()
                until(lambda at=at: produced() > at + 100, "the load goes on", within_s=60)  # type: ignore[misc]  # as above
                nodes[(turn + 1) % 3].start()
            tally += _back(world, "one master killed")
    return tally


def _back(world: World, what: str) -> Tally:
    began = time.monotonic()
    try:
        world.wait_folded(WITHIN_S)
    except Differs as late:
        return Tally.failed(late, of=what)
    return Tally.of(world.compare(), figures={f"back after the fault, s ({what})": time.monotonic() - began})


def connect(node: ClusterNode) -> Any:
    """A client of one node, which knows nothing of clusters; redis-py leaves their commands without types."""
    return redis.Redis.from_url(node.address, protocol=2, socket_timeout=10)


def form(nodes: list[ClusterNode]) -> None:
    """Three masters that share the slots and know of each other."""
    bounds = [round(SLOTS * i / len(nodes)) for i in range(len(nodes) + 1)]
    for node, first, end in zip(nodes, bounds, bounds[1:], strict=False):
        with connect(node) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            if node is not nodes[0]:
                client.execute_command("CLUSTER MEET", LOOPBACK, nodes[0].port, nodes[0].bus)

    def whole() -> bool:
        for node in nodes:
            with connect(node) as client:
                told = client.execute_command("CLUSTER INFO")
                if (told["cluster_state"], told["cluster_known_nodes"]) != ("ok", str(len(nodes))):
                    return False
        return True

    until(whole, "the cluster is whole", within_s=60)


def move(world: World, nodes: list[ClusterNode], partition: int) -> None:
    """Move a partition's slot to the next master, some keys at a time, as redis-cli does."""
    with ExitStack() as ending:
        clients = [ending.enter_context(connect(node)) for node in nodes]
        slot = int(clients[0].execute_command("CLUSTER KEYSLOT", world.keys.progress(partition)))
        ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
        rows = clients[0].execute_command("CLUSTER SLOTS")
        at = next(ids.index(row[2][2].decode()) for row in rows if row[0] <= slot <= row[1])
        to = (at + 1) % len(nodes)
        clients[to].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[at])
        clients[at].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[to])
        while names := clients[at].execute_command("CLUSTER GETKEYSINSLOT", slot, 3):
            clients[at].execute_command("MIGRATE", LOOPBACK, nodes[to].port, "", 0, 5000, "KEYS", *names)
        for i in (to, at, 3 - at - to):
            clients[i].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[to])
