"""A dead letter: a record that could not be folded, and why, in the form that the dead-letter topic stores.

Key, value and headers are the original's. The headers named here are added, so that a reader can tell where the record
came from, drop repeats (delivery is at least once), and replay it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from uic.core.event import Reason, Record, explain

REASON: Final = "uic-reason"
DETAIL: Final = "uic-detail"
"""The field and the rule that it breaks; never a value."""
TOPIC: Final = "uic-topic"
PARTITION: Final = "uic-partition"
OFFSET: Final = "uic-offset"
TIMESTAMP: Final = "uic-timestamp"
"""Of the original record, ms."""
KEY_BYTES: Final = "uic-key-bytes"
"""Length of the original key; present only when the key did not fit and was left out."""
VALUE_BYTES: Final = "uic-value-bytes"
"""Length of the original value; present only when it was cut."""
NULL: Final = "uic-null"
"""Present, empty, when the record had neither key nor value: Kafka's clients need one, so the value is empty."""
VALUE_SHA256: Final = "uic-value-sha256"
"""Hex, of the original value; present only when it was cut."""
OURS: Final = frozenset(
    (REASON, DETAIL, TOPIC, PARTITION, OFFSET, TIMESTAMP, KEY_BYTES, VALUE_BYTES, VALUE_SHA256, NULL)
)

_RECORD_OVERHEAD_BYTES: Final = 512
"""More than the framing of a record batch with one record, and of each header's lengths for any sane count."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One record on its way to the dead letters."""

    reason: Reason
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, record: Record, reason: Reason, topic: str, partition: int) -> Letter:
        """The letter for `record` of that topic and partition. A null header becomes an empty one, which means the same
        here: kafka-python writes no other."""
        headers = tuple([(name, value or b"") for name, value in record.headers or ()])
        return cls(reason, topic, partition, record.offset, record.timestamp, record.key, record.value, headers)


Wire = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Key, value and headers of a record to produce."""


def to_wire(letter: Letter, max_bytes: int) -> Wire:
    """The record to produce, of at most `max_bytes` with all overhead.

    A value that does not fit is cut, and its length and sha256 go into headers. Original headers that do not
    fit with the key and our headers are left out, last ones first; so is a key that does not fit.
    """
    ours = [
        (REASON, letter.reason.value.encode()),
        (DETAIL, explain(letter.reason, letter.value, letter.headers).encode()),
        (TOPIC, letter.topic.encode()),
        (PARTITION, str(letter.partition).encode()),
        (OFFSET, str(letter.offset).encode()),
        (TIMESTAMP, str(letter.timestamp_ms).encode()),
    ]
    original = [header for header in letter.headers if header[0] not in OURS]
    key, value = letter.key, letter.value
    if key is None and value is None:
        value = b""
        ours.append((NULL, b""))
    if _size(key, value, [*original, *ours]) <= max_bytes:
        return key, value, [*original, *ours]
    if value:
        ours += [(VALUE_BYTES, str(len(value)).encode()), (VALUE_SHA256, sha256(value).hexdigest().encode())]
    if key is not None and _size(key, None, ours) > max_bytes:
        ours.append((KEY_BYTES, str(len(key)).encode()))
        key, value = None, value or b""
    room = max_bytes - _size(key, None, ours)
    kept = []
    for header in original:
        size = _headers_size([header])
        if size > room:
            break
        room -= size
        kept.append(header)
    return key, None if value is None else value[: max(0, room)], [*kept, *ours]


def _size(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    return _RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"") + _headers_size(headers)


def _headers_size(headers: Sequence[tuple[str, bytes]]) -> int:
    names = "".join([name for name, _ in headers])  # encoded at once: there may be thousands
    return len(names.encode()) + sum([len(content) for _, content in headers]) + 8 * len(headers)
