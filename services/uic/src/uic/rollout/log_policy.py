"""Whether workers would start on a log: they refuse one from which compaction removes events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from mimn.release import Finding, Gate
from uic.core.deployment import Severity
from uic.errors import UicError
from uic.preflight import cleanup_of
from uic.settings import KafkaSettings

LOOK_AGAIN_S: Final = 10.0
"""How long what the brokers told is not asked again: each question takes a connection."""


def compacted(kafka: KafkaSettings, topic: str) -> Finding | None:
    """That workers refuse a topic for its cleanup.policy, in the words in which they do; None if they do not, or if the
    brokers do not tell this user.

    Raises:
        TopicRefused, LogUnavailable, UnsuitableTopic: the brokers do not show the topic, or do not answer.
    """
    seen = cleanup_of(kafka, topic)
    return Finding(Gate.LOG, seen.line) if seen is not None and seen.verdict is Severity.FAIL else None


class LogPolicy:
    """What the brokers told last of the topics of a rollout, for a command that looks again and again."""

    def __init__(self, kafka: KafkaSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds."""
        self._kafka = kafka
        self._clock = clock
        self._told: dict[str, Finding | None] = {}
        self._due: dict[str, float] = {}

    def closed(self, topic: str) -> Finding | None:
        """As `compacted`. While the brokers do not answer, what they told last counts: other gates say that they are
        away."""
        if self._clock() >= self._due.get(topic, 0.0):
            try:
                self._told[topic] = compacted(self._kafka, topic)
            except UicError:
                self._told.setdefault(topic, None)
            self._due[topic] = self._clock() + LOOK_AGAIN_S
        return self._told[topic]
