"""The compiled form of a head program (head.c): one call scores all candidates of a request."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import aligned
from mimn.rows.candidates import place
from mimn.rows.head_code import HeadProgram, Kind

_MOST_LANES = 48
"""Of a tile."""
_SLACK = 64
"""Numbers behind the last value."""
_FLOAT, _CELL = np.dtype(np.float32), np.dtype(np.int64)


class _Program(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("once", "each", "inputs", "user", "tile")),
        *((name, ctypes.c_int64) for name in ("once_size", "each_size", "input_count", "result")),
    )


class HeadKernel:
    """Runs one program. Not for two threads at once: it has one array of values."""

    def __init__(self, program: HeadProgram, built: ctypes.CDLL) -> None:
        user = aligned(np.float32, program.user + _SLACK)
        for begin, constant in program.constants:
            user[begin : begin + len(constant)] = constant
        tile = aligned(np.float32, program.rows * _MOST_LANES + _SLACK)
        self._kept = program, user, tile
        self._struct = _Program(
            *(array.ctypes.data for array in (program.once, program.each, program.inputs, user, tile)),
            len(program.once),
            len(program.each),
            len(program.inputs),
            program.result,
        )
        self._fixed = ctypes.addressof(self._struct)
        self._kinds = [_CELL if kind == Kind.CELLS else _FLOAT for kind in program.inputs[:, 0]]
        self._sizes = [(kind != Kind.OF_USER, int(width)) for kind, _, width in program.inputs.tolist()]
        self._runs: dict[int, _Run] = {}
        self._score = built.head_score

    def __call__(self, given: Sequence[NDArray[Any]], count: int) -> NDArray[np.float32] | None:
        """The scores of `count` candidates, from the graph's inputs in its order; None where one is not finite, or a
        cell does not exist. → [count]

        Raises:
            ValueError: an input is of another type or size.
        """
        run = self._runs.get(count)
        if run is None:
            run = self._runs[count] = _Run(count, len(self._kinds))
        for number, array in enumerate(given):
            if array is not run.known[number]:
                many, width = self._sizes[number]
                if array.size != (count * width if many else width):
                    raise ValueError(f"input {number} of the head is {array.shape}")
                run.given[number], run.known[number] = place(array, self._kinds[number]), array
        return run.scores.copy() if self._score(self._fixed, run.given, count, run.into) else None


class _Run:
    """Where the inputs and scores of one number of candidates lie."""

    def __init__(self, count: int, inputs: int) -> None:
        self.given = (ctypes.c_void_p * inputs)()
        self.known: list[NDArray[Any] | None] = [None] * inputs
        """The arrays that `given` points to: a caller that fills the same ones again saves a look for their places."""
        self.scores = np.empty(count, np.float32)
        self.into = place(self.scores, _FLOAT)
