"""Where the rows of a CSV are in its text, as Arrow reads it: Arrow counts neither blank lines nor lines that it leaves
out. A file is read again up to the row that a message is about, so rows without a message cost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.data.quotes import BOM, CR, LF, Positions, line_ends, turns

BLOCK_BYTES = 8 << 20
MOST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A row with another number of fields than the header has."""

    line: int
    text: str
    """Its first characters."""
    fields: int
    expected: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """Whole rows, without blank lines."""

    data: bytes
    begin: Positions
    end: Positions
    line: Positions
    """In which line each begins, from 1 on."""
    fields: Positions

    def below_first(self) -> _Rows:
        """All but the first."""
        return _Rows(self.data, self.begin[1:], self.end[1:], self.line[1:], self.fields[1:])


class CsvLines:
    """The rows of one file. Read once, by one of the methods."""

    def __init__(self, source: pa.NativeFile, delimiter: str, *, quote: bool, columns: int | None) -> None:
        """
        Args:
            source: the text, in UTF-8.
            delimiter: the character between fields.
            quote: whether fields may stand in quotes.
            columns: how many there are; None: as many as the first row has, which is the header.
        """
        self._source, self._delimiter, self._quote, self._columns = source, ord(delimiter), quote, columns

    def of_row(self, row: int) -> int:
        """The line, from 1 on, in which a row begins that Arrow reads: broken ones do not count.

        Raises:
            ValueError: the file has fewer rows.
        """
        for rows, good in self._read():
            line = rows.line[good]
            if row < len(line):
                return int(line[row])
            row -= len(line)
        raise ValueError(f"there are {row} rows less than that")

    def first_broken(self) -> BrokenLine:
        """The first row that Arrow leaves out.

        Raises:
            ValueError: there is none.
        """
        for rows, good in self._read():
            if not good.all():
                at = int(np.argmin(good))
                begin = int(rows.begin[at])
                text = rows.data[begin : min(int(rows.end[at]), begin + 4 * MOST_SHOWN)].decode(errors="replace")
                return BrokenLine(int(rows.line[at]), text[:MOST_SHOWN], int(rows.fields[at]), self._columns or 0)
        raise ValueError("there is none")

    def _read(self) -> Iterator[tuple[_Rows, NDArray[np.bool_]]]:
        """The rows below the header, and which of them are whole."""
        header = self._columns is None
        for rows in self._rows():
            if header:
                self._columns, header = int(rows.fields[0]), False
                below = rows.below_first()
            else:
                below = rows
            yield below, below.fields == self._columns

    def _rows(self) -> Iterator[_Rows]:
        """All rows, some at a time."""
        rest, line, block = b"", 1, self._source.read(BLOCK_BYTES).removeprefix(BOM)
        while block or rest:
            data = rest + block
            known = np.frombuffer(data, np.uint8)
            lines = line_ends(known)
            ends = lines[self._outside(known, lines)]
            if block and len(ends) and ends[-1] == len(data) - 1 and known[-1] == CR:
                ends = ends[:-1]  # an LF may follow
            if not block and not (len(ends) and ends[-1] == len(data) - 1):
                ends = np.append(ends, len(data))  # the last line has no end
            begin = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
            between = np.flatnonzero(known == self._delimiter)
            between = between[self._outside(known, between)]
            fields = np.searchsorted(between, ends) - np.searchsorted(between, begin) + 1
            last = np.maximum(ends - 1, 0)
            end = ends - ((ends > begin) & (known[last] == CR) & (known[np.minimum(ends, len(data) - 1)] == LF))
            full = end > begin
            if full.any():
                number = line + np.searchsorted(lines, begin)
                yield _Rows(data, begin[full], end[full], number[full], fields[full])
            if not block:
                return
            used = int(ends[-1]) + 1 if len(ends) else 0
            line += int(np.searchsorted(lines, used))
            rest, block = data[used:], self._source.read(BLOCK_BYTES)

    def _outside(self, data: NDArray[np.uint8], at: Positions) -> NDArray[np.bool_]:
        """Which of some bytes are outside quotes; the bytes begin with a row."""
        if not self._quote:
            return np.ones(len(at), np.bool_)
        quotes, inside = turns(data, self._delimiter)
        return ~np.concatenate([[False], inside])[np.searchsorted(quotes, at)]


def line_at(source: pa.NativeFile, at: int) -> int:
    """In which line of a text, from 1 on, the byte is before which there are `at`."""
    line, before = 1, b""
    while at > 0 and (block := source.read(min(at, BLOCK_BYTES))):
        both = before + block  # a CR and its LF may be in two blocks
        line += both.count(b"\n") + both.count(b"\r") - both.count(b"\r\n") - before.count(b"\r")
        at, before = at - len(block), b"\r" if block.endswith(b"\r") else b""
    return line
