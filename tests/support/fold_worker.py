"""A process of UIC that folds, without servers, time or threads: a test says when it takes a turn."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

from mimn.state import Progress, decode_progress
from support.fake_state_store import FakeStore
from support.fake_topics import TOPIC, FakeDeadLetters, FakeErasures, FakeLog, FakeTopic
from support.hand_model import MODEL, WALL_MS
from uic.core.model import Model
from uic.core.ports import Ports
from uic.core.status import PartitionStatus, Phase
from uic.fold.setup import Setup, Topic
from uic.fold.worker import FoldWorker
from uic.metrics import Metrics
from uic.settings import FoldSettings


class Crashed(BaseException):
    """The process ended at a step; nothing after that step ran."""


class Worker:
    """One UIC process: a worker with its own view of the shared world."""

    def __init__(
        self,
        topic: FakeTopic,
        store: FakeStore,
        *,
        dead_letters: FakeDeadLetters | None = None,
        erasures: FakeErasures | None = None,
        start: Literal["earliest", "latest"] = "earliest",
        chunk: int = 7,
        seed: int = 0,
        model: Model = MODEL,
        partitions: int | None = None,
        **fold: Any,
    ) -> None:
        self.log = FakeLog(topic, chunk, columns=model.compiled is not None)
        self.store = store
        self.dead_letters = dead_letters or FakeDeadLetters()
        self.erasures = erasures or FakeErasures()
        self.metrics = Metrics()
        self.crash_at = ""
        self.now = 1000.0
        self.ahead_ms = 0
        """How far the worker's clock is ahead of the store's."""
        numbers = random.Random(seed)
        setup = Setup(
            topic=Topic(TOPIC, len(topic) if partitions is None else partitions, start),
            model=model,
            ports=Ports(self.log, store, self.dead_letters, self.erasures),
            settings=FoldSettings(**fold),
            metrics=self.metrics,
            random_id=lambda: numbers.getrandbits(64) | 1,
            after=self._after,
            clock=lambda: 0.0,
        )
        self.fold = FoldWorker(setup)

    def turn(self, seconds: float = 0.3) -> None:
        """Handle all messages and due work, then advance the clock."""
        self.store.clock_ms = WALL_MS + int(self.now * 1000)
        wall_ms = self.log.wall_ms = self.store.clock_ms + self.ahead_ms
        self.log.now = self.now
        self.fold.turn(self.log.messages(0), self.now, wall_ms)
        self.now += seconds

    def settle(self, turns: int = 12) -> None:
        """More turns than any test needs, in less time than a read-back takes."""
        for _ in range(turns):
            self.turn(0.21)

    def until(self, condition: Callable[[], object], turns: int = 400) -> None:
        """Turn until the condition holds."""
        for _ in range(turns):
            if condition():
                return
            self.turn()
        raise AssertionError(f"the condition did not hold within {turns} turns; status: {self.fold.status}")

    def drained(self) -> bool:
        """Whether all assigned partitions are folded to the end of the log."""
        return all(
            (progress := self.progress(p)) is not None and progress.next_offset == self.log.topic.partitions[p].end
            for p in self.log.assigned
        )

    def catch_up(self) -> None:
        self.until(self.drained)

    def progress(self, partition: int = 0) -> Progress | None:
        """The stored progress."""
        stored = self.store.progress.get(partition)
        return None if stored is None else decode_progress(stored)

    def partition(self, partition: int = 0) -> PartitionStatus:
        return next(p for p in self.fold.status.partitions if p.partition == partition)

    def phase(self, partition: int = 0) -> Phase:
        return self.partition(partition).phase

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def _after(self, at: str) -> None:
        if at == self.crash_at:
            raise Crashed(at)
