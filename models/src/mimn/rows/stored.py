"""States as they are stored, in C: encoded, sealed, and put into the commands that store them."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, checked
from mimn.state import HEADERS, Staged, StateLayout, stored_headers, stored_type, stored_values

_FRAMING = 32
"""Bytes, at most, that the wire protocol puts around a string."""
_STAGED = ("user", "lineage", "era", "last_offset", "event_count", "last_event_time", "digest", "partial")
if HEADERS.names != _STAGED or HEADERS.itemsize != 53 or not HEADERS.fields or HEADERS.fields["partial"][1] != 52:
    raise AssertionError("stored.c reads the fields of a header one behind another")


class _Staged(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("headers", "tensors", "place", "head")),
        *((name, ctypes.c_int64) for name in ("half", "wide", "size")),
    )


def seal(built: ctypes.CDLL, rows: NDArray[np.void]) -> None:
    """`mimn.state.seal_states`, in a quarter of the time."""
    built.states_seal(address(checked(rows, rows.dtype, None)), rows.itemsize, len(rows))


def encode(built: ctypes.CDLL, states: Staged) -> list[bytes]:
    """The stored values of all states, as `mimn.state.encode_states` makes them."""
    rows, source = np.empty(len(states.place), stored_type(states.layout)), _source(states)
    built.states_encode(ctypes.addressof(source), address(rows), len(rows))
    return stored_values(rows)


def frame(built: ctypes.CDLL, states: Staged, names: Sequence[bytes], rows: Sequence[int]) -> memoryview:
    """Names and the states that they get, in turn, as the strings of a command of the store (`uic.transaction`).

    Args:
        built: the library.
        states: of a round.
        names: keys of the store. [n]
        rows: which state each gets; below 0: none, and the name is left out. All others exist. [n]
    """
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} names and {len(rows)} states")
    text, integers = b"".join(names), array("q", (*map(len, names), *rows)).tobytes()
    source = _source(states)
    out = np.empty(len(text) + len(names) * (source.size + 2 * _FRAMING), np.uint8)
    filled = built.states_frame(ctypes.addressof(source), address(out), text, integers, len(names))
    return out.data[:filled]


def _source(states: Staged) -> _Staged:
    """States as C reads them, while they live."""
    return _Staged(
        address(checked(states.headers, HEADERS, len(states.place))),
        address(checked(states.tensors, np.float32, None, states.layout.floats)),
        address(checked(states.place, np.int64, None)),
        *_form(states.fingerprint, states.layout)[1:],
    )


@cache  # for good, because the address is used
def _form(fingerprint: bytes, layout: StateLayout) -> tuple[NDArray[np.void], int, int, int, int]:
    """What all states of a bundle have in common: a stored state [1] of which only that is filled, and its address; how
    many tensors are float16, and how many are not; the size."""
    head, half = stored_headers(np.zeros(1, HEADERS), fingerprint, layout), layout.half_floats
    return head, address(head), half, layout.floats - half, head.itemsize
