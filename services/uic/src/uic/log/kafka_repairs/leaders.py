"""Where logs begin and end, asked of all leaders at once, and each on its own: the library drops every answer where one
leader gives none. A broker may refuse a client that the others let in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from uic.log.kafka_repairs.clients import explained


class Extent(NamedTuple):
    """A partition's log."""

    start: int
    stable_end: int
    """The last stable offset."""
    log_end: int
    """The high watermark."""


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
    timeout_ms: int,
) -> list[LeaderAnswer]:
    """Ask leaders, and wait for all of them.

    Args:
        consumer: reads committed records.
        led: partitions by the number of their leader.
        timeout_ms: how long a leader may take for each of three questions, one after the other. The first that has
            no answer is the last.
    """
    answers: list[LeaderAnswer] = consumer._net.run(_ask, consumer, led, timeout_ms)
    return answers


async def _ask(
    consumer: KafkaConsumer,
    led: Mapping[Any, Collection[TopicPartition]],
    timeout_ms: int,
) -> list[LeaderAnswer]:
    asked = {
        leader: consumer._manager.call_soon(_answer_of, consumer, leader, partitions, timeout_ms)
        for leader, partitions in led.items()
    }
    return [LeaderAnswer(leader, tuple(led[leader]), await future) for leader, future in asked.items()]


async def _answer_of(
    consumer: KafkaConsumer,
    leader: Any,
    led: Collection[TopicPartition],
    timeout_ms: int,
) -> dict[TopicPartition, Extent] | KafkaError:
    fetcher = consumer._fetcher
    try:
        with explained(consumer, leader):
            starts = await fetcher.offsets_at(led, OffsetSpec.EARLIEST, timeout_ms)
            # Before the last stable offsets: what is produced between the two would look like an open transaction.
            log_ends = await fetcher.of_all_records().offsets_at(led, OffsetSpec.LATEST, timeout_ms)
            stable_ends = await fetcher.offsets_at(led, OffsetSpec.LATEST, timeout_ms)
    except KafkaError as error:
        return error
    return {tp: Extent(starts[tp], stable_ends[tp], log_ends[tp]) for tp in led}
