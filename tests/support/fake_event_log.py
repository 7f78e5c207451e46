"""A log in memory behind the port `EventLog`, which can be unavailable and can withhold acknowledgments."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, UnsuitableTopic, WrongClock
from uic.log.producer import NewRecord, Position

Stored = tuple[bytes, bytes | None]
Headers = tuple[tuple[str, bytes], ...]


class FakeEventLog:
    """Topics as lists. Known gap: it never answers late, so a deadline cannot be missed."""

    def __init__(self, topics: dict[str, int]) -> None:
        """Names and partition counts of the topics that exist."""
        self.records: dict[str, list[list[Stored]]] = {n: [[] for _ in range(c)] for n, c in topics.items()}
        self.headers: dict[tuple[str, int, int], Headers] = {}
        """Topic, partition, offset → headers."""
        self.ids = {name: uuid.uuid4().bytes for name in topics}
        self.away = False
        self.away_topics: set[str] = set()
        self.withheld: set[int] = set()
        """Indexes of the records in the next call that are lost in transit."""
        self.read_only: set[str] = set()
        """Topics that may not be written to."""
        self.untimely: set[str] = set()
        """Topics that refuse the time of all records."""
        self.tells = True
        """Whether it says so when it is asked."""
        self.hindered: str | None = ""
        """What the brokers say of replicas that are not in sync; None: nothing."""
        self.closed = False

    def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
        if self.away or topic in self.away_topics or timeout_s <= 0:
            raise LogUnavailable("no broker answers")
        stored = self._topic(topic)
        if len(stored) != partitions:
            raise UnsuitableTopic(f"topic {topic} has {len(stored)} partitions, the settings say {partitions}")
        if topic in self.read_only:
            raise LogRefused(f"nothing was written: no right to write to topic {topic}")
        if topic in self.untimely:
            raise WrongClock(f"nothing was written: topic {topic} refuses the time")
        positions = []
        for i, record in enumerate(records):
            if i not in self.withheld:
                stored[record.partition].append((record.key, record.value))
                positions.append(Position(record.partition, len(stored[record.partition]) - 1))
                self.headers[topic, record.partition, positions[-1].offset] = record.headers
        if missing := tuple(i for i in range(len(records)) if i in self.withheld):
            self.withheld = set()
            raise NotAcknowledged(missing, len(records))
        return positions

    def topic_id(self, topic: str) -> bytes:
        if self.away:
            raise LogUnavailable("no broker answers")
        self._topic(topic)
        return self.ids[topic]

    def partition_count(self, topic: str) -> int:
        if self.away:
            raise LogUnavailable("no broker answers")
        return len(self._topic(topic))

    def check(self, topic: str, partitions: int, timeout_s: float) -> None:
        if self.away or topic in self.away_topics:
            raise LogUnavailable("no broker answers")
        self.must_be_writable(topic)

    def must_be_writable(self, topic: str) -> None:
        if self.away:
            raise LogUnavailable("no broker answers")
        if self.tells and topic in self.read_only:
            raise LogRefused(f"no right to write to topic {topic}")

    def obstacle(self, topic: str) -> str | None:
        if self.away:
            raise LogUnavailable("no broker answers")
        return self.hindered

    def close(self) -> None:
        self.closed = True

    def _topic(self, topic: str) -> list[list[Stored]]:
        if topic not in self.records:
            raise UnsuitableTopic(f"topic {topic} does not exist: create it")
        return self.records[topic]
