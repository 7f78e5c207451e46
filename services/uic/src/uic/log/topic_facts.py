"""What the brokers say about topics: partitions, replicas and settings, as `uic.core.deployment` judges them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError, UnknownTopicOrPartitionError, UnsupportedVersionError, for_code

from mimn.state import NO_TOPIC_ID
from uic.core.deployment import TopicFacts
from uic.core.topics import bring_back
from uic.errors import NoLeader
from uic.log.topic_answers import rights_of


def topic_id_of(described: Mapping[str, Any]) -> bytes:
    """16 bytes of a topic that `describe_topics` has described; zeros if it has no id."""
    told = described.get("topic_id")
    return UUID(str(told)).bytes if told else NO_TOPIC_ID


class Extent(NamedTuple):
    """A partition's log."""

    start: int
    stable_end: int
    """The last stable offset."""
    log_end: int
    """The high watermark. While a transaction is open, it is above the last stable offset."""


def extents(admin: KafkaAdminClient, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Extent]:
    """Where partitions begin and end now, as their leaders say.

    Raises:
        KafkaError: no answer, or it is refused.
    """
    latest = dict.fromkeys(partitions, OffsetSpec.LATEST)
    starts = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST), timeout_ms=0)
    # Before the last stable offsets: what is produced between the two would look like an open transaction.
    log_ends = admin.list_partition_offsets(latest, timeout_ms=0)
    stable = admin.list_partition_offsets(latest, isolation_level="read_committed", timeout_ms=0)
    return {tp: Extent(starts[tp].offset, stable[tp].offset, log_ends[tp].offset) for tp in partitions}


def check_led(described: Mapping[str, Any], partitions: Collection[int]) -> None:
    """
    Raises:
        NoLeader: no broker leads some of these partitions of a topic that `describe_topics` has described.
    """
    led = {one["partition_index"] for one in described["partitions"] if one["leader_id"] >= 0}
    if away := sorted(set(partitions) - led):
        raise NoLeader(f"topic {described['name']}: {bring_back(away)}", tuple(away))


def current_topic_id(admin: Any, topic: str) -> bytes:
    """The topic's id as of a moment between call and return; zeros if there is no such topic, or it has no id.

    Raises:
        KafkaError: no answer, or it is refused.
    """
    try:
        # One partition is enough, and with hundreds the answer takes a hundred times as long to read.
        [found] = admin.describe_topic_partitions([topic], response_partition_limit=1)["topics"]
    except UnsupportedVersionError:  # brokers before 3.7
        [found] = admin.describe_topics([topic])
    if found["error_code"] not in (0, UnknownTopicOrPartitionError.errno):
        raise for_code(found["error_code"])()
    return topic_id_of(found)


def topic_facts(admin: Any, described: Sequence[Mapping[str, Any]]) -> dict[str, TopicFacts]:
    """The facts of topics that `describe_topics` of a kafka-python admin client has described, by name."""
    if not described:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in described]
    try:
        configs = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except KafkaError:
        configs = {}  # forbidden, or a broker that does not know the call
    facts = {}
    for topic in described:
        name, partitions = topic["name"], topic["partitions"]
        given = {k: str(v["value"]) for k, v in configs.get(name, {}).items() if v["value"] is not None}
        facts[name] = TopicFacts(
            name=name,
            partitions=len(partitions),
            replicas=min(len(p["replica_nodes"]) for p in partitions),
            leaderless=tuple(sorted(p["partition_index"] for p in partitions if p["leader_id"] < 0)),
            lagging={
                p["partition_index"]: tuple(sorted(away))
                for p in partitions
                if (away := set(p["replica_nodes"]) - set(p["isr_nodes"]))
            },
            config=given or None,
            rights=rights_of(topic),
            topic_id=topic_id_of(topic),
        )
    return facts
