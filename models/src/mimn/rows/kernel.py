"""The compiled form of a row program (rows.h)."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, aligned, checked
from mimn.rows.library import library
from mimn.rows.program import RowProgram

_LANES = 8
"""Users that are folded at once, as in rows.h."""
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_NUMBERS = ("instructions", "values", "event", "event_size", "state", "state_size", "result")


class _Program(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in _NUMBERS),
    )


class Kernel:
    """Runs one program. Not thread-safe: it has one scratch array."""

    def __init__(self, program: RowProgram, built: ctypes.CDLL) -> None:
        self._program = program
        self._scratch = aligned(np.float32, _LANES * program.values + program.state_size)
        self._struct = _Program(
            address(program.code),
            address(program.constants),
            *(getattr(program, name) for name in _NUMBERS),
        )
        self._fold = built.rows_fold
        self._fixed = ctypes.addressof(self._struct), address(self._scratch)

    def fold(self, events: Floats, first: Integers, depth: Integers, rows: Integers, states: Floats) -> Integers:
        """Fold events into states, in place, and return how many were folded into each: fewer than asked where a number
        was not finite, and only the graph says what the step gives.

        Args:
            events: [E, D] float32.
            first, depth: [n]: into state i go the events from `first[i]` on, `depth[i]` many. It is fastest if the
                deepest come first.
            rows: [n]: which states; distinct.
            states: [R, F] float32; each row contiguous, the rows anywhere.

        Raises:
            ValueError: an array has another type or shape.
        """
        done = np.empty(len(rows), np.int64)
        size = self._program.state_size
        if (
            states.dtype != np.float32
            or states.shape[1:] != (size,)
            or (states.size and size > 1 and states.strides[1] != 4)
        ):
            raise ValueError(f"states of {states.dtype} {states.shape} cannot be handed to the compiled step")
        checked(events, np.float32, None, self._program.event_size)
        arrays = [checked(numbers, np.int64, len(rows)) for numbers in (first, depth, rows)]
        self._fold(
            *self._fixed,
            *(address(array) for array in (events, *arrays)),
            address(states),
            states.strides[0],
            address(done),
            len(rows),
        )
        return done


def kernel(program: RowProgram) -> Kernel | None:
    """The program compiled; None as `library`."""
    built = library()
    return None if built is None else Kernel(program, built)
