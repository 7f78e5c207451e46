"""What an event costs UIC's fold, by stage: record batches in memory → states in a real Valkey, without a broker.

    PYTHONPATH=tests python -m bench.fold_core [--events 100000] [--rounds 3]
    PYTHONPATH=tests python -m bench.fold_core --events 20000 --at-once 10     as at 1,000 events/s, fetched every 10 ms

The log is as a backlog looks from the fold thread: every partition has as many records waiting as its room allows. With
`--at-once N`, N records come at a time, over all partitions. Figures are processor time, so that they hold while other
programs run; the store's own is its process's. Compare two versions by running them in turn.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from numpy.typing import NDArray

from loadtest.feeder import event, zipf_users
from loadtest.population import measured_bundle
from localstack.valkey import Valkey
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import StepGraph, open_step
from mimn.state import Keys, namespace, partition_of
from uic.app import settle_interpreter
from uic.core.commit import Answer, Commit
from uic.core.event import Record
from uic.core.letters import Letter
from uic.core.ports import Delivery, Described, Fetched, FoldsMany, LogMessage, Owned, PartitionCount, Ports
from uic.core.start_position import LogBounds
from uic.fold.bundle_model import model_of
from uic.fold.setup import Setup, Topic
from uic.fold.worker import FoldWorker
from uic.log.batch_hook import read_batch
from uic.metrics import Metrics
from uic.settings import FoldSettings, RedisSettings
from uic.store import RedisStore

PARTITIONS = 64
BATCH_RECORDS = 500
"""Records of a batch, about what producers that linger a little send."""
ORDER = ("read", "decode", "load", "plan", "step", "encode", "store", "adopt", "valkey")


class Stopwatch:
    """Processor seconds of this thread by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.runs = 0
        self._last = time.thread_time()

    def lap(self, stage: str) -> None:
        """What was spent since the last lap was spent on `stage`."""
        now = time.thread_time()
        self.seconds[stage] += now - self._last
        self._last = now


class MemoryLog:
    """`Log` of record batches in memory, all assigned to one worker. Tops a partition up to its room at every call."""

    def __init__(self, batches: Sequence[Iterable[bytes]], room: int, watch: Stopwatch) -> None:
        self._batches = [iter(some) for some in batches]
        self._room = room
        self._watch = watch
        self._queued: list[LogMessage] = [Owned(frozenset(range(len(batches))), 0.0)]
        self._tags: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._read_to: dict[int, int] = defaultdict(int)
        self.taken = 0
        """Records that are committed."""

    def messages(self, timeout_s: float) -> list[LogMessage]:
        """See `Log`."""
        found, self._queued = self._queued, []
        self._watch.lap("adopt")
        for partition, tag in self._tags.items():
            while self._waiting[tag] < self._room and (data := next(self._batches[partition], None)):
                records = read_all(data)
                self._waiting[tag] += len(records)
                self._read_to[partition] += len(records)
                found.append(Fetched(partition, tag, records, self._read_to[partition]))
        self._watch.lap("read")
        return found

    def describe(self, tags: Mapping[int, int]) -> None:
        """See `Log`."""
        self._queued += [Described(p, tag, LogBounds(0, 1 << 40, bytes(16)), 1, 1 << 40) for p, tag in tags.items()]

    def count_partitions(self) -> None:
        """See `Log`."""
        self._queued.append(PartitionCount(PARTITIONS))

    def read(self, partition: int, tag: int, offset: int, topic_id: bytes) -> None:
        """See `Log`."""
        if offset:
            raise AssertionError("every partition is read once, from its start")
        self._tags[partition] = tag
        self._waiting[tag] = 0

    def park(self, partition: int) -> None:
        """See `Log`."""
        self._tags.pop(partition, None)

    def took(self, tag: int, records: int) -> None:
        """See `Log`."""
        self._waiting[tag] -= records
        self.taken += records

    def advise(self, offsets: Mapping[int, int]) -> None:
        """See `Log`."""


class Nothing:
    """`DeadLetters` and `Erasures` of a log without either."""

    def send(self, letters: Sequence[Letter]) -> Delivery:
        """See `DeadLetters`."""
        raise AssertionError("all events are sound")

    def read(self, partitions: Collection[int], topic_id: bytes) -> Mapping[int, Mapping[bytes, int]]:
        """See `Erasures`."""
        return {p: {} for p in partitions}


class TimedStep:
    """A step that is a stage of its own."""

    def __init__(self, step: Any, watch: Stopwatch) -> None:
        self.step = step
        self.watch = watch

    def __call__(self, events: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Step`."""
        self.watch.lap("plan")
        after: NDArray[np.float32] = self.step(events, states)
        self.watch.lap("step")
        self.watch.runs += 1
        return after


class TimedFold(TimedStep):
    """The same of a step that folds many events in one call."""

    def fold(
        self, events: NDArray[np.float32], depth: NDArray[np.int64], states: NDArray[np.float32]
    ) -> NDArray[np.bool_] | None:
        """See `FoldsMany`."""
        self.watch.lap("plan")
        sound: NDArray[np.bool_] | None = self.step.fold(events, depth, states)
        self.watch.lap("step")
        self.watch.runs += 1
        return sound


class TimedStore(RedisStore):
    """`RedisStore` whose commits are a stage of their own."""

    watch: Stopwatch

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        """See `StateStore`."""
        self.watch.lap("encode")
        answers = super().commit(commits)
        self.watch.lap("store")
        return answers


def read_all(data: bytes) -> Sequence[Record]:
    """The records of one batch, its checksum checked."""
    batch: Any = MemoryRecords(data).next_batch()
    if not batch.validate_crc():
        raise AssertionError("the checksum of a batch that was made here does not fit")
    return read_batch(batch)


def log_of(
    bundle: Bundle, users: int, events: int, seed: int, *, at_once: int | None = None, exponent: float = 1.0
) -> list[list[bytes]]:
    """Record batches by partition: `events` events, Zipf over `users`. With `at_once`, the i-th batch of
    each partition holds its share of the i-th `at_once` events, perhaps nothing."""
    behaviors = itertools.cycle(
        zip(bundle.items.ids[:1000].tolist(), itertools.cycle(bundle.categories.ids.tolist()), strict=False)
    )
    logs: list[list[list[tuple[bytes, bytes]]]] = [[[]] for _ in range(PARTITIONS)]
    for n, (user, (item, category)) in enumerate(
        zip(zipf_users(users, events, seed, exponent), behaviors, strict=False)
    ):
        if at_once and n and n % at_once == 0:
            for log in logs:
                log.append([])
        key = user.encode()
        log = logs[partition_of(key, PARTITIONS)]
        if not at_once and len(log[-1]) == BATCH_RECORDS:
            log.append([])
        log[-1].append((key, event(user, item, category)))
    return [batches_of(log) for log in logs]


def batches_of(log: list[list[tuple[bytes, bytes]]]) -> list[bytes]:
    """As a broker sends them; nothing for an empty one."""
    now = time.time_ns() // 1_000_000
    batches, base = [], 0
    for records in log:
        builder = MemoryRecordsBuilder(2, 0, 1 << 24)
        for key, value in records:
            builder.append(now, key, value, [])
        builder.close()
        batches.append(struct.pack(">q", base) + bytes(builder.buffer())[8:] if records else b"")
        base += len(records)
    return batches


def fold(
    bundle: Bundle,
    logs: list[list[bytes]],
    events: int,
    url: str,
    prefix: str,
    *,
    at_once: int | None = None,
    graph: bool = False,
) -> Stopwatch:
    """Fold all of it, from nothing, with UIC's default settings. `graph`: not compiled."""
    watch, settings = Stopwatch(), FoldSettings()
    opened = StepGraph(bundle) if graph else open_step(bundle)
    step = (TimedFold if isinstance(opened, FoldsMany) else TimedStep)(opened, watch)
    store = TimedStore(RedisSettings(url=url), Keys(namespace(bundle.fingerprint.hex()), prefix))
    store.watch = watch
    after = {"poll": "adopt", "decode": "decode", "load": "load", "fold": "plan", "advise": "adopt"}
    room = 1 if at_once else settings.queue_records // PARTITIONS
    log = MemoryLog(logs, room, watch)
    setup = Setup(
        topic=Topic("behavior-events", PARTITIONS),
        model=model_of(bundle, step),
        ports=Ports(log, store, dead_letters=Nothing(), erasures=Nothing()),
        settings=settings,
        metrics=Metrics(),
        after=lambda done: watch.lap(after[done]) if done in after else None,
    )
    worker = FoldWorker(setup)
    while log.taken < events:
        worker.turn(log.messages(0), time.monotonic(), time.time_ns() // 1_000_000)
    store.close()
    return watch


def store_pid(url: str) -> int:
    """The process id of the server at `url`."""
    with redis.Redis.from_url(url) as client:
        said: Any = client.info("server")
    return int(said["process_id"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.fold_core", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=100_000, help="different users")
    parser.add_argument("--exponent", type=float, default=1.0, help="of Zipf's law over users (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, help="events that come at a time (default: all partitions have many)")
    parser.add_argument("--bundle", type=Path, default=measured_bundle())
    parser.add_argument("--graph", action="store_true", help="the step as a graph, not compiled")
    asked = parser.parse_args(arguments)
    settle_interpreter()
    bundle = load_bundle(asked.bundle)
    logs = log_of(bundle, asked.users, asked.events, 0, at_once=asked.at_once, exponent=asked.exponent)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Valkey(Path(folder))
        server.start()
        try:
            process = psutil.Process(store_pid(server.address))
            for i in range(asked.rounds):
                began, cpu = time.perf_counter(), process.cpu_times()
                watch = fold(
                    bundle, logs, asked.events, server.address, f"round{i}", at_once=asked.at_once, graph=asked.graph
                )
                spent = process.cpu_times()
                watch.seconds["valkey"] = spent.user + spent.system - cpu.user - cpu.system
                rows.append({stage: watch.seconds[stage] / asked.events * 1e6 for stage in ORDER})
                ours = sum(value for stage, value in rows[-1].items() if stage != "valkey")
                print(
                    f"{ours:6.2f} us an event: "
                    + "  ".join(f"{stage} {rows[-1][stage]:.2f}" for stage in ORDER)
                    + f"  ({watch.runs} runs, {asked.events / (time.perf_counter() - began):,.0f} events/s)",
                    flush=True,
                )
        finally:
            server.stop()
    medians = {stage: statistics.median(row[stage] for row in rows) for stage in ORDER}
    print(f"median {sum(v for s, v in medians.items() if s != 'valkey'):.2f} us, and Valkey {medians['valkey']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
