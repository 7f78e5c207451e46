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
    """The arrays by name, read-only.

    Raises:
        ValueError: a file is missing or is no plain array; the message names it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, file in files.items():
        try:
            arrays[name] = read_array(folder / file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder / file} is not a plain array: {error}") from error
    return arrays


def finite(array: NDArray[np.floating]) -> bool:
    """Whether all numbers are finite; needs no memory, however large the table."""
    if not array.size:
        return True
    with np.errstate(invalid="ignore"):  # a minimum of numbers with a NaN is NaN
        return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def read_array(path: Path) -> NDArray[Any]:
    """One array, read-only and in memory: a mapped file that is written over would change what is served, and one that
    is cut would end the process.

    Raises:
        OSError, ValueError: it cannot be read, or is no plain array.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except EOFError as error:
        raise ValueError("it is empty") from error
    array.flags.writeable = False
    return array
