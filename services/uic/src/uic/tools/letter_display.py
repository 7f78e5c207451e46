"""Dead letters as text: a row of a list without its user, or one letter in full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from uic.core.event import is_json
from uic.core.event_json import Fault, read_json
from uic.tools.letter_reading import DeadLetter

SHOWN_HEADERS: Final = 100
SHOWN_BYTES: Final = 4096


def describe(letter: DeadLetter) -> Iterator[str]:
    """Lines that show one dead letter in full. They contain the user id: for an operator, not for a log."""
    yield f"reason     {letter.reason}"
    if letter.detail:
        yield f"detail     {letter.detail}"
    yield f"original   topic {letter.topic}, partition {letter.partition}, offset {letter.offset}"
    yield f"time       {shown_time(letter.timestamp_ms)}"
    yield f"key        {_bytes(letter.key) if letter.key_bytes is None else f'left out: {letter.key_bytes} bytes'}"
    for name, value in letter.headers[:SHOWN_HEADERS]:
        yield f"header     {_bytes(name.encode())}: {_bytes(value)}"
    if len(letter.headers) > SHOWN_HEADERS:
        yield f"           … {len(letter.headers) - SHOWN_HEADERS:,} more headers"
    if letter.headers_left_out:
        yield f"           {letter.headers_left_out:,} headers did not fit and were left out"
    if letter.cut_from is not None:
        yield f"value      cut: {len(letter.value or b'')} of {letter.cut_from} bytes, sha256 {letter.sha256}"
    else:
        yield f"value      {'null' if letter.value is None else f'{len(letter.value)} bytes'}"
    if letter.value is None:
        return
    if (event := _event(letter)) is not None:
        text = json.dumps(event, ensure_ascii=False)
        yield f"decoded    {text if text.isprintable() else json.dumps(event)}"
    for at in range(0, min(len(letter.value), SHOWN_BYTES), 16):
        row = letter.value[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        yield f"  {at:06x}  {row.hex(' '):<47}  {text}"
    if len(letter.value) > SHOWN_BYTES:
        yield f"  … {len(letter.value) - SHOWN_BYTES} more bytes"


def summary(letter: DeadLetter) -> dict[str, Any]:
    """One dead letter as a line of `list`, without the user id."""
    return {
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": shown_time(letter.timestamp_ms),
        "bytes": letter.value_bytes,
        "cut": letter.cut_from is not None,
    }


def _event(letter: DeadLetter) -> dict[str, Any] | None:
    """The value as an event; None if it cannot be read as one, of which `detail` says why."""
    try:
        event = (
            read_json(letter.value or b"") if is_json(letter.headers) else BehaviorEvent.FromString(letter.value or b"")
        )
    except DecodeError:
        return None
    if isinstance(event, Fault):
        return None
    shown: dict[str, Any] = json_format.MessageToDict(event, preserving_proto_field_name=True)
    return shown


def _bytes(value: bytes | None) -> str:
    if value is None:
        return "null"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return text if text.isprintable() else repr(text)


def shown_time(timestamp_ms: int) -> str:
    """A record's time in UTC; "none" below 0, and the number itself if no calendar has it."""
    if timestamp_ms < 0:
        return "none"
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{timestamp_ms} ms"
