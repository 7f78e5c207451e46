"""Files that are written whole or not at all: beside their place first, and then put there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The path to write to, in the folder of `path`; at the end what was written takes the place of `path`.

    After an error `path` is what it was, and nothing lies beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files survive a power cut: they are on the disk when it returns.

    Raises:
        OSError: the folder cannot be opened, or not be written to the disk.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def cause(error: OSError) -> str:
    """The system's words for why a file cannot be read or written, without those of a library around them."""
    return os.strerror(error.errno) if error.errno else str(error)
