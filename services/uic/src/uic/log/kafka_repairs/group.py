"""How a member joins its group and keeps its partitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import RetriableError
from kafka.structs import MemberState

from uic.log.kafka_repairs.assumptions import check_client
from uic.log.kafka_repairs.clients import open_kafka_client
from uic.log.kafka_repairs.fetching import MemberFetcher
from uic.log.kafka_repairs.partition_records import PartitionBatches, read_batches_with_uic
from uic.settings import MAX_BATCH_BYTES

SECOND_ROUND_S: Final = 0.2
"""How long a member that gave up partitions waits before it joins again. The others learn of the next round by their
heartbeats, seconds apart, so this makes it little longer."""


class _Unfinished:
    """A join in progress or finished, which the library must await and never begin again."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback, self.add_errback = join.add_callback, join.add_errback


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]  # kafka-python has no types
    """A coordinator that collects every join that it began, also one that finishes between two polls, and lets the
    others collect theirs.

    The library loses such a join in two ways. It begins another one when it finds the first done: then what was
    assigned is lost, and the group goes through one more rebalance. And it does not look at all if nothing asks for a
    rejoin any more, which is so after a rejoin that only a change of metadata caused: then heartbeats stay off, and the
    broker expels the member for good.

    A member whose brokers are away for less than a session waits for them. The library's search for the coordinator
    ends the poll if its metadata cannot be had. A member that is given up for that cannot leave its group, which keeps
    its partitions for it until the session ends.

    A member that must give up partitions joins again, so that their next owner gets them. The library does so at once,
    which begins the next round. A slower member may not have fetched its assignment of this round yet. The broker then
    refuses to send it, so this member keeps its partitions until the next round, and the group needs a third one.
    """

    _second_round_at = 0.0
    _away_since: float | None = None
    """When the coordinator was first not found, since it was known last."""

    async def ensure_coordinator_ready_async(self, timeout_ms: float | None = None) -> bool:
        """Whether the coordinator is known.

        Raises:
            KafkaError: it is not, and has not been for a session.
        """
        try:
            ready = bool(await super().ensure_coordinator_ready_async(timeout_ms))
        except RetriableError:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = now
            if now - self._away_since >= self.config["session_timeout_ms"] / 1000:
                raise
            await self._manager._net.sleep(self.config["retry_backoff_ms"] / 1000)
            return False
        if ready:
            self._away_since = None
        return ready

    @property
    def _join_task(self) -> _Unfinished | None:
        join: _Unfinished | None = self.__dict__.get("_join")
        return join

    @_join_task.setter
    def _join_task(self, join: Any) -> None:
        self.__dict__["_join"] = None if join is None else _Unfinished(join)

    def need_rejoin(self) -> bool:
        """Also while a join is not collected, and not at once after one."""
        if self._join_task is not None:
            return True
        early = self.state is MemberState.STABLE and time.monotonic() < self._second_round_at
        return not early and super().need_rejoin()

    async def _on_join_complete_async(self, *joined: Any) -> None:
        await super()._on_join_complete_async(*joined)
        self.heartbeat.received_heartbeat()  # to be let join says as much as an accepted heartbeat
        if self.rejoin_needed:
            self._second_round_at = time.monotonic() + SECOND_ROUND_S


class ClaimingAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """Cooperative-sticky, with members that claim what they hold when they join.

    The library claims what it was last assigned, also after the group gave it up. The leader keeps a claimed partition
    from its next owner until the claimant gives it up, which a member that does not hold it never does: the partition
    had no owner until the group changed again. Java's client claims what it holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.holds: Callable[[], Iterable[TopicPartition]] = tuple
        """Set once there is a consumer: its `assignment`."""

    def metadata(self, topics: Iterable[str]) -> Any:
        """What the member says of itself when it joins."""
        self.member_assignment = sorted(self.holds())
        return super().metadata(topics)


def open_consumer(*, most_bytes: int = MAX_BATCH_BYTES, **options: Any) -> KafkaConsumer:
    """A member of a group, with all repairs, which hands out `FetchedBatch`es. Subscribe next.

    `most_bytes` is the most that a batch may be when decompressed; `options` are the library's.
    """
    check_client()
    assignor = ClaimingAssignor()
    consumer = open_kafka_client(KafkaConsumer, **options, partition_assignment_strategy=[assignor])
    assignor.holds = consumer.assignment
    read_batches_with_uic(consumer, PartitionBatches, most_bytes=most_bytes)
    consumer._coordinator.__class__ = _Coordinator
    consumer._fetcher.__class__ = MemberFetcher
    return consumer


def accepted_at(consumer: KafkaConsumer) -> float:
    """When the group's coordinator last had us: it accepted a heartbeat, or let us join. Monotonic, in seconds; -inf
    for a client that it never had."""
    return float(consumer._coordinator.heartbeat.last_receive)


def is_settled(consumer: KafkaConsumer) -> bool:
    """Whether we are a member of the group, no rebalance is under way, and there is something to read."""
    return bool(consumer.assignment()) and consumer.group_metadata().state is MemberState.STABLE
