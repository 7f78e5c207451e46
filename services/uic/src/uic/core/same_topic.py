"""Whether a topic is still the one with which a command began: not deleted and created again, and not grown.

A name says nothing about that: a topic that was created again has other records at the same offsets, and one that was
given more partitions has its users' later records elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

from mimn.state import NO_TOPIC_ID


class Identity(NamedTuple):
    """A topic as the brokers tell it at one moment."""

    topic: str
    topic_id: bytes
    """16 bytes; zeros if the broker has none."""
    partitions: int


def made_again(begun: Identity, now: Identity) -> bool:
    """Whether the topic was deleted and created again since `begun`. Where the brokers have no topic ids, only fewer
    partitions show it."""
    if NO_TOPIC_ID not in (begun.topic_id, now.topic_id):
        return begun.topic_id != now.topic_id  # with fewer partitions a broker has not heard yet that it has grown
    return now.partitions < begun.partitions


def has_grown(begun: Identity, now: Identity) -> bool:
    """Whether the topic of `begun` was given more partitions since."""
    return not made_again(begun, now) and now.partitions > begun.partitions
