"""Arrays in files that are written through the memory. All blocks of such a file are on the disk before it is mapped:
writing to a mapped file without them on a full disk ends the process by SIGBUS, with no error that could be told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

BLOCK: Final = 1 << 20
CANNOT_RESERVE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What systems answer whose disk, or whose C library, cannot take blocks without writing them."""


def new_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """A new file of numpy's format, mapped to be written; its values are 0.

    Raises:
        OSError: the file cannot be written, or the disk has no room for all of it. What there is of it stays.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        reserve(file, array.nbytes + array.offset, array.offset)
    return array


def save(path: Path, values: NDArray[Any]) -> None:
    """As `np.save`, whose errors do not say why.

    Raises:
        OSError: as `new_array`.
    """
    new_array(path, values.dtype, values.shape)[...] = values


def reserve(file: BinaryIO, size: int, begin: int) -> None:
    """Take the blocks of a file of zeros from the disk: by the system where it can, and else by writing the zeros.

    Args:
        file: open to read and write.
        size: of the file, bytes.
        begin: where the zeros begin.

    Raises:
        OSError: the disk has no room.
    """
    if hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
        else:
            return
    file.seek(begin)
    for at in range(begin, size, BLOCK):
        file.write(bytes(min(BLOCK, size - at)))
    file.flush()
