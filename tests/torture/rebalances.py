"""Workers come and go under load, and producers do what they must not."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from mimn.state import partition_of
from support.world import World
from torture.fleet import let_pass, producing
from torture.stage import Size, Stage, Tally
from torture.watching import Watch, owned, partitions, wait_stopped

N = 16
LEASE_S = 5
"""UIC's default: here it matters how long things take."""
MOVE_S = 8
"""By then a killed worker's partitions fold elsewhere, its lease included."""
PAUSE_S = 4


@dataclass
class Change:
    """Something that happened to the workers, and what came of it."""

    what: str
    began: float
    """Seconds since 1970."""
    victims: set[int] = field(default_factory=set)
    """Partitions of a worker that was killed or frozen: they wait for its lease to end."""
    pauses: Mapping[int, float] = field(default_factory=dict)
    """By partition, in seconds."""


def workers_that_come_and_go_stop_nobody_for_long(stage: Stage, size: Size) -> Tally:
    """A worker joins, leaves in order, is killed, or frozen past its lease and thawed, every 10 s for 5 minutes (fast:
    every 3 s, six times). Partitions stand still (by their progress, while events come for all of them) for 4 s at
    most, p99 over changes and partitions, and those of a killed or frozen worker fold elsewhere within 8 s."""
    changes, every_s = (30, 10) if size == "full" else (6, 3)
    world = stage.world("rebalance", stage.valkey().address, partitions=N, UIC_FOLD__LEASE_S=str(LEASE_S))
    shift = Shift(world)
    done = []
    with producing(world, 400, a_second=400), Pauses(world) as pauses:
        for n in range(changes):
            done.append(shift.change(n))
            let_pass(done[-1].began + every_s - time.time())
        ended = time.time()
    world.wait_folded(60)
    for change, end in zip(done, [*(c.began for c in done[1:]), ended], strict=True):
        change.pauses = pauses.within(change.began, end)
    tally = Tally.of(world.compare(), trials=changes, faults=changes, figures=_figures(done))
    return tally + Tally(wrong=tuple(_wrong(done, size)))


def _figures(done: list[Change]) -> dict[str, float]:
    return {
        "pause of a partition at a change, p99, s": p99(_orderly(done)),
        "pause of a partition at a change, longest, s": max(_orderly(done)),
        "a killed or frozen worker's partitions fold elsewhere after, longest, s": max(_moved(done), default=0.0),
    }


def _wrong(done: list[Change], size: Size) -> list[str]:
    if size == "fast":
        return []  # how long things take is judged where nothing else runs
    wrong = []
    if (pause := p99(_orderly(done))) > PAUSE_S:
        wrong.append(f"partitions stood still for {pause:.1f} s, p99")
    wrong += [f"{took:.1f} s until a killed worker's partition was folded" for took in _moved(done) if took > MOVE_S]
    return wrong


def _orderly(done: list[Change]) -> list[float]:
    return [pause for c in done for p, pause in c.pauses.items() if p not in c.victims]


def _moved(done: list[Change]) -> list[float]:
    return [c.pauses[p] for c in done for p in c.victims]


def p99(values: list[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[int(len(values) * 0.99)]


class Shift:
    """Two workers, sometimes three, and what happens to them in turn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.workers = [world.new_worker(), world.new_worker()]
        for worker in self.workers:
            worker.spawn()
        for worker in self.workers:
            worker.wait_ready()
        self._frozen: UicWorker | None = None
        # A worker without partitions is ready, too: while the first to join gives up half of its own, all are owned.
        until(lambda: all(map(owned, self.workers)), "both workers have partitions", within_s=60)
        self._wait_settled()
        self._turns: tuple[tuple[str, Callable[[], UicWorker | None]], ...] = (
            ("one joins", self._join),
            ("one leaves", self._leave),
            ("one joins", self._join),
            ("one is frozen", self._freeze),
            ("a zombie returns", self._thaw),
            ("one is killed", self._kill),
        )

    def change(self, n: int) -> Change:
        """The n-th; returns once every partition has an owner again."""
        what, act = self._turns[n % len(self._turns)]
        holds = {worker: {p["partition"] for p in partitions(worker)} for worker in self.workers}
        began = time.time()
        victim = act()
        self._wait_settled()
        return Change(what, began, set() if victim is None else holds[victim])

    def _join(self) -> None:
        self.workers.append(self._world.worker())
        self._wait_for_its_share("the one that joined")

    def _leave(self) -> None:
        self.workers.pop(0).stop()

    def _kill(self) -> UicWorker:
        victim = self.workers.pop(0)
        victim.kill()
        return victim

    def _freeze(self) -> UicWorker:
        self._frozen = self.workers.pop(0)
        self._frozen.freeze()
        return self._frozen

    def _thaw(self) -> None:
        if self._frozen is None:
            raise AssertionError("no worker was frozen")
        self._frozen.thaw()
        self.workers.append(self._frozen)
        self._wait_for_its_share("the zombie")

    def _wait_for_its_share(self, who: str) -> None:
        until(lambda: owned(self.workers[-1]), f"{who} has partitions", within_s=60)

    def _wait_settled(self) -> None:
        until(lambda: sum(map(owned, self.workers)) == N, "every partition has an owner", within_s=60)


class Pauses(Watch):
    """When each partition's progress moved, while events come for all of them."""

    def __init__(self, world: World) -> None:
        super().__init__(every_s=0.05)
        self._world = world
        self._moved: dict[int, list[float]] = {p: [time.time()] for p in range(N)}
        self._seen: dict[int, bytes] = {}

    def look(self) -> None:
        """Which partitions have moved since the last look."""
        now = time.time()
        for p, record in self._world.progress_records().items():
            if self._seen.get(p) != record:
                self._seen[p] = record
                self._moved[p].append(now)

    def within(self, began: float, ended: float) -> dict[int, float]:
        """By partition, its longest pause of those whose middle lies between two times (s since 1970): a pause begins
        with the last commit before its cause."""
        longest = {}
        for p, moved in self._moved.items():
            longest[p] = max((b - a for a, b in pairwise(moved) if began <= (a + b) / 2 < ended), default=0.0)
        return longest


def producers_that_misroute_stop_uic_by_name(stage: Stage, size: Size) -> Tally:
    """98 % of the records lie where librdkafka's default partitioner (crc32) puts them. UIC stops, says why, and what
    it has folded is right."""
    world = stage.world("misrouted", stage.valkey().address, partitions=N)
    worker = world.worker()
    world.produce(300)
    world.wait_folded()
    for i in range(800):
        user = f"user-{i % 90}"
        astray = zlib.crc32(user.encode()) % N
        right = partition_of(user.encode(), N)
        at = right if i % 50 == 0 or astray == right else astray
        place = world.producer.send(
            world.topics.events, key=user.encode(), value=world.event(user).SerializeToString(), partition=at
        )
        if at != right:
            world.dead.add((at, place.get(timeout=60).offset))
    wait_stopped([worker], "misrouted")
    return Tally.of(world.compare(snapshot=True))
