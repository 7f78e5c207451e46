"""Columns of fields that hold nothing, and lists with more values than are read, counted batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.fields import MAX_LIST
from mimn.data.column_values import Wanted, list_of_text
from mimn.data.tables import Columns


class FieldTally:
    """How often each column of a field has a value, and how many of its lists are cut."""

    def __init__(self, wanted: Mapping[str, Wanted], texts: Mapping[str, Mapping[int, str]]) -> None:
        """`texts`: of each column's codes, growing with every batch."""
        self._fields = {column: want for column, want in wanted.items() if want.said.startswith("fields.")}
        self._lists = {c: _Lists(texts[c]) for c, want in self._fields.items() if want.meaning == "values"}
        self._rows = 0
        self._filled = dict.fromkeys(self._fields, 0)
        self._cut = dict.fromkeys(self._lists, 0)

    def add(self, batch: Columns) -> None:
        """Count rows."""
        self._rows += len(next(iter(batch.values())))
        for column in self._fields:
            values = batch[column]
            if column in self._lists:
                lengths = self._lists[column].lengths(values)
                self._filled[column] += int(np.count_nonzero(lengths))
                self._cut[column] += int(np.count_nonzero(lengths > MAX_LIST))
            else:
                there = np.isfinite(values) if values.dtype == np.float64 else values != 0
                self._filled[column] += int(np.count_nonzero(there))

    def findings(self, table: str, files: str) -> Iterator[str]:
        """What the owner of the files should fix."""
        for column, want in self._fields.items():
            said = f"`{table}`, column {want.column} of {files}"
            if self._rows and not self._filled[column]:
                yield f"{said}: no row has a value: fill it, or remove the field `{want.said}`"
            if cut := self._cut.get(column):
                yield (
                    f"{said}: the lists of {cut} rows have more than {MAX_LIST} values, as many as "
                    f"{self._lists[column].longest}: training reads the first {MAX_LIST}, and a request with more is "
                    "refused: shorten them in the files and in requests"
                )


class _Lists:
    """The lengths of a column's lists, by code."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts
        self._length = {0: 0}

    def lengths(self, codes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How many values each list has. [n] → [n]"""
        for code, text in islice(self._texts.items(), len(self._length) - 1, None):  # those that are new
            self._length[code] = len(list_of_text(text))
        found, place = np.unique(codes, return_inverse=True)
        lengths = np.array([self._length[code] for code in found.tolist()], np.int64)
        return lengths[place]

    @property
    def longest(self) -> int:
        return max(self._length.values())
