"""From the bytes of one log record to a behavior event, or to the reason why it is none.

The rules are docs/formats/event.md. What breaks one is a value, `Reason`, and never an exception: a bad record is
expected, goes to the dead letters and stops nobody. `decode` runs once for every record of the log, so it returns a
plain tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent

MAX_KEY_BYTES: Final = 128
MAX_EVENT_ID_BYTES: Final = 64
MAX_VALUE_BYTES: Final = 64 * 1024
"""More than any sane event, in JSON with fields that we do not know too."""
EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01 UTC."""
DAY_MS: Final = 86_400_000
CONTENT_TYPE: Final = "content-type"
JSON: Final = b"application/json"


class Reason(StrEnum):
    """Why a record went to the dead letters. Closed: dashboards and the replay command know all of them."""

    MISSING_KEY = "missing_key"
    """No key, or an empty one."""
    BAD_KEY = "bad_key"
    """The key is longer than 128 bytes or not UTF-8."""
    MISROUTED = "misrouted"
    """The record does not lie in its key's partition."""
    TOO_LARGE = "too_large"
    """The value is longer than `MAX_VALUE_BYTES`."""
    MALFORMED_PROTOBUF = "malformed_protobuf"
    MALFORMED_JSON = "malformed_json"
    MISSING_USER = "missing_user"
    KEY_MISMATCH = "key_mismatch"
    """The event's user is not the record's key."""
    ITEM_ZERO = "item_zero"
    BAD_EVENT_ID = "bad_event_id"
    """Longer than 64 bytes."""
    BAD_TIME = "bad_time"
    """Before 2000, or more than a day after the record's own time."""
    NON_FINITE = "non_finite"
    """The step graph answered with a number that is not finite; the state was kept as it was."""


class Record(Protocol):
    """One record of the log, as a Kafka client hands it out. Read-only."""

    @property
    def offset(self) -> int:
        """Position in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970-01-01 UTC, -1 if the record has none."""

    @property
    def key(self) -> bytes | None:
        """The user id in UTF-8."""

    @property
    def value(self) -> bytes | None:
        """The event; None erases the user."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Name and value pairs."""


def check_key(key: bytes | None) -> Reason | None:
    """What is wrong with a record's key, or None."""
    if not key:
        return Reason.MISSING_KEY
    if len(key) > MAX_KEY_BYTES:
        return Reason.BAD_KEY
    try:
        key.decode()
    except UnicodeDecodeError:
        return Reason.BAD_KEY
    return None


def check_event(event: BehaviorEvent, key: str, timestamp_ms: int) -> Reason | None:
    """What is wrong with an event under the record key `key` (UTF-8 decoded) at `timestamp_ms`, or None.

    A record without a time of its own (-1) bounds `event_time` from below only.
    """
    user_id = event.user_id
    if user_id != key:
        return Reason.KEY_MISMATCH if user_id else Reason.MISSING_USER
    if not event.item_id:
        return Reason.ITEM_ZERO
    event_time = event.event_time
    if event_time < EARLIEST_MS or (event_time > timestamp_ms + DAY_MS and timestamp_ms >= 0):
        return Reason.BAD_TIME
    event_id = event.event_id
    if len(event_id) > MAX_EVENT_ID_BYTES or (not event_id.isascii() and len(event_id.encode()) > MAX_EVENT_ID_BYTES):
        return Reason.BAD_EVENT_ID
    return None


def decode(
    value: bytes, headers: Sequence[tuple[str, bytes | None]], key: str, timestamp_ms: int
) -> tuple[int, int, int] | Reason:
    """(item id, category id, event time in ms) of the event that `value` holds, or what is wrong with it.

    Args:
        value: the record's value, not null.
        headers: the record's; `content-type: application/json` says that the value is proto3 JSON.
        key: the record's key, already checked (`check_key`) and decoded.
        timestamp_ms: the record's, -1 for none.
    """
    if len(value) > MAX_VALUE_BYTES:
        return Reason.TOO_LARGE
    if headers and is_json(headers):
        parsed = _parse_json(value)
        if parsed is None:
            return Reason.MALFORMED_JSON
        event = parsed
    else:
        try:
            event = BehaviorEvent.FromString(value)
        except DecodeError:
            return Reason.MALFORMED_PROTOBUF
    wrong = check_event(event, key, timestamp_ms)
    if wrong is not None:
        return wrong
    return event.item_id, event.category_id, event.event_time


FEW = 64
"""Fewer records are decoded sooner one by one: reading them together costs a fraction of a millisecond, whatever their
number, and where events arrive at a rate each partition has one or two."""


def decode_all(
    values: Sequence[bytes],
    headers: Sequence[Sequence[tuple[str, bytes | None]]],
    keys: Sequence[bytes],
    timestamps_ms: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], dict[int, Reason]]:
    """What `decode` says of each record: item ids, category ids and event times, and the reasons of those that are no
    events (whose ids and times are 0).

    Nearly all values are what protobuf's serializers write: many are read together, field by field (`_read_common`).
    The rest, and few, are decoded one by one.

    Args:
        values, headers, timestamps_ms: of n records.
        keys: theirs, already checked.
    """
    if len(values) < FEW:
        items, categories = np.zeros((2, len(values)), np.uint64)
        times, common = np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    else:
        items, categories, times, common = _read_common(values, keys)
    common &= (items != 0) & (times >= EARLIEST_MS) & ((timestamps_ms < 0) | (times <= timestamps_ms + DAY_MS))
    for at, told in enumerate(headers):
        if told and common[at] and is_json(told):
            common[at] = False
    reasons: dict[int, Reason] = {}
    for at in np.flatnonzero(~common).tolist():
        event = decode(values[at], headers[at], keys[at].decode(), int(timestamps_ms[at]))
        if isinstance(event, Reason):
            reasons[at], event = event, (0, 0, 0)
        items[at], categories[at], times[at] = event
    return items, categories, times, reasons


_SLACK = bytes(1024)
"""Behind the last value: more than `_read_common` can run past a value's end before it notices."""


def _read_common(
    values: Sequence[bytes], keys: Sequence[bytes]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.bool_]]:
    """Item id, category id and event time of each value that has the common form, and which do.

    The common form: known fields only, each once, in the order of their numbers; an event id of at most 64 ASCII
    characters, or none; the user id equal to the key; numbers of at most nine bytes. Wire format:
    https://protobuf.dev/programming-guides/encoding/
    """
    data = np.frombuffer(b"".join(values) + _SLACK, np.uint8)
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    ends = np.cumsum(sizes)
    at = ends - sizes

    named = data[at] == 0x0A
    size = np.where(named, data[at + 1], 0).astype(np.int64)
    before = at + 2
    at = at + np.where(named, size + 2, 0)
    foreign = np.concatenate([[0], np.cumsum(data > 127)])
    common = ~named | ((size <= MAX_EVENT_ID_BYTES) & (foreign[before + size] == foreign[before]))

    key_sizes = np.fromiter(map(len, keys), np.int64, len(keys))
    common &= (data[at] == 0x12) & (data[at + 1] == key_sizes) & (key_sizes < 128)
    at = np.where(common, at + 2, 0)
    key_ends = np.cumsum(key_sizes)
    letter = np.arange(key_ends[-1] if len(keys) else 0) + np.repeat(at - key_ends + key_sizes, key_sizes)
    differs = np.concatenate([[0], np.cumsum(data[letter] != np.frombuffer(b"".join(keys), np.uint8))])
    common &= differs[key_ends] == differs[key_ends - key_sizes]
    at = at + np.where(common, key_sizes, 0)

    item, at = _field(data, at, 0x18, common)
    category, at = _field(data, at, 0x20, common)
    _, at = _field(data, at, 0x28, common)
    time, at = _field(data, at, 0x30, common)
    return item, category, time.astype(np.int64), common & (at == ends)


def _field(
    data: NDArray[np.uint8], at: NDArray[np.int64], tag: int, common: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The numbers of a field that begins at `at` where it is not left out, and where the next field begins. Clears
    `common` where a number has more than nine bytes."""
    goes_on = data[at] == tag
    at = at + goes_on
    number = np.zeros(len(at), np.uint64)
    for place in range(9):
        if not goes_on.any():
            return number, at
        byte = np.where(goes_on, data[at], 0)
        number |= (byte & 127).astype(np.uint64) << np.uint64(7 * place)
        at = at + goes_on
        goes_on = byte > 127
    common &= ~goes_on
    return number, at


def is_json(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether the last `content-type` header names JSON; parameters such as a charset are allowed."""
    for name, value in reversed(headers):
        if name.lower() == CONTENT_TYPE:
            return value is not None and value.split(b";")[0].strip().lower() == JSON
    return False


def _parse_json(value: bytes) -> BehaviorEvent | None:
    if not value.lstrip().startswith(b"{"):  # the parser takes some arrays and strings for empty messages
        return None
    event = BehaviorEvent()
    try:
        json_format.Parse(value, event, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, RecursionError):
        return None
    return event
