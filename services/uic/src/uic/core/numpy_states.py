"""What a round does to many states at once, by numpy. This defines the results: compiled code (`mimn.rows.live`) gives
the same bytes, and does it instead where it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mimn.state import Ledger, Sketch, StateLayout, extend_digests, read_headers, read_tensors, user_hashes

Integers = NDArray[np.int64]


class NumpyStates:
    """`uic.core.ports.ManyStates` without compiled code."""

    def user_hashes(self, keys: Sequence[bytes]) -> NDArray[np.uint64]:
        """`mimn.state.user_hashes`."""
        return user_hashes(keys)

    def absorb(
        self, headers: NDArray[np.void], rows: Integers, offsets: Integers, times: Integers, values: Sequence[bytes]
    ) -> NDArray[np.bool_]:
        """`absorb`."""
        return absorb(headers, rows, offsets, times, values)

    def add_counts(  # noqa: PLR0917 (what the port has)
        self,
        sketch: Sketch,
        states: NDArray[np.float32],
        depth: Integers,
        addresses: Integers,
        moments: NDArray[np.float32],
        sound: NDArray[np.bool_] | None,
    ) -> None:
        """`Sketch.add`, wave by wave."""
        order, widths = in_waves(depth)
        addresses, moments, sound = addresses[order], moments[order], None if sound is None else sound[order]
        begin = 0
        for width in widths:
            wave = slice(begin, begin + width)
            sketch.add(states[:width], addresses[wave], moments[wave], None if sound is None else sound[wave])
            begin += width

    def add_entries(  # noqa: PLR0917 (what the port has)
        self,
        ledger: Ledger,
        states: NDArray[np.float32],
        depth: Integers,
        items: NDArray[np.uint64],
        times: Integers,
        sound: NDArray[np.bool_] | None,
    ) -> None:
        """`Ledger.add`, wave by wave."""
        order, widths = in_waves(depth)
        keys, times, sound = ledger.keys(items[order]), times[order], None if sound is None else sound[order]
        begin = 0
        for width in widths:
            end = begin + width
            chosen = None if sound is None else sound[begin:end]
            ledger.add(states[:width], keys.part(begin, end), times[begin:end], chosen)
            begin = end

    def read_headers(self, values: Sequence[bytes], into: NDArray[np.void], to: Integers) -> None:
        """`mimn.state.read_headers`."""
        into[to] = read_headers(values)

    def read_tensors(
        self, values: Sequence[bytes], layout: StateLayout, into: NDArray[np.float32], to: Integers
    ) -> None:
        """`mimn.state.read_tensors`."""
        into[to] = read_tensors(values, layout)


NUMPY = NumpyStates()


def in_waves(depth: Integers) -> tuple[Integers, list[int]]:
    """Events wave by wave, the k-th of every row in wave k, where each row has all of its own one behind another.

    Args:
        depth: by row, how many events it has; never rises. So the rows of a wave are the first ones. [R]

    Returns: the events' indices in that order [E], and by wave how many rows it has.
    """
    wave = np.arange(depth.sum()) - (depth.cumsum() - depth).repeat(depth)
    return wave.argsort(kind="stable"), np.bincount(wave).tolist()


def absorb(
    headers: NDArray[np.void], rows: Integers, offsets: Integers, times: Integers, values: Sequence[bytes]
) -> NDArray[np.bool_]:
    """Count, digest, last offset and last time of headers after events, in place; an event at or below a header's last
    offset changes nothing. [n] of dtype `HEADERS`; [E] each, those of one header with rising offsets → [E]: whether it
    was new"""
    new: NDArray[np.bool_] = offsets > headers["last_offset"][rows]
    at = new.nonzero()[0]
    of = rows[at]
    folded = np.bincount(of, minlength=len(headers))
    latest = np.zeros(len(headers), np.int64)
    np.maximum.at(latest, of, at)
    some = folded.nonzero()[0]
    headers["event_count"] += folded.astype(np.uint64)
    headers["last_offset"][some] = offsets[latest[some]]
    headers["last_event_time"][some] = times[latest[some]]
    digests = headers["digest"].tolist()
    extend_digests(digests, of.tolist(), offsets[at], [values[i] for i in at.tolist()])
    headers["digest"] = np.frombuffer(b"".join(digests), headers.dtype["digest"])
    return new
