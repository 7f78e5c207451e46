"""The files of a run that evaluation, calibration and export read, and their hashes, which `metrics.json` holds.

The configuration is not among them: it is text, which is checked when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mimn.data.fields import FILE as FIELDS
from mimn.run import COPY_AGAIN, MODEL, NoFinishedRun, finished

FILES: Final = "files"
"""Where `metrics.json` has their hashes, by name."""
DESCRIPTION: Final = "dataset.toml"
"""Of the data set, in a run on impressions."""
_READ: Final = (MODEL, DESCRIPTION, FIELDS, "*.npy")
"""Model, description, and ids, fields, tables and members."""


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file of the run in `folder` that is read, by name.

    Raises:
        OSError: one cannot be read.
    """
    found = sorted(path for pattern in _READ for path in folder.glob(pattern))
    return {path.name: _sha256(path) for path in found}


def whole(folder: Path) -> dict[str, Any]:
    """What `metrics.json` says of the run in `folder`, whose files are those that training wrote. Runs of earlier
    versions have no hashes: their files are taken as they are.

    Raises:
        NoFinishedRun: as `finished`, or a file is missing or is another one; the message names it.
        OSError: one cannot be read.
    """
    record = finished(folder)
    files = record.get(FILES, {})
    if not isinstance(files, Mapping):
        raise NoFinishedRun(f"{folder}: `{FILES}` of the record of the run are no hashes: {COPY_AGAIN}")
    for name, sha256 in files.items():
        try:
            found = _sha256(folder / name)
        except FileNotFoundError as error:
            raise NoFinishedRun(f"{folder} lacks {name}: {COPY_AGAIN}") from error
        if found != sha256:
            raise NoFinishedRun(f"{folder / name} is not the file that training wrote (sha256 differs): {COPY_AGAIN}")
    return record


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
