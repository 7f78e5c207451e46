"""Offsets that the leaders of partitions are asked for: where logs begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import KafkaError

from uic.core.topics import bring_back
from uic.log.kafka_repairs.metadata import leaderless_in


class Leaderless(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """No broker leads some of the partitions that a consumer was asked about."""

    def __init__(self, partitions: Iterable[TopicPartition]) -> None:
        self.partitions = tuple(sorted(partitions))
        topics = {tp.topic: [at.partition for at in self.partitions if at.topic == tp.topic] for tp in self.partitions}
        self.words = "; ".join(f"topic {topic}: {bring_back(those)}" for topic, those in topics.items())
        super().__init__(self.words)


class LeaderAwareFetcher(Fetcher):  # type: ignore[misc]  # kafka-python has no types
    """A fetcher that tells which partitions have no leader when it is asked for their offsets, in a `Leaderless`.

    The library leaves them out of the answer, and then fails with a `KeyError`.
    """

    async def _fetch_offsets_by_times_async(self, timestamps: Any, timeout_ms: int | None = None) -> Any:
        cluster = self._manager.cluster
        if leaderless_in(cluster, timestamps):  # as of metadata that may be old
            await self._manager.wait_for(cluster.request_update(), timeout_ms)
            if found := leaderless_in(cluster, timestamps):
                raise Leaderless(found)
        offsets = await super()._fetch_offsets_by_times_async(timestamps, timeout_ms)
        ends = {tp for tp, at in timestamps.items() if at < 0}  # where a log begins or ends; it may lack a later time
        if lost := ends - offsets.keys():  # meanwhile
            raise Leaderless(lost)
        return offsets


@contextmanager
def up_to_the_high_watermark(consumer: KafkaConsumer) -> Iterator[None]:
    """Meanwhile, `end_offsets` and `offsets_for_times` see the whole log. The library asks for offsets as it reads, so
    a consumer of committed records otherwise sees it up to the last stable offset. For a consumer outside any group,
    which is not polled meanwhile."""
    fetcher = consumer._fetcher
    before, fetcher._isolation_level = fetcher._isolation_level, IsolationLevel.READ_UNCOMMITTED
    try:
        yield
    finally:
        fetcher._isolation_level = before
