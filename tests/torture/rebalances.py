"""Workers come and go under load, a user floods, and producers do what they must not."""

from __future__ import annotations

import threading
import time
import zlib
from typing import Self

from kafka import KafkaAdminClient

from localstack.wait import until
from mimn.state import partition_of
from torture.fleet import producing
from torture.stage import Size, Stage, Tally
from torture.watching import owned
from world import World

N = 16
MOVE_S = 15
"""By then a killed worker's partitions fold elsewhere (beyond its session)."""


def workers_that_come_and_go_stop_nobody_for_long(stage: Stage, size: Size) -> Tally:
    """A worker joins, leaves in order or is killed every 10 s for 5 minutes (fast: every 3 s, five times): events of
    all partitions go on being folded; the longest pause of any partition is measured from its progress."""
    changes, every_s = (30, 10) if size == "full" else (5, 3)
    world = stage.world("rebalance", stage.valkey().address, partitions=N)
    workers = [world.worker()]
    moved: list[float] = []
    with producing(world, 200, a_second=300), Pauses(world) as pauses:
        for change in range(changes):
            began = time.monotonic()
            if len(workers) == 1:
                workers.append(world.worker())
            elif change % 4 == 1:
                workers.pop(0).stop()
            else:
                workers.pop(0).kill()
                until(lambda: owned(workers[0]) == N, "the other has all", within_s=MOVE_S + stage.session_ms / 1000)
                moved.append(time.monotonic() - began)
            until(lambda began=began: time.monotonic() >= began + every_s, "time passes", within_s=every_s + 5)  # type: ignore[misc]  # mypy cannot infer a lambda's default
    world.wait_folded(60)
    figures = {"a killed worker's partitions fold elsewhere after, s": max(moved, default=0.0)}
    figures |= {"pause of a partition, p99, s": pauses.p99, "pause of a partition, longest, s": pauses.longest}
    tally = Tally.of(world.compare(), trials=changes, faults=changes, figures=figures)
    late = [f"{took:.1f} s until a killed worker's partitions were folded" for took in moved if took > MOVE_S]
    return tally + Tally(wrong=tuple(late))


class Pauses:
    """How long each partition's progress stands still while events come for all of them. Looks in the background."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pauses: list[float] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pauses", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _look(self) -> None:
        seen: dict[int, tuple[bytes, float]] = {}
        while not self._ending.wait(0.05):
            now = time.monotonic()
            for p, record in self._world.progress_records().items():
                before = seen.get(p)
                if before is None or before[0] != record:
                    if before is not None:
                        self._pauses.append(now - before[1])
                    seen[p] = (record, now)

    @property
    def longest(self) -> float:
        """Seconds."""
        return max(self._pauses, default=0.0)

    @property
    def p99(self) -> float:
        """Seconds, over all the pauses between two commits of a partition."""
        some = sorted(self._pauses)
        return some[int(len(some) * 0.99)] if some else 0.0


def a_flood_of_one_user_delays_no_other_partition(stage: Stage, size: Size) -> Tally:
    """10,000 events of one user at once (fast: 2,000), and as many users with one event each (full: 100,000): users of
    other partitions are folded before the flood is."""
    burst, crowd = (10_000, 100_000) if size == "full" else (2000, 2000)
    world = stage.world("flood", stage.valkey().address, partitions=N, UIC_FOLD__MAX_STATES="256")
    world.worker()
    world.produce(200)
    world.wait_folded()
    hot = "user-0"
    at = partition_of(hot.encode(), N)
    world.produce(burst, [hot])
    began = time.monotonic()
    others = [user for user in (f"user-{i}" for i in range(200)) if partition_of(user.encode(), N) != at]
    world.produce(200, others)
    ends = world.log().ends
    rest = [p for p in range(N) if p != at]

    def folded(partitions: list[int]) -> bool:
        found = {p: world.progress(p) for p in partitions}
        return all(record is not None and record.next_offset == ends[p] for p, record in found.items())

    until(lambda: folded(rest), "the others are folded", within_s=60)
    others_s = time.monotonic() - began
    until(lambda: folded([at]), "the flood is folded", within_s=120)
    flood_s = time.monotonic() - began
    world.wait_folded(60)
    tally = Tally.of(world.compare(), figures={"others folded after, s": others_s, "flood folded after, s": flood_s})
    for begin in range(0, crowd, 2000):
        for i in range(begin, begin + 2000):
            world.send(f"one-{i}")
        world.producer.flush(timeout=60)
    took = world.wait_folded(120)
    late = (f"others waited {others_s:.1f} s, the flood took {flood_s:.1f} s",) if others_s > flood_s + 2 else ()
    return tally + Tally.of(world.compare(), figures={"crowd folded after, s": took}) + Tally(wrong=late)


def a_topic_that_grows_and_producers_that_misroute_stop_uic_by_name(stage: Stage, size: Size) -> Tally:
    """98 % of the records lie where librdkafka's default partitioner (crc32) puts them; and in another world, the topic
    gets one partition more. UIC stops, says why, and what it has folded is right."""
    store = stage.valkey()
    tally = Tally()
    for wrong in ("misrouted", "partition_count"):
        world = stage.world(wrong.replace("_", "-"), store.address, partitions=N)
        worker = world.worker()
        world.produce(300)
        world.wait_folded()
        if wrong == "misrouted":
            for i in range(800):
                user = f"user-{i % 90}"
                astray = zlib.crc32(user.encode()) % N
                right = partition_of(user.encode(), N)
                at = right if i % 50 == 0 or astray == right else astray
                place = world.producer.send(
                    world.topics.events, key=user.encode(), value=world.event(user).SerializeToString(), partition=at
                )
                if at != right:
                    world.dead.add((at, place.get(timeout=20).offset))
        else:
            admin = KafkaAdminClient(bootstrap_servers=world.topics.bootstrap)
            admin.create_partitions({world.topics.events: N + 1})
            admin.close()
        until(lambda worker=worker: not worker.ready(), "UIC says NOT_SERVING", within_s=60)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        said = worker.log.read_text()
        if wrong not in said:
            tally += Tally(wrong=(f"{wrong} is not in the log of UIC",))
        tally += Tally.of(world.compare(snapshot=True))
    return tally
