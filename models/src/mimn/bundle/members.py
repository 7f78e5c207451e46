"""What a head reads of a candidate that stands for other items: how often and how recently the user touched them.

A user's ledger says of each item in how many baskets it was and on which day last. Over the members of a candidate that
the ledger has, with n_i baskets, the latest a_i days ago, a head reads

    log1p(sum n_i)    log1p(number of members)    log1p(sum n_i 2^(-a_i / h)) for each half-life h in days

A candidate that stands for nothing else is its own member. The sums go from the user's items to the candidates that
name them, by an index that the bundle holds, so a request costs the user's items times the candidates that one item
belongs to, however many members a candidate has. numpy only: training, evaluation and RTP share this code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import load_arrays, save_arrays
from mimn.state.ledger import LAST_MINUTE, MINUTES_OF_DAY, TAG_BITS, Entries, Keys, Ledger, Words

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FILES = {
    "ids": "members.ids.npy",
    "keys": "members.keys.npy",
    "first": "members.first.npy",
    "candidates": "members.candidates.npy",
}
"""By array of a `MemberIndex`, its file in a bundle or in a run folder."""
MOST_PAIRS = 1 << 26
"""Most pairs of an item and a candidate in an index."""
MOST_CANDIDATES = 1 << 10
"""Most candidates that one item belongs to: a request costs so much for each item of a user."""
OLDEST = 4096
"""Days; what is older counts as that old."""


def read_width(half_lives: Sequence[int]) -> int:
    """R: what a head reads for one candidate."""
    return 2 + len(half_lives)


class MemberIndexError(ValueError):
    """An index that cannot be used; the message names the array."""


@dataclass(frozen=True)
class MemberIndex:
    """From items, by their keys in a ledger, to the candidates that stand for them."""

    ids: NDArray[np.uint64]
    """[K], rising strictly: the candidates that stand for other items."""
    keys: Ints
    """[k], rising strictly: the members, as `mimn.state.ledger.Keys.numbers`."""
    first: Ints
    """[k + 1]: the candidates of `keys[i]` are those at `first[i]` to before `first[i + 1]`."""
    candidates: NDArray[np.int32]
    """[n]: places in `ids`, rising strictly for each key."""

    @classmethod
    def of(cls, ledger: Ledger, candidates: NDArray[np.uint64], items: NDArray[np.uint64]) -> MemberIndex:
        """The index of pairs. [n], [n]

        Two items with one key in the ledger are one item to it, so they are one member.

        Raises:
            MemberIndexError: there are too many pairs, or too many candidates of one item.
        """
        ids, place = np.unique(candidates, return_inverse=True)
        keys = ledger.keys(items).numbers
        order = np.lexsort((place, keys))
        keys, place = keys[order], place[order]
        new = np.ones(len(keys), np.bool_)
        new[1:] = (keys[1:] != keys[:-1]) | (place[1:] != place[:-1])
        keys, place = keys[new], place[new]
        distinct, first = np.unique(keys, return_index=True)
        index = cls(ids, distinct, np.append(first, len(keys)).astype(np.int64), place.astype(np.int32))
        index.check(ledger)
        return index

    def save(self, folder: Path) -> None:
        """Write the four arrays into `folder`."""
        save_arrays(folder, FILES, self)

    @classmethod
    def load(cls, folder: Path, ledger: Ledger) -> MemberIndex:
        """The arrays in `folder`, memory-mapped.

        Raises:
            MemberIndexError: one is missing or cannot be read, or see `check`; the message names it.
        """
        try:
            index = cls(**load_arrays(folder, FILES))
        except ValueError as error:
            raise MemberIndexError(str(error)) from error
        index.check(ledger)
        return index

    def check(self, ledger: Ledger) -> None:
        """Raises MemberIndexError if the arrays do not fit the ledger or each other; the message names the array."""
        for name, dtype in (("ids", np.uint64), ("keys", np.int64), ("first", np.int64), ("candidates", np.int32)):
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                raise MemberIndexError(f"{FILES[name]} is {array.dtype} {array.shape}, not a row of {np.dtype(dtype)}")
        pairs, spans = len(self.candidates), np.diff(self.first)
        if pairs > MOST_PAIRS:
            raise MemberIndexError(
                f"{FILES['candidates']} has {pairs} pairs of item and candidate, at most {MOST_PAIRS}"
            )
        if len(self.ids) > pairs or not _rising(self.ids):
            raise MemberIndexError(f"{FILES['ids']} must rise strictly, and each candidate needs a member")
        last = (ledger.buckets << TAG_BITS) - 1
        if not _rising(self.keys) or (len(self.keys) and not 0 <= self.keys[0] <= self.keys[-1] <= last):
            raise MemberIndexError(f"{FILES['keys']} must rise strictly, from 0 to {last}, by the ledger's buckets")
        if len(self.first) != len(self.keys) + 1 or self.first[0] or self.first[-1] != pairs or (spans < 1).any():
            raise MemberIndexError(f"{FILES['first']} must rise from 0 to {pairs}, a step for each of the keys")
        if spans.max(initial=0) > MOST_CANDIDATES:
            raise MemberIndexError(
                f"{FILES['candidates']}: an item belongs to {spans.max()} candidates, at most {MOST_CANDIDATES}: leave "
                "out members that most candidates share"
            )
        falls = np.flatnonzero(np.diff(self.candidates) <= 0) + 1
        inside = not pairs or 0 <= self.candidates.min() <= self.candidates.max() < len(self.ids)
        if not inside or not np.isin(falls, self.first).all():
            raise MemberIndexError(f"{FILES['candidates']} must be places in {FILES['ids']}, rising for each key")

    def places(self, item_ids: NDArray[np.uint64]) -> Ints:
        """Where in `ids` candidates are, -1 for one that stands for itself. [C] → [C]"""
        return _found(self.ids, item_ids)

    def pairs(self, keys: Keys) -> tuple[Ints, Ints]:
        """The candidates of items: for each pair the place in `keys`, and the place in `ids`. [k] → [p], [p]"""
        at = _found(self.keys, keys.numbers)
        entry = np.flatnonzero(at >= 0)
        first, stop = self.first[at[entry]], self.first[at[entry] + 1]
        size = stop - first
        place = np.arange(int(size.sum())) + np.repeat(stop - np.cumsum(size), size)
        return np.repeat(entry, size), self.candidates[place].astype(np.int64)


@dataclass(frozen=True)
class MemberReads:
    """What is read of one kind of ledger by one index."""

    ledger: Ledger
    index: MemberIndex
    half_lives: tuple[int, ...]
    """In days, above 0."""

    @property
    def width(self) -> int:
        """R: values of a candidate."""
        return read_width(self.half_lives)

    def read(self, words: Words, item_ids: NDArray[np.uint64], now_ms: int) -> Floats:
        """What a head reads for candidates of one user at a time. [words], [C] → [C, R]"""
        today = min(max(now_ms // 60_000, 0), LAST_MINUTE) // MINUTES_OF_DAY
        places = self.index.places(item_ids)
        asked, back = np.unique(places, return_inverse=True)
        keys, entries = self.ledger.known(words)
        entry, candidate = self.index.pairs(keys)
        at = _found(asked, candidate)
        entry, at = entry[at >= 0], at[at >= 0]
        by_candidate = [np.bincount(at, of[entry], len(asked)) for of in self._weights(entries, today)]
        sums = np.stack(by_candidate).astype(np.float64)[:, back]  # bincount counts nothing in whole numbers
        alone = np.flatnonzero(places < 0)
        if len(alone):
            found, own = self.ledger.look_up(words, self.ledger.keys(item_ids[alone]))
            sums[:, alone[found]] = self._weights(own, today)
        return np.log1p(sums).T.astype(np.float32)

    def _weights(self, entries: Entries, today: int) -> NDArray[np.float64]:
        """What each entry adds. [k] → [R, k]"""
        ages = np.clip(today - entries.day, 0, OLDEST)
        weights = np.ones((self.width, len(ages)))
        weights[0] = entries.n
        weights[2:] = entries.n * self._decays[:, ages]
        return weights

    @cached_property
    def _decays(self) -> NDArray[np.float64]:
        """[half-lives, days]"""
        decays: NDArray[np.float64] = np.exp2(-np.arange(OLDEST + 1) / np.array(self.half_lives)[:, np.newaxis])
        return decays


def _rising(array: NDArray[Any]) -> bool:
    return bool(np.all(array[1:] > array[:-1]))


def _found(sorted_: NDArray[Any], wanted: NDArray[Any]) -> Ints:
    """The place of each wanted value in a sorted array, -1 where it is not there. [k] → [k]"""
    if not len(sorted_):
        return np.full(len(wanted), -1)
    at = np.minimum(sorted_.searchsorted(wanted), len(sorted_) - 1)
    return np.where(sorted_[at] == wanted, at, -1)
