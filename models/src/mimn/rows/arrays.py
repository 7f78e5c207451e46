"""Arrays as C gets them: checked, and by their address."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_Byte: Final = ctypes.c_char
_LINE: Final = 64
"""Bytes that the processor's cache keeps together."""


def checked(array: NDArray[Any], kind: type[np.generic] | np.dtype[Any], *shape: int | None) -> NDArray[Any]:
    """The array, if C can read it: of this type, contiguous, and of this shape (None: of any size there).

    Raises:
        ValueError: it is not.
    """
    have = array.shape
    fits = array.dtype == kind and array.flags.c_contiguous and len(shape) in (0, len(have))
    for n, size in zip(shape, have, strict=False):  # a small batch comes here twenty times
        fits = fits and (n is None or n == size)
    if not fits:
        raise ValueError(f"an array of {array.dtype} {array.shape} cannot be handed to the compiled step")
    return array


def address(values: NDArray[Any] | bytearray) -> int:
    """Where the first value lies, in a quarter of the time of `ctypes.data`: a small batch asks a hundred times."""
    try:
        return ctypes.addressof(_Byte.from_buffer(values))  # type: ignore[arg-type]  # numpy tells of it from Python 3.12 on
    except (TypeError, ValueError):  # read-only, not contiguous, or without a value
        return int(np.asarray(values).ctypes.data)


def aligned(kind: type[np.generic] | np.dtype[Any], *shape: int) -> NDArray[Any]:
    """Zeros that begin a line of the processor's cache."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    room = np.zeros(size + _LINE - 1, np.uint8)
    begin = -room.ctypes.data % _LINE
    return room[begin : begin + size].view(kind).reshape(shape)
