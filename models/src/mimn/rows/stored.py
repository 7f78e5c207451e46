"""States as they are stored, in C: encoded, sealed, put into the commands that store them, and read."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, checked
from mimn.rows.library import library
from mimn.state import HEADERS, Staged, StateLayout, UserState, decode_state, sparse, stored_headers
from mimn.state.codec import HEADER_BYTES, WRITES_SPARSE, Restore
from mimn.state.sparse import Words, overhead

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

_FRAMING = 32
"""Bytes, at most, that the wire protocol puts around a string."""
_STAGED = ("user", "lineage", "era", "last_offset", "event_count", "last_event_time", "digest", "partial")
if HEADERS.names != _STAGED or HEADERS.itemsize != 53 or not HEADERS.fields or HEADERS.fields["partial"][1] != 52:
    raise AssertionError("stored.c reads the fields of a header one behind another")


class _Staged(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("headers", "tensors", "place", "head", "whole", "value")),
        *((name, ctypes.c_int64) for name in ("half", "wide", "size", "sparse")),
    )


def _room(size: int) -> int:
    """Bytes for a value, and for a sparse one that turns out to be longer."""
    return size + 4 * overhead((size - HEADER_BYTES) // 4)


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


def encode(built: ctypes.CDLL, states: Staged) -> list[bytes]:
    """The stored values of all states, as `mimn.state.encode_states` makes them."""
    n, form = len(states.place), _form(states.fingerprint, states.layout)
    values, ends = np.empty(n * form.size + 3 * _room(form.size), np.uint8), np.empty(n, np.int64)
    source = _source(states, form, values)
    built.states_encode(ctypes.addressof(source), address(values), address(ends), n)
    bounds = [0, *ends.tolist()]
    stored = values[: bounds[-1]].tobytes()
    return [stored[begin:end] for begin, end in pairwise(bounds)]


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
    form = _form(states.fingerprint, states.layout)
    out = np.empty(len(text) + len(names) * (form.size + 2 * _FRAMING) + 2 * _room(form.size), np.uint8)
    source = _source(states, form, out)
    filled = built.states_frame(ctypes.addressof(source), address(out), text, integers, len(names))
    return out.data[:filled]


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
    """States as C reads them, while they and `out` live, of which C uses the last two rooms for itself."""
    end, room = address(out) + len(out), _room(form.size)
    return _Staged(
        address(checked(states.headers, HEADERS, len(states.place))),
        address(checked(states.tensors, np.float32, None, states.layout.floats)),
        address(checked(states.place, np.int64, None)),
        form.head_address,
        end - 2 * room,
        end - room,
        form.half,
        form.wide,
        form.size,
        states.sparse,
    )
