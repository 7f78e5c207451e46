"""Publishing for callers that do not speak Kafka: validated events, and erasures, appended to the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ctr.event.v1.behavior_event_pb2 import ACTION_ERASE_ITEM, BehaviorEvent
from mimn.state import partition_of
from uic.core.kafka_tools import KafkaTools
from uic.core.topics import erased_topic, miscounted
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, UnsuitableTopic, WrongClock
from uic.log.erasures import Erasure, encode_erasure
from uic.log.event_log import EventLog
from uic.log.producer import NewRecord, Position


class Publisher:
    """Appends behaviors and erasures to the log of one topic with N partitions."""

    def __init__(self, log: EventLog, topic: str, partitions: int, tools: KafkaTools) -> None:
        """`tools` make the command that creates a topic which is not there."""
        self._log = log
        self._tools = tools
        self._topic = topic
        self._partitions = partitions
        self._erasing = [threading.Lock() for _ in range(partitions)]
        """By partition, held from the null record to its note: notes of a user must be written in rising order."""

    def publish(self, events: Sequence[tuple[bytes, bytes]], timeout_s: float) -> list[Position]:
        """Append validated (key, value) pairs, and return their positions; see `EventLog.append`."""
        records = [self._record(key, value) for key, value in events]
        return self._log.append(self._topic, self._partitions, records, timeout_s)

    def erase(self, user_id: str, timeout_s: float) -> Position:
        """Append the erasure of `user_id` and return its position; repeating it is harmless.

        First the null record in the log, which removes the state. Then the note in the topic of erasures, which needs
        the null record's offset. If only the note fails, the state will still be removed, but a rebuild could bring it
        back, so the caller is told to repeat the call. What is known beforehand to let the note fail, such as a missing
        right, is refused before anything is written.

        Raises:
            LogUnavailable, UnsuitableTopic: as `EventLog.append`; repeat the whole call.
            LogRefused: the brokers refuse a record; repeat the whole call once that is repaired.
        """
        deadline = time.monotonic() + timeout_s
        key = user_id.encode()
        topic_id = self._log.topic_id(self._topic)
        self._check_topic_of_notes()
        with self._alone(partition_of(key, self._partitions), deadline):
            left_s = deadline - time.monotonic()
            erased = self._append_erasure(self._topic, self._record(key, None), left_s)
            note = encode_erasure(Erasure(erased.partition, erased.offset, topic_id))
            left_s = max(deadline - time.monotonic(), 0.1)
            try:
                self._append_erasure(erased_topic(self._topic), self._record(key, note), left_s)
            except (LogRefused, WrongClock) as error:
                raise type(error)(
                    f"half of the erasure was written: the user's state goes, but a rebuild could bring it back, for "
                    f"its note was refused; {error.detail}; then repeat the call"
                ) from error
        return erased

    @contextmanager
    def _alone(self, partition: int, deadline: float) -> Iterator[None]:
        """While no other call of this process erases a user of the partition.

        Raises:
            LogUnavailable: others did so for all of the time.
        """
        if not self._erasing[partition].acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise LogUnavailable("nothing was erased: other erasures in the partition took all of the time: repeat it")
        try:
            yield
        finally:
            self._erasing[partition].release()

    def _check_topic_of_notes(self) -> None:
        """Before anything is written, because a null record without a note is half an erasure. The broker is asked: a
        producer takes its time to notice that a topic is gone.

        Raises:
            LogUnavailable: no broker answers.
            LogRefused: we may not write to it.
            UnsuitableTopic: there is no such topic, or it has another partition count.
        """
        notes = erased_topic(self._topic)
        try:
            found = self._log.partition_count(notes)
        except UnsuitableTopic as error:
            create = self._tools.create(notes, self._partitions, "compact")
            raise UnsuitableTopic(f"nothing was erased: {error.detail}: {create}") from error
        if wrong := miscounted(found, self._partitions):
            fix = self._tools.recount_erased(notes, found, self._partitions)
            raise UnsuitableTopic(f"nothing was erased: topic {notes} {wrong}: {fix}")
        try:
            self._log.must_be_writable(notes)
        except LogRefused as error:
            raise LogRefused(f"nothing was erased: {error.detail}") from error

    def erase_item(self, user_id: str, item_id: int, now_ms: int, timeout_s: float) -> Position:
        """Append the erasure of one item of `user_id` and return its position; repeating it is harmless.

        It needs no note: a rebuild folds the item's events and then this record, which retention removes after them.

        Raises:
            LogUnavailable, UnsuitableTopic: as `EventLog.append`; repeat the call.
        """
        key = user_id.encode()
        event = BehaviorEvent(user_id=user_id, item_id=item_id, action=ACTION_ERASE_ITEM, event_time=now_ms)
        return self._append_erasure(self._topic, self._record(key, event.SerializeToString()), timeout_s)

    def _append_erasure(self, topic: str, record: NewRecord, timeout_s: float) -> Position:
        """Append what may be in the log twice, unlike behaviors.

        Raises:
            LogUnavailable, UnsuitableTopic: as `EventLog.append`; whatever became of the record, repeat the call.
        """
        try:
            [position] = self._log.append(topic, self._partitions, [record], timeout_s)
        except NotAcknowledged as error:
            why = f" ({error.why})" if error.why else ""
            raise LogUnavailable(
                "the erasure was not acknowledged in time and may or may not be in the log: repeat the call, a second "
                f"erasure is harmless{why}"
            ) from error
        return position

    def _record(self, key: bytes, value: bytes | None) -> NewRecord:
        return NewRecord(partition_of(key, self._partitions), key, value)
