"""States as they are stored, in C: encoded, sealed, put into the commands that store them, and read."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, checked
from mimn.rows.encoded import Bytes, Encoded, Integers
from mimn.rows.library import library
from mimn.state import HEADERS, Staged, StateLayout, UserState, decode_state, sparse, stored_headers
from mimn.state.codec import HEADER_BYTES, WRITES_SPARSE, Restore
from mimn.state.sparse import Words, overhead

_FRAMING = 32
"""Bytes, at most, that the wire protocol puts around a string."""
_STAGED = ("user", "lineage", "era", "last_offset", "event_count", "last_event_time", "digest", "partial")
if HEADERS.names != _STAGED or HEADERS.itemsize != 53 or not HEADERS.fields or HEADERS.fields["partial"][1] != 52:
    raise AssertionError("stored.c reads the fields of a header one behind another")


class _Staged(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("headers", "tensors", "place", "head", "whole")),
        *((name, ctypes.c_int64) for name in ("half", "wide", "size", "sparse")),
    )


def _room(size: int) -> int:
    """Bytes for a value, for a sparse one that turns out to be longer, and for what C writes 16 words at a time."""
    return size + 4 * overhead((size - HEADER_BYTES) // 4) + 64


def seal(built: ctypes.CDLL, rows: NDArray[np.void], *, sparse: bool = WRITES_SPARSE) -> tuple[Bytes, Integers]:
    """`mimn.state.stored_values`: the values one behind another, and where each ends."""
    n, size = len(rows), rows.itemsize
    values, ends = np.empty(n * size + _room(size), np.uint8), np.empty(n, np.int64)
    built.states_seal(address(checked(rows, rows.dtype, None)), size, sparse, address(values), address(ends), n)
    return values[: ends[-1] if n else 0], ends


def restore(built: ctypes.CDLL, stored: bytes, words: int) -> Words | None:
    """`mimn.state.sparse.restore`, in a fifth of the time."""
    whole = np.empty(words, np.uint32)
    return whole if built.states_restore(stored, len(stored), address(whole), words) else None


def decode(value: bytes, fingerprint: bytes, layout: StateLayout, user: int | None = None) -> UserState:
    """`mimn.state.decode_state`, with the library where there is one."""
    return decode_state(value, fingerprint, layout, user, restore=_fastest())


@cache
def _fastest() -> Restore:
    built = library()
    return sparse.restore if built is None else partial(restore, built)


def encode(built: ctypes.CDLL, states: Staged) -> Encoded:
    """The stored values of all states, as `mimn.state.encode_states` makes them."""
    n, form = len(states.place), _form(states.fingerprint, states.layout)
    values, ends = np.empty(n * form.size + _room(form.size) + form.size, np.uint8), np.empty(n, np.int64)
    source = _source(states, form, values)
    built.states_encode(ctypes.addressof(source), address(values), address(ends), n)
    return Encoded(values, ends, form.size)


def frame(built: ctypes.CDLL, names: Sequence[bytes], states: Encoded, rows: Sequence[int]) -> memoryview:
    """Names and the states that they get, in turn, as the strings of a command of the store (`uic.transaction`).

    Args:
        built: the library.
        names: keys of the store. [n]
        states: of a round.
        rows: which state each gets; below 0: none, and the name is left out. All others exist. [n]
    """
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} names and {len(rows)} states")
    text, integers = b"".join(names), array("q", (*map(len, names), *rows)).tobytes()
    out = np.empty(len(text) + len(names) * (states.largest + 2 * _FRAMING), np.uint8)
    filled = built.states_frame(address(states.values), address(states.ends), address(out), text, integers, len(names))
    return out.data[:filled]


def read_headers(built: ctypes.CDLL, values: Sequence[bytes], into: NDArray[np.void], to: Integers) -> None:
    """`into[to] = mimn.state.read_headers(values)`. Rows in `to` exist."""
    fronts, n = b"".join([value[:HEADER_BYTES] for value in values]), len(values)
    if len(fronts) != n * HEADER_BYTES:
        raise ValueError("a stored value without a header")
    built.states_read_headers(fronts, address(checked(into, HEADERS, None)), address(checked(to, np.int64, n)), n)


def read_tensors(
    built: ctypes.CDLL, values: Sequence[bytes], layout: StateLayout, into: NDArray[np.float32], to: Integers
) -> None:
    """`into[to] = mimn.state.read_tensors(values, layout)`. Rows in `to` exist.

    Raises:
        ValueError: a value is none of this layout.
    """
    half, n, room = layout.half_floats, len(values), np.empty(layout.stored_bytes, np.uint8)
    read = built.states_read_tensors(
        b"".join(values),
        array("q", map(len, values)).tobytes(),
        address(checked(into, np.float32, None, layout.floats)),
        address(checked(to, np.int64, n)),
        address(room),
        len(room) // 4,
        half,
        layout.floats - half,
        n,
    )
    if read < n:
        raise ValueError("a stored value that was not checked")


class _Form(NamedTuple):
    """What all states of a bundle have in common."""

    head: NDArray[np.void]
    """A stored state [1] of which only that is filled."""
    head_address: int
    half: int
    wide: int
    """How many tensors are float16, and how many are not."""
    size: int


@cache  # for good, because the address is used
def _form(fingerprint: bytes, layout: StateLayout) -> _Form:
    head, half = stored_headers(np.zeros(1, HEADERS), fingerprint, layout), layout.half_floats
    return _Form(head, address(head), half, layout.floats - half, head.itemsize)


def _source(states: Staged, form: _Form, out: Bytes) -> _Staged:
    """States as C reads them, while they and `out` live, of which C uses the last room for itself."""
    return _Staged(
        address(checked(states.headers, HEADERS, len(states.place))),
        address(checked(states.tensors, np.float32, None, states.layout.floats)),
        address(checked(states.place, np.int64, None)),
        form.head_address,
        address(out) + len(out) - form.size,
        form.half,
        form.wide,
        form.size,
        states.sparse,
    )
