"""What a head is given of candidates, compiled (lookups.c): one call a request instead of some hundred array
operations, which cost a microsecond each, however few candidates there are."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import aligned
from mimn.state.ledger import TAG_BITS

Array = NDArray[Any]
_I64, _PLACE = ctypes.c_int64, ctypes.c_void_p
_ID, _CELL, _FLOAT = np.dtype(np.uint64), np.dtype(np.int64), np.dtype(np.float32)
_WORD, _INT, _DOUBLE = np.dtype(np.uint32), np.dtype(np.int32), np.dtype(np.float64)
_TABLES: dict[str, np.dtype[Any]] = {
    "item_ids": _ID,
    "category_ids": _ID,
    "item_vectors": _FLOAT,
    "category_vectors": _FLOAT,
}
_AT_ONCE, _TOGETHER = 16, 6
"""How many keys lookups.c compares at once, and at most how many have the same high bits, in the mean."""
FACTS = np.dtype([("fixed", np.float32, 5), ("usual", np.float32), ("length", np.float32), ("unused", np.int32)])
"""What lookups.c knows of an item besides its vectors: its statistics as they are read, its usual gap and half a day,
and the length of its vector."""
_READS: dict[str, np.dtype[Any]] = {
    "sixteenths": _INT, "log1p_n": _DOUBLE, "fading": _DOUBLE, "ids": _ID, "facts": FACTS, "vectors": _FLOAT,
    "codes": _INT, "keys": _WORD, "starts": _WORD, "weighted": _FLOAT, "kinds_of": _INT, "neighbors": _INT,
    "weights": _FLOAT, "entries": _DOUBLE, "entry_of": _INT, "sums": _DOUBLE, "p": _DOUBLE,
}  # fmt: skip
"""The arrays of lookups.c's structures, in its order."""


class _Tables(ctypes.Structure):
    _fields_ = (
        *((name, _PLACE) for name in _TABLES),
        *((name, _I64) for name in ("items", "categories", "item_width", "category_width")),
        *((name, _I64) for name in ("sketched", "category_cells", "item_cells")),
    )


class _Reads(ctypes.Structure):
    _fields_ = (
        *((name, _PLACE) for name in _READS),
        *((name, _I64) for name in ("groups", "buckets", "ways", "kinds", "width", "items", "paired")),
        *((name, _I64) for name in ("known", "coded", "shift")),
    )


Ids = NDArray[np.uint64]


class LookUp:
    """Vectors of candidates, and their cells of a sketch."""

    def __init__(self, arrays: Mapping[str, Array], numbers: Mapping[str, int], built: ctypes.CDLL) -> None:
        self._kept = dict(arrays)
        self._struct = _filled(_Tables, _TABLES, self._kept, numbers)
        self._look_up = built.candidates_look_up

    def into(
        self, items: Ids, categories: Ids, vectors: NDArray[np.float32], cells: NDArray[np.int64] | None
    ) -> Callable[[int], int]:
        """What writes the first C rows of `vectors` and, with a sketch, of `cells`, from the first C items and
        categories, as these arrays are then, and returns how many of the items are unknown. [≥ C], [≥ C], [≥ C, W],
        [≥ C, A]"""
        fixed, look_up = ctypes.addressof(self._struct), self._look_up
        asked = place(items, _ID), place(categories, _ID)
        places = place(vectors, _FLOAT), None if cells is None else place(cells, _CELL)
        kept = self, items, categories, vectors, cells  # compiled code knows only where they lie

        def write(count: int) -> int:
            assert kept  # noqa: S101 (so that they live as long as this function)
            unknown: int = look_up(fixed, *asked, count, *places)
            return unknown

        return write


class LedgerReading:
    """What is read of a ledger for candidates. Not for two threads at once: sums are gathered in one array."""

    def __init__(self, arrays: Mapping[str, Array], numbers: Mapping[str, int], built: ctypes.CDLL) -> None:
        """`arrays` and `numbers` as lookups.c says."""
        entries, known = numbers["buckets"] * numbers["ways"], len(arrays["keys"])
        coded = int(arrays["codes"].max(initial=0)) + 1
        keys, starts, shift = _searchable(arrays["keys"], below=numbers["buckets"] << TAG_BITS)
        self._kept: dict[str, Array] = {
            **arrays,
            "keys": keys,
            "starts": starts,
            "entries": aligned(np.float64, entries + 1, 4),
            "entry_of": aligned(np.int32, known + 1),
            "sums": aligned(np.float64, coded, 4),
            "p": np.zeros((2, numbers["width"])),
        }
        self._struct = _filled(_Reads, _READS, self._kept, {**numbers, "known": known, "coded": coded, "shift": shift})
        self._fixed = ctypes.addressof(self._struct)
        self._read = built.candidates_read

    def into(self, words: NDArray[np.uint32], items: Ids, out: NDArray[np.float32]) -> Callable[[int, int], None]:
        """What writes what is read for the first C items, given C and a minute, as these arrays are then, into the
        first columns of the first C rows of `out`. [words], [≥ C], [≥ C, R]"""
        fixed, read, width = self._fixed, self._read, out.shape[1]
        at, into = (place(words, _WORD), place(items, _ID)), place(out, _FLOAT)
        kept = self, words, items, out  # compiled code knows only where they lie

        def write(count: int, minute: int) -> None:
            assert kept  # noqa: S101 (so that they live as long as this function)
            read(fixed, *at, count, minute, into, width)

        return write


def _searchable(keys: NDArray[np.int64], below: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], int]:
    """Of keys that rise, all under `below`: their low halves, and some more that are compared with them; by their high
    bits how many keys are below; and by how many bits they must be shifted for that."""
    shift = min((_TOGETHER * below // max(len(keys), 1)).bit_length() - 1, 32)  # keys of one group differ in low halves
    firsts = np.arange((below >> shift) + 2, dtype=np.int64) << shift
    low = np.append(keys, np.zeros(_AT_ONCE, np.int64)) & 0xFFFFFFFF
    return low.astype(np.uint32), keys.searchsorted(firsts).astype(np.uint32), shift


def place(array: Array, kind: np.dtype[Any]) -> int:
    """Where the numbers of an array lie: of one kind, one behind another.

    Raises:
        ValueError: they are of another kind, or have gaps.
    """
    if array.dtype != kind or not array.flags.c_contiguous:
        raise ValueError(f"an array of {array.dtype} {array.shape} cannot be handed to compiled code, {kind} can")
    at: int = array.__array_interface__["data"][0]
    return at


def _filled(
    kind: type[ctypes.Structure],
    types: Mapping[str, np.dtype[Any]],
    arrays: dict[str, Array],
    numbers: Mapping[str, int],
) -> ctypes.Structure:
    """The structure; `arrays` gets what it points to."""
    arrays |= {name: np.ascontiguousarray(arrays[name], of) for name, of in types.items()}
    return kind(**{name: place(arrays[name], of) for name, of in types.items()}, **numbers)
