"""One user floods, then a hundred thousand users of one partition come at once: who waits, and for how long.

Freshness is the time from an event's sending until progress in the store has passed it, of a steady load of other users
that goes on all the time. The flood comes from a process of its own, which gives way to all others: it stands for other
machines, and must not slow down the log, UIC or the measurement.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from typing import Any, NamedTuple

from kafka import KafkaProducer

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from mimn.state import decode_progress, partition_of
from support.world import World
from torture.stage import Size, Stage, Tally
from torture.watching import Stalls
from uic.priority import give_way

N = 8
HOT = "hot"
AT = partition_of(HOT.encode(), N)
"""The partition that is flooded."""
A_SECOND = 400
"""Events of the steady load."""
TIMES = 2
"""Users of other partitions wait at most this many times as long as without the flood."""
BEHIND_A_STALL_S = 1.0
"""By then what came meanwhile is folded."""


class Flood(NamedTuple):
    """From when to when, in s since 1970, and how many events."""

    began: float
    ended: float
    events: int


def a_flood_in_one_partition_delays_no_other(stage: Stage, size: Size) -> Tally:
    """10,000 events of one user in a burst, five times (fast: once), and 100,000 users of the same partition with one
    event each (fast: 10,000). Users of other partitions: freshness within 2 times, p99; of the same one: at most the
    burst ÷ the rate at which one user is folded, measured before."""
    burst, crowd, rounds, quiet_s = (10_000, 100_000, 5, 20) if size == "full" else (10_000, 10_000, 1, 4)
    told = {"UIC_FOLD__MAX_STATES": "256", "UIC_FOLD__LEASE_S": "5"}  # as in production
    world = stage.world("flood", stage.valkey().address, partitions=N, **told)
    worker = world.worker()
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_elsewhere) as source:
        rates = sorted(burst / _alone(world, worker, source, burst) for _ in range(3 if size == "full" else 1))
        rate = rates[len(rates) // 2]
        with steady(world, None if size == "full" else stage.stalls) as fresh:
            until_passed(quiet_s)
            quiet = Flood(fresh.began, time.time(), 0)
            floods = [_flood(world, source, fresh, [HOT] * burst) for _ in range(rounds)]
            crowds = [_flood(world, source, fresh, list(islice(_of_the_same_partition("one"), crowd)))]
    world.wait_folded(120)
    tally = Tally.of(world.compare(), trials=rounds + 1, faults=rounds + 1, figures={"one user's events/s": rate})
    usual = p99(fresh.of_others(quiet))
    figures = {"freshness of others, quiet": usual, "others, quiet, once in the log": p99(fresh.since_logged(quiet))}
    tally += Tally(figures={f"{name}, p99, s": [round(s, 3)] for name, s in figures.items()})
    for what, some in (("one user", floods), ("a crowd", crowds)):
        others = p99([s for flood in some for s in fresh.of_others(flood)])
        logged = p99([s for flood in some for s in fresh.until_logged(flood)])
        since = p99([s for flood in some for s in fresh.since_logged(flood)])
        same = max((s for flood in some for s in fresh.of_same(flood)), default=0.0)
        lasted = max(flood.ended - flood.began - fresh.stalled_s(flood.began, flood.ended) for flood in some)
        # How long things take exactly is judged where nothing else runs; that others do not wait for the flood, always.
        most_others = TIMES * usual if size == "full" else max(TIMES * usual, lasted / 2)
        most_same = some[0].events / rate + usual
        figures = {
            "others, p99": others,
            "others, until the log acknowledged, p99": logged,
            "others, once in the log, p99": since,
            "same partition, longest": same,
            "the flood lasted": lasted,
        }
        tally += Tally(figures={f"{what}: {name}, s": [round(s, 3)] for name, s in figures.items()})
        if others > most_others:
            tally += Tally(wrong=(f"{what}: others waited {others:.3f} s, p99, and {usual:.3f} s without",))
        if size == "full" and same > most_same:
            tally += Tally(wrong=(f"{what}: the same partition waited {same:.3f} s, not {most_same:.3f} s at most",))
    return tally


def _elsewhere() -> None:
    """Where processors are shared out by session, niceness alone gives way only to the session that measures."""
    os.setsid()
    give_way(19)


def _alone(world: World, worker: UicWorker, source: Executor, burst: int) -> float:
    """Seconds in which a burst of one user is folded that was there before."""
    worker.freeze()
    poured = source.submit(pour, world.topics.bootstrap, world.topics.events, [HOT] * burst).result(240)
    worker.thaw()
    began = time.monotonic()
    until(lambda: _folded(world, poured.last), "the burst is folded", within_s=120, every_s=0.005)
    return time.monotonic() - began


def _flood(world: World, source: Executor, fresh: Freshness, users: list[str]) -> Flood:
    poured = source.submit(pour, world.topics.bootstrap, world.topics.events, users).result(240)
    until(lambda: _folded(world, poured.last), "the flood is folded", within_s=120)
    flood = Flood(poured.began, time.time(), len(users))
    until_passed(2)  # what came behind the flood is folded as well
    return flood


def _folded(world: World, offset: int) -> bool:
    progress = world.progress(AT)
    return progress is not None and progress.next_offset > offset


def until_passed(seconds: float) -> None:
    """The load goes on so long."""
    began = time.monotonic()
    until(lambda: time.monotonic() - began >= seconds, "time passes", within_s=seconds + 5)


def _of_the_same_partition(name: str) -> Iterator[str]:
    return (user for user in (f"{name}-{i}" for i in count()) if partition_of(user.encode(), N) == AT)


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds; 0 of none."""
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


class Poured(NamedTuple):
    """When a flood began, in s since 1970, and the offset of its last record."""

    began: float
    last: int


def pour(bootstrap: str, topic: str, users: Sequence[str]) -> Poured:
    """One event of each of `users`, all at once; runs in a process of its own."""
    now = time.time_ns() // 1_000_000
    values = [
        BehaviorEvent(user_id=user, item_id=random.randint(1, 80), event_time=now).SerializeToString() for user in users
    ]
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
    try:
        began = time.time()
        sent = [producer.send(topic, key=user.encode(), value=value) for user, value in zip(users, values, strict=True)]
        producer.flush(timeout=60)
        return Poured(began, max(future.get(timeout=60).offset for future in sent))
    finally:
        producer.close(timeout=5)


class Freshness:
    """When each event of the steady load was sent, and when each partition's progress moved."""

    def __init__(self, world: World, stalls: Stalls | None) -> None:
        """`stalls`: events that wait while the machine stalls, or come in the crowd behind it, are not looked at."""
        self.began = time.time()
        self._world = world
        self._stalls = stalls
        self._steady = time.time() - time.monotonic()
        self._sent: list[Sent] = []
        self._passed: list[list[tuple[int, float]]] = [[] for _ in range(N)]
        self._sent_all = threading.Event()
        others = (user for user in (f"user-{i}" for i in count()) if partition_of(user.encode(), N) != AT)
        self._users = [*islice(others, 180), *islice(_of_the_same_partition("user"), 20)]
        self._sender = threading.Thread(target=self._send, name="steady load", daemon=True)
        self._looker = threading.Thread(target=self._look, name="freshness", daemon=True)

    def start(self) -> None:
        """Send, and look."""
        self._sender.start()
        self._looker.start()

    def stop(self) -> None:
        """Send no more, and look until all that was sent is folded."""
        self._sent_all.set()
        self._sender.join()
        self._looker.join()

    def of_others(self, when: Flood) -> list[float]:
        """Of the events that were sent meanwhile to other partitions than the flooded one, in s."""
        return [s for p, s, _ in self._within(when) if p != AT]

    def of_same(self, when: Flood) -> list[float]:
        """Of those that were sent to the flooded one."""
        return [s for p, s, _ in self._within(when) if p == AT]

    def until_logged(self, when: Flood) -> list[float]:
        """Until the log acknowledged those that were sent meanwhile to other partitions, in s."""
        return [sent.acknowledged - sent.at for sent, place in self._sent_within(when) if place.partition != AT]

    def since_logged(self, when: Flood) -> list[float]:
        """From there until progress has passed them, in s: UIC's part. Below 0 if that was seen first."""
        return [s for p, _, s in self._within(when) if p != AT]

    def _within(self, when: Flood) -> list[tuple[int, float, float]]:
        """Partition, and seconds since the event was sent, and since the log acknowledged it."""
        found = []
        for sent, place in self._sent_within(when):
            passed = self._passed[place.partition]
            seen = bisect_right(passed, (place.offset, float("inf")))
            at = passed[seen][1]
            if self.stalled_s(sent.at - BEHIND_A_STALL_S, at):
                continue
            found.append((place.partition, at - sent.at, at - sent.acknowledged))
        return found

    def stalled_s(self, began: float, ended: float) -> float:
        """For how long the machine stalled between two times in s since 1970."""
        return 0.0 if self._stalls is None else self._stalls.within(began - self._steady, ended - self._steady)

    def _sent_within(self, when: Flood) -> list[tuple[Sent, Any]]:
        """With their places in the log."""
        return [(sent, sent.place.get(timeout=60)) for sent in self._sent if when.began <= sent.at < when.ended]

    def _all_folded(self) -> bool:
        places = [sent.place.get(timeout=60) for sent in self._sent]
        return all(self._passed[at.partition][-1][0] > at.offset for at in places)

    def _send(self) -> None:
        began = time.monotonic()
        for n in count():
            if self._sent_all.wait(max(0.0, began + n / A_SECOND - time.monotonic())):
                return
            sent = Sent(time.time(), self._world.send(self._world.random.choice(self._users)))
            sent.place.add_callback(sent.was_acknowledged)
            self._sent.append(sent)

    def _look(self) -> None:
        names = [self._world.keys.progress(p) for p in range(N)]
        seen: list[bytes | None] = [None] * N
        while self._sender.is_alive() or not self._all_folded():
            time.sleep(0.004)
            values = self._world.client.mget(names)
            now = time.time()
            for p, value in enumerate(values):
                if value is not None and value != seen[p]:
                    seen[p] = value
                    self._passed[p].append((decode_progress(value).next_offset, now))


@dataclass(slots=True)
class Sent:
    """An event of the steady load."""

    at: float
    """Seconds since 1970."""
    place: Any
    """The producer's future."""
    acknowledged: float = 0.0
    """When the producer heard that the log has it: what passed before is not UIC's."""

    def was_acknowledged(self, _: object) -> None:
        """On the producer's thread."""
        self.acknowledged = time.time()


@contextmanager
def steady(world: World, stalls: Stalls | None) -> Iterator[Freshness]:
    """A steady load whose freshness is measured. Meanwhile nothing is collected here: with the futures of thousands of
    events, that would stop those who send and look for longer than what they measure."""
    fresh = Freshness(world, stalls)
    gc.collect()
    gc.disable()
    fresh.start()
    try:
        yield fresh
    finally:
        fresh.stop()
        gc.enable()
