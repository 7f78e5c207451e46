"""A dead letter: a record that could not be folded, and why, in the form that the dead-letter topic stores.

Key, value and headers are the original's. The headers named here are added, so that a reader can tell where the record
came from, drop repeats (delivery is at least once), and replay it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

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
HEADERS_LEFT_OUT: Final = "uic-headers-left-out"
"""How many of the original headers, the last ones, did not fit; present only if some did not."""
OURS: Final = frozenset(
    (REASON, DETAIL, TOPIC, PARTITION, OFFSET, TIMESTAMP, KEY_BYTES, VALUE_BYTES, VALUE_SHA256, HEADERS_LEFT_OUT, NULL)
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


class Wire(NamedTuple):
    """A record to produce."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]

    @property
    def size(self) -> int:
        """Bytes with all overhead, or a few more."""
        return _size(*self)

    @property
    def whole(self) -> bool:
        """Whether nothing of the original is missing."""
        return not any(name in (KEY_BYTES, VALUE_BYTES, HEADERS_LEFT_OUT) for name, _ in self.headers)


def to_wire(letter: Letter, max_bytes: int) -> Wire:
    """The record to produce, of at most `max_bytes` with all overhead.

    A value that does not fit is cut, and its length and sha256 go into headers. Original headers that do not
    fit with the key and our headers are left out, last ones first, and counted; so is a key that does not fit.
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
        return Wire(key, value, [*original, *ours])
    whole = value or b""
    of_value = [(VALUE_BYTES, str(len(whole)).encode()), (VALUE_SHA256, sha256(whole).hexdigest().encode())]
    reserved = [*(of_value if whole else ()), (HEADERS_LEFT_OUT, str(len(original)).encode())]
    if key is not None and _size(key, None, [*ours, *reserved]) > max_bytes:
        ours.append((KEY_BYTES, str(len(key)).encode()))
        key, value = None, whole
    room = max_bytes - _size(key, None, [*ours, *reserved])
    kept: list[tuple[str, bytes]] = []
    for header in original:
        size = _headers_size([header])
        if size > room:
            break
        room -= size
        kept.append(header)
    if len(kept) < len(original):
        ours.append((HEADERS_LEFT_OUT, str(len(original) - len(kept)).encode()))
    if whole and _size(key, whole, [*kept, *ours]) > max_bytes:
        ours += of_value
        value = whole[: max(0, room)]
    return Wire(key, value, [*kept, *ours])


def _size(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    return _RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"") + _headers_size(headers)


def _headers_size(headers: Sequence[tuple[str, bytes]]) -> int:
    names = "".join([name for name, _ in headers])  # encoded at once: there may be thousands
    return len(names.encode()) + sum([len(content) for _, content in headers]) + 8 * len(headers)
