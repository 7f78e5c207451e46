"""A file that one process holds at a time: the lock goes with the process, however that ends."""

from __future__ import annotations

import errno
import fcntl
from typing import IO, Any

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def hold(file: IO[Any] | int, *, wait: bool = False) -> bool:
    """Whether this process now holds the open file, until it is closed, or the file is on a disk without locks. With
    `wait`, waits for the process that holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True


def has_locks(file: IO[Any] | int) -> bool:
    """Whether the open file is on a disk with locks. This process may hold it afterwards, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True
