"""The ledger's rules: against a naive twin on Python integers, and what never happens to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.state import Ledger, StateHeader, StateLayout, UserState, decode_state, encode_state
from mimn.state.ledger import (
    BASKET_BASE,
    BASKETS,
    DAY_BASE,
    EVICTED,
    FIRST_DAY,
    LINES,
    REPEATS,
    SCALARS,
    SIXTEENTHS,
    WORTH,
)
from mimn.state.sketch import mix

LEDGER = Ledger(buckets=3, ways=4)
OTHER = 5
"""Values of a state before the ledger."""
START = 1_600_000_000_000
MINUTE_MS = 60_000
GOLDEN = Path("tests/golden/state_ledger.bin")
Event = tuple[int, int]
"""Item id, time in ms."""
ITEMS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 11, 13, 2**53 + 1, 2**64 - 1])
STEPS = st.sampled_from(
    [0, 1, 29, 30, 200, 1440, 1440 * 3, 1440 * 17, 1440 * 90, 1440 * 800, -20, -30, -1440, -1440 * 80]
)


@st.composite
def histories(draw: st.DrawFn, most: int = 60) -> list[Event]:
    """Events in log order: mostly forward in time, some late."""
    minute, found = START // MINUTE_MS, []
    for _ in range(draw(st.integers(1, most))):
        step = draw(STEPS)
        found.append((draw(ITEMS), (minute + step) * MINUTE_MS + draw(st.integers(0, 59_999))))
        minute += max(step, 0)
    return found


def blank(ledger: Ledger = LEDGER, users: int = 1) -> NDArray[np.float32]:
    state = np.zeros((users, OTHER + ledger.words), np.float32)
    state[:, :OTHER] = 0.1
    return state


def fold(state: NDArray[np.float32], events: list[Event], ledger: Ledger = LEDGER) -> NDArray[np.float32]:
    for item, time in events:
        ledger.add(state, ledger.keys(np.array([item], np.uint64)), np.array([time]))
    return state


@dataclass
class Entry:
    tag: int
    n: int
    level: int
    day: int
    number: int


@dataclass
class Twin:
    """The same rules on Python integers, one event at a time, days and baskets without a base."""

    ledger: Ledger
    ways: dict[tuple[int, int], Entry] = field(default_factory=dict)
    minute: int = 0
    baskets: int = 0
    first_day: int = 0
    day_base: int = 0
    basket_base: int = 0
    lines: int = 0
    repeats: int = 0
    evicted: int = 0

    def add(self, item: int, time_ms: int) -> None:
        hashed = int(mix(np.array([item], np.uint64))[0])
        bucket, tag = (hashed >> 32) % self.ledger.buckets, hashed % 2**20
        minute = time_ms // 60_000
        day = minute // 1440
        late = self.baskets > 0 and minute <= self.minute - 30
        if self.baskets == 0:
            self.day_base = day - 64
            self.first_day = day
        self.first_day = min(self.first_day, max(day, self.day_base))
        if self.baskets == 0 or minute >= self.minute + 30:
            self.baskets += 1
        self.minute = max(self.minute, minute)
        if (over := day - self.day_base - 511) > 0:
            self.day_base += max(over, 64)
        if (over := self.baskets - self.basket_base - 127) > 0:
            self.basket_base += max(over, 32)
        for entry in self.ways.values():
            entry.day, entry.number = max(entry.day, self.day_base), max(entry.number, self.basket_base)
        day = max(day, self.day_base)

        mine = {way: self.ways.get((bucket, way)) for way in range(self.ledger.ways)}
        for known in mine.values():
            if known is not None and known.tag == tag:
                self._again(known, day, late)
                return
        self.lines += 1
        free = [way for way, entry in mine.items() if entry is None]
        if free:
            way = free[0]
        else:
            self.evicted += 1
            way = min(mine, key=lambda w: (self._worth(mine[w]), w))
        number = max(self.baskets - 1, self.basket_base) if late else self.baskets
        self.ways[bucket, way] = Entry(tag, 1, 0, day, number)

    @staticmethod
    def _worth(entry: Entry | None) -> int:
        assert entry is not None
        return entry.day + int(WORTH[entry.n])

    def _again(self, entry: Entry, day: int, late: bool) -> None:
        new = entry.day < day if late else entry.number != self.baskets
        if new:
            self.lines, self.repeats = self.lines + 1, self.repeats + 1
            passed = 16 * (day - entry.day)
            if passed >= 0:
                gap = int(SIXTEENTHS[entry.level])
                gap = passed if entry.n == 1 else gap + (passed - gap) // min(entry.n, 4)
                entry.level = min(range(64), key=lambda k: (abs(int(SIXTEENTHS[k]) - gap), -k))
            entry.n = min(entry.n + 1, 63)
        entry.day = max(entry.day, day)
        if not late:
            entry.number = self.baskets


@settings(max_examples=300)
@given(histories())
def test_it_does_what_the_naive_rule_says(events: list[Event]) -> None:
    state, twin = fold(blank(), events), Twin(LEDGER)
    for event in events:
        twin.add(*event)
    scalars = LEDGER.scalars(LEDGER.of(state))[0]
    assert (scalars[BASKETS], scalars[LINES], scalars[REPEATS], scalars[EVICTED]) == (
        twin.baskets, twin.lines, twin.repeats, twin.evicted
    )  # fmt: skip
    assert (scalars[DAY_BASE], scalars[BASKET_BASE]) == (twin.day_base, twin.basket_base)
    assert scalars[FIRST_DAY] == twin.first_day
    keys, entries = LEDGER.known(LEDGER.of(state)[0])
    got = zip(keys.buckets, keys.tags, *entries, strict=True)
    want = [
        (bucket, e.tag, e.n, e.day, SIXTEENTHS[e.level], twin.baskets - e.number)
        for (bucket, _), e in sorted(twin.ways.items())
    ]
    assert [tuple(map(int, one)) for one in got] == [tuple(map(int, one)) for one in want]
    np.testing.assert_array_equal(state[:, :OTHER], np.float32(0.1))


@given(st.lists(histories(20), min_size=2, max_size=5), st.data())
def test_users_of_a_batch_do_not_see_each_other_and_only_the_chosen_change(
    users: list[list[Event]], data: st.DataObject
) -> None:
    state = blank(users=len(users))
    alone = [blank() for _ in users]
    for t in range(max(map(len, users))):
        chosen = np.array([t < len(events) and data.draw(st.booleans()) for events in users])
        items, times = zip(*(events[min(t, len(events) - 1)] for events in users), strict=True)
        LEDGER.add(state, LEDGER.keys(np.array(items, np.uint64)), np.array(times), chosen)
        for user, single in enumerate(alone):
            if chosen[user]:
                fold(single, [(items[user], times[user])])
    assert LEDGER.of(state).tobytes() == b"".join(LEDGER.of(single).tobytes() for single in alone)


@given(histories())
def test_looking_up_an_item_finds_its_entry(events: list[Event]) -> None:
    words = LEDGER.of(fold(blank(), events))[0]
    keys, entries = LEDGER.known(words)
    places, found = LEDGER.look_up(words, keys)
    assert places.tolist() == list(range(len(keys.tags)))
    for name, values in found._asdict().items():
        np.testing.assert_array_equal(values, getattr(entries, name))
    asked = LEDGER.keys(np.arange(10**6, 10**6 + 50, dtype=np.uint64))
    there = {*zip(keys.buckets.tolist(), keys.tags.tolist(), strict=True)}
    pairs = zip(asked.buckets.tolist(), asked.tags.tolist(), strict=True)
    assert LEDGER.look_up(words, asked)[0].tolist() == [place for place, pair in enumerate(pairs) if pair in there]


@given(histories(), ITEMS)
def test_a_forgotten_item_is_gone_and_every_other_entry_stays(events: list[Event], item: int) -> None:
    state = fold(blank(), events)
    before = {(b, t): rest for b, t, *rest in _entries(state)}
    key = LEDGER.keys(np.array([item], np.uint64))
    here = (int(key.buckets[0]), int(key.tags[0]))
    assert LEDGER.forget(state[0], item) == (here in before)
    before.pop(here, None)
    assert {(b, t): rest for b, t, *rest in _entries(state)} == before


def _entries(state: NDArray[np.float32]) -> list[list[int]]:
    keys, entries = LEDGER.known(LEDGER.of(state)[0])
    return [[int(value) for value in one] for one in zip(*keys, *entries, strict=True)]


def test_it_stays_within_its_words_whatever_comes() -> None:
    random = np.random.default_rng(0)
    state = fold(
        blank(),
        [(int(i), int(t)) for i, t in zip(random.integers(1, 2**63, 500), random.integers(0, 2**62, 500), strict=True)],
    )
    keys, _ = LEDGER.known(LEDGER.of(state)[0])
    assert len(keys.tags) == LEDGER.entries
    assert LEDGER.scalars(LEDGER.of(state))[0, EVICTED] == 500 - LEDGER.entries
    assert state.shape == (1, OTHER + LEDGER.words)


def test_tables_are_whole_numbers_that_rise() -> None:
    assert SIXTEENTHS.dtype == WORTH.dtype == np.int64
    assert (np.diff(SIXTEENTHS) > 0).all()
    assert SIXTEENTHS[-1] == 8 * 115**62 // 100**62
    np.testing.assert_allclose(WORTH[1:], 30 * np.log2(np.arange(1, 64)), atol=1)


def test_stored_bytes_are_pinned() -> None:
    """A change of these bytes needs another rule in the manifest, and a rebuild of every state."""
    ledger = Ledger(buckets=4, ways=8)
    random = np.random.default_rng(5)
    state = np.zeros((1, ledger.words), np.float32)
    minutes = np.cumsum(random.choice([0, 3, 900, 4000], 400))
    fold(
        state,
        [(int(i), START + int(t) * MINUTE_MS) for i, t in zip(random.zipf(1.4, 400), minutes, strict=True)],
        ledger,
    )
    layout = StateLayout((ledger.block,))
    header = StateHeader(7, 1, 0, 399, 400, START, bytes(8))
    stored = encode_state(UserState(header, state[0]), bytes(16), layout)
    assert stored == GOLDEN.read_bytes()
    assert decode_state(stored, bytes(16), layout).tensors.tobytes() == state[0].tobytes()
    assert len(ledger.scalars(ledger.of(state))[0]) == len(SCALARS)
