"""Many records at once, in C: which user's each is, and what event it holds."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from secrets import randbits
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mimn.rows.arrays import address, checked

Integers = NDArray[np.int64]


class Texts(Sequence[bytes]):
    """n byte strings in memory that something else owns. As a sequence of Python's, one that is missing is empty."""

    __slots__ = ("at", "owner", "sizes")

    def __init__(self, at: NDArray[np.uint64], sizes: Integers, owner: object) -> None:
        """`at`: [n], addresses, 0 for none; `sizes`: [n]; `owner` keeps the memory."""
        self.at, self.sizes, self.owner = at, sizes, owner

    @classmethod
    def of(cls, values: Sequence[bytes]) -> Texts:
        """These: as they lie, or else a copy."""
        if isinstance(values, Texts):
            return values
        data = bytearray().join((*values, b"\0"))
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        return cls((sizes.cumsum() - sizes + address(data)).view(np.uint64), sizes, data)

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, i: int) -> bytes: ...

    @overload
    def __getitem__(self, i: slice) -> Texts: ...

    def __getitem__(self, i: int | slice) -> bytes | Texts:
        if isinstance(i, slice):
            return Texts(self.at[i], self.sizes[i], self.owner)
        return self.text(i) or b""

    def take(self, which: NDArray[Any]) -> Texts:
        """Some of them."""
        return Texts(self.at[which], self.sizes[which], self.owner)

    def text(self, i: int) -> bytes | None:
        """One of them, None if it is missing."""
        at = int(self.at[i])
        return ctypes.string_at(at, int(self.sizes[i])) if at else None


def split(built: ctypes.CDLL, texts: Texts) -> list[bytes]:
    """Each, as Python has it, in a third of the time of asking for one after another. None may be missing."""
    at, sizes = _pointers(texts)
    ends = [*accumulate(sizes.tolist(), initial=0)]
    out = np.empty(ends[-1], np.uint8)
    built.records_join(address(at), address(sizes), address(out), len(at))
    data = out.tobytes()
    return [data[begin:end] for begin, end in pairwise(ends)]


class Events(NamedTuple):
    """What the values of n records say, in columns; 0 where a value does not have the common form."""

    items: NDArray[np.uint64]
    categories: NDArray[np.uint64]
    times: Integers
    actions: NDArray[np.uint8]
    common: NDArray[np.bool_]


def read_events(built: ctypes.CDLL, values: Texts, keys: Texts, last_action: int) -> Events:
    """The events of records in the common form: known fields only, each at most once, in the order of their numbers; an
    event id of at most 64 ASCII characters, or none; the user id equal to the key, of at most 127 bytes; numbers of at
    most nine bytes; an action up to `last_action`. Nothing else is checked."""
    n = len(values.at)
    found = Events(
        np.empty(n, np.uint64),
        np.empty(n, np.uint64),
        np.empty(n, np.int64),
        np.empty(n, np.uint8),
        np.empty(n, np.bool_),
    )
    built.records_read(
        *(address(array) for array in (*_pointers(values), *_pointers(keys))),
        last_action,
        *(address(array) for array in found),
        n,
    )
    return found


Columns = NDArray[np.int64]
"""[8, n], by record: offset, time in ms, where the key lies (0: none) and its bytes, the same of the value, and of the
headers with their count (0: there are none)."""
OFFSET, TIME, KEY, KEY_SIZE, VALUE, VALUE_SIZE, HEADERS, HEADERS_SIZE = range(8)


class BatchHeader(NamedTuple):
    """What the header of a batch of Kafka's format v2 says of its records."""

    base_offset: int
    first_ms: int
    append_ms: int | None
    """The time of all of them, if the broker set it."""
    records: int
    """How many."""


def parse_batch(built: ctypes.CDLL, header: BatchHeader, payload: bytes) -> Columns | None:
    """The records in a batch's payload, decompressed; None if anything about them is unusual. The columns hold
    addresses in `payload`."""
    if not 0 <= header.records <= len(payload) or (header.append_ms is not None and header.append_ms < 0):
        return None
    columns = np.empty((8, header.records), np.int64)
    append_ms = -1 if header.append_ms is None else header.append_ms
    sound = built.records_parse(
        payload, len(payload), header.base_offset, header.first_ms, append_ms, address(columns), header.records
    )
    return columns if sound else None


def named(built: ctypes.CDLL, headers: Texts, name: bytes) -> NDArray[np.bool_]:
    """Whether a header has this name, in lower case. `headers`: of n parsed records. → [n]"""
    found = np.empty(len(headers), np.bool_)
    at, sizes = (address(array) for array in _pointers(headers))
    built.records_named(at, sizes, name, len(name), address(found), len(found))
    return found


class Fronts(NamedTuple):
    """The first records of some partitions that fit within bounds."""

    taken: list[int]
    """By partition, how many; -1: a key is not 1 to 128 ASCII characters or not of this partition, or offsets do not
    rise."""
    users: list[int]
    """By partition, how many users these records have."""
    user_of: Integers
    """By record of all partitions: which user of its front, in order of appearance; any number if it was not taken."""
    first: Integers
    """By user of all fronts, the first record."""


_SEED = randbits(63)


def fronts(
    built: ctypes.CDLL, columns: Columns, waiting: Sequence[tuple[int, int, int]], bounds: tuple[int, int, int]
) -> Fronts:
    """The longest front of each of several partitions whose records lie one after another.

    Args:
        built: the library.
        columns: the records of all.
        waiting: by partition, how many records it has, the lowest offset that the first of them may have, and its
            number.
        bounds: how many partitions the topic has; the most users of a front; the most events of one of them.
    """
    k, n = len(waiting), columns.shape[1]
    checked(columns, np.int64, 8, n)
    sizes, floors, places = zip(*waiting, strict=True)
    slots = 1 << (2 * min(max(sizes), bounds[1]) + 1).bit_length()
    told = np.array((*accumulate(sizes, initial=0), *floors, *places), np.int64)
    found = np.empty(3 * n + 2 * k + slots, np.int64)
    begins, user_of = address(told), address(found)
    first, taken = user_of + 8 * n, user_of + 24 * n
    built.records_fronts(
        address(columns), n, k, begins, begins + 8 * (k + 1), begins + 8 * (2 * k + 1), *bounds, _SEED,
        taken + 16 * k, slots - 1, user_of, first, first + 8 * n, taken, taken + 8 * k,
    )  # fmt: skip
    users = found[3 * n + k : 3 * n + 2 * k].tolist()
    return Fronts(found[3 * n : 3 * n + k].tolist(), users, found[:n], found[n : n + sum(users)])


def _pointers(texts: Texts) -> tuple[NDArray[np.uint64], Integers]:
    return checked(texts.at, np.uint64, len(texts.at)), checked(texts.sizes, np.int64, len(texts.at))
