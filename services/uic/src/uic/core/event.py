"""From the bytes of one log record to a behavior event, or to the reason why the record is not a valid event.

The rules are docs/formats/event.md. A broken rule is a value, `Reason`, and never an exception: bad records are
expected, go to the dead letters, and stop nothing. `event_columns` reads many records together; `explain` says more
about the few that fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent

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
    Reason.BAD_EVENT_ID: ("event_id", "is too long: at most 64 bytes of UTF-8"),
    Reason.BAD_TIME: ("event_time", "is out of bounds: milliseconds since 1970, from 2000-01-01 to a day from now"),
    Reason.UNKNOWN_ACTION: ("action", f"is not one that the bundle names, of {', '.join(_BEHAVIORS)}"),
    Reason.NON_FINITE: ("", "made the step graph return a non-finite number; the state was kept"),
}
"""For each reason the field (empty: the whole event) and the rule that it breaks, in words for the producer."""
SHOWN_NAME: Final = 64
"""Characters of an unknown JSON field's name that `explain` repeats."""


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

    For a record without a time of its own (-1), `event_time` has a lower bound only.
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
    if event.action not in ACTIONS:
        return Reason.UNKNOWN_ACTION
    return None


def parse(
    value: bytes, headers: Sequence[tuple[str, bytes | None]], key: str, timestamp_ms: int
) -> BehaviorEvent | Reason:
    """The event that `value` holds, or the rule that it breaks.

    Args:
        value: the record's value, not null.
        headers: the record's headers; with `content-type: application/json` the value is proto3 JSON.
        key: the record's key, already checked (`check_key`) and decoded.
        timestamp_ms: the record's timestamp, -1 for none.
    """
    if len(value) > MAX_VALUE_BYTES:
        return Reason.TOO_LARGE
    if headers and is_json(headers):
        parsed = _parse_json(value)
        if isinstance(parsed, Reason):
            return parsed
        event = parsed
    else:
        try:
            event = BehaviorEvent.FromString(value)
        except DecodeError:
            return Reason.MALFORMED_PROTOBUF
    return check_event(event, key, timestamp_ms) or event


def decode(
    value: bytes, headers: Sequence[tuple[str, bytes | None]], key: str, timestamp_ms: int
) -> tuple[int, int, int, int] | Reason:
    """(item id, category id, event time in ms, action) of the event that `value` holds, or the rule that it breaks; see
    `parse`."""
    event = parse(value, headers, key, timestamp_ms)
    return event if isinstance(event, Reason) else (event.item_id, event.category_id, event.event_time, event.action)


def is_json(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether the last `content-type` header names JSON; parameters such as a charset are allowed."""
    for name, value in reversed(headers):
        if name.lower() == CONTENT_TYPE:
            return value is not None and value.split(b";")[0].strip().lower() == JSON
    return False


def explain(reason: Reason, value: bytes | None) -> str:
    """The field and the rule that a record with this value broke. It never repeats a value; of JSON it may name an
    unknown field."""
    field, rule = RULES[reason]
    if reason is Reason.MALFORMED_JSON:
        return _explain_json(value or b"")
    return f"{field}: {rule}" if field else rule


def _parse_json(value: bytes) -> BehaviorEvent | Reason:
    if not value.lstrip().startswith(b"{"):  # the parser takes some arrays and strings for empty messages
        return Reason.MALFORMED_JSON
    event = BehaviorEvent()
    try:
        json_format.Parse(value, event)
        return event
    except Exception:  # protobuf documents ParseError alone, and raises others for some numbers and surrogates
        return Reason.UNKNOWN_ACTION if _only_the_action_is_unknown(value) else Reason.MALFORMED_JSON


def _only_the_action_is_unknown(value: bytes) -> bool:
    """Whether JSON that was refused is sound but for the name of its action."""
    try:
        fields = json.loads(value)
        if not isinstance(fields.pop("action", None), str):
            return False
        json_format.Parse(value, BehaviorEvent(), ignore_unknown_fields=True)  # also ignores unknown names of enums
        json_format.ParseDict(fields, BehaviorEvent())
    except Exception:  # as above, and AttributeError
        return False
    return True


def _explain_json(value: bytes) -> str:
    try:
        fields = json.loads(value.decode())  # of bytes it would guess the encoding
    except (ValueError, RecursionError):
        return "value: is not JSON in UTF-8 without a byte order mark"
    if not isinstance(fields, dict):
        return "value: is not a JSON object"
    known = [name for field in BehaviorEvent.DESCRIPTOR.fields for name in (field.json_name, field.name)]
    for name in fields:
        if name not in known:
            shown = name[:SHOWN_NAME] if name.isprintable() else ascii(name)[:SHOWN_NAME]
            return f"{shown}: is not a field; the fields are {', '.join(dict.fromkeys(known))}"
    for name, content in fields.items():
        try:
            json_format.ParseDict({name: content}, BehaviorEvent())
        except Exception:  # as above
            kind = BehaviorEvent.DESCRIPTOR.fields_by_camelcase_name.get(name)
            kind = kind or BehaviorEvent.DESCRIPTOR.fields_by_name[name]
            return f"{name}: is not {_KINDS[kind.type]}"
    return "value: names a field twice"


_KINDS: Final = {
    BehaviorEvent.DESCRIPTOR.fields_by_name["user_id"].type: "a string",
    BehaviorEvent.DESCRIPTOR.fields_by_name["item_id"].type: "an integer from 0 to 2^64 - 1",
    BehaviorEvent.DESCRIPTOR.fields_by_name["event_time"].type: "an integer from -2^63 to 2^63 - 1",
    BehaviorEvent.DESCRIPTOR.fields_by_name["action"].type: f"one of {', '.join(Action.keys())}",
}
"""By protobuf type: what JSON must hold."""
