"""This project's folder in the user's cache. It holds libraries, which are code, so only the user may write there."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final

NAME: Final = "ctr-serving"
_ONLY_THE_USER: Final = 0o700
_OTHERS_WRITE: Final = 0o022


def own_folder() -> Path:
    """`ctr-serving` below `XDG_CACHE_HOME`, else below `~/.cache`; it need not exist.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME


def make_own_folder() -> Path:
    """The folder, which exists now.

    All that use it make it here, whatever the umask is: one that the group can write to, as umask 002 makes them,
    could not be trusted with code.

    Raises:
        RuntimeError: the user has no home.
        OSError:      it cannot be made.
    """
    folder = own_folder()
    folder.parent.mkdir(mode=_ONLY_THE_USER, parents=True, exist_ok=True)
    folder.mkdir(mode=_ONLY_THE_USER, exist_ok=True)
    return folder


def make_if_above(path: Path) -> None:
    """Make the folder if `path` lies in it; else nothing is done.

    Raises:
        OSError: it cannot be made.
    """
    try:
        above = own_folder().absolute() in path.absolute().parents
    except RuntimeError:  # without a home there is no such folder
        return
    if above:
        make_own_folder()


def trusted_folder() -> Path:
    """The folder, which exists now and which only this user can write to.

    Raises:
        RuntimeError:    the user has no home.
        PermissionError: others can write to it; the message says what to do.
        OSError:         it cannot be made.
    """
    folder = make_own_folder()
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: set XDG_CACHE_HOME to a folder of your own")
    if found.st_mode & _OTHERS_WRITE:
        raise PermissionError(f"others can write to {folder}, and so add code: chmod go-w {shlex.quote(str(folder))}")
    return folder
