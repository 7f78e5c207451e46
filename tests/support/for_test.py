"""What a test is given of a server that other tests use too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis


@dataclass(frozen=True)
class RedisForTest:
    """A running Redis or Valkey, and a key prefix that no other test has."""

    url: str
    prefix: str
    client: redis.Redis
    """Returns bytes."""


@dataclass(frozen=True)
class TopicsForTest:
    """Names of a fresh event topic and of its two companions."""

    bootstrap: str
    events: str
    partitions: int

    @property
    def dlq(self) -> str:
        return f"{self.events}.dlq"

    @property
    def erased(self) -> str:
        return f"{self.events}.erased"


MakeTopics = Callable[..., TopicsForTest]
