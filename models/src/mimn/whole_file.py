"""Files and folders that are written whole or not at all: beside their place first, and then put there.

    .NAME.????????.partial/    made at random for one writing, so that no other process writes there
        lock                   held while that lasts
        NAME                   what is written

The lock goes with its process. The next writing in the same folder finds what a killed one left, and removes it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mimn.file_lock import has_locks, hold

PARTIAL: Final = ".partial"
LOCK: Final = "lock"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The path to write to; at the end what was written takes the place of `path`, with the mode that the umask gives.

    After an error `path` is what it was, and nothing lies beside it. After a power cut it is one or the other.
    """
    with beside(path) as partial:
        yield partial
        # Some libraries make files that only their user may read. The lock was opened as files are.
        partial.chmod(stat.S_IMODE(partial.with_name(LOCK).stat().st_mode))
        _sync(partial)
        partial.replace(path)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A new folder to write into; at the end it becomes `folder`, and survives a power cut from then on.

    After an error nothing lies there.

    Raises:
        OSError: it cannot be written, or `folder` is there by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as partial:
        partial.mkdir()
        yield partial
        sync_all(partial)
        partial.rename(folder)
        sync_folder(folder.parent)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own, which lies beside `path` and vanishes at the end.

    Raises:
        OSError: it cannot be made.
    """
    _remove_left(path.parent)
    own = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
    try:
        with (own / "unlocked").open("w", encoding="utf-8") as lock:
            hold(lock)
            Path(lock.name).rename(own / LOCK)  # held since before it has the name: else it might count as left
            yield own / path.name
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Remove what killed processes left in a folder. On a disk without locks it stays: it may be another machine's."""
    for lock in folder.glob(f".*{PARTIAL}/{LOCK}"):
        with suppress(OSError), lock.open("r+", encoding="utf-8") as file:  # just removed, or another user's
            if hold(file) and has_locks(file):
                shutil.rmtree(lock.parent, ignore_errors=True)


def sync_all(folder: Path) -> None:
    """Make a folder's files and folders survive a power cut: they are on the disk when it returns.

    Raises:
        OSError: one cannot be opened, or not be written to the disk.
    """
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files survive a power cut: they are on the disk when it returns.

    Raises:
        OSError: the folder cannot be opened, or not be written to the disk.
    """
    _sync(folder)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def cause(error: OSError) -> str:
    """The system's words for why a file cannot be read or written, without those of a library around them."""
    return os.strerror(error.errno) if error.errno else str(error)
