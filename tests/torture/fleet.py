"""Several UIC workers share a log while they are killed, frozen, thawed, added and taken away at random."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from support.world import World
from torture.stage import Size, Stage, Tally

MOST = 3
FAULT_S = 4
"""About how long a fault takes: the load is spread over all of them."""


def three_workers_killed_frozen_and_rescaled_at_random(stage: Stage, size: Size) -> Tally:
    """200,000 events of 1,000 users and 40 faults (fast: 6,000 of 200, and 6), drawn from the stage's seed."""
    events, users, faults = (200_000, 1000, 40) if size == "full" else (6000, 200, 6)
    world = stage.world("fleet", stage.valkey().address, partitions=16, UIC_FOLD__MAX_WAVES="16")
    fleet = Fleet(world, stage.lease_s)
    fleet.scale(MOST)
    with producing(world, users, a_second=events // (FAULT_S * faults)) as produced:
        for _ in range(faults):
            fleet.suffer()
        until(lambda: produced() >= events, "the load is whole", within_s=600)
    fleet.scale(2)
    took = world.wait_folded(120)
    return Tally.of(world.compare(), faults=fleet.faults, figures={"caught up after the last event, s": took})


class Fleet:
    """The workers that are meant to run, and what is done to them."""

    def __init__(self, world: World, lease_s: float) -> None:
        self._world = world
        self._lease_s = lease_s
        self._random = world.random.__class__(world.random.random())
        self.running: list[UicWorker] = []
        self.faults = 0

    def scale(self, to: int) -> None:
        """Add workers, or take some away in good order."""
        added = []
        while len(self.running) > to:
            self.running.pop(self._random.randrange(len(self.running))).stop()
        while len(self.running) < to:
            added.append(self._world.new_worker())
            self.running.append(added[-1])
            added[-1].spawn()
        for worker in added:
            worker.wait_ready()

    def suffer(self) -> None:
        """One fault."""
        self.faults += 1
        fault = self._random.choice([self.kill, self.freeze, self.freeze, self.rescale])
        fault()

    def kill(self) -> None:
        """SIGKILL, and another takes the place."""
        victim = self.running.pop(self._random.randrange(len(self.running)))
        victim.kill()
        self.scale(len(self.running) + 1)

    def freeze(self) -> None:
        """SIGSTOP for less than a lease, or for longer; then SIGCONT."""
        victim = self._random.choice(self.running)
        victim.freeze()
        frozen_s = self._random.uniform(0.2, 2.5) * self._lease_s
        thawed_at = time.monotonic() + frozen_s
        until(lambda: time.monotonic() >= thawed_at, "time passes", within_s=frozen_s + 5)
        victim.thaw()

    def rescale(self) -> None:
        """To one, to three or to two."""
        self.scale(self._random.choice([n for n in (1, 2, MOST) if n != len(self.running)]))


@contextmanager
def producing(world: World, users: int | Sequence[str], *, a_second: int = 0) -> Iterator[Produced]:
    """Events in the background, `a_second` or as fast as they are acknowledged; the count is of those acknowledged."""
    produced = Produced(world, users, a_second)
    produced.thread.start()
    try:
        yield produced
    finally:
        produced.stopping.set()
        produced.thread.join()
    if produced.failure is not None:
        raise produced.failure


class Produced:
    """How many events were acknowledged so far."""

    def __init__(self, world: World, users: int | Sequence[str], a_second: int) -> None:
        self._world = world
        self._users = users
        self._a_second = a_second
        self._count = 0
        self.failure: Exception | None = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __call__(self) -> int:
        """The count; raises what ended the load."""
        if self.failure is not None:
            raise self.failure
        return self._count

    def _run(self) -> None:
        began = time.monotonic()
        n = 200 if not self._a_second else max(1, self._a_second // 10)
        try:
            while not self.stopping.is_set():
                self._world.produce(n, self._users)
                self._count += n
                if self._a_second:
                    self.stopping.wait(max(0.0, began + self._count / self._a_second - time.monotonic()))
        except Exception as error:  # kept for the caller that requests the count
            self.failure = error
