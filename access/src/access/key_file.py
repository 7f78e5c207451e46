"""The file of keys on a disk: read with its checks, and changed under a lock.

A change is written in place, because a container that mounts the file keeps the file and not its name. So the lock is
on the file itself: it needs no rights in the folder, and no file beside it. The lock is advisory: it keeps commands
apart, and not an editor. Services read without it.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from access.keys import MAX_FILE_BYTES, BadKeys

FILE_MODE: Final = 0o644
"""Readable by the services' users, which differ in containers; it holds only hashes."""
LOCK_S: Final = 10.0
"""How long a change waits for others, each of which takes milliseconds."""
RETRY_S: Final = 0.02


def read_key_file(path: Path) -> str:
    """The file's text.

    Raises:
        BadKeys: it cannot be read, is no regular file or no text, is too large, or every user can write to it.
    """
    try:
        with _open(path, os.O_RDONLY) as file:
            return _text(path, file)
    except OSError as error:
        raise BadKeys(f"cannot be read ({error.strerror or error})") from error


def change_key_file(path: Path, change: Callable[[str], str], *, create: bool) -> None:
    """Replace the file's text by what `change` makes of it. What `change` gets is what is replaced, whatever other
    commands do meanwhile. With `create` a file that does not exist is made, with its folder; its text is empty.

    Raises:
        BadKeys: as `read_key_file`; the file would be too large, or another command does not let go of it.
        OSError: it cannot be opened or written.
    """
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, os.O_RDWR | (os.O_CREAT if create else 0)) as file:
        after = change(_text(path, file)).encode()
        if len(after) > MAX_FILE_BYTES:
            raise BadKeys(f"would be larger than {MAX_FILE_BYTES} bytes, and services would refuse it: revoke keys")
        with open(file.fileno(), "r+b", closefd=False) as whole:
            whole.seek(0)
            whole.write(after)
            whole.truncate()


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[FileIO]:
    """The file that has the name once the lock is held: another one may have been moved there in the meantime."""
    until = time.monotonic() + LOCK_S
    while True:
        with _open(path, flags) as file:
            while not _lock(file):
                if time.monotonic() > until:
                    raise BadKeys(f"another program has had it locked for {LOCK_S:g} s: end it and try again")
                time.sleep(RETRY_S)
            if _has_name(file, path):
                yield file
                return


def _lock(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_name(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _open(path: Path, flags: int) -> FileIO:
    # Opening a FIFO waits for its other end otherwise.
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    mode = "r+b" if flags & os.O_RDWR else "rb"
    return FileIO(path, mode, opener=lambda name, _: os.open(name, flags, FILE_MODE))


def _text(path: Path, file: FileIO) -> str:
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        raise BadKeys("is not a regular file")
    if mode & stat.S_IWOTH:
        raise BadKeys(f"every user can write to it, and so add a key: chmod o-w {shlex.quote(str(path))}")
    content = b""
    while len(content) <= MAX_FILE_BYTES and (more := file.read(MAX_FILE_BYTES + 1 - len(content))):
        content += more
    if len(content) > MAX_FILE_BYTES:
        raise BadKeys(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadKeys("is not text") from None
