"""Fields that hold nothing, lists with more values than are read, and rows that no request can say, counted batch by
batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa, pc
from mimn.bundle.fields import MAX_FIELDS_BYTES, MAX_LIST
from mimn.data.column_values import Wanted, list_of_text, numpy_of
from mimn.data.tables import Columns

_ASKED = ("fields.user.", "fields.context.")
"""A request gives these fields. Those of the item are joined at export."""
_BRACES, _QUOTES = len("{}"), len('""')
_AROUND = len('"":,')
"""What JSON writes with each name."""


class FieldTally:
    """How often each column of a field has a value, how many of its lists are cut, and how many rows are longer than a
    request may be."""

    def __init__(self, wanted: Mapping[str, Wanted], texts: Mapping[str, Mapping[int, str]]) -> None:
        """`texts`: of each column's codes, growing with every batch."""
        self._fields = {column: want for column, want in wanted.items() if want.said.startswith("fields.")}
        self._lists = {c: _Lists(texts[c]) for c, want in self._fields.items() if want.meaning == "values"}
        self._rows = 0
        self._filled = dict.fromkeys(self._fields, 0)
        self._cut = dict.fromkeys(self._lists, 0)
        self._asked = {c: _name_of(want) for c, want in self._fields.items() if want.said.startswith(_ASKED)}
        self._too_long = self._longest = 0
        self._bytes_too_long = dict.fromkeys(self._asked, 0)
        """Of the rows that are too long: the bytes of each column."""

    def add(self, batch: Columns, text_bytes: Mapping[str, NDArray[np.int64]]) -> None:
        """Count rows. `text_bytes`: of the batch, as `TableReader` has them."""
        self._rows += len(next(iter(batch.values())))
        sizes: dict[str, NDArray[np.int64]] = {}
        for column in self._fields:
            values = batch[column]
            if column in self._lists:
                lengths, sizes[column] = self._lists[column].measured(values)
                self._filled[column] += int(np.count_nonzero(lengths))
                self._cut[column] += int(np.count_nonzero(lengths > MAX_LIST))
            else:
                there = np.isfinite(values) if values.dtype == np.float64 else values != 0
                self._filled[column] += int(np.count_nonzero(there))
                if column in self._asked:
                    size = _digits(values) if values.dtype == np.float64 else text_bytes[column] + _QUOTES
                    sizes[column] = np.where(there, size, 0)
        self._add_sizes(sizes)

    def _add_sizes(self, sizes: Mapping[str, NDArray[np.int64]]) -> None:
        """Count rows by the bytes of their values, 0 where there is none, which is left out of a request."""
        named = {c: np.where(sizes[c], sizes[c] + name + _AROUND, 0) for c, name in self._asked.items()}
        if not named:
            return
        total = np.sum(list(named.values()), axis=0) + _BRACES - 1  # there is no comma behind the last
        self._longest = max(self._longest, int(total.max(initial=0)))
        too_long = total > MAX_FIELDS_BYTES
        if not too_long.any():
            return
        self._too_long += int(np.count_nonzero(too_long))
        for column, size in named.items():
            self._bytes_too_long[column] += int(size[too_long].sum())

    def findings(self, table: str, files: str) -> Iterator[str]:
        """What the owner of the files should fix."""
        for column, want in self._fields.items():
            said = f"`{table}`, column {want.column} of {files}"
            if self._rows and not self._filled[column]:
                yield f"{said}: no row has a value: fill it, or remove the field `{want.said}`"
            if cut := self._cut.get(column):
                refused = ", and a request with more is refused" if column in self._asked else ""
                where = " in the files and in requests" if column in self._asked else ""
                yield (
                    f"{said}: the lists of {cut} rows have more than {MAX_LIST} values, as many as "
                    f"{self._lists[column].longest}: training reads the first {MAX_LIST}{refused}: shorten them{where}"
                )
        if self._too_long:
            most = self._fields[max(self._bytes_too_long, key=self._bytes_too_long.__getitem__)]
            yield (
                f"`{table}`, {files}: the fields of {self._too_long} rows take more than {MAX_FIELDS_BYTES} bytes of "
                f"JSON, as many as {self._longest}, most of them in column {most.column}, and a request with more is "
                "refused: shorten the values in the files and in requests, or remove fields"
            )


def _name_of(want: Wanted) -> int:
    """Bytes of the field's name."""
    return len(want.said.split(".", 2)[2].encode())


def _digits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bytes of numbers in decimal, as short as they can be written. [n]"""
    return numpy_of(pc.binary_length(pa.array(values).cast(pa.string()))).astype(np.int64)


class _Lists:
    """What is known of a column's lists, by code."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts
        self._known = {0: (0, 0)}
        """How many values a list has, and the bytes of those that are read."""

    def measured(self, codes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many values each list has; and its bytes as one text of those that are read, which is shorter than a
        list. [n] → [n] each"""
        for code, text in islice(self._texts.items(), len(self._known) - 1, None):  # those that are new
            values = list_of_text(text)
            read = values[:MAX_LIST]
            separated = sum(len(one.encode()) for one in read) + len(read) - 1 + _QUOTES if read else 0
            self._known[code] = len(values), separated
        found, place = np.unique(codes, return_inverse=True)
        known = np.array([self._known[code] for code in found.tolist()], np.int64).reshape(-1, 2)[place]
        return known[:, 0], known[:, 1]

    @property
    def longest(self) -> int:
        return max(length for length, _ in self._known.values())
