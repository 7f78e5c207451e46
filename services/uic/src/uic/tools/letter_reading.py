"""Reads dead letters back from their topic: the counterpart of `uic.core.letters`, which writes them.

Delivery to the topic is at least once, so a reader drops repeats by topic, partition, offset and timestamp of the
original record: a topic that was made again has the same offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from uic.core import letters
from uic.log.topic_reader import LogRecord

Id = tuple[str, int, int, int]
"""Topic, partition, offset and timestamp of the original record."""


class NotALetter(ValueError):
    """A record of the dead-letter topic that UIC did not write."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be folded, as the dead-letter topic holds it."""

    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    """Cut if `cut_from` is set."""
    headers: tuple[tuple[str, bytes], ...]
    """The original record's."""
    cut_from: int | None = None
    """Length of the original value when it did not fit."""
    sha256: str | None = None
    """Of the original value when it did not fit."""
    key_bytes: int | None = None
    """Length of the original key when it did not fit and was left out."""
    headers_left_out: int = 0
    """How many of the original headers did not fit."""
    detail: str = ""
    """The field and the rule that it breaks; empty in letters of older versions."""

    @property
    def id(self) -> Id:
        """The same for every repeat, and for no record of an earlier topic of this name."""
        return self.topic, self.partition, self.offset, self.timestamp_ms

    @property
    def value_bytes(self) -> int:
        """Length of the original value; 0 for null."""
        return self.cut_from if self.cut_from is not None else len(self.value or b"")


def read_letter(record: LogRecord) -> DeadLetter:
    """The dead letter that `record` holds.

    Raises:
        NotALetter: the headers that UIC adds are missing or make no sense.
    """
    known = letters.OURS
    ours: dict[str, bytes] = {}
    original: list[tuple[str, bytes]] = []
    for header in record.headers:  # there may be thousands: those that stay are not made again
        if header[1] is None:
            continue
        if header[0] in known:
            ours[header[0]] = header[1]
        else:
            original.append(header)  # type: ignore[arg-type]  # its value is not None
    try:
        sha256 = ours.get(letters.VALUE_SHA256, b"").decode()
        detail = ours.get(letters.DETAIL, b"").decode()
        if not (ours[letters.REASON].decode() + ours[letters.TOPIC].decode() + sha256 + detail).isprintable():
            raise ValueError("its reason, detail, topic or hash holds control characters")
        cut_from, key_bytes = ours.get(letters.VALUE_BYTES), ours.get(letters.KEY_BYTES)
        return DeadLetter(
            reason=ours[letters.REASON].decode(),
            topic=ours[letters.TOPIC].decode(),
            partition=int(ours[letters.PARTITION]),
            offset=int(ours[letters.OFFSET]),
            timestamp_ms=int(ours[letters.TIMESTAMP]),
            key=record.key,
            value=None if letters.NULL in ours else record.value,
            headers=tuple(original),
            cut_from=None if cut_from is None else int(cut_from),
            sha256=sha256 or None,
            key_bytes=None if key_bytes is None else int(key_bytes),
            headers_left_out=int(ours.get(letters.HEADERS_LEFT_OUT, b"0")),
            detail=detail,
        )
    except (KeyError, ValueError) as error:
        raise NotALetter(f"partition {record.partition}, offset {record.offset}: {error!r}") from error


@dataclass(frozen=True)
class Selection:
    """Which dead letters to use; a field left at its default matches all."""

    reasons: frozenset[str] = frozenset()
    partition: int | None = None
    first: int = 0
    last: int | None = None
    """Offsets of the original records, both inclusive."""

    def __contains__(self, letter: object) -> bool:
        return (
            isinstance(letter, DeadLetter)
            and (not self.reasons or letter.reason in self.reasons)
            and self.partition in (None, letter.partition)
            and self.first <= letter.offset
            and (self.last is None or letter.offset <= self.last)
        )


@dataclass
class Scan:
    """Dead letters without repeats, and counts of the records that were skipped."""

    repeats: int = 0
    foreign: int = 0

    def letters(self, records: Iterable[LogRecord], selection: Selection) -> Iterator[DeadLetter]:
        """The selected letters, each once."""
        seen: set[Id] = set()
        for record in records:
            try:
                letter = read_letter(record)
            except NotALetter:
                self.foreign += 1
                continue
            if letter.id in seen:
                self.repeats += 1
                continue
            seen.add(letter.id)
            if letter in selection:
                yield letter
