"""What is said when the disk of a run folder is full: the libraries that write there say it in ways of their own."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SAID = re.compile(rf"\(os error ({'|'.join(map(str, NO_ROOM))})\)|^\d+ requested and \d+ written$")
"""What safetensors and numpy say, without an `errno`."""


class DiskFull(OSError):
    """A folder cannot be written for lack of room; the message says what to do."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on a disk."""
    return isinstance(error, DiskFull) or getattr(error, "errno", None) in NO_ROOM or bool(_SAID.search(str(error)))


@contextmanager
def named_if_full(folder: Path, then: str) -> Iterator[None]:
    """Name the folder that the body writes to if its disk is full. `then`: what to do after there is room; around other
    bodies, the outermost says it.

    Raises:
        DiskFull: the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_full(error):
            raise
        raise DiskFull(f"{folder} cannot be written, because its disk is full: make room there, then {then}") from error
