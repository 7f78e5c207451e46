"""Arrays that lie in files of their own, in a bundle or in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_arrays(folder: Path, files: Mapping[str, str], of: object) -> None:
    """Write the attributes of `of` that `files` names, each into its file in `folder`."""
    for name, file in files.items():
        np.save(folder / file, getattr(of, name), allow_pickle=False)


def load_arrays(folder: Path, files: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The arrays by name, memory-mapped.

    Raises:
        ValueError: a file is missing or is no plain array; the message names it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, file in files.items():
        try:
            # Still the mapped file, but without the subclass, whose indexing costs several times a plain array's.
            arrays[name] = np.load(folder / file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder / file} is not a plain array: {error}") from error
    return arrays
