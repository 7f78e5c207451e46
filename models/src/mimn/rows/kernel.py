"""The compiled form of a row program (rows.c)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.library import library
from mimn.rows.program import RowProgram

_TOGETHER = 4
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
        self._scratch = np.zeros(_TOGETHER * program.values, np.float32)
        self._struct = _Program(
            program.code.ctypes.data,
            program.constants.ctypes.data,
            *(getattr(program, name) for name in _NUMBERS),
        )
        self._fold = built.rows_fold
        self._fixed = ctypes.addressof(self._struct), self._scratch.ctypes.data

    def fold(self, events: Floats, first: Integers, depth: Integers, rows: Integers, states: Floats) -> Integers:
        """Fold events into states, in place, and return how many were folded into each: fewer than asked where a number
        was not finite, and only the graph says what the step gives.

        Args:
            events: [E, D] float32.
            first, depth: [n]: into state i go the events from `first[i]` on, `depth[i]` many. It is fastest if similar
                depths are neighbors.
            rows: [n]: which states; distinct.
            states: [R, F] float32.
        """
        done = np.empty(len(rows), np.int64)
        arrays = (
            _checked(events, np.float32, self._program.event_size),
            *(_checked(numbers, np.int64) for numbers in (first, depth, rows)),
            _checked(states, np.float32, self._program.state_size),
        )
        self._fold(*self._fixed, *(array.ctypes.data for array in arrays), done.ctypes.data, len(rows))
        return done


def _checked(array: NDArray[Any], kind: type[np.generic], width: int | None = None) -> NDArray[Any]:
    if array.dtype != kind or not array.flags.c_contiguous or (width is not None and array.shape[1:] != (width,)):
        raise ValueError(f"an array of {array.dtype} {array.shape} cannot be handed to the compiled step")
    return array


def kernel(program: RowProgram) -> Kernel | None:
    """The program compiled; None as `library`."""
    built = library()
    return None if built is None else Kernel(program, built)
