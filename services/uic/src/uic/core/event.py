"""From the bytes of one log record to a behavior event, or to the reason why it is none.

The rules are docs/formats/event.md. What breaks one is a value, `Reason`, and never an exception: a bad record is
expected, goes to the dead letters and stops nobody. `decode` runs once for every record of the log, so it returns a
plain tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from google.protobuf import json_format
from google.protobuf.message import DecodeError

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
    def headers(self) -> Sequence[tuple[str, bytes]]:
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
    value: bytes, headers: Sequence[tuple[str, bytes]], key: str, timestamp_ms: int
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


def is_json(headers: Sequence[tuple[str, bytes]]) -> bool:
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
