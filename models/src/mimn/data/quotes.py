"""Which bytes of CSV are inside quotes, as Arrow reads it, and a stream that is refused where a quote is left open.

Arrow takes all up to the next quote, or to the end of the file, for one value, and says nothing: rows would be lost,
also by a column that is not read. So the bytes are looked at on their way to Arrow.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa

MOST_LINES = 100
"""Line ends that a value in quotes may have. More are those of rows behind a quote that was left open."""
MOST_BYTES = 8 << 20
"""Bytes that a value in quotes may have. Arrow reads a row of up to one of its blocks for sure."""
_PART = 1 << 18
"""Bytes that are looked at together: what is made of them stays in the processor's cache."""
QUOTE, LF, CR = b'"\n\r'
BOM = b"\xef\xbb\xbf"
Positions = NDArray[np.intp]


class OpenQuote(Exception):
    """A quote that opens a value and is not closed as a value is. `at`: how many bytes are before it."""

    def __init__(self, at: int, fault: str) -> None:
        super().__init__(fault)
        self.at = at


NEVER = "is never closed, so all that follows would be one value"
TOO_LATE = f"is not closed within {MOST_LINES} lines and {MOST_BYTES >> 20} MiB, and longer values need Parquet"
WITHIN_A_FIELD = "is closed some lines below in the middle of a field"


def borders(delimiter: int) -> NDArray[np.bool_]:
    """Which bytes are between fields. [256]"""
    between = np.zeros(256, np.bool_)
    between[[delimiter, LF, CR]] = True
    return between


def turns(
    data: NDArray[np.uint8], delimiter: int, *, before: int = LF, inside: bool = False
) -> tuple[Positions, NDArray[np.bool_]]:
    """The quotes of some bytes that open or close a value, or may: where they are, and whether the bytes behind each
    are inside quotes.

    A quote opens a value at the beginning of a field alone. Inside, two quotes are one of the text. So of quotes in a
    row only an odd number counts, of which the last is named. At the beginning of a field they open or close; anywhere
    else they close what is open, and are a part of the text if nothing is.

    Args:
        data: the bytes.
        delimiter: the byte between fields.
        before: the byte before them.
        inside: whether they begin inside quotes.
    """
    first = last = np.flatnonzero(data == QUOTE)
    if (joined := first[1:] - first[:-1] == 1).any():
        first, last = first[~np.insert(joined, 0, False)], last[~np.append(joined, False)]
        odd = (last - first) & 1 == 0
        first, last = first[odd], last[odd]
    at_start = borders(delimiter).take(data.take(first - 1))
    if len(first) and first[0] == 0:
        at_start[0] = borders(delimiter)[before]
    if not (inside and at_start[:1].any()) and not (at_start[1:] & at_start[:-1]).any():
        return last, at_start  # each one at the beginning of a field opens
    turned = np.cumsum(at_start) + inside
    closed = np.maximum.accumulate(np.where(at_start, 0, turned))
    return last, np.equal((turned - closed) & 1, 1)


def line_ends(data: NDArray[np.uint8]) -> Positions:
    """The last byte of each line end: LF, CR LF, or CR."""
    ends = data == LF
    returns = data == CR
    if returns.any():
        returns[:-1] &= ~ends[1:]
        ends |= returns
    return np.flatnonzero(ends)


class ClosedQuotes(io.RawIOBase):
    """The bytes of a stream as they are, in UTF-8. `read` raises `OpenQuote` once a value has too many lines or bytes,
    or has lines and goes on behind its closing quote, and at the end of the stream if it is inside quotes."""

    def __init__(self, source: pa.NativeFile, delimiter: str) -> None:
        self._source, self._delimiter = source, ord(delimiter)
        self._borders = borders(self._delimiter)
        self._held = b""
        """The last bytes that were read, if what follows decides what they are."""
        self._passed = 0
        """Bytes before those."""
        self._before = LF
        self._open: int | None = None
        """Where the value was opened that is not closed yet."""
        self._lines = 0
        """Line ends of it so far."""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end.

        Raises:
            OpenQuote: a quote before their end is not closed in time.
        """
        block: bytes = self._source.read(size if size >= 0 else None)
        data = self._held + block if self._held else block
        if not self._passed and not self._held and data.startswith(BOM):
            data, self._passed = data[len(BOM) :], len(BOM)
        known = len(data)
        while block and known and data[known - 1] in (QUOTE, CR):
            known -= 1
        self._held = data[known:]
        begin, whole = 0, np.frombuffer(data, np.uint8)
        while begin < known:
            end = data.rfind(LF, begin, min(begin + _PART, known)) + 1 or known
            part = whole[begin:end]
            if self._open is not None or (data.find(QUOTE, begin, end) >= 0 and not self._is_plain(part)):
                self._follow(part)
            self._before = data[end - 1]
            self._passed += end - begin
            begin = end
        if not block and self._open is not None:
            raise OpenQuote(self._open, NEVER)
        return block

    def _is_plain(self, data: NDArray[np.uint8]) -> bool:
        """Whether all quotes of some bytes that begin outside quotes are around whole fields, too short for too many
        lines: most are, and this is found fast."""
        quotes = np.flatnonzero(data == QUOTE)
        begin, end = quotes[::2], quotes[1::2]
        if len(begin) != len(end) or (end - begin).max() > MOST_LINES or end[-1] == len(data) - 1:
            return False
        opens = self._borders[data[begin - 1]]
        if begin[0] == 0:
            opens[0] = self._borders[self._before]
        return bool(opens.all() and self._borders[data[end + 1]].all())

    def _follow(self, data: NDArray[np.uint8]) -> None:
        """Find the values in quotes, and how many line ends those have that may not have so many."""
        at, inside = turns(data, self._delimiter, before=self._before, inside=self._open is not None)
        begin, end = at[inside], np.append(at, len(data))[1:][inside]
        if self._open is not None:
            begin = np.insert(begin, 0, self._open - self._passed)
            end = np.insert(end, 0, at[0] if len(at) else len(data))
        goes_on = ~self._borders[data[np.minimum(end + 1, len(data) - 1)]] & (end + 1 < len(data))
        counted = np.flatnonzero(goes_on | (end - begin > MOST_LINES) | (end == len(data)))
        begin, end, goes_on = begin[counted], end[counted], goes_on[counted]
        if not len(begin):
            self._open = None
            return
        ends = line_ends(data)
        lines = np.searchsorted(ends, end) - np.searchsorted(ends, begin)
        if begin[0] < 0:
            lines[0] += self._lines
        late = (lines > MOST_LINES) | (end - begin > MOST_BYTES)
        bad = np.flatnonzero(late | (goes_on & (lines > 0)))
        if len(bad):
            raise OpenQuote(self._passed + int(begin[bad[0]]), TOO_LATE if late[bad[0]] else WITHIN_A_FIELD)
        still = end[-1] == len(data)
        self._open, self._lines = (self._passed + int(begin[-1]), int(lines[-1])) if still else (None, 0)
