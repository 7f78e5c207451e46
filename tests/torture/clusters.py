"""The store is a Redis cluster of three masters: slots move, one master is emptied, one dies and comes back."""

from __future__ import annotations

import time
from contextlib import ExitStack

from judge import Differs
from localstack.wait import until
from support.one_node_cluster import ClusterNode, connect, form, move_slot
from support.world import World
from torture.fleet import producing
from torture.stage import Size, Stage, Tally

N = 12
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
                    move_slot(nodes, world.keys.progress((turn + p) % N))
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
