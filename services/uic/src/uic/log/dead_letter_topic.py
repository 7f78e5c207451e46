"""The dead-letter topic: a thread of its own that produces letters, so an unreachable topic blocks nothing else."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from uic.core.kafka_tools import KafkaTools
from uic.core.letters import Letter, Wire, to_wire
from uic.core.log_throttle import Rarely
from uic.log.clients import explained, open_kafka_client
from uic.log.producer import open_producer
from uic.log.topic_answers import ABSENT, TO_WRITE, trouble_of
from uic.log.unreachable import described
from uic.logs import say

log = logging.getLogger("uic.log.dead_letter_topic")

SMALLEST_LETTER_BYTES: Final = 4096
"""No letter is cut to less."""
LOOK_S = 2.0
"""How long the brokers are asked for the topic after a failure."""
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_RAISE_OURS = "raise UIC_KAFKA__MAX_REQUEST_BYTES"


def why_away(topic: str, trouble: str, tools: KafkaTools) -> str:
    """What is said of a dead-letter topic that the brokers do not show; empty if they do.

    Args:
        topic: its name.
        trouble: `topic_answers.trouble_of` it.
        tools: for the brokers that were asked.
    """
    if not trouble:
        return ""
    create = f". Create it: {tools.create_dead_letters(topic)}" if trouble == ABSENT else ""
    return f"topic {topic} {trouble}{create}"


class Sent:
    """A `Delivery`. Written by the producer's thread, read by the fold's."""

    __slots__ = ("cut", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: str | None = None
        self.cut = 0

    def finish(self, error: str | None, cut: int = 0) -> None:
        """The outcome is known."""
        self.error = error
        self.cut = cut
        self.done = True


class _TooLarge(Exception):
    """A letter that is not cut any more is refused as too large; the message says what to raise."""


class DeadLetterProducer(threading.Thread):
    """`DeadLetters` on Kafka. The producer is created when first needed and replaced after a failure. Letters may
    arrive twice, as the contract says."""

    def __init__(self, client: Mapping[str, Any], topic: str, *, max_bytes: int, timeout_s: float = 10.0) -> None:
        """Start it with `start`, end it with `close`.

        Args:
            client: options of the Kafka client.
            topic: the dead-letter topic.
            max_bytes: largest record to try. A topic that takes less gets less, and each letter is tried whole first:
                that may have been corrected.
            timeout_s: how long delivering a letter may take.
        """
        super().__init__(name="dead-letters", daemon=True)
        self._client = dict(client)
        self._topic = topic
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._failure = ""
        """Why the last letters were not delivered; empty if they were."""
        self._cuts = Rarely()
        self._jobs: queue.SimpleQueue[tuple[Sequence[Letter], Sent] | None] = queue.SimpleQueue()

    def send(self, letters: Sequence[Letter]) -> Sent:
        """See `DeadLetters`."""
        sent = Sent()
        self._jobs.put((letters, sent))
        return sent

    def close(self) -> None:
        """End the thread after the job in hand."""
        self._jobs.put(None)

    def run(self) -> None:
        """Jobs one after the other."""
        producer: KafkaProducer | None = None
        while (job := self._jobs.get()) is not None:
            letters, sent = job
            try:
                producer = producer or self._connect()
                cut = self._deliver(producer, letters)
            except Exception as error:  # any failure: the producer is replaced and the partition tries again
                if producer is not None:
                    producer.close(timeout=0)
                producer = None
                sent.finish(self._failed(error, len(letters)))
            else:
                if self._failure:
                    say(log, logging.INFO, "delivered again", letters=len(letters))
                self._failure = ""
                sent.finish(None, cut)
        if producer is not None:
            producer.close(timeout=1)

    def _failed(self, error: Exception, letters: int) -> str:
        """Why letters were not delivered. It is logged when it begins and when it changes, and not at each try."""
        why = self._why(error)
        if why != self._failure:
            say(log, logging.WARNING, "not delivered", letters=letters, detail=why, error=type(error).__name__)
        self._failure = why
        return why

    def _why(self, error: Exception) -> str:
        """Why letters were not delivered. Of a topic that is not there, the producer knows only that it has waited."""
        if isinstance(error, _TooLarge):
            return str(error)
        timeout_ms = int(min(self._timeout_s, LOOK_S) * 1000)
        bounded = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
        try:
            with closing(open_kafka_client(KafkaAdminClient, **self._client | bounded)) as admin:
                [found] = admin.describe_topics([self._topic])
            away = why_away(self._topic, trouble_of(self._client, found), KafkaTools.of(self._client))
        except KafkaError:
            away = ""
        return away or described(error, self._client, self._topic, TO_WRITE)

    def _connect(self) -> KafkaProducer:
        return open_producer(
            self._client, timeout_s=self._timeout_s, max_request_bytes=self._max_bytes, idempotent=False
        )

    def _deliver(self, producer: KafkaProducer, letters: Sequence[Letter]) -> int:
        """Produce and wait. A letter that the topic finds too large is cut in half, again and again; returns how many
        were cut."""
        with explained(producer):
            return self._produce_all(producer, letters)

    def _produce_all(self, producer: KafkaProducer, letters: Sequence[Letter]) -> int:
        cut, left = 0, [(letter, self._max_bytes) for letter in letters]
        while left:
            wires = [(letter, most, to_wire(letter, most)) for letter, most in left]
            futures = [self._produce(producer, wire) for _, _, wire in wires]
            producer.flush(timeout=self._timeout_s)
            left = []
            for (letter, most, wire), future in zip(wires, futures, strict=True):
                if not _is_taken(future):
                    left.append((letter, self._less(min(most, wire.size), by_client=future is None)))
                elif not wire.whole:
                    cut += 1
                    if most == self._max_bytes:  # it was cut before it was first sent
                        self._say_cut(most, _RAISE_OURS)
        return cut

    def _produce(self, producer: KafkaProducer, wire: Wire) -> Any:
        """The future of a letter; None if the client finds it too large."""
        try:
            return producer.send(self._topic, key=wire.key, value=wire.value, headers=wire.headers)
        except TOO_LARGE:
            return None

    def _less(self, size: int, *, by_client: bool) -> int:
        """To what a letter is cut that was refused as too large.

        Raises:
            _TooLarge: it is not cut any more.
        """
        why = _RAISE_OURS
        if not by_client:
            raised = KafkaTools.of(self._client).alter(self._topic, f"max.message.bytes={self._max_bytes}")
            why = f"max.message.bytes of topic {self._topic} is too small. Raise it: {raised}"
        if size <= SMALLEST_LETTER_BYTES:
            raise _TooLarge(f"a letter of about {size} bytes is refused: {why}")
        self._say_cut(size, why)
        return max(size // 2, SMALLEST_LETTER_BYTES)

    def _say_cut(self, size: int, why: str) -> None:
        if (left_out := self._cuts.due(time.monotonic())) is not None:
            told: dict[str, Any] = {"left_out": left_out} if left_out else {}
            say(log, logging.WARNING, "a letter is cut", bytes=size, detail=why, **told)


def _is_taken(future: Any) -> bool:
    """Whether a letter was acknowledged; else it is too large."""
    try:
        if future is not None:
            future.get(timeout=0)
    except TOO_LARGE:
        return False
    return future is not None
