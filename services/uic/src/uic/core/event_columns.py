"""From many records to their events: nearly all values are what protobuf's serializers write, and are read together.
The rest, and short lists without compiled code, are decoded one by one (`event`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from mimn.rows.records import Texts
from uic.core.event import (
    CONTENT_TYPE,
    DAY_MS,
    EARLIEST_MS,
    LAST_ACTION,
    MAX_EVENT_ID_BYTES,
    Reason,
    Record,
    is_json,
    parse,
)
from uic.core.records import Records

FEW = 64
"""Fewer records than this are decoded one by one: reading them together with numpy has a fixed cost of a fraction of a
millisecond, and at a steady rate each partition has only one or two records."""
Read = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_]]
"""Item ids, category ids, times in ms and actions of n values, 0 where a value does not have the common form; and
whether it has. [n] each"""


class ReadsEvents(Protocol):
    """Compiled code for many values."""

    def read(self, values: Sequence[bytes], keys: Sequence[bytes], last_action: int, /) -> Read:
        """`read_common`, and as fast for a few."""

    def named(self, headers: Texts, name: str, /) -> NDArray[np.bool_]:
        """By record, whether one of its headers has this name in any case. `name` is in lower case. [n] → [n]"""


class Decoded(NamedTuple):
    """What n records hold."""

    items: NDArray[np.uint64]
    """[n], as the next three; 0 where a record is no event."""
    categories: NDArray[np.uint64]
    times: NDArray[np.int64]
    """ms since 1970-01-01 UTC"""
    actions: NDArray[np.uint8]
    reasons: dict[int, Reason]
    """By index, why a record is no valid event."""
    extended: list[int]
    """Indices of events with protobuf fields that this version does not know, in order."""


def decode_all(
    records: Sequence[Record],
    sound: NDArray[np.bool_],
    compiled: ReadsEvents | None = None,
    *,
    text_ids: bool = False,
) -> Decoded:
    """The events of records: of each what `event.decode` returns.

    Args:
        records: [n]
        sound: [n], which records have a value, and a key that was checked. The numbers of others mean nothing.
        compiled: None where there is no compiled code.
        text_ids: as in `event.text_fault`. Events with texts are decoded one by one.
    """
    if compiled is not None and isinstance(records, Records):  # read where they lie: no Python value for any of them
        read, stamps = compiled.read(records.values, records.keys, LAST_ACTION), records.timestamps
        typed = (
            compiled.named(records.headers, CONTENT_TYPE) if records.have_headers else np.zeros(len(records), np.bool_)
        )
    else:
        read = _read(records, sound, compiled)
        stamps = np.array([record.timestamp for record in records], np.int64)
        typed = np.array([bool(record.headers) and is_json(record.headers) for record in records], np.bool_)
    items, categories, times, actions, common = read
    common &= ~typed & in_bounds(items, times, stamps)
    reasons: dict[int, Reason] = {}
    extended: list[int] = []
    for at in np.flatnonzero(sound & ~common).tolist():
        record = records[at]
        key = (record.key or b"").decode()
        event = parse(record.value or b"", record.headers, key, record.timestamp, text_ids=text_ids)
        if isinstance(event, Reason):
            reasons[at] = event
            items[at] = categories[at] = times[at] = actions[at] = 0
            continue
        items[at], categories[at], times[at] = event.item_id, event.category_id, event.event_time
        actions[at] = event.action
        if len(UnknownFieldSet(event)):
            extended.append(at)
    return Decoded(items, categories, times, actions, reasons, extended)


def in_bounds(items: NDArray[np.uint64], times: NDArray[np.int64], stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """By event, whether its item and its time are valid. [n] each

    Args:
        items: item ids.
        times: event times, ms.
        stamps: timestamps of the records, ms; below 0 for none.
    """
    valid: NDArray[np.bool_] = (items != 0) & (times >= EARLIEST_MS) & ((stamps < 0) | (times <= stamps + DAY_MS))
    return valid


def _read(records: Sequence[Record], sound: NDArray[np.bool_], compiled: ReadsEvents | None) -> Read:
    """Those that have the common form."""
    n, at = len(records), np.flatnonzero(sound)
    if compiled is None and len(at) < FEW:  # `decode_all` parses all of them
        items, categories = np.zeros((2, n), np.uint64)
        return items, categories, np.zeros(n, np.int64), np.zeros(n, np.uint8), np.zeros(n, np.bool_)
    chosen = records if len(at) == n else [records[i] for i in at.tolist()]
    values, keys = [record.value or b"" for record in chosen], [record.key or b"" for record in chosen]
    read = read_common(values, keys) if compiled is None else compiled.read(values, keys, LAST_ACTION)
    if len(at) == n:
        return read
    items, categories, times, actions, common = (_scattered(column, at, n) for column in read)
    return items, categories, times, actions, common


def _scattered(column: NDArray[Any], at: NDArray[np.int64], n: int) -> NDArray[Any]:
    """The column with its values at these places of `n`, and 0 elsewhere."""
    whole = np.zeros(n, column.dtype)
    whole[at] = column
    return whole


_SLACK = bytes(1024)
"""Padding after the last value: more than `read_common` can read past a value's end before it notices."""


def read_common(values: Sequence[bytes], keys: Sequence[bytes], last_action: int = LAST_ACTION) -> Read:
    """Item id, category id, event time and action of each value in the common form, and which values are in it.

    The common form: known fields only, each at most once, in the order of their numbers; an event id of at most 64
    ASCII characters, or none; the user id equal to the key; a known action; numbers of at most nine bytes. Wire format:
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
    action, at = _field(data, at, 0x28, common)
    time, at = _field(data, at, 0x30, common)
    common &= (at == ends) & (action <= last_action)
    return item, category, time.astype(np.int64), action.astype(np.uint8), common


def _field(
    data: NDArray[np.uint8], at: NDArray[np.int64], tag: int, common: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The numbers of the field that begins at `at` (0 where it is left out), and where the next field begins. Clears
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
