"""A temporary folder that one process holds by a lock. A process that is killed leaves its folder, and the next one
that makes a folder of that name removes it: no process holds it then."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from mimn.whole_file import cause
from uic.bulk.errors import BulkRefused, FolderFull, FolderUnavailable, is_full

LOCK: Final = ".held"
"""A file in the folder, locked while its process lives."""
NO_MEMORY: Final = (
    "there is too little memory: raise its limit (ulimit -v, or the container's), or run this on a larger machine"
)


class WorkFolder:
    """One folder; `close` removes it, and so does the end of the process, unless it is killed."""

    def __init__(self, prefix: str, below: Path | None = None) -> None:
        """
        Args:
            prefix: how its name begins, and the names of those that killed processes left.
            below: where (default: the system's temporary folder).

        Raises:
            FolderUnavailable: it cannot be made.
        """
        try:
            self._below = Path(tempfile.gettempdir()) if below is None else below
        except OSError as error:
            raise FolderUnavailable(f"there is no temporary folder ({cause(error)}): set TMPDIR to one") from error
        with self.writing():
            for left in self._below.glob(f"{prefix}*"):
                _remove_left(left)
            while True:
                self._folder = tempfile.TemporaryDirectory(dir=self._below, prefix=prefix)
                self.path = Path(self._folder.name)
                if (lock := _lock(self.path)) is not None:
                    self._lock = lock
                    return
                self._folder.cleanup()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While the body writes into the folder.

        Raises:
            FolderFull, FolderUnavailable: in place of the body's OSError; the message names the fix.
            BulkRefused: there is too little memory, which no folder is to blame for.
        """
        try:
            yield
        except MemoryError as error:
            raise BulkRefused(NO_MEMORY) from error
        except OSError as error:
            if error.errno == errno.ENOMEM:  # as a file is mapped
                raise BulkRefused(NO_MEMORY) from error
            fix = "or set TMPDIR to another folder"
            if is_full(error):
                raise FolderFull(f"the temporary folder {self._below} is full: free space there, {fix}") from error
            raise FolderUnavailable(
                f"the temporary folder {self._below} cannot be written ({cause(error)}): correct that, {fix}"
            ) from error

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._folder.cleanup()
        self._lock.close()


def _lock(folder: Path) -> IO[bytes] | None:
    """The file that holds a new folder; None if another process took it for one that was left, and removes it."""
    try:
        file = (folder / LOCK).open("wb")
    except FileNotFoundError:
        return None
    if _locked(file) is False or not (folder / LOCK).exists():
        file.close()
        return None
    return file


def _remove_left(folder: Path) -> None:
    """Remove a folder of this user that no process holds; one that cannot be removed stays."""
    with suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return
        with (folder / LOCK).open("r+b") as file:  # without one it is not whole yet, or of an older version
            if _locked(file):
                shutil.rmtree(folder, ignore_errors=True)


def _locked(file: IO[bytes]) -> bool | None:
    """Whether the file is now locked by this process; None where there are no locks, as on some network disks: there it
    is not known whether another process lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
