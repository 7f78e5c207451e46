"""From the bytes of one log record to a behavior event, or to the reason why the record is not a valid event.

The rules are docs/formats/event.md. A broken rule is a value, `Reason`, and never an exception: bad records are
expected, go to the dead letters, and stop nothing. `event_columns` reads many records together; `explain` says more
about the few that fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent
from mimn.bundle.fields import MAX_ID_BYTES, code_of
from uic.core.event_json import Fault, read_json

MAX_KEY_BYTES: Final = 128
MAX_EVENT_ID_BYTES: Final = 64
MAX_VALUE_BYTES: Final = 64 * 1024
"""More than any valid event needs, in either form."""
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
    """The record is not in its key's partition."""
    TOO_LARGE = "too_large"
    """The value is longer than `MAX_VALUE_BYTES`."""
    MALFORMED_PROTOBUF = "malformed_protobuf"
    MALFORMED_JSON = "malformed_json"
    MISSING_USER = "missing_user"
    KEY_MISMATCH = "key_mismatch"
    """The event's user is not the record's key."""
    ITEM_ZERO = "item_zero"
    TEXT_ID = "text_id"
    """An id is a text that the bundle does not take, is too long, or stands beside a number."""
    BAD_EVENT_ID = "bad_event_id"
    """Longer than 64 bytes."""
    BAD_TIME = "bad_time"
    """Before 2000, or more than a day after the record's own time."""
    UNKNOWN_ACTION = "unknown_action"
    """The action is not one of the enum's values, or the bundle does not name it."""
    NON_FINITE = "non_finite"
    """The step graph returned a non-finite number; the state was kept as it was."""


ACTIONS: Final = frozenset(Action.values())
"""The actions that an event may have: all that the enum names, UNSPECIFIED included. They are 0 to `LAST_ACTION`."""
LAST_ACTION: Final = max(ACTIONS)
ERASE_ITEM: Final = int(Action.ACTION_ERASE_ITEM)
"""Not a behavior: erases what the user's state knows of the item. No bundle names it, and all obey it."""

_BEHAVIORS: Final = [name for name, number in Action.items() if number != ERASE_ITEM]

_NO_TEXTS: Final = "is a text, and the bundle was trained on numbers: send the number"

RULES: Final[Mapping[Reason, tuple[str, str]]] = {
    Reason.MISSING_KEY: ("key", "is empty: 1 to 128 bytes of UTF-8"),
    Reason.BAD_KEY: ("key", "is too long or not UTF-8: 1 to 128 bytes of UTF-8"),
    Reason.MISROUTED: ("key", "belongs in another partition: (murmur2(key) & 0x7fffffff) % N"),
    Reason.TOO_LARGE: ("", f"is too large: at most {MAX_VALUE_BYTES} bytes, unknown fields included"),
    Reason.MALFORMED_PROTOBUF: (
        "value",
        "is not a BehaviorEvent in protobuf; JSON needs content-type application/json",
    ),
    Reason.MALFORMED_JSON: ("value", "is not a BehaviorEvent in proto3 JSON"),
    Reason.MISSING_USER: ("user_id", "is empty: 1 to 128 bytes of UTF-8"),
    Reason.KEY_MISMATCH: ("user_id", "differs from the record's key"),
    Reason.ITEM_ZERO: ("item_id", "is 0: name the item, ids begin at 1"),
    Reason.TEXT_ID: ("item_text", _NO_TEXTS),
    Reason.BAD_EVENT_ID: ("event_id", "is too long: at most 64 bytes of UTF-8"),
    Reason.BAD_TIME: (
        "event_time",
        "is out of bounds: milliseconds since 1970, from 2000-01-01 to the record's timestamp + 1 day",
    ),
    Reason.UNKNOWN_ACTION: ("action", f"is not one that the bundle names, of {', '.join(_BEHAVIORS)}"),
    Reason.NON_FINITE: ("", "made the step graph return a non-finite number; the state was kept"),
}
"""For each reason the field (empty: the whole event) and the rule that it breaks, in words for the producer."""
_EARLY: Final = "is before 2000-01-01: send milliseconds since 1970"
_LATE: Final = (
    "is more than a day after the record's own timestamp (header uic-timestamp); both are milliseconds since 1970: "
    "correct the one that is wrong"
)
_FRAMED: Final = (
    "begins with a byte 0, as serializers for a Schema Registry write it: send the event alone, without such a "
    "serializer (docs/formats/event.md)"
)
"""Neither protobuf nor JSON can begin so."""


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


def text_fault(text: str, number: int, text_ids: bool) -> str | None:
    """The rule that a text in place of an id breaks, or None.

    Args:
        text: the text; empty if there is none.
        number: the id of the same thing, 0 if there is none.
        text_ids: whether the bundle takes texts (`mimn.bundle.Bundle.text_ids`).
    """
    if not text:
        return None
    if number:
        return "stands beside the number of the same thing: send one of the two"
    if len(text.encode()) > MAX_ID_BYTES:
        return f"is too long: at most {MAX_ID_BYTES} bytes of UTF-8"
    return None if text_ids else _NO_TEXTS


def event_text_fault(event: BehaviorEvent, text_ids: bool) -> tuple[str, str] | None:
    """The first field of an event whose text breaks a rule, and the rule (`text_fault`), or None."""
    if rule := text_fault(event.item_text, event.item_id, text_ids):
        return "item_text", rule
    if rule := text_fault(event.category_text, event.category_id, text_ids):
        return "category_text", rule
    return None


def check_event(event: BehaviorEvent, key: str, timestamp_ms: int, *, text_ids: bool = False) -> Reason | None:
    """What is wrong with an event under the record key `key` (UTF-8 decoded) at `timestamp_ms`, or None.

    For a record without a time of its own (-1), `event_time` has a lower bound only. `text_ids`: as in `text_fault`.
    """
    user_id = event.user_id
    if user_id != key:
        return Reason.KEY_MISMATCH if user_id else Reason.MISSING_USER
    if event_text_fault(event, text_ids) is not None:
        return Reason.TEXT_ID
    if not event.item_id and not event.item_text:
        return Reason.ITEM_ZERO
    event_time = event.event_time
    if event_time < EARLIEST_MS or (event_time > timestamp_ms + DAY_MS and timestamp_ms >= 0):
        return Reason.BAD_TIME
    event_id = event.event_id
    if len(event_id) > MAX_EVENT_ID_BYTES or (not event_id.isascii() and len(event_id.encode()) > MAX_EVENT_ID_BYTES):
        return Reason.BAD_EVENT_ID
    if event.action not in ACTIONS:
        return Reason.UNKNOWN_ACTION
    return None


def parse(
    value: bytes, headers: Sequence[tuple[str, bytes | None]], key: str, timestamp_ms: int, *, text_ids: bool = False
) -> BehaviorEvent | Reason:
    """The event that `value` holds, with numbers for all ids, or the rule that it breaks.

    Args:
        value: the record's value, not null.
        headers: the record's headers; with `content-type: application/json` the value is proto3 JSON.
        key: the record's key, already checked (`check_key`) and decoded.
        timestamp_ms: the record's timestamp, -1 for none.
        text_ids: as in `text_fault`.
    """
    if len(value) > MAX_VALUE_BYTES:
        return Reason.TOO_LARGE
    event = _read(value, headers)
    if isinstance(event, Reason):
        return event
    if wrong := check_event(event, key, timestamp_ms, text_ids=text_ids):
        return wrong
    if event.item_text:
        event.item_id = code_of(event.item_text)
    if event.category_text:
        event.category_id = code_of(event.category_text)
    return event


def decode(
    value: bytes, headers: Sequence[tuple[str, bytes | None]], key: str, timestamp_ms: int, *, text_ids: bool = False
) -> tuple[int, int, int, int] | Reason:
    """(item id, category id, event time in ms, action) of the event that `value` holds, or the rule that it breaks; see
    `parse`."""
    event = parse(value, headers, key, timestamp_ms, text_ids=text_ids)
    return event if isinstance(event, Reason) else (event.item_id, event.category_id, event.event_time, event.action)


def is_json(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether the last `content-type` header names JSON; parameters such as a charset are allowed."""
    for name, value in reversed(headers):
        if name.lower() == CONTENT_TYPE:
            return value is not None and value.split(b";")[0].strip().lower() == JSON
    return False


def explain(reason: Reason, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = ()) -> str:
    """The field and the rule that a record with this value and these headers broke. It never repeats a value; of JSON
    it may name an unknown field."""
    field, rule = RULES[reason]
    value = value or b""
    if reason in (Reason.MALFORMED_PROTOBUF, Reason.MALFORMED_JSON) and value.startswith(b"\0"):
        rule = _FRAMED
    elif reason is Reason.MALFORMED_JSON and isinstance(fault := read_json(value), Fault):
        return str(fault)
    elif reason is Reason.BAD_TIME and isinstance(event := _read(value, headers), BehaviorEvent):
        rule = _EARLY if event.event_time < EARLIEST_MS else _LATE
    elif reason is Reason.TEXT_ID and isinstance(event := _read(value, headers), BehaviorEvent):
        field, rule = event_text_fault(event, True) or event_text_fault(event, False) or RULES[reason]
    return f"{field}: {rule}" if field else rule


def _read(value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> BehaviorEvent | Reason:
    """What the value holds, whether or not it is a valid event."""
    if headers and is_json(headers):
        read = read_json(value)
        if isinstance(read, Fault):
            return Reason.UNKNOWN_ACTION if read.only_the_action else Reason.MALFORMED_JSON
        return read
    try:
        return BehaviorEvent.FromString(value)
    except DecodeError:
        return Reason.MALFORMED_PROTOBUF
