"""What events change in states besides the step, in C: headers, a sketch's counters, and a ledger's entries."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, checked
from mimn.rows.records import Texts
from mimn.state.ledger import BETWEEN, SIXTEENTHS, WORTH, Keys, Ledger
from mimn.state.sketch import Sketch
from mimn.state.user_state import HEADERS

Integers = NDArray[np.int64]


def hashes(built: ctypes.CDLL, texts: Texts) -> NDArray[np.uint64]:
    """BLAKE2b with 8 bytes of each text, as `mimn.state.user_hash` reads it. → [n]"""
    out = np.empty(len(texts.at), np.uint64)
    built.states_hash(address(texts.at), address(texts.sizes), address(out), len(out))
    return out


_PAST = ("last_offset", "event_count", "last_event_time", "digest")
_PAST_AT: int = HEADERS.fields[_PAST[0]][1] if HEADERS.fields else 0
if not HEADERS.fields or [HEADERS.fields[name][1] for name in _PAST] != [_PAST_AT + 8 * i for i in range(4)]:
    raise AssertionError("states.c reads these fields of a header as one struct")


def absorb(  # noqa: PLR0917 (one array after another, as C takes them)
    built: ctypes.CDLL,
    headers: NDArray[np.void],
    rows: Integers,
    offsets: Integers,
    times: Integers,
    values: Texts,
) -> NDArray[np.bool_]:
    """Count, digest, last offset and last time of headers after events, in place; an event at or below a header's last
    offset changes nothing. [n] of dtype `HEADERS`; [E] each, those of one header with rising offsets → [E]: whether it
    was new"""
    events = len(values.at)
    new = np.empty(events, np.bool_)
    built.states_absorb(
        address(checked(headers, HEADERS, None)),
        HEADERS.itemsize,
        _PAST_AT,
        *(address(checked(numbers, np.int64, events)) for numbers in (rows, offsets, times)),
        address(checked(values.at, np.uint64, None)),
        address(checked(values.sizes, np.int64, None)),
        address(new),
        events,
    )
    return new


def add_counts(  # noqa: PLR0917 (one array after another, as C takes them)
    built: ctypes.CDLL,
    sketch: Sketch,
    states: NDArray[np.float32],
    depth: Integers,
    addresses: Integers,
    moments: NDArray[np.float32],
    sound: NDArray[np.bool_] | None,
) -> None:
    """`Sketch.add`, in place: the first `depth[0]` events into the first state, in order, and so on; those that are not
    sound change nothing.

    Args:
        built: the library.
        sketch: the rules.
        states: [R, F]: counters first and periods last; each row contiguous.
        depth: [R].
        addresses: [E, A], moments: [E, 2, S], sound: [E].

    Raises:
        ValueError: an array has another type or shape.
    """
    events, lives = len(addresses), len(sketch.half_lives)
    periods = states[:, -lives:]
    built.states_count(
        states.ctypes.data,
        periods.ctypes.data,
        states.strides[0],
        address(checked(depth, np.int64, len(states))),
        address(checked(addresses, np.int64, events, sketch.addresses)),
        address(checked(moments, np.float32, events, 2, lives)),
        _optional(sound, events),
        lives,
        sketch.cells,
        sketch.addresses,
        len(states),
    )


class _Ledger(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("buckets", "ways")),
        *((name, ctypes.c_void_p) for name in ("sixteenths", "between", "worth")),
    )


_TABLES = [np.ascontiguousarray(table, np.int64) for table in (SIXTEENTHS, BETWEEN, WORTH)]
_TABLES_AT = [address(table) for table in _TABLES]


def add_entries(  # noqa: PLR0917 (one array after another, as C takes them)
    built: ctypes.CDLL,
    ledger: Ledger,
    words: NDArray[np.uint32],
    depth: Integers,
    keys: Keys,
    times: Integers,
    sound: NDArray[np.bool_] | None,
) -> None:
    """`Ledger.add`, as `add_counts`.

    Args:
        built: the library.
        ledger: the rules.
        words: [R, words]: of states; each row contiguous.
        depth: [R].
        keys, times, sound: [E].

    Raises:
        ValueError: an array has another type or shape.
    """
    events = len(times)
    if words.shape[1:] != (ledger.words,) or (words.size and words.strides[1] != words.itemsize):
        raise ValueError("these are not the words of a ledger")
    rules = _Ledger(ledger.buckets, ledger.ways, *_TABLES_AT)
    built.states_enter(
        ctypes.addressof(rules),
        words.ctypes.data,
        words.strides[0],
        address(checked(depth, np.int64, len(words))),
        *(address(checked(numbers, np.int64, events)) for numbers in (keys.buckets, keys.tags, times)),
        _optional(sound, events),
        len(words),
    )


def _optional(sound: NDArray[np.bool_] | None, events: int) -> int | None:
    return None if sound is None else address(checked(sound, np.bool_, events))
