"""Rows in arrival order to columns sorted by user and time, as memory-mapped arrays, with bounded memory.

Rows are appended to one file a column. Then users are divided into ranges of about `RANGE_ROWS` rows, by quantiles of a
sample; each range's rows are gathered in a file of their own, sorted in memory, and written behind one another. So the
result is sorted as a whole, rows of equal keys keep their order, and memory holds one range at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mimn.data.mapped import new_array

RANGE_ROWS = 2_000_000
SAMPLE_EVERY = 37
"""Every so-many-th row gives its user to the sample: prime, so that a period of the file does not hide users."""


class SortingWriter:
    """Takes rows in any order; `finish` leaves `<folder>/<name>.npy` for each column, sorted by `keys`.

    Each method raises OSError if the disk has no room, or the folder cannot be written: the caller removes the folder.
    """

    def __init__(
        self, folder: Path, dtypes: Mapping[str, DTypeLike], keys: tuple[str, str], *, range_rows: int = RANGE_ROWS
    ) -> None:
        """`keys`: the column of users, then that of times, both integers; users are not divided between ranges."""
        self._folder, self._keys, self._range_rows = folder, keys, range_rows
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._files: dict[str, BinaryIO] = {name: (folder / f".{name}.arrived").open("wb") for name in self._dtypes}
        self._sample: list[NDArray[Any]] = []
        self._rank: Callable[[NDArray[Any]], NDArray[Any]] | None = None
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with suppress(OSError):  # of what no disk had room for: it goes now
                file.close()
        for name in self._dtypes:
            (self._folder / f".{name}.arrived").unlink(missing_ok=True)

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows: one array a column, all of one length."""
        n = len(columns[self._keys[0]])
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(columns[name], self._dtypes[name]).data)
        offset = -self.rows % SAMPLE_EVERY
        self._sample.append(columns[self._keys[0]][offset::SAMPLE_EVERY].copy())
        self.rows += n

    def finish(self, rank: Callable[[NDArray[Any]], NDArray[Any]] | None = None) -> None:
        """Write the sorted columns. `rank`: what a user's rows are sorted by, made of their times; None: the times."""
        self._rank = rank
        for file in self._files.values():
            file.flush()
        arrived = {name: self._map(name) for name in self._dtypes}
        out = {
            name: new_array(self._folder / f"{name}.npy", dtype, (self.rows,)) for name, dtype in self._dtypes.items()
        }
        if self.rows <= self._range_rows:
            self._sort_into(out, arrived, 0)
        else:
            self._sort_by_ranges(out, arrived)
        for array in out.values():
            array.flush()

    def _map(self, name: str) -> NDArray[Any]:
        if not self.rows:
            return np.empty(0, self._dtypes[name])
        mapped: NDArray[Any] = np.memmap(self._folder / f".{name}.arrived", self._dtypes[name], "r")
        return mapped.view(np.ndarray)

    def _sort_into(self, out: Mapping[str, NDArray[Any]], rows: Mapping[str, NDArray[Any]], at: int) -> None:
        user, time = self._keys
        times = rows[time] if self._rank is None else self._rank(rows[time])
        order = np.lexsort((times, rows[user]))
        for name, values in rows.items():
            out[name][at : at + len(order)] = values[order]

    def _sort_by_ranges(self, out: Mapping[str, NDArray[Any]], arrived: Mapping[str, NDArray[Any]]) -> None:
        user = self._keys[0]
        ranges = -(-self.rows // self._range_rows)
        sample = np.sort(np.concatenate(self._sample))
        edges = np.unique(sample[np.arange(1, ranges) * len(sample) // ranges])
        counts = np.zeros(len(edges) + 1, np.int64)
        for begin in range(0, self.rows, self._range_rows):
            of = np.searchsorted(edges, arrived[user][begin : begin + self._range_rows], "right")
            counts += np.bincount(of, minlength=len(counts))
        starts = np.cumsum(counts) - counts
        # The rows of a range lie together in `out` first, in the order of arrival, and are sorted there.
        ahead = starts.copy()
        for begin in range(0, self.rows, self._range_rows):
            rows = slice(begin, begin + self._range_rows)
            of = np.searchsorted(edges, arrived[user][rows], "right")
            order = np.argsort(of, kind="stable")
            parts = np.bincount(of, minlength=len(counts))
            for name, values in arrived.items():
                gathered = values[rows][order]
                taken = 0
                for k, n in enumerate(parts.tolist()):
                    out[name][ahead[k] : ahead[k] + n] = gathered[taken : taken + n]
                    taken += n
            ahead += parts
        for start, n in zip(starts.tolist(), counts.tolist(), strict=True):
            rows_of_range = {name: np.array(values[start : start + n]) for name, values in out.items()}
            self._sort_into(out, rows_of_range, start)
