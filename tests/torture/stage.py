"""Where a scenario plays: a real Kafka, servers of its own that it may harm, worlds, and the count of what happened."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from judge import Differs, Findings
from localstack.topics import create_topics, delete_topics, topics
from localstack.valkey import Valkey
from support.for_test import TopicsForTest
from support.kafka_cluster import KafkaCluster, kafka_cluster
from support.world import World
from torture.watching import Stalls

Size = Literal["fast", "full"]
T = TypeVar("T")


@dataclass(frozen=True)
class Tally:
    """What a scenario did and what came of it. Adds up over its parts."""

    trials: int = 0
    faults: int = 0
    lost: int = 0
    doubled: int = 0
    wrong_answers: int = 0
    """Scores that are not those of the user, the candidates and the state that the answer names."""
    failed_requests: int = 0
    """Requests without the answer that was promised for them."""
    wrong: tuple[str, ...] = ()
    """What did not hold, in words."""
    figures: dict[str, list[float]] = field(default_factory=dict)
    """What was measured, by name with its unit."""

    @property
    def held(self) -> bool:
        """Whether everything did."""
        amiss = self.lost, self.doubled, self.wrong_answers, self.failed_requests, self.wrong
        return self.trials > 0 and not any(amiss)

    def __add__(self, other: Tally) -> Tally:
        names = self.figures | other.figures
        return Tally(
            self.trials + other.trials,
            self.faults + other.faults,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.wrong_answers + other.wrong_answers,
            self.failed_requests + other.failed_requests,
            self.wrong + other.wrong,
            {name: self.figures.get(name, []) + other.figures.get(name, []) for name in names},
        )

    @classmethod
    def of(
        cls, found: Findings, *, trials: int = 1, faults: int = 1, figures: Mapping[str, float] | None = None
    ) -> Tally:
        """The tally of trials that ended with `found`."""
        named = {name: [round(value, 3)] for name, value in (figures or {}).items()}
        return cls(trials, faults, found.lost, found.doubled, wrong=tuple(found.wrong), figures=named)

    @classmethod
    def failed(cls, error: Exception, *, of: str = "", trials: int = 1, faults: int = 1) -> Tally:
        """Of a trial that ended with `error`, `of` being its name; what the judge counted, if it spoke, counts."""
        found = error.findings if isinstance(error, Differs) else Findings()
        said = ": ".join(filter(None, (of, type(error).__name__, str(error))))
        return cls(trials, faults, found.lost, found.doubled, wrong=(said,))


class Stage:
    """The servers of one scenario. Close it, and all that it started is gone."""

    def __init__(self, folder: Path, bootstrap: str, *, seed: int = 1) -> None:
        """`bootstrap` is a real Kafka that other scenarios use too; harm `own_kafka()` instead."""
        self.folder = folder
        self.bootstrap = bootstrap
        self.seed = seed
        self.lease_s = 2.0
        self.stalls = Stalls()
        self._ending = ExitStack()

    def valkey(self, name: str = "valkey", appendfsync: str = "off") -> Valkey:
        """A started store."""
        return self._ending.enter_context(Valkey(self.folder / name, appendfsync=appendfsync))

    def own_kafka(self, *, nodes: int = 1, settings: Mapping[str, str] | None = None) -> KafkaCluster:
        """A started Apache Kafka for this scenario alone."""
        return self._ending.enter_context(kafka_cluster(self.folder / "own-kafka", nodes=nodes, settings=settings))

    def world(
        self, name: str, url: str, *, partitions: int = 8, bootstrap: str = "", client: Any = None, **told: str
    ) -> World:
        """A world on topics of its own, with small batches and a short lease."""
        at = bootstrap or self.bootstrap
        names = TopicsForTest(at, f"{name}-{uuid.uuid4().hex[:10]}", partitions)
        create_topics(at, topics(names.events, partitions))
        if not bootstrap:
            self._ending.callback(delete_topics, at, [names.events, names.dlq, names.erased])
        told = {
            "UIC_FOLD__LEASE_S": str(self.lease_s),
            "UIC_FOLD__MAX_STATES": "8",
            "UIC_REDIS__TIMEOUT_S": "0.5",
            "UIC_LOG__FORMAT": "json",
            **told,
        }
        world = World(self.folder / name, names, url, names.events, told, seed=self.seed, client=client)
        self._ending.callback(world.close)
        return world

    @contextmanager
    def passing_world(self, name: str, url: str, **more: Any) -> Iterator[World]:
        """A `world` that ends before the stage does."""
        world = self.world(name, url, **more)
        try:
            yield world
        finally:
            world.close()

    def __enter__(self) -> Self:
        self._ending.enter_context(self.stalls)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()


def side_by_side(act: Callable[[T], Tally], parts: Iterable[T], lanes: int) -> Tally:
    """The sum of `act` over `parts`, some at a time; a part that raises is a failed trial."""

    def guarded(part: T) -> Tally:
        try:
            return act(part)
        except Exception as error:  # the door of a trial: its failure is its verdict, and the others go on
            return Tally.failed(error, of=str(part))

    with ThreadPoolExecutor(lanes) as pool:
        return sum(pool.map(guarded, parts), Tally())
