"""The topics of the system: names, partitions and settings, and their creation through Kafka's admin API.

`deploy/docker-compose.yml` creates the same topics; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from localstack.wait import until

EVENTS = "behavior-events"
PARTITIONS = 64
"""At least 32 for each Redis master ever planned; fixed at creation (docs/formats/event.md)."""
DLQ_PARTITIONS = 4
MAX_DEAD_LETTER_BYTES = 2_097_152
"""A dead letter has the record's value and more headers, so its topic takes larger messages than the event topic."""


class TopicMismatch(RuntimeError):
    """A topic exists with another partition count: events of the same key would lie elsewhere."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be created."""

    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)


def topics(events: str = EVENTS, partitions: int = PARTITIONS) -> list[Topic]:
    """The event topic, its dead letters and its erasures, in this order."""
    return [
        Topic(events, partitions, {"cleanup.policy": "delete", "retention.ms": "-1"}),
        Topic(
            f"{events}.dlq",
            min(DLQ_PARTITIONS, partitions),
            {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(MAX_DEAD_LETTER_BYTES)},
        ),
        Topic(f"{events}.erased", partitions, {"cleanup.policy": "compact"}),
    ]


def create_topics(bootstrap: str, wanted: list[Topic], *, replication: int = -1) -> list[str]:
    """Create the topics of `wanted` that do not exist, wait until each has a leader, and return the names created.

    Args:
        bootstrap:   Kafka's address, `host:port[,host:port]`.
        wanted:      the topics.
        replication: copies of each partition; -1 takes the broker's default.

    Raises:
        TopicMismatch: one exists with another partition count.
    """
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        existing = set(admin.list_topics())
        created = []
        for topic in wanted:
            if topic.name in existing:
                continue
            layout = {
                "num_partitions": topic.partitions,
                "replication_factor": replication,
                "configs": dict(topic.settings),
            }
            try:
                admin.create_topics({topic.name: layout})
                created.append(topic.name)
            except TopicAlreadyExistsError:
                pass  # another launcher was faster; the topic's partition count is checked below
        admin.wait_for_topics([topic.name for topic in wanted])
        found = _partition_counts(admin, wanted)
    finally:
        admin.close()
    for topic in wanted:
        if found[topic.name] != topic.partitions:
            raise TopicMismatch(
                f"topic {topic.name} has {found[topic.name]} partitions, not {topic.partitions}: "
                "its partition count is fixed at creation; set the count that it has, or use a new topic name"
            )
    return created


def _partition_counts(admin: KafkaAdminClient, wanted: list[Topic]) -> dict[str, int]:
    """By name. One of several brokers may not know a new topic yet, and reports no partitions."""
    found: dict[str, int] = {}

    def known() -> bool:
        described = admin.describe_topics([topic.name for topic in wanted])
        found.update({topic["name"]: len(topic["partitions"]) for topic in described})
        return all(found.values())

    until(known, "every topic has partitions", within_s=30)
    return found


def delete_topics(bootstrap: str, names: list[str]) -> None:
    """Delete the topics of these names that exist."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        if present := sorted(set(admin.list_topics()) & set(names)):
            admin.delete_topics(present)
    finally:
        admin.close()
