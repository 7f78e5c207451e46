"""A cluster as a client knows it, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.future import Future


class Metadata(ClusterMetadata):  # type: ignore[misc]  # kafka-python has no types
    """What a client knows of a cluster, and what the brokers would tell it now."""

    def __init__(self, leaders: dict[int, int], now: dict[int, int], brokers: set[int], more: set[int]) -> None:
        self.leaders, self.now = leaders, now
        self.known, self.more = brokers, more
        self.asked = 0

    def request_update(self) -> Future:
        self.asked += 1
        self.leaders, self.known = self.now, self.known | self.more
        return Future().success(self)

    def leader_for_partition(self, partition: TopicPartition) -> int | None:
        return self.leaders.get(partition.partition)

    def broker_metadata(self, broker_id: Any) -> Any:
        return SimpleNamespace(host="host", port=9092) if broker_id in self.known else None
