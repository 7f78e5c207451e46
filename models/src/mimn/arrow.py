"""pyarrow, without pandas. All of this project's code takes pyarrow from here.

Where pandas is installed, pyarrow imports it at the first use of an array or a scalar, to recognize pandas' own types,
which this project never hands it. That costs half a second and 40 MB. Worse, pyarrow's C++ part drops whatever that
import raises: a Ctrl-C that comes meanwhile was not heard, and could leave Python's import lock held for good, so that
every other thread that imported something waited forever. Here pyarrow looks once, while pandas is hidden from it, and
remembers that there is none: it behaves as on a machine without pandas.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

__all__ = ["pa", "pc", "pcsv", "pq"]


class _Hidden(MetaPathFinder):
    """Lets one thread not find a package."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._thread = get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Nothing to say about other modules.

        Raises:
            ModuleNotFoundError: it is the package, and this thread asks.
        """
        if fullname == self._package and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is hidden", name=fullname)
        return None


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    finder = _Hidden(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with _hidden("pandas"):
    pa.array(np.zeros(1)).to_numpy()  # the Python part looks for pandas at the first of the two, the C++ part at both
