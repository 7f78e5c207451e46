"""Several UIC workers that share a log, what is done to them, and the load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from support.world import World

MOST = 3


class Fleet:
    """The workers that are meant to run, and what is done to them."""

    def __init__(self, world: World, lease_s: float) -> None:
        self._world = world
        self._lease_s = lease_s
        self._random = world.random.__class__(world.random.random())
        self.running: list[UicWorker] = []

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

    def suffer(self, n: int) -> None:
        """Faults of workers, drawn at random."""
        for _ in range(n):
            self._random.choice([self.replace, self.freeze, self.freeze, self.rescale])()

    def kill(self) -> None:
        """SIGKILL."""
        self.running.pop(self._random.randrange(len(self.running))).kill()

    def replace(self) -> None:
        """SIGKILL, and another takes the place."""
        self.kill()
        self.scale(len(self.running) + 1)

    def freeze(self, least: float = 0.2) -> None:
        """SIGSTOP for a time between `least` and 2.5 leases; then SIGCONT."""
        victim = self._random.choice(self.running)
        victim.freeze()
        let_pass(self._random.uniform(least, 2.5) * self._lease_s)
        victim.thaw()

    def freeze_all(self) -> None:
        """SIGSTOP until all leases ran out; they wake when one more holds one."""
        sleepers, leases = tuple(self.running), self._world.keys.leases
        for worker in sleepers:
            worker.freeze()
        until(lambda: not self._world.client.exists(leases), "all leases ran out", within_s=60)
        self.running.append(self._world.new_worker())
        self.running[-1].spawn()
        until(lambda: self._world.client.exists(leases), "the heir holds one", within_s=120)
        for worker in sleepers:
            worker.thaw()
        self.running[-1].wait_ready()

    def rescale(self) -> None:
        """To one, to three or to two."""
        self.scale(self._random.choice([n for n in (1, 2, MOST) if n != len(self.running)]))


def let_pass(seconds: float) -> None:
    """Return after so long."""
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() >= ends, "time passes", within_s=seconds + 5)


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
