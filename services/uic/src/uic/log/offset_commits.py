"""Commits offsets to the consumer group: advice for monitoring tools, never the position that reading starts from.

At most one commit is under way. Advice that arrives meanwhile is merged, and the newest offset of each partition goes
out with the next commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import AuthorizationError
from kafka.structs import OffsetAndMetadata

from uic.core.ports import Advised

INTERVAL_S = 0.2


class OffsetCommits:
    """For one client; a new client gets a new one. Used by the poll thread only."""

    def __init__(
        self, topic: str, report: Callable[[Advised], None], refusal: Callable[[BaseException], str] = str
    ) -> None:
        """`report` is called with the outcome of each commit; `refusal` says which right is missing, by an error of a
        client."""
        self._topic = topic
        self._report = report
        self._refusal = refusal
        self._advice: dict[int, int] = {}
        self._under_way = False
        self._due = 0.0

    def advise(self, offsets: Mapping[int, int]) -> None:
        """Commit these offsets (partition → next offset) when possible."""
        self._advice.update(offsets)

    def send(self, consumer: KafkaConsumer) -> None:
        """Begin a commit if there is advice, no commit is under way, and the last one is `INTERVAL_S` old."""
        if not self._advice or self._under_way or time.monotonic() < self._due:
            return
        offsets = self._take(consumer)
        if not offsets:
            return
        self._under_way = True
        self._due = time.monotonic() + INTERVAL_S
        partitions = tuple(tp.partition for tp in offsets)

        def answered(_: object, response: object) -> None:
            self._under_way = False
            if isinstance(response, AuthorizationError):
                self._report(Advised(partitions, self._refusal(response), refused=True))
                return
            error = f"{type(response).__name__}: {response}" if isinstance(response, BaseException) else None
            self._report(Advised(partitions, error))

        consumer.commit_async(offsets, callback=answered)

    def finish(self, consumer: KafkaConsumer) -> None:
        """Commit the last advice, and wait up to one second for it."""
        if last := self._take(consumer):
            consumer.commit(last, timeout_ms=1000)

    def _take(self, consumer: KafkaConsumer) -> dict[TopicPartition, OffsetAndMetadata]:
        assigned = consumer.assignment()
        advice, self._advice = self._advice, {}
        offsets = {TopicPartition(self._topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in advice.items()}
        return {tp: offset for tp, offset in offsets.items() if tp in assigned}
