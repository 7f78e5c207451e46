"""The poll thread: the one owner of the Kafka consumer, which is never shared between threads.

The leases give this worker its partitions (`fold.lease_keeper`); the fold says where each is read. The thread keeps the
client's assignment equal to that: a partition that waits, or of which too many records wait for the fold, is not
assigned. It chooses no position and never waits for the store.

Records are fetched by the topic's name. So after each fetch, and before its records are handed out, the brokers are
asked for the topic's id: a topic that was deleted and created again has other records at offsets that look right.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)

from uic.core.ports import (
    Fetched,
    LogAway,
    LogMessage,
    NoLease,
    OutOfRange,
    Owned,
    Skipped,
    Unreadable,
)
from uic.core.records import joined
from uic.core.trouble import Cause, Trouble
from uic.log.backpressure import Backpressure
from uic.log.batch_hook import PartitionBatches, read_batches_with_uic
from uic.log.clients import explained, open_kafka_client
from uic.log.observer import LogObserver
from uic.log.record_batches import UnreadableBatch
from uic.log.topic_answers import TO_READ, refusal
from uic.log.topic_facts import current_topic_id
from uic.log.unreachable import described
from uic.logs import say
from uic.settings import KafkaSettings

log = logging.getLogger("uic.log.consumer")

POLL_MS: Final = 100
"""How long a poll may wait for records. Each costs some 2 ms of CPU for 64 partitions, so it outlasts a fetch."""
REOPEN_S: Final = 1.0
"""The pause before another client is opened, or a topic is read again that refuses us."""
BATCH_READS: Final = 3
"""How often an unreadable batch is fetched before its partition stops: damage in transit is gone the next time."""
STALL_S: Final = 10.0
"""How long nothing may be read while there is something to read; then another client tries."""
ANSWER_BYTES: Final = 1 << 29
"""Largest answer of a broker that is read."""


class _Place(NamedTuple):
    """Where the fold wants a partition to be read, and for whom."""

    tag: int
    offset: int
    topic_id: bytes
    """Zeros where the brokers have none."""


class LogConsumer(threading.Thread):
    """`Log` on a Kafka consumer without a group. Begin with `start`, end with `leave`."""

    def __init__(
        self,
        settings: KafkaSettings,
        queue_records: int,
        observer: LogObserver,
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            settings: the log.
            queue_records: fetched records that may wait for the fold, over all partitions.
            observer: answers questions about the log, with messages of its own.
            goes_on: called when the thread begins something that may wait, and when it is done with it.
        """
        super().__init__(name="poll", daemon=True)
        self._settings = settings
        self._topic = settings.topic
        self._client = settings.client_options()
        self._observer = observer
        self._messages = observer.messages
        self.describe = observer.describe
        self.count_partitions = observer.count_partitions
        self.advise = observer.advise
        self._goes_on = goes_on
        self._leaving = threading.Event()
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._owned: Owned | None = None
        """What the leases last gave this worker."""
        self._places: dict[int, _Place] = {}
        """What is to be read, by partition. Replaced entry by entry, under the lock."""
        self._backpressure = Backpressure(queue_records)
        # Owned by the poll thread:
        self._read: dict[int, _Place] = {}
        """What the client is assigned to."""
        self._positions: dict[int, int] = {}
        """Tag → the next offset."""
        self._bad_reads: dict[int, tuple[int, int]] = {}
        """Tag → the offset of an unreadable batch, and how often it was fetched."""
        self._failure = ""
        """Why the last client failed; empty once the next one has fetched something."""
        self._refused = False
        self._asker: KafkaAdminClient | None = None
        """For the topic's id: on the consumer's connection a question would wait behind the open fetch."""

    # For the fold thread

    def messages(self, timeout_s: float) -> list[LogMessage]:
        """See `Log`."""
        found: list[LogMessage] = []
        with suppress(queue.Empty):
            found.append(self._messages.get(timeout=timeout_s) if timeout_s > 0 else self._messages.get_nowait())
            while True:
                found.append(self._messages.get_nowait())
        return found

    def read(self, partition: int, tag: int, offset: int, topic_id: bytes) -> None:
        """See `Log`."""
        with self._lock:
            if self._owned is not None and partition in self._owned.partitions:
                self._places[partition] = _Place(tag, offset, topic_id)
                self._changed.set()

    def park(self, partition: int) -> None:
        """See `Log`."""
        with self._lock:
            self._places.pop(partition, None)

    def took(self, tag: int, records: int) -> None:
        """See `Log`."""
        self._backpressure.took(tag, records)

    # For the lease thread

    def own(self, owned: Owned) -> None:
        """Read these partitions and no others."""
        with self._lock:
            self._owned = owned
            for partition in self._places.keys() - owned.partitions:
                del self._places[partition]
            self._changed.set()

    def disown(self, why: str) -> None:
        """Read none, because this worker holds no lease."""
        with self._lock:
            self._owned = None
            self._places.clear()
            self._messages.put(NoLease(why))

    # For the owner

    def leave(self, timeout_s: float) -> bool:
        """End the thread; False if that was not done in time."""
        self._leaving.set()
        self._changed.set()
        self.join(timeout_s)
        return not self.is_alive()

    # The poll thread

    def run(self) -> None:
        """Consume, with a new client after every failure, until `leave`."""
        while not self._leaving.is_set():
            consumer = None
            self._goes_on()
            try:
                consumer = open_kafka_client(
                    KafkaConsumer, **self._settings.consumer_options(), receive_message_max_bytes=ANSWER_BYTES
                )
                read_batches_with_uic(consumer, PartitionBatches, most_bytes=self._settings.max_batch_bytes)
                with explained(consumer):
                    self._consume(consumer)
            except Exception as error:  # kafka-python's: a new client starts clean
                why = described(error, self._client, self._topic)
                if why != self._failure:  # each try ends alike, whether no broker answers or one refuses
                    say(log, logging.WARNING, "consumer failed", detail=why)
                self._failure = why
                with self._lock:
                    self._places.clear()
                    self._messages.put(LogAway(why))
            self._goes_on()
            self._close(consumer)
            self._leaving.wait(REOPEN_S)

    def _close(self, consumer: KafkaConsumer | None) -> None:
        """Close the clients, and forget what belonged to them."""
        self._read = {}
        for tag in list(self._positions):
            self._forget(tag)
        try:
            if consumer is not None:
                consumer.close(autocommit=False, timeout_ms=2000)
            if self._asker is not None:
                self._asker.close()
        except Exception as error:  # we are done with it
            say(log, logging.DEBUG, "closing a client failed", detail=repr(error))
        self._asker = None

    def _consume(self, consumer: KafkaConsumer) -> None:
        heard: Owned | None = None
        read_at = time.monotonic()
        while not self._leaving.is_set():
            self._goes_on()
            with self._lock:
                owned, wanted = self._owned, dict(self._places)
                self._changed.clear()
            if owned is not None and owned is not heard:
                self._messages.put(owned)
            heard = owned
            self._assign(consumer, wanted)
            if not self._read:
                self._changed.wait(POLL_MS / 1000)
                continue
            try:
                fetched = consumer.poll(timeout_ms=POLL_MS)
            except OffsetOutOfRangeError as error:
                self._out_of_range(error.args[0])
            except LogTruncationError as error:
                self._out_of_range(error.divergent_offsets)
            except TopicAuthorizationFailedError:
                self._is_refused(consumer)
                read_at = time.monotonic()
            else:
                if self._refused and any(consumer.highwater(self._tp(p)) is not None for p in self._read):
                    self._refused = False  # since it was refused, a fetch has been answered
                    self._messages.put(Trouble(Cause.LOG, "", "fetches"))
                if fetched:
                    self._failure = ""
                    self._hand_out(fetched)
                if fetched or not self._is_behind():
                    read_at = time.monotonic()
                elif time.monotonic() - read_at >= STALL_S:
                    raise KafkaTimeoutError(f"nothing was read for {STALL_S:.0f} s of a log that has more")

    def _assign(self, consumer: KafkaConsumer, wanted: Mapping[int, _Place]) -> None:
        """Let the client read what is wanted, except where too many records wait for the fold."""
        for tag in self._positions.keys() - {place.tag for place in wanted.values()}:
            self._forget(tag)
        for place in wanted.values():
            if place.tag not in self._positions:
                self._positions[place.tag] = place.offset
                self._backpressure.begin(place.tag)
        read = {p: place for p, place in wanted.items() if not self._backpressure.is_full(place.tag)}
        if read == self._read:
            return
        before, self._read = self._read, read
        if before.keys() != read.keys():
            consumer.assign([self._tp(p) for p in sorted(read)])
        for partition, place in read.items():
            if before.get(partition) != place:
                consumer.seek(self._tp(partition), self._positions[place.tag])

    def _is_behind(self) -> bool:
        """Whether a leader said that there is more than was read."""
        ends = self._observer.ends
        return any(self._positions[place.tag] < ends.get(p, 0) for p, place in self._read.items())

    def _forget(self, tag: int) -> None:
        self._positions.pop(tag, None)
        self._bad_reads.pop(tag, None)
        self._backpressure.forget(tag)

    def _hand_out(self, fetched: Mapping[TopicPartition, list[Any]]) -> None:
        try:
            found = self._topic_id()
        except KafkaError:  # fetched again later, by another client for questions too
            self._fetch_again(fetched)
            return
        for tp, batches in fetched.items():
            place = self._read[tp.partition]
            if any(place.topic_id) and place.topic_id != found:
                self._out_of_range([tp])
            else:
                self._deliver(tp.partition, place, batches)

    def _topic_id(self) -> bytes:
        """The topic's id now.

        Raises:
            KafkaError: no answer.
        """
        self._goes_on()
        try:
            if self._asker is None:
                self._asker = open_kafka_client(KafkaAdminClient, **self._client)
            return current_topic_id(self._asker, self._topic)
        except KafkaError:
            if self._asker is not None:
                self._asker.close()
                self._asker = None
            raise
        finally:
            self._goes_on()

    def _fetch_again(self, fetched: Mapping[TopicPartition, list[Any]]) -> None:
        """Seek, at the next turn, to where these partitions were."""
        self._read = {p: place for p, place in self._read.items() if self._tp(p) not in fetched}

    def _deliver(self, partition: int, place: _Place, batches: list[Any]) -> None:
        tag = place.tag
        bad = batches.pop() if isinstance(batches[-1], UnreadableBatch) else None
        for empty in (batch for batch in batches if not batch.records):
            self._messages.put(Skipped(partition, tag, empty.offset))
        if batches:
            records = [batch.records for batch in batches if batch.records]
            self._backpressure.gave(tag, sum(map(len, records)))
            self._positions[tag] = batches[-1].next_offset
            self._messages.put(Fetched(partition, tag, joined(records) if records else (), self._positions[tag]))
        if bad is not None:
            self._unreadable(partition, tag, bad)

    def _unreadable(self, partition: int, tag: int, bad: UnreadableBatch) -> None:
        """Read the batch again, or stop this partition and say why; the others go on."""
        offset, reads = self._bad_reads.get(tag, (-1, 0))
        reads = reads + 1 if offset == bad.offset else 1
        self._bad_reads[tag] = (bad.offset, reads)
        if reads == BATCH_READS:
            self.park(partition)
            self._messages.put(Unreadable(partition, tag, bad.offset, bad.next_offset, bad.reason))

    def _out_of_range(self, partitions: Any) -> None:
        for partition in [tp.partition for tp in partitions if tp.partition in self._read]:
            tag = self._read[partition].tag
            self.park(partition)
            self._messages.put(OutOfRange(partition, tag))

    def _is_refused(self, consumer: KafkaConsumer) -> None:
        """Say so once, and read everything anew: what a partition knows of earlier answers goes with its assignment."""
        if not self._refused:
            self._refused = True
            why = f"topic {self._topic} {refusal(self._client, TO_READ)}"
            self._messages.put(Trouble(Cause.LOG, why, "fetches"))
        self._read = {}
        consumer.unsubscribe()
        self._leaving.wait(REOPEN_S)

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)
