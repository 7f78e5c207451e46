"""The names of UIC's topics and of its consumer group: all derived from the event topic's name."""

from __future__ import annotations


def dead_letter_topic(events: str) -> str:
    """Where records that cannot be folded go."""
    return f"{events}.dlq"


DEAD_LETTER_PARTITIONS = 4
"""Of a topic that is made as UIC proposes it; any number will do."""


def erased_topic(events: str) -> str:
    """The compacted topic that remembers erasures."""
    return f"{events}.erased"


def miscounted(found: int, partitions: int) -> str:
    """What is wrong with a topic of `found` partitions that should have `partitions`; empty if it has."""
    return "" if found == partitions else f"has {found} partitions, not {partitions}"


def group_name(prefix: str, events: str, namespace: str, store: str = "") -> str:
    """The consumer group of all workers that fold `events` into one namespace of one store.

    Whatever must not share partitions must not share a group: another topic, another namespace, another store.

    Args:
        prefix: the first part of all keys.
        events: the event topic.
        namespace: of the bundle and generation.
        store: the store's identity, if it has one.
    """
    return ".".join(part for part in (prefix, events, namespace, store) if part)
