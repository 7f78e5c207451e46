"""The ledger: the distinct items that a user touched, with what is known of each. A block of the state without weights.

An entry says of an item: in how many baskets it was, on which day and in which basket last, and the usual gap between
two of them. A basket is what a user does without a pause of half an hour. Entries are found by a hash of the item id,
so the ledger means the same under every model and every vocabulary.

    words of a user, uint32:  items [B, W] · times [B, W / 2] · scalars [8]
    item                      tag 20 bits · baskets n 6 · gap 6
    time                      day 9 bits · basket 7; word j of a bucket holds way j (low half) and way j + W / 2
    bucket and tag            (h >> 32) mod B and h mod 2^20, h = `mix` of the item id; n = 0 is a free way

Days and baskets count from a base of the user's, which moves ahead when they would not fit; an entry that falls behind
it keeps 0, "that long ago or longer". A gap is a level of a table of integers. All arithmetic is on integers and every
tie goes to the lowest way, so the same events in the same order give the same bytes on every machine.

A late event, one that lies a pause or more before the user's latest, begins no basket and moves no entry back: its item
has one basket more only if all of its baskets were on earlier days, so a queue of late events counts once a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.state.layout import Block
from mimn.state.sketch import Sketch, mix

Words = NDArray[np.uint32]
Ints = NDArray[np.int64]

SCALARS = ("minute", "baskets", "first_day", "day_base", "basket_base", "lines", "repeats", "evicted")
"""Of a user: the latest event's minute since 1970; baskets; day of the earliest event (a late one moves it no further
than the base); what days and baskets of entries count from; writes of an item in a new basket; how many of them found
the item; entries that had to make room."""
MINUTE, BASKETS, FIRST_DAY, DAY_BASE, BASKET_BASE, LINES, REPEATS, EVICTED = range(len(SCALARS))
MINUTES_OF_DAY = 1440
PAUSE_MINUTES = 30
"""A pause of this length ends a basket."""
TAG_BITS, COUNT_BITS, LEVEL_BITS, DAY_BITS, BASKET_BITS = 20, 6, 6, 9, 7
MOST_BASKETS = (1 << COUNT_BITS) - 1
TAG_SHIFT, ANY_BASKET = COUNT_BITS + LEVEL_BITS, MOST_BASKETS << LEVEL_BITS
LAST_LEVEL, LAST_DAY, LAST_BASKET = (1 << LEVEL_BITS) - 1, (1 << DAY_BITS) - 1, (1 << BASKET_BITS) - 1
DAYS_AHEAD, BASKETS_AHEAD = 64, 32
"""How far a base moves at least, so that it moves rarely."""
DAYS_BEHIND = 64
"""The base of a new user lies so far before the first event, for events that come late."""
GAP_WEIGHT = 4
"""A gap moves by at least a quarter of the difference to the latest one."""
SIXTEENTHS = np.array([0, *(8 * 115**k // 100**k for k in range((1 << LEVEL_BITS) - 1))])
"""Level of a gap → sixteenths of a day: 0, then half a day times 1.15^k, up to 7.6 years."""
BETWEEN = (SIXTEENTHS[1:] + SIXTEENTHS[:-1] + 1) // 2
"""By level but the last, in sixteenths of a day: the gap at which the next level begins."""
WORTH = np.array([0, *((n**30).bit_length() - 1 for n in range(1, MOST_BASKETS + 1))])
"""Baskets → days that an entry is worth: 30 log2 n, rounded down."""
LAST_MINUTE = (1 << 32) - 1


class Keys(NamedTuple):
    """Where items are looked for. [k] each."""

    buckets: Ints
    tags: Ints

    def part(self, begin: int, end: int) -> Keys:
        """The keys from `begin` to before `end`."""
        return Keys(self.buckets[begin:end], self.tags[begin:end])

    @property
    def numbers(self) -> Ints:
        """Each key as one number: bucket, then tag. [k]"""
        return self.buckets << TAG_BITS | self.tags


class Entries(NamedTuple):
    """Entries as numbers. [k] each."""

    n: Ints
    """Baskets with the item, at most 63."""
    day: Ints
    """Days since 1970 of the last one, not before the user's base."""
    gap: Ints
    """Usual gap in sixteenths of a day; 0 until there are two baskets."""
    baskets_ago: Ints
    """Baskets since the last one; 0: in the latest basket."""


@dataclass(frozen=True)
class Ledger:
    """The sizes of a ledger, and its rules. A pure value: the words are stored in the users' states."""

    buckets: int
    """B"""
    ways: int = 8
    """W: entries of a bucket; even."""

    @property
    def entries(self) -> int:
        """Most items that are known of a user."""
        return self.buckets * self.ways

    @property
    def words(self) -> int:
        """uint32 words of a user."""
        return self.entries + self.entries // 2 + len(SCALARS)

    @property
    def block(self) -> Block:
        """The block, the last one of a state."""
        return Block("ledger", (self.words,), "uint32")

    def keys(self, item_ids: NDArray[np.uint64]) -> Keys:
        """Where the items are looked for. [k] → [k], [k]"""
        hashed = mix(item_ids)
        buckets = (hashed >> np.uint64(32)) % np.uint64(self.buckets)
        tags = hashed & np.uint64((1 << TAG_BITS) - 1)
        return Keys(buckets.astype(np.int64), tags.astype(np.int64))

    def of(self, states: NDArray[np.float32]) -> Words:
        """The words of flat states, a view. [..., F] → [..., words]"""
        return states[..., -self.words :].view(np.uint32)

    def scalars(self, words: Words) -> Ints:
        """`SCALARS` of users. [..., words] → [..., 8]"""
        return words[..., -len(SCALARS) :].astype(np.int64)

    def add(
        self, states: NDArray[np.float32], keys: Keys, times_ms: Ints, chosen: NDArray[np.bool_] | None = None
    ) -> None:
        """Add one event to each of the `chosen` states (None: to all), in place; the rest of a state is unchanged.

        states [U, F] flat, rows contiguous; keys and times [U]; chosen [U].
        """
        words = self.of(states)
        rows = np.arange(len(words)) if chosen is None else np.flatnonzero(chosen)
        buckets, tags = keys.buckets[rows], keys.tags[rows]
        minutes = np.clip(times_ms[rows] // 60_000, 0, LAST_MINUTE)
        days = minutes // MINUTES_OF_DAY
        scalars = self.scalars(words[rows])
        late = (scalars[:, BASKETS] > 0) & (minutes <= scalars[:, MINUTE] - PAUSE_MINUTES)
        self._begin(words, rows, scalars, minutes, days)
        day = np.maximum(days - scalars[:, DAY_BASE], 0)
        basket = scalars[:, BASKETS] - scalars[:, BASKET_BASE]

        items, times = self._bucket(words, rows, buckets)
        counts, lasts = items >> LEVEL_BITS & MOST_BASKETS, times >> BASKET_BITS
        found = (items >> TAG_SHIFT == tags[:, np.newaxis]) & (counts > 0)
        way = np.where(found, -2, np.where(counts == 0, -1, lasts + WORTH[counts])).argmin(1)
        at = np.arange(len(rows)), way
        known = found[at]
        count, last, level = (np.where(known, values[at], 0) for values in (counts, lasts, items & LAST_LEVEL))
        number = np.where(known, times[at] & LAST_BASKET, np.maximum(basket - 1, 0))

        new = ~known | np.where(late, last < day, number != basket)
        gap = SIXTEENTHS[level] + (16 * (day - last) - SIXTEENTHS[level]) // np.clip(count, 1, GAP_WEIGHT)
        level = np.where(known & new & (day >= last), np.searchsorted(BETWEEN, gap, "right"), level)
        count = np.minimum(count + new, MOST_BASKETS)
        number = np.where(late, number, basket)
        last = np.maximum(last, day)

        scalars[:, LINES] += new
        scalars[:, REPEATS] += new & known
        scalars[:, EVICTED] += ~known & (counts[at] > 0)
        words[rows, -len(SCALARS) :] = np.minimum(scalars, LAST_MINUTE).astype(np.uint32)
        item = tags << TAG_SHIFT | count << LEVEL_BITS | level
        self._put(words, rows, buckets * self.ways + way, item, last << BASKET_BITS | number)

    def forget(self, state: NDArray[np.float32], item_id: int) -> bool:
        """Erase what is known of an item from one flat state, in place; whether there was an entry. [F]

        The scalars, which count the user's baskets, stay. An item with the same 20 bits and bucket goes with it.
        """
        words, keys = self.of(state[np.newaxis]), self.keys(np.array([item_id], np.uint64))
        rows = np.zeros(1, np.int64)
        items, _ = self._bucket(words, rows, keys.buckets)
        found = (items >> TAG_SHIFT == keys.tags) & (items >> LEVEL_BITS & MOST_BASKETS > 0)
        ways, zero = np.flatnonzero(found[0]), np.zeros(1, np.int64)
        if len(ways):
            self._put(words, rows, keys.buckets * self.ways + ways, zero, zero)
        return bool(len(ways))

    def look_up(self, words: Words, keys: Keys) -> tuple[NDArray[np.intp], Entries]:
        """Which of some items one user's ledger knows, and what. [words], [k] → [h] places, rising, and [h] each"""
        items = words[: self.entries].reshape(self.buckets, self.ways)[keys.buckets]
        found = (items >> TAG_SHIFT == keys.tags[:, np.newaxis]) & (items & ANY_BASKET > 0)
        asked, way = np.nonzero(found)
        return asked, self._entries(words, items[asked, way], keys.buckets[asked] * self.ways + way)

    def known(self, words: Words) -> tuple[Keys, Entries]:
        """All entries of one user, by bucket and way, and the keys of their items. [words] → [k] each"""
        items = words[: self.entries]
        place = np.flatnonzero(items & ANY_BASKET)
        item = items[place]
        return Keys(self._places[0][place], (item >> TAG_SHIFT).astype(np.int64)), self._entries(words, item, place)

    @cached_property
    def _places(self) -> tuple[Ints, Ints, Ints]:
        """By place of an item: its bucket, the word of its times, and their shift in it. [B W] each"""
        bucket, way = np.divmod(np.arange(self.entries), self.ways)
        half = self.ways // 2
        return bucket, self.entries + bucket * half + way % half, 16 * (way // half)

    @cached_property
    def _halves(self) -> NDArray[np.intp]:
        """By place of an item: its half word among the times. [B W]"""
        bucket, way = np.divmod(np.arange(self.entries), self.ways)
        half = self.ways // 2
        halves: NDArray[np.intp] = 2 * (bucket * half + way % half) + way // half
        return halves

    def _entries(self, words: Words, item: Words, place: Ints) -> Entries:
        """The entries at places of one user, whose items are given. [words], [k], [k] → [k] each"""
        halves = words[self.entries : -len(SCALARS)].astype("<u4", copy=False).view("<u2")
        time = halves[self._halves[place]].astype(np.int64)
        scalars = words[-len(SCALARS) :].tolist()
        return Entries(
            n=(item >> LEVEL_BITS & MOST_BASKETS).astype(np.int64),
            day=(time >> BASKET_BITS) + scalars[DAY_BASE],
            gap=SIXTEENTHS[item & LAST_LEVEL],
            baskets_ago=np.maximum(scalars[BASKETS] - scalars[BASKET_BASE] - (time & LAST_BASKET), 0),
        )

    def _begin(self, words: Words, rows: NDArray[np.intp], scalars: Ints, minutes: Ints, days: Ints) -> None:
        """Begin a new basket where a pause was long enough; move bases so that day and basket of all users fit."""
        first = scalars[:, BASKETS] == 0
        scalars[first, DAY_BASE] = np.maximum(days[first] - DAYS_BEHIND, 0)
        scalars[first, FIRST_DAY] = days[first]
        scalars[:, FIRST_DAY] = np.minimum(scalars[:, FIRST_DAY], np.maximum(days, scalars[:, DAY_BASE]))
        scalars[:, BASKETS] += first | (minutes >= scalars[:, MINUTE] + PAUSE_MINUTES)
        scalars[:, MINUTE] = np.maximum(scalars[:, MINUTE], minutes)
        beyond_day = days - scalars[:, DAY_BASE] - LAST_DAY
        beyond_basket = scalars[:, BASKETS] - scalars[:, BASKET_BASE] - LAST_BASKET
        for i in np.flatnonzero((beyond_day > 0) | (beyond_basket > 0)).tolist():
            by_day = max(int(beyond_day[i]), DAYS_AHEAD) if beyond_day[i] > 0 else 0
            by_basket = max(int(beyond_basket[i]), BASKETS_AHEAD) if beyond_basket[i] > 0 else 0
            scalars[i, DAY_BASE] += by_day
            scalars[i, BASKET_BASE] += by_basket
            times = words[rows[i], self.entries : -len(SCALARS)]
            moved = np.zeros_like(times)
            for shift in (0, 16):
                time = times.astype(np.int64) >> shift & 0xFFFF
                day, basket = (
                    np.maximum((time >> BASKET_BITS) - by_day, 0),
                    np.maximum((time & LAST_BASKET) - by_basket, 0),
                )
                moved |= ((day << BASKET_BITS | basket) << shift).astype(np.uint32)
            times[:] = moved

    def _bucket(self, words: Words, rows: NDArray[np.intp], buckets: Ints) -> tuple[Ints, Ints]:
        """One bucket of each user: its items and times. [U, words], [k], [k] → [k, W], [k, W]"""
        W = self.ways
        items = words[rows[:, np.newaxis], buckets[:, np.newaxis] * W + np.arange(W)].astype(np.int64)
        column = self.entries + buckets[:, np.newaxis] * (W // 2) + np.arange(W // 2)
        pairs = words[rows[:, np.newaxis], column].astype(np.int64)
        return items, np.concatenate([pairs & 0xFFFF, pairs >> 16], 1)

    def _put(self, words: Words, rows: NDArray[np.intp], place: Ints, item: Ints, time: Ints) -> None:
        """Write one entry of each user; `place` is bucket times W plus way. All but `words` [k]."""
        words[rows, place] = item.astype(np.uint32)
        column, shift = self._places[1][place], self._places[2][place]
        kept = words[rows, column].astype(np.int64) & ~(0xFFFF << shift)
        words[rows, column] = (kept | time << shift).astype(np.uint32)


def count_events(events: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float32]:
    """The step of a state that has only a count of events besides its ledger. [B, D], [B, 1] → [B, 1]"""
    return states + np.float32(1)


def rest_of(sketch: Sketch | None, ledger: Ledger | None) -> slice:
    """The place of a flat state that the step graph reads and writes: between counters, periods and ledger."""
    behind = (0 if sketch is None else len(sketch.half_lives)) + (0 if ledger is None else ledger.words)
    return slice(0 if sketch is None else sketch.values, -behind or None)
