"""Records of the log, as they lie in the batches that a broker sent.

A record becomes a value of Python only where one is asked for: what is done with all of them is done with their columns
(`mimn.rows.records`). Without the compiled library, and in tests, a list of records does the same everywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from ctypes import string_at
from itertools import chain, starmap
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address
from mimn.rows.records import (
    HEADERS,
    HEADERS_SIZE,
    KEY,
    KEY_SIZE,
    OFFSET,
    TIME,
    VALUE,
    VALUE_SIZE,
    Columns,
    Texts,
)
from uic.core.event import Record
from uic.core.record_headers import Headers, read_headers, write_headers


class BatchRecord(NamedTuple):
    """One record (`uic.core.event.Record`)."""

    offset: int
    timestamp: int
    """Milliseconds since 1970-01-01 UTC, -1 if the record has none."""
    key: bytes | None
    value: bytes | None
    headers: Headers


class Records(Sequence[Record]):
    """Records in log order, in columns."""

    __slots__ = ("_size", "columns", "payloads")

    def __init__(self, columns: Columns, payloads: Sequence[object]) -> None:
        """`columns`: see `Columns`; `payloads` keep the memory that their addresses are in."""
        self.columns, self.payloads = columns, payloads
        self._size: int = columns.shape[1]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Records:
        """Records, copied into columns."""
        kept: list[bytearray] = []

        def lies(some: bytes | None) -> tuple[int, int]:
            if some is None:
                return 0, 0
            kept.append(bytearray(some + b"\0"))  # not empty: an empty one has no address
            return address(kept[-1]), len(some)

        rows = [
            (
                r.offset,
                r.timestamp,
                *lies(r.key),
                *lies(r.value),
                *lies(write_headers(r.headers) if r.headers else None),
            )
            for r in records
        ]
        return cls(np.array(rows, np.int64).reshape(-1, 8).T.copy(), kept)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """[n]"""
        offsets: NDArray[np.int64] = self.columns[OFFSET]
        return offsets

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """[n], ms; -1 for none."""
        timestamps: NDArray[np.int64] = self.columns[TIME]
        return timestamps

    @property
    def keys(self) -> Texts:
        """[n]"""
        return self._texts(KEY, KEY_SIZE)

    @property
    def values(self) -> Texts:
        """[n]; one that is missing erases the user."""
        return self._texts(VALUE, VALUE_SIZE)

    @property
    def headers(self) -> Texts:
        """[n], with their count; missing where there are none."""
        return self._texts(HEADERS, HEADERS_SIZE)

    @property
    def have_headers(self) -> bool:
        """Whether any record has headers."""
        return bool(np.count_nonzero(self.columns[HEADERS]))

    def _texts(self, at: int, size: int) -> Texts:
        return Texts(self.columns[at].view(np.uint64), self.columns[size], self.payloads)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, i: int) -> BatchRecord: ...

    @overload
    def __getitem__(self, i: slice) -> Records: ...

    def __getitem__(self, i: int | slice) -> BatchRecord | Records:
        if isinstance(i, slice):
            columns = self.columns[:, i]
            return self if columns.shape[1] == self._size else Records(columns, self.payloads)
        return _record(*self.columns[:, i].tolist())

    def __iter__(self) -> Iterator[BatchRecord]:
        return starmap(_record, self.columns.T.tolist())


def _record(  # noqa: PLR0917 (a column, from top to bottom)
    offset: int, time: int, key: int, key_size: int, value: int, value_size: int, headers: int, headers_size: int
) -> BatchRecord:
    return BatchRecord(
        offset,
        time,
        string_at(key, key_size) if key else None,
        string_at(value, value_size) if value else None,
        read_headers(string_at(headers, headers_size), 0)[0] if headers else (),
    )


def joined(several: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """All of several, one after another: in columns if most records are."""
    if len(several) == 1:
        return several[0]
    columned = [some for some in several if isinstance(some, Records)]
    if len(columned) < len(several):
        if 2 * sum(map(len, columned)) <= sum(map(len, several)):
            return list(chain.from_iterable(several))
        columned = [some if isinstance(some, Records) else Records.of(some) for some in several]
    return joined_columns(columned)


def joined_columns(several: Sequence[Records]) -> Records:
    """All of several, one after another, without gaps between the columns."""
    if len(several) == 1 and several[0].columns.flags.c_contiguous:
        return several[0]
    payloads = [payload for some in several for payload in some.payloads]
    columns = [some.columns for some in several]
    return Records(np.concatenate(columns, axis=1) if columns else np.empty((8, 0), np.int64), payloads)


def first_ms(records: Sequence[Record]) -> int:
    """The time of the first, -1 if it has none."""
    return int(records.timestamps[0]) if isinstance(records, Records) else records[0].timestamp


def values_of(several: Sequence[tuple[Sequence[Record], NDArray[np.int64]]]) -> Sequence[bytes]:
    """The values of some records of each, at these rising indices, one after another; empty where there is none."""
    at: list[NDArray[np.int64]] = []
    sizes: list[NDArray[np.int64]] = []
    payloads: list[object] = []
    for records, which in several:
        if not isinstance(records, Records):
            return [some[i].value or b"" for some, indices in several for i in indices.tolist()]
        whole = len(which) == len(records)  # indices rise
        at.append(records.columns[VALUE] if whole else records.columns[VALUE][which])
        sizes.append(records.columns[VALUE_SIZE] if whole else records.columns[VALUE_SIZE][which])
        payloads += records.payloads
    return Texts(np.concatenate(at).view(np.uint64), np.concatenate(sizes), payloads)


def taken(values: Sequence[bytes], which: NDArray[np.int64]) -> Sequence[bytes]:
    """The records at these indices."""
    return values.take(which) if isinstance(values, Texts) else [values[i] for i in which.tolist()]


class Pending:
    """A queue of records."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence[Record]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, records: Sequence[Record]) -> None:
        """Append records."""
        if records:
            self._waiting.append(records)
            self._size += len(records)

    def front(self, most: int) -> Sequence[Record]:
        """The first `most`, or all if there are fewer. They stay."""
        if self._size <= most and len(self._waiting) == 1:
            return self._waiting[0]
        found: list[Sequence[Record]] = []
        for some in self._waiting:
            if most <= 0:
                break
            found.append(some if len(some) <= most else some[:most])
            most -= len(some)
        return joined(found)

    def drop(self, count: int) -> None:
        """Drop the first `count`."""
        self._size -= count
        if not self._size:
            self._waiting.clear()
            return
        while count:
            first = self._waiting.popleft()
            if len(first) > count:
                self._waiting.appendleft(first[count:])
            count -= min(count, len(first))
