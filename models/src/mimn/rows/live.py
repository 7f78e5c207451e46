"""What a service does for the events of a batch, in C; each function has the results of the one that its text names."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mimn.rows.encoded import Encoded
from mimn.rows.library import library
from mimn.rows.records import Columns, Events, Fronts, Texts, fronts, named, read_events, split
from mimn.rows.states import absorb, add_counts, add_entries, hashes
from mimn.rows.stored import encode, read_headers, read_tensors
from mimn.state import Ledger, Sketch, Staged, StateLayout

Integers = NDArray[np.int64]


class CompiledEvents:
    """The library's functions, in terms of Python's values."""

    def __init__(self, built: ctypes.CDLL) -> None:
        self._built = built

    def read(self, values: Sequence[bytes], keys: Sequence[bytes], last_action: int) -> Events:
        """The events of those values that have the common form (`read_events`)."""
        return read_events(self._built, Texts.of(values), Texts.of(keys), last_action)

    def named(self, headers: Texts, name: str) -> NDArray[np.bool_]:
        """`mimn.rows.records.named`"""
        return named(self._built, headers, name.encode())

    def fronts(self, columns: Columns, waiting: Sequence[tuple[int, int, int]], bounds: tuple[int, int, int]) -> Fronts:
        """`mimn.rows.records.fronts`"""
        return fronts(self._built, columns, waiting, bounds)

    def split(self, texts: Texts) -> list[bytes]:
        """`mimn.rows.records.split`"""
        return split(self._built, texts)

    def partition_of(self, key: bytes, partitions: int) -> int:
        """`mimn.state.partition_of`."""
        place: int = self._built.records_place(key, len(key), partitions)
        return place

    def user_hashes(self, keys: Sequence[bytes]) -> NDArray[np.uint64]:
        """`mimn.state.user_hashes`."""
        return hashes(self._built, Texts.of(keys))

    def absorb(
        self, headers: NDArray[np.void], rows: Integers, offsets: Integers, times: Integers, values: Sequence[bytes]
    ) -> NDArray[np.bool_]:
        """`uic.core.numpy_states.absorb`."""
        return absorb(self._built, headers, rows, offsets, times, Texts.of(values))

    def add_counts(  # noqa: PLR0917 (one array after another, as C takes them)
        self,
        sketch: Sketch,
        states: NDArray[np.float32],
        depth: Integers,
        addresses: Integers,
        moments: NDArray[np.float32],
        sound: NDArray[np.bool_] | None,
    ) -> None:
        """`mimn.rows.states.add_counts`"""
        add_counts(self._built, sketch, states, depth, addresses, moments, sound)

    def add_entries(  # noqa: PLR0917 (one array after another, as C takes them)
        self,
        ledger: Ledger,
        states: NDArray[np.float32],
        depth: Integers,
        items: NDArray[np.uint64],
        times: Integers,
        sound: NDArray[np.bool_] | None,
    ) -> None:
        """`mimn.rows.states.add_entries`. `states`: [R, F], the ledger last."""
        words, keys = ledger.of(states), ledger.keys(items)
        add_entries(self._built, ledger, words, depth, keys, np.ascontiguousarray(times), sound)

    def encode_states(self, states: Staged) -> Encoded:
        """`Staged.encoded`."""
        return encode(self._built, states)

    def read_headers(self, values: Sequence[bytes], into: NDArray[np.void], to: Integers) -> None:
        """`into[to] = mimn.state.read_headers(values)`."""
        read_headers(self._built, values, into, to)

    def read_tensors(
        self, values: Sequence[bytes], layout: StateLayout, into: NDArray[np.float32], to: Integers
    ) -> None:
        """`into[to] = mimn.state.read_tensors(values, layout)`."""
        read_tensors(self._built, values, layout, into, to)


def compiled_events() -> CompiledEvents | None:
    """None where there is no library (`mimn.rows.library`)."""
    built = library()
    return None if built is None else CompiledEvents(built)
