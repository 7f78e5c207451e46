"""States as they are stored, in C: encoded, sealed and read."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, checked
from mimn.rows.encoded import Bytes, Encoded, Integers
from mimn.rows.library import library
from mimn.state import HEADERS, Staged, StateLayout, UserState, decode_state, stored_headers
from mimn.state.codec import FINGERPRINT_BYTES, HEADER_BYTES, header_of
from mimn.state.sparse import overhead

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


def decode(value: bytes, fingerprint: bytes, layout: StateLayout, user: int | None = None) -> UserState:
    """`mimn.state.decode_state`, in half the time where the library is there. A float16 that is no number may have
    other bits."""
    built = library()
    if built is not None:
        tensors = np.empty(layout.floats, np.float32)
        form = _form(fingerprint, layout)
        if built.states_decode(form.place, value, len(value), user or 0, user is None, address(tensors)):
            tensors.flags.writeable = False
            return UserState(header_of(value), tensors)
    return decode_state(value, fingerprint, layout, user)  # which says what is wrong, too


def encode(built: ctypes.CDLL, states: Staged) -> Encoded:
    """The stored values of all states, as `mimn.state.encode_states` makes them."""
    n, form = len(states.place), _form(states.fingerprint, states.layout)
    size = form.head.itemsize
    values, ends = np.empty(n * size + _room(size) + size, np.uint8), np.empty(n, np.int64)
    source = _source(states, form, values)
    built.states_encode(ctypes.addressof(source), address(values), address(ends), n)
    return Encoded(values, ends)


def read_headers(built: ctypes.CDLL, values: Sequence[bytes], into: NDArray[np.void], to: Integers) -> None:
    """`into[to] = mimn.state.read_headers(values)`. Rows in `to` exist.

    Raises:
        ValueError: a value is shorter than a header, or an array has another type or shape.
    """
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
    n = len(values)
    read = built.states_read_tensors(
        _form(bytes(FINGERPRINT_BYTES), layout).place,
        b"".join(values),
        array("q", map(len, values)).tobytes(),
        address(checked(into, np.float32, None, layout.floats)),
        address(checked(to, np.int64, n)),
        n,
    )
    if read < n:
        raise ValueError("a stored value that was not checked")


class _AsRead(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("head", "whole")),
        *((name, ctypes.c_int64) for name in ("words", "half", "wide")),
    )


class _Form(NamedTuple):
    """What all states of a bundle have in common."""

    head: NDArray[np.void]
    """A stored state [1] of which only that is filled."""
    whole: Bytes
    """Room for the tensors of one."""
    as_read: _AsRead
    place: int
    """Of `as_read`."""


@cache  # for good, because the places are used
def _form(fingerprint: bytes, layout: StateLayout) -> _Form:
    head, half = stored_headers(np.zeros(1, HEADERS), fingerprint, layout), layout.half_floats
    whole = np.empty(layout.stored_bytes, np.uint8)
    as_read = _AsRead(address(head), address(whole), layout.stored_bytes // 4, half, layout.floats - half)
    return _Form(head, whole, as_read, ctypes.addressof(as_read))


def _source(states: Staged, form: _Form, out: Bytes) -> _Staged:
    """States as C reads them, while they and `out` live, of which C uses the last room for itself."""
    return _Staged(
        address(checked(states.headers, HEADERS, len(states.place))),
        address(checked(states.tensors, np.float32, None, states.layout.floats)),
        address(checked(states.place, np.int64, None)),
        form.as_read.head,
        address(out) + len(out) - form.head.itemsize,
        form.as_read.half,
        form.as_read.wide,
        form.head.itemsize,
        states.sparse,
    )
