"""Offsets of partitions without a leader are an error that names these partitions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.future import Future

from support.fake_metadata import Metadata
from uic.errors import NoLeader
from uic.log.kafka_repairs.offsets import LeaderAwareFetcher, Leaderless
from uic.log.unreachable import stopped

TOPIC = "behavior-events"
ALL = [TopicPartition(TOPIC, p) for p in range(8)]


class Network:
    """A manager that awaits nothing."""

    def __init__(self, cluster: Metadata) -> None:
        self.cluster = cluster

    async def wait_for(self, future: Future, timeout_ms: float | None) -> Any:
        return future.value


def offsets_of(cluster: Metadata, monkeypatch: pytest.MonkeyPatch, kind: Any = LeaderAwareFetcher) -> Any:
    """A fetcher without brokers: every partition that has a leader begins at its own number times ten."""

    async def fetched(self: Any, timestamps: dict[TopicPartition, int], timeout_ms: int | None = None) -> Any:
        by_node = self._group_list_offset_requests(timestamps)
        return {tp: SimpleNamespace(offset=10 * tp.partition) for those in by_node.values() for tp in those}

    monkeypatch.setattr(Fetcher, "_fetch_offsets_by_times_async", fetched)
    made: Any = object.__new__(kind)
    made._manager = Network(cluster)
    made._net = SimpleNamespace(run=lambda ask, *given: asyncio.run(ask(*given)))
    return made


def test_offsets_of_partitions_without_a_leader_are_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    leaders = {0: 1, 1: -1, 2: 1, 3: -1}
    with pytest.raises(KeyError):
        offsets_of(Metadata(leaders, leaders, {1}, set()), monkeypatch, Fetcher).beginning_offsets(ALL[:4])
    repaired = offsets_of(Metadata(leaders, leaders, {1}, set()), monkeypatch)
    assert repaired.end_offsets([ALL[0], ALL[2]]) == {ALL[0]: 0, ALL[2]: 20}
    for ask in (repaired.beginning_offsets, repaired.end_offsets):
        with pytest.raises(Leaderless) as told:
            ask(ALL[:4])
        assert told.value.words == "topic behavior-events: partitions 1,3 have no leader: bring their replicas back"
    with pytest.raises(Leaderless, match="partition 1 has no leader: bring its replicas back"):
        repaired.offsets_by_times({ALL[1]: 5})


def test_a_leader_that_is_there_again_is_seen_though_the_metadata_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({0: 1, 1: -1}, {0: 1, 1: 2}, {1}, {2})
    assert offsets_of(cluster, monkeypatch).end_offsets(ALL[:2]) == {ALL[0]: 0, ALL[1]: 10}
    assert cluster.asked == 1


def test_a_partition_that_loses_its_leader_meanwhile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({0: 1, 1: 2}, {0: 1, 1: 2}, {1, 2}, set())
    asked = offsets_of(cluster, monkeypatch)

    async def lost(self: Any, timestamps: Any, timeout_ms: int | None = None) -> Any:
        return {ALL[0]: SimpleNamespace(offset=0)}

    monkeypatch.setattr(Fetcher, "_fetch_offsets_by_times_async", lost)
    with pytest.raises(Leaderless) as told:
        asked.end_offsets(ALL[:2])
    assert told.value.partitions == (ALL[1],)
    assert asked.offsets_by_times({ALL[0]: 5, ALL[1]: 5})[ALL[1]] is None, "a log may have nothing later than a time"


def test_what_a_tool_raises_names_the_partitions_without_a_leader() -> None:
    told = stopped(Leaderless([ALL[3], ALL[1]]), "no broker answers at somewhere")
    assert isinstance(told, NoLeader)
    assert told.partitions == (1, 3)
    assert told.detail == "topic behavior-events: partitions 1,3 have no leader: bring their replicas back"
