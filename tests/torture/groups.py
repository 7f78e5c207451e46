"""The workers' consumer group as its coordinator sees it: which broker that is, and every generation of the group.

Read from the coordinator's own log, `__consumer_offsets`, without relying on UIC.
"""

from __future__ import annotations

import struct

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

OFFSETS = "__consumer_offsets"
GROUP_METADATA = 2
"""Version of the keys under which that log keeps groups; lower ones are of committed offsets."""


def state(bootstrap: str, group: str) -> str:
    """`Empty`, `Stable` or what the coordinator says."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        return str(admin.describe_groups([group])[group]["group_state"])
    finally:
        admin.close()


def coordinator(bootstrap: str, group: str) -> int:
    """The node that leads the partition in which the group is kept."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        (topic,) = admin.describe_topics([OFFSETS])
    finally:
        admin.close()
    at = home(group, len(topic["partitions"]))
    return next(int(p["leader_id"]) for p in topic["partitions"] if p["partition_index"] == at)


def home(group: str, partitions: int) -> int:
    """Where a coordinator keeps a group: by the hash of Java's strings."""
    number = 0
    for character in group:
        number = (31 * number + ord(character)) & 0xFFFFFFFF
    return min(number, 2**32 - number) % partitions


def generations(bootstrap: str, group: str) -> dict[int, float]:
    """Every generation of the group, one a rebalance, with the time (s since 1970) at which it was agreed on."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    found: dict[int, float] = {}
    try:
        place = TopicPartition(OFFSETS, home(group, len(consumer.partitions_for_topic(OFFSETS) or ())))
        consumer.assign([place])
        end = consumer.end_offsets([place])[place]
        while consumer.position(place) < end:
            for record in consumer.poll(timeout_ms=200).get(place, ()):
                if record.value is not None and _group_of(record.key) == group:
                    found.setdefault(_generation_of(record.value), record.timestamp / 1000)
    finally:
        consumer.close(autocommit=False)
    return found


def _group_of(key: bytes) -> str | None:
    version, length = struct.unpack_from(">hh", key)
    return key[4 : 4 + length].decode() if version == GROUP_METADATA else None


def _generation_of(value: bytes) -> int:
    _, length = struct.unpack_from(">hh", value)  # version, and the protocol's type
    return int(struct.unpack_from(">i", value, 4 + length)[0])
