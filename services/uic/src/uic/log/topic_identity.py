"""Which topic it is that a name stands for now: a topic that is made anew has another id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from kafka import KafkaAdminClient
from kafka.errors import UnsupportedVersionError

from mimn.state import NO_TOPIC_ID


class TopicIdentity:
    """Asks the broker, on a connection of its own: on a consumer's the question would wait behind the open fetch.

    Seen on 2 busy cores: 0.5 ms, of which 0.3 ms are our own CPU.
    """

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        """Connects; `options` are a client's.

        Raises:
            KafkaError: no broker answers.
        """
        self._topic = topic
        self._admin = KafkaAdminClient(**options)

    def now(self) -> bytes:
        """The topic's id as of a moment between call and return; zeros if there is no such topic, or it has no id.

        Raises:
            KafkaError: no answer.
        """
        try:
            # One partition is enough, and with hundreds the answer takes a hundred times as long to read.
            (found,) = self._admin.describe_topic_partitions([self._topic], response_partition_limit=1)["topics"]
        except UnsupportedVersionError:  # brokers before 3.7
            (found,) = self._admin.describe_topics([self._topic])
        told = found.get("topic_id")
        return UUID(str(told)).bytes if told else NO_TOPIC_ID

    def close(self) -> None:
        """Let go of the broker."""
        self._admin.close()
