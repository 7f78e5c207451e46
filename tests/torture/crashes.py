"""UIC is killed by SIGKILL just after a step of the protocol, again and again, in the middle of a backlog.

After each kill the store is a snapshot that must be the fold of exactly as much of the log as its progress says; after
the last one a worker that is left alone must bring it to the end of the log.
"""

from __future__ import annotations

import signal
from functools import partial
from itertools import cycle, islice

from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from support.world import World
from torture.stage import Size, Stage, Tally, side_by_side

STEPS = ("poll", "decode", "load", "fold", "commit", "advise")
LANES = 6
EVENTS = 120
"""The backlog before each kill, of 40 users; more come until it has happened."""


def killed_after_each_protocol_step(stage: Stage, size: Size, steps: tuple[str, ...] = STEPS) -> Tally:
    """100 kills a step (3 in the fast size), in lanes that run side by side."""
    kills = (100 if size == "full" else 3) * len(steps)
    store = stage.valkey()
    lanes = [list(islice(cycle(steps), kills))[lane::LANES] for lane in range(LANES)]
    parts = [(lane, tuple(some)) for lane, some in enumerate(lanes) if some]
    return side_by_side(partial(_lane, stage, store.address), parts, LANES)


def _lane(stage: Stage, url: str, part: tuple[int, tuple[str, ...]]) -> Tally:
    lane, steps = part
    with stage.passing_world(
        f"crash-{lane}", url, partitions=4, UIC_FOLD__MAX_STATES="4", UIC_FOLD__MAX_WAVES="4"
    ) as world:
        tally = Tally()
        for kill, step in enumerate(steps):
            world.produce(EVENTS)
            worker = world.new_worker(**crashing(step, world.random.randrange(5)))
            worker.spawn()
            wait_killed(world, worker)
            found = world.compare(snapshot=True)
            found.wrong = [f"kill {kill} after {step}: {what}" for what in found.wrong]
            tally += Tally.of(found)
        last = world.worker()
        world.wait_folded(120)
        last.stop()
        return tally


def crashing(step: str, batches: int) -> dict[str, str]:
    """What tells a worker to crash; ports of its own choice, because lanes start workers at the same time."""
    ports = {"UIC_GRPC__PORT": "0", "UIC_ADMIN__PORT": "0"}
    return {"UIC_FAULT__CRASH_AFTER": step, "UIC_FAULT__BATCHES": str(batches), **ports}


def wait_killed(world: World, worker: UicWorker) -> None:
    """Keep the events coming until the fault point has killed the worker."""
    child = worker.child
    if child is None:
        raise AssertionError(f"{worker.name} was not started")

    def killed() -> bool:
        world.produce(10)
        return not child.alive()

    until(killed, "the fault point has killed the worker", within_s=240, every_s=0.2)
    if (status := child.stop()) != -signal.SIGKILL:
        raise AssertionError(f"{worker.name} ended with {status} and not by its fault point:\n{child.tail()}")
