"""Where logs begin and end, asked of all leaders at once, and each on its own: the library drops every answer where one
leader gives none. A broker may refuse a client that the others let in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from uic.core.epochs import EpochEnd
from uic.log.kafka_repairs.clients import explained
from uic.log.kafka_repairs.offsets import ends_of_epochs


class Extent(NamedTuple):
    """A partition's log."""

    start: int
    stable_end: int
    """The last stable offset."""
    log_end: int
    """The high watermark."""
    epoch_end: EpochEnd | None


class LeaderAnswer(NamedTuple):
    """What a leader says of the partitions that it was asked about: all of them, or why none."""

    leader: Any
    """Its number."""
    partitions: tuple[TopicPartition, ...]
    found: dict[TopicPartition, Extent] | KafkaError


def led_by(consumer: KafkaConsumer, partitions: Collection[TopicPartition]) -> dict[Any, list[TopicPartition]]:
    """Partitions by the number of their leader, by the client's latest metadata."""
    found: dict[Any, list[TopicPartition]] = defaultdict(list)
    for tp in partitions:
        found[consumer._cluster.leader_for_partition(tp)].append(tp)
    return dict(found)


def ask_leaders(
    consumer: KafkaConsumer,
    led: Mapping[Any, Collection[TopicPartition]],
    epochs: Mapping[TopicPartition, int],
    timeout_ms: int,
) -> list[LeaderAnswer]:
    """Ask leaders, and wait for all of them.

    Args:
        consumer: reads committed records.
        led: partitions by the number of their leader.
        epochs: as of `Log.describe`.
        timeout_ms: how long a leader may take for each of up to four questions, one after the other. The first that has
            no answer is the last.
    """
    answers: list[LeaderAnswer] = consumer._net.run(_ask, consumer, led, epochs, timeout_ms)
    return answers


async def _ask(
    consumer: KafkaConsumer,
    led: Mapping[Any, Collection[TopicPartition]],
    epochs: Mapping[TopicPartition, int],
    timeout_ms: int,
) -> list[LeaderAnswer]:
    asked = {
        leader: consumer._manager.call_soon(_answer_of, consumer, leader, partitions, epochs, timeout_ms)
        for leader, partitions in led.items()
    }
    return [LeaderAnswer(leader, tuple(led[leader]), await future) for leader, future in asked.items()]


async def _answer_of(
    consumer: KafkaConsumer,
    leader: Any,
    led: Collection[TopicPartition],
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
