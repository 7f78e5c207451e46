"""Where logs begin and end, asked of all leaders at once, and each on its own: the library drops every answer where one
leader gives none. A broker may refuse a client that the others let in."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.future import Future

from uic.core.epochs import EpochEnd
from uic.log.kafka_repairs.clients import explained
from uic.log.kafka_repairs.offsets import ends_of_epochs
from uic.log.kafka_repairs.race import ms_until

PATIENCE_MS: Final = 500
"""How long all leaders are waited for. The answer of one that needs longer comes later."""


class Extent(NamedTuple):
    """A partition's log."""

    start: int
    stable_end: int
    """The last stable offset."""
    log_end: int
    """The high watermark."""
    epoch_end: EpochEnd | None


@dataclass(frozen=True, slots=True)
class LeaderAsked:
    """A question to one leader."""

    partitions: tuple[TopicPartition, ...]
    _future: Future

    @property
    def is_done(self) -> bool:
        """Whether it is known what the leader says."""
        return bool(self._future.is_done)

    @property
    def answer(self) -> dict[TopicPartition, Extent] | KafkaError:
        """What the leader says, or why it does not. Only when that is known."""
        if self._future.exception is not None:
            raise self._future.exception
        answer: dict[TopicPartition, Extent] | KafkaError = self._future.value
        return answer


def ask_leaders(
    consumer: KafkaConsumer,
    partitions: Collection[TopicPartition],
    epochs: Mapping[TopicPartition, int],
    timeout_ms: int,
) -> list[LeaderAsked]:
    """Ask the leaders of partitions, by the client's latest metadata, and wait for a moment.

    Args:
        consumer: reads committed records.
        partitions: each has a leader.
        epochs: as of `Log.describe`.
        timeout_ms: how long a leader may take for each of up to four questions, one after the other.
    """
    asked: list[LeaderAsked] = consumer._net.run(_ask, consumer, partitions, epochs, timeout_ms)
    return asked


async def _ask(
    consumer: KafkaConsumer,
    partitions: Collection[TopicPartition],
    epochs: Mapping[TopicPartition, int],
    timeout_ms: int,
) -> list[LeaderAsked]:
    led_by: dict[Any, list[TopicPartition]] = defaultdict(list)
    for tp in partitions:
        led_by[consumer._cluster.leader_for_partition(tp)].append(tp)
    manager = consumer._manager
    asked = [
        LeaderAsked(tuple(led), manager.call_soon(_answer_of, consumer, leader, led, epochs, timeout_ms))
        for leader, led in led_by.items()
    ]
    deadline = time.monotonic() + PATIENCE_MS / 1000
    for one in asked:
        with suppress(KafkaTimeoutError):
            await manager.wait_for(one._future, ms_until(deadline))
    return asked


async def _answer_of(
    consumer: KafkaConsumer,
    leader: Any,
    led: list[TopicPartition],
    epochs: Mapping[TopicPartition, int],
    timeout_ms: int,
) -> dict[TopicPartition, Extent] | KafkaError:
    fetcher = consumer._fetcher
    folded = {tp: epochs[tp] for tp in led if tp in epochs}
    try:
        with explained(consumer, leader):
            # Before the beginnings: what retention removes between the two would not be told from what was folded.
            epoch_ends = await ends_of_epochs(consumer._manager, folded, timeout_ms) if folded else {}
            starts = await fetcher.offsets_at(led, OffsetSpec.EARLIEST, timeout_ms)
            # Before the last stable offsets: what is produced between the two would look like an open transaction.
            log_ends = await fetcher.of_all_records().offsets_at(led, OffsetSpec.LATEST, timeout_ms)
            stable_ends = await fetcher.offsets_at(led, OffsetSpec.LATEST, timeout_ms)
    except KafkaError as error:
        return error
    return {tp: Extent(starts[tp], stable_ends[tp], log_ends[tp], epoch_ends.get(tp)) for tp in led}
