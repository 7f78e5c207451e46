"""The files of a bundle: regular files inside its folder, of the sizes and with the hashes that the manifest gives.

Kinds and sizes are checked before anything is read, so that a FIFO, a device, a link to elsewhere or a huge file cannot
block the process that loads the bundle.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimn.bundle.specs import BundleError, Manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check every file that the manifest names; `folder` has no symbolic links in its path.

    Raises:
        BundleError: names the file that is missing, of another kind, outside of the folder, or not the exported one.
    """
    for name in manifest.files:
        with opened(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
        if manifest.sizes is not None and size != manifest.sizes[name]:
            raise BundleError(
                f"{folder / name} has {size} bytes, the exported file has {manifest.sizes[name]}: copy the bundle again"
            )
    for name, sha256 in manifest.files.items():
        with opened(folder, name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise BundleError(
                    f"{folder / name} is not the file that was exported (sha256 differs): copy the bundle again"
                )


@contextmanager
def opened(folder: Path, name: str) -> Iterator[io.BufferedReader]:
    """A file of the bundle in `folder`, opened for reading.

    Raises:
        BundleError: it is missing, not for this user to read, no regular file, or a symbolic link that leads out of
            the folder.
    """
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder):
            raise BundleError(f"{folder / name} leads out of the bundle's folder, to {path}: copy the file itself")
        # Opening a FIFO waits for a writer otherwise.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise BundleError(
            f"{folder / name} cannot be read ({error.strerror}): let the service's user read it"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else "links in a circle"
        raise BundleError(f"the bundle at {folder} lacks {name} ({reason}): copy the bundle again") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{folder / name} is not a regular file: copy the bundle again")
    with os.fdopen(descriptor, "rb") as file:
        yield file
