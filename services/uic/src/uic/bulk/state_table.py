"""All states of a fold in memory, as they are stored whole, without a checksum."""

from __future__ import annotations

from ctypes import CDLL
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimn.rows.encoded import Bytes
from mimn.rows.stored import seal
from mimn.state import (
    EMPTY_DIGEST,
    StateLayout,
    UserState,
    encode_state,
    headers_of,
    stored_type,
    tensors_of,
)
from mimn.state.user_state import StateHeader

FIRST_ROWS: Final = 1024
_PARTIAL: Final = 1
Integers = NDArray[np.int64]


class StateTable:
    """States by row; a row without a state has 0 events. Memory is used only for rows that were written."""

    def __init__(self, built: CDLL, layout: StateLayout, fingerprint: bytes, initial: NDArray[np.float32]) -> None:
        self._built = built
        self._layout = layout
        self._type = stored_type(layout)
        first = UserState(StateHeader(0, 0, 0, -1, 0, 0, EMPTY_DIGEST), initial)
        self._initial: NDArray[np.uint8] = np.frombuffer(
            encode_state(first, fingerprint, layout, sparse=False), np.uint8
        )
        self._map = mmap(-1, FIRST_ROWS * self._type.itemsize, MAP_PRIVATE | MAP_ANONYMOUS)
        self._view()

    def reserve(self, rows: int) -> None:
        """Make room for this many. Arrays that were handed out are no longer of use."""
        have = len(self.stored)
        if rows > have:
            del self.stored, self.bytes
            self._map.resize(max(rows, 2 * have) * self._type.itemsize)
            self._view()

    def _view(self) -> None:
        self.stored: NDArray[np.void] = np.frombuffer(self._map, self._type)
        """By row, of `stored_type`; a view."""
        self.bytes: NDArray[np.uint8] = self.stored.view(np.uint8).reshape(len(self.stored), -1)
        """The same, by byte. [n, bytes]"""

    def tensors(self, part: slice) -> NDArray[np.float32]:
        """A part of all flat vectors that is stored as float32; a view. [n, part]"""
        half = self._layout.half_floats
        begin, end, _ = part.indices(self._layout.floats)
        wide: NDArray[np.float32] = self.stored["wide"]
        return wide[:, begin - half : end - half]

    def begin(
        self, rows: Integers, users: NDArray[np.uint64], lineages: NDArray[np.uint64], eras: NDArray[np.uint32]
    ) -> None:
        """Give rows the initial state."""
        stored = self.stored
        self.bytes[rows] = self._initial
        stored["user"][rows], stored["lineage"][rows], stored["era"][rows] = users, lineages, eras

    def mark_partial(self, rows: Integers) -> None:
        """Note that earlier events of these users may be missing."""
        self.stored["flags"][rows] |= _PARTIAL

    def erase(self, row: int) -> None:
        """Remove a state."""
        self.bytes[row] = 0

    def flat(self, row: int) -> NDArray[np.float32]:
        """A copy of one flat vector. [F]"""
        vector: NDArray[np.float32] = self.flats(np.array([row]))[0]
        return vector

    def put(self, row: int, flat: NDArray[np.float32]) -> None:
        """Replace one flat vector. [F]"""
        half = self._layout.half_floats
        self.stored["half"][row], self.stored["wide"][row] = flat[:half], flat[half:]

    def flats(self, rows: Integers) -> NDArray[np.float32]:
        """Copies of flat vectors. [n, F]"""
        return tensors_of(self.stored[rows])

    def headers(self, rows: Integers) -> NDArray[np.void]:
        """Copies of headers, of dtype `HEADERS`."""
        return headers_of(self.stored[rows])

    def sealed(self, rows: Integers) -> tuple[Bytes, Integers]:
        """The values of states as they are stored, one behind another, and where each ends."""
        return seal(self._built, self.bytes[rows].view(self._type)[:, 0])  # fields alone would leave out the padding
