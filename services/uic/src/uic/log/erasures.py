"""The compacted topic `<topic>.erased`: which users were erased, and up to where in the log.

A partition that starts from nothing reads the whole log again. It would bring every erased user back until it reached
the erasure itself, or for good if retention had removed that. So it reads these notes first and leaves out what lies at
or below them. So does one that leaves a part of the log out: erasures may be in it (`uic.core.unfolded_erasures`).
Partition p of this topic holds the users of partition p of the log. The record is specified in docs/formats/erased.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from uic.core.topics import erased_topic
from uic.errors import LogUnavailable, UnsuitableTopic
from uic.log.topic_reader import LogRecord, read_to_end


@dataclass(frozen=True, slots=True)
class Erasure:
    """One note: events of its key at or below `offset` of `partition` are erased, in the log `topic_id` alone."""

    partition: int
    offset: int
    topic_id: bytes
    """16 bytes; zeros if the broker had no topic ids."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What a log's notes say of one user."""

    offset: int
    """Up to it (inclusive) the user's events are erased."""
    time_ms: int
    """When: the Kafka timestamp of the note, which is written right after the erasure. It tells the order where offsets
    cannot: records of another partition, or of no topic yet."""


SIGN_RECORDS: Final = 1000
"""Notes from one sign of progress to the next."""


class UnreadableErasure(ValueError):
    """The record's value is not a note of an erasure."""


class _Wire(msgspec.Struct, frozen=True):
    partition: int
    offset: int
    topic_id: str


def encode_erasure(note: Erasure) -> bytes:
    """The record value: JSON."""
    return msgspec.json.encode(_Wire(note.partition, note.offset, str(UUID(bytes=note.topic_id))))


def decode_erasure(value: bytes) -> Erasure:
    """The note that `value` holds; fields that it does not know are ignored.

    Raises:
        UnreadableErasure: the value is not one.
    """
    try:
        wire = msgspec.json.decode(value, type=_Wire)
        return Erasure(wire.partition, wire.offset, UUID(wire.topic_id).bytes)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UnreadableErasure(str(error)) from error


class KafkaErasures:
    """Reads the notes from Kafka, with a consumer of its own for each call."""

    def __init__(
        self,
        client: Mapping[str, Any],
        topic: str,
        count: int | None,
        *,
        timeout_s: float,
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            client: options of the Kafka client.
            topic: the event topic.
            count: how many partitions the event topic has, and so that of erasures must have; None where these may
                differ, as of a topic that was given more.
            timeout_s: bounds how long no answer is waited for.
            goes_on: called now and then while notes are read.
        """
        self._client = client
        self._topic = topic
        self._count = count
        self._timeout_s = timeout_s
        self._goes_on = goes_on

    def read(self, partitions: Collection[int], topic_id: bytes) -> dict[int, dict[bytes, int]]:
        """Partition → user's key → offset up to which (inclusive) the user's events of log `topic_id` are erased: the
        offsets of `noted`, which says what is raised."""
        noted = self.noted(partitions, topic_id)
        return {p: {key: one.offset for key, one in users.items()} for p, users in noted.items()}

    def noted(self, partitions: Collection[int], topic_id: bytes) -> dict[int, dict[bytes, Noted]]:
        """Partition → user's key → what the notes of log `topic_id` say.

        Every partition asked for has an entry. Notes of another log (the topic was recreated) are left out, and so is
        an unreadable one: it names no offset. Of several notes under a key the highest offset counts, and of those the
        first; a null value takes the earlier ones back.

        Raises:
            LogUnavailable: no broker answers, or there is no topic of erasures, or it has another number of
                partitions; then it is unknown whom a replay would bring back, and it has to wait. A `NoLeader` names
                the partitions that have no leader.
        """
        notes: dict[int, dict[bytes, Noted]] = {p: {} for p in partitions}
        try:
            records = read_to_end(
                self._client, erased_topic(self._topic), partitions, count=self._count, idle_s=self._timeout_s
            )
            for number, record in enumerate(records):
                if number % SIGN_RECORDS == 0:
                    self._goes_on()
                _take(notes[record.partition], record, topic_id)
        except UnsuitableTopic as error:
            raise LogUnavailable(error.detail) from error
        return notes


def _take(users: dict[bytes, Noted], record: LogRecord, topic_id: bytes) -> None:
    if record.key is None:
        return
    if record.value is None:
        users.pop(record.key, None)
        return
    try:
        note = decode_erasure(record.value)
    except UnreadableErasure:
        return
    if note.topic_id != topic_id or note.partition != record.partition:
        return
    if (known := users.get(record.key)) is None or note.offset > known.offset:
        users[record.key] = Noted(note.offset, record.timestamp_ms)
