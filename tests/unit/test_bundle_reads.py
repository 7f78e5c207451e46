"""What a head reads of a ledger: against a naive twin, and the table that it is read with."""

from __future__ import annotations

from dataclasses import replace
from math import asinh, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.bundle.item_table import STATISTICS, ItemTable, KeyIndex, Neighbors
from mimn.bundle.reads import GROUPS, Reads, width
from mimn.rows.library import NEEDS
from mimn.state import Ledger
from mimn.state.ledger import (
    BASKETS,
    FIRST_DAY,
    LINES,
    MINUTE,
    MINUTES_OF_DAY,
    REPEATS,
    SCALARS,
    TAG_SHIFT,
    Words,
)
from mimn.state.sketch import DAY_MS
from support import skips
from support.variants import library_of

START = 1_600_000_000_000
LEDGER = Ledger(buckets=5, ways=4)
IDS = np.array([2, 3, 5, 8, 13, 2**53 + 1, 2**64 - 2], np.uint64)
ASKED = np.append(IDS, np.array([99, 1], np.uint64))
EVENTS = st.lists(
    st.tuples(st.sampled_from([*IDS.tolist(), 99]), st.sampled_from([0, 5, 600, 3000, 40_000])), max_size=40
)
PARITY = 1e-6
"""How far apart the two forms may be, of a value or of 1, whichever is larger."""
DRAWN_MINUTE = 1_600_000 * 17


def drawn(ledger: Ledger, ids: NDArray[np.uint64], random: np.random.Generator) -> tuple[Words, NDArray[np.uint64]]:
    """Words such as a user's, with entries of the items `ids` and of others, and candidates. [words], [C]"""
    others = random.integers(1, 1 << 63, 20).astype(np.uint64)
    every = np.append(ids, others)
    held = np.unique(random.choice(every, int(random.integers(ledger.entries + 1))))
    keys = ledger.keys(held)
    words = np.zeros(ledger.words, np.uint32)
    place = keys.buckets * ledger.ways + random.integers(ledger.ways, size=len(held))
    words[place] = keys.tags << TAG_SHIFT | random.integers(1 << TAG_SHIFT, size=len(held))
    words[ledger.entries : -len(SCALARS)] = random.integers(1 << 32, size=ledger.entries // 2)
    minute = DRAWN_MINUTE - int(random.integers(1 << 20))
    first, base = (minute // MINUTES_OF_DAY - int(days) for days in random.integers(0, 900, 2))
    baskets, lines = (int(count) for count in random.integers(0, 300, 2))
    words[-len(SCALARS) :] = (minute, baskets, first, base, baskets // 2, lines, lines // 3, 0)
    return words, np.append(random.choice(every, 40), others[:5])


def table() -> ItemTable:
    random = np.random.default_rng(3)
    rows = len(IDS) + 1
    types = random.integers(0, 3, (rows, 2), dtype=np.int32)
    types[0] = 0
    vectors = random.normal(size=(rows, 4)).astype(np.float32)
    vectors[0] = 0
    statistics = random.gamma(2, 1, (rows, len(STATISTICS))).astype(np.float32)
    return ItemTable(IDS, statistics, types, vectors, drawn_neighbors(random, rows, 3))


def drawn_neighbors(random: np.random.Generator, rows: int, count: int) -> Neighbors:
    weights = random.normal(size=(rows, count)).astype(np.float32)
    return Neighbors(random.integers(0, rows, (rows, count), dtype=np.int32), weights)


def folded(events: list[tuple[int, int]]) -> tuple[NDArray[np.uint32], int]:
    """Words of a user, and the time after the events (item, minutes since the one before)."""
    state, now = np.zeros((1, LEDGER.words), np.float32), START
    for item, minutes in events:
        now += minutes * 60_000
        LEDGER.add(state, LEDGER.keys(np.array([item], np.uint64)), np.array([now]))
    return LEDGER.of(state)[0], now


def naive(known: ItemTable, words: NDArray[np.uint32], item: int, now_ms: int) -> list[float]:
    """One candidate at a time, from the entries of ids that a naive loop finds."""
    today = now_ms // DAY_MS
    rows = {int(i): r + 1 for r, i in enumerate(known.ids)}
    row = rows.get(item, 0)
    scalars = LEDGER.scalars(words)
    every: dict[tuple[int, int], dict[str, int]] = {}
    keys, entries = LEDGER.known(words)
    for place, pair in enumerate(zip(keys.buckets.tolist(), keys.tags.tolist(), strict=True)):
        every[pair] = {name: int(values[place]) for name, values in entries._asdict().items()}

    def entry_of(item_id: int) -> dict[str, int] | None:
        key = LEDGER.keys(np.array([item_id], np.uint64))
        return every.get((int(key.buckets[0]), int(key.tags[0])))

    statistics = known.statistics[row].astype(float)
    out = [*statistics[:4], log(1 + statistics[4])]
    mine = entry_of(item)
    if mine is None:
        out += [0.0] * 9
    else:
        n, age, gap = mine["n"], today - mine["day"] + 0.5, mine["gap"] / 16 + 0.5
        usual = statistics[4] + 0.5
        due = (gap * (n - 1) + 2 * usual) / (n + 1)
        out += [1, log(n + 1), log(age), log(mine["baskets_ago"] + 1), log(gap)]
        out += [log(age / gap) if n > 1 else 0, log(age / usual), log(age / due), log((n + 1) / (scalars[BASKETS] + 1))]
    if scalars[BASKETS]:
        interval = (scalars[MINUTE] / 1440 - scalars[FIRST_DAY]) / max(scalars[BASKETS] - 1, 1)
        since = (now_ms // 60_000 - scalars[MINUTE]) / 1440
        out += [log(1 + scalars[BASKETS]), log(1 + interval), log(1 + since), log(1 + len(every))]
        out.append(scalars[REPEATS] / scalars[LINES])
    else:
        out += [0.0] * 5
    held = [(rows[i], found) for i in rows if (found := entry_of(i)) is not None]
    for kind in range(known.types.shape[1]):
        alike = [e for r, e in held if known.types[r, kind] == known.types[row, kind] and known.types[row, kind]]
        sums = [sum(e["n"] for e in alike), sum(e["n"] * 2 ** (-(today - e["day"]) / 60) for e in alike), len(alike)]
        out += [log(1 + value) for value in sums]
    dots, cosines = [], []
    for days in (float("inf"), 30.0):
        p = np.zeros(known.vectors.shape[1])
        for r, e in held:
            decay = 2.0 ** (-(today - e["day"]) / days)
            p += log(1 + e["n"]) * float(known.statistics[r, 5]) ** 0.5 * decay * known.vectors[r]
        v = known.vectors[row].astype(float)
        dots.append(asinh(p @ v))
        lengths = [max(float(np.linalg.norm(one)), 1e-12) for one in (p, v)]
        cosines.append(p @ v / (lengths[0] * lengths[1]))
    sums = [0.0, 0.0]
    assert known.neighbors is not None
    for row_of, weight in zip(known.neighbors.rows[row].tolist(), known.neighbors.weights[row].tolist(), strict=True):
        for e in [e for r, e in held if r == row_of]:
            for place, days in enumerate((float("inf"), 60.0)):
                sums[place] += weight * log(1 + e["n"]) * 2 ** (-(today - e["day"]) / days)
    return [float(value) for value in (*out, *dots, *cosines, *(asinh(64 * value) for value in sums))]


@given(EVENTS, st.integers(0, 100 * DAY_MS))
def test_the_values_are_what_the_naive_rule_says(events: list[tuple[int, int]], later: int) -> None:
    words, now = folded(events)
    reads = Reads(LEDGER, table(), GROUPS)
    got = reads.read(words, ASKED, now + later)
    assert got.shape == (len(ASKED), reads.width)
    assert got.dtype == np.float32
    plain = np.empty_like(got)
    reads.read_by_numpy(words, ASKED, (now + later) // 60_000, plain)
    want = [naive(table(), words, int(item), now + later) for item in ASKED]
    for form in (got, plain):
        np.testing.assert_allclose(form, np.array(want), rtol=2e-5, atol=2e-5)


@given(EVENTS, st.sets(st.sampled_from(GROUPS), min_size=1))
def test_some_groups_are_a_part_of_all_and_candidates_do_not_see_each_other(
    events: list[tuple[int, int]], chosen: set[str]
) -> None:
    words, now = folded(events)
    groups = tuple(group for group in GROUPS if group in chosen)
    every, some = Reads(LEDGER, table(), GROUPS), Reads(LEDGER, table(), groups)
    columns, at = [], 0
    for group in GROUPS:
        size = width((group,), 2)
        columns += list(range(at, at + size)) if group in chosen else []
        at += size
    got = some.read(words, ASKED, now)
    np.testing.assert_array_equal(got, every.read(words, ASKED, now)[:, columns])
    alone = np.concatenate([some.read(words, ASKED[i : i + 1], now) for i in range(len(ASKED))])
    np.testing.assert_allclose(got, alone, rtol=1e-6, atol=1e-6)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([Ledger(1, 2), Ledger(7, 4), Ledger(93), Ledger(112)]),
    st.integers(0, 3),
    st.sampled_from([0, 1, 5, 16, 21, 32]),
    st.sampled_from([0, 1, 7, 16]),
    st.sets(st.sampled_from(GROUPS), min_size=1),
    st.integers(0, 2**32 - 1),
)
def test_the_compiled_form_reads_what_numpy_reads(
    seed: int, ledger: Ledger, kinds: int, width: int, paired: int, chosen: set[str], minute: int
) -> None:
    random = np.random.default_rng(seed)
    ids = np.unique(random.integers(1, 2**63, int(random.integers(0, 400)))).astype(np.uint64)
    rows = len(ids) + 1
    vectors = random.normal(size=(rows, width)).astype(np.float32)
    known = ItemTable(
        ids,
        random.gamma(2, 1, (rows, len(STATISTICS))).astype(np.float32),
        random.integers(0, random.choice([5, 3000]), (rows, kinds), dtype=np.int32),
        vectors,
        drawn_neighbors(random, rows, paired),
    )
    reads = Reads(ledger, known, tuple(group for group in GROUPS if group in chosen))
    if reads.compiled is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    for _ in range(2):  # sums of one call must not be seen by the next
        words, asked = drawn(ledger, ids, random)
        plain, fast = (np.full((len(asked), reads.width), -1, np.float32) for _ in range(2))
        reads.read_by_numpy(words, asked, minute, plain)
        reads.compiled.into(words, asked, fast)(len(asked), minute)
        np.testing.assert_allclose(fast, plain, rtol=PARITY, atol=PARITY)
        # The same bits but where the last ones of a double decide.
        assert np.count_nonzero(fast != plain) <= fast.size // 100


def item_of(bucket: int, tag: int) -> int:
    """An item whose entry has this key: the sketch's `mix` backwards."""
    x = bucket << 32 | tag
    for factor in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD):
        x = (x ^ x >> 33) * pow(factor, -1, 1 << 64) % (1 << 64)
    return x ^ x >> 33


@pytest.mark.parametrize("variant", NEEDS)
@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        pytest.param([(7, tag) for tag in range(3, 103, 2)], [(7, 4), (7, 103), (8, 3)], id="many share high bits"),
        pytest.param([(4096 + 9, 5)], [(9, 5)], id="the same low half"),
        pytest.param([(9, 5), (4096 + 9, 5)], [], id="the same low half, both known"),
        pytest.param([(0, 1)], [(0, 0), (4096, 0)], id="zeros, which stand behind the last key"),
        pytest.param([(0, 0), (8191, (1 << 20) - 1)], [(0, 1), (8191, 0)], id="the first and the last"),
    ],
)
def test_an_entry_is_found_by_its_whole_key(
    variant: str, known: list[tuple[int, int]], unknown: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = library_of(variant)
    monkeypatch.setattr("mimn.bundle.reads.library", lambda: built)
    ledger, random = Ledger(8192), np.random.default_rng(5)
    ids, others = (np.sort(np.array([item_of(*key) for key in some], np.uint64)) for some in (known, unknown))
    rows = len(ids) + 1
    items = ItemTable(
        ids,
        random.gamma(2, 1, (rows, len(STATISTICS))).astype(np.float32),
        np.arange(rows, dtype=np.int32)[:, np.newaxis],
        random.normal(size=(rows, 8)).astype(np.float32),
        drawn_neighbors(random, rows, 4),
    )
    reads = Reads(ledger, items, GROUPS)
    assert reads.compiled is not None
    for held in (*(ids[i : i + 1] for i in range(len(ids))), others):
        state = np.zeros((1, ledger.words), np.float32)
        for item in held:
            ledger.add(state, ledger.keys(np.array([item])), np.array([START]))
        words, minute = ledger.of(state)[0], START // 60_000 + 5000
        plain, fast = (np.zeros((len(ids), reads.width), np.float32) for _ in range(2))
        reads.read_by_numpy(words, ids, minute, plain)
        reads.compiled.into(words, ids, fast)(len(ids), minute)
        np.testing.assert_allclose(fast, plain, rtol=PARITY, atol=PARITY)


@pytest.mark.parametrize("variant", NEEDS)
def test_every_variant_reads_what_numpy_reads(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = library_of(variant)
    monkeypatch.setattr("mimn.bundle.reads.library", lambda: built)
    reads, random = Reads(LEDGER, table(), GROUPS), np.random.default_rng(4)
    assert reads.compiled is not None
    for minute in (0, 1_600_000 * 17, 2**32 - 1):
        words, asked = drawn(LEDGER, np.tile(IDS, 30), random)
        plain, fast = (np.zeros((len(asked), reads.width), np.float32) for _ in range(2))
        reads.read_by_numpy(words, asked, minute, plain)
        reads.compiled.into(words, asked, fast)(len(asked), minute)
        np.testing.assert_allclose(fast, plain, rtol=PARITY, atol=PARITY)


def test_words_and_candidates_with_gaps_are_read_like_others() -> None:
    reads = Reads(LEDGER, table(), GROUPS)
    words, now = folded([(2, 0), (8, 600), (2, 40_000)])
    got = reads.read(np.repeat(words, 2)[::2], np.repeat(ASKED, 2)[::2], now)
    np.testing.assert_array_equal(got, reads.read(words, ASKED, now))


def test_an_empty_table_and_a_new_user_are_read_as_nothing() -> None:
    empty = ItemTable(
        np.zeros(0, np.uint64), np.zeros((1, 6), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 3), np.float32)
    )
    words, now = folded([])
    got = Reads(LEDGER, empty, GROUPS).read(words, ASKED, now)
    np.testing.assert_array_equal(got, 0)


def test_keys_lead_back_to_rows() -> None:
    ledger = Ledger(112)
    ids = np.unique(np.random.default_rng(0).integers(1, 2**63, 5000).astype(np.uint64))
    index = KeyIndex(ledger, ids)
    got = index.rows[index.of(ledger.keys(ids))]
    assert (got == np.arange(1, len(ids) + 1)).mean() > 0.999
    assert (index.of(ledger.keys(ids + np.uint64(1))) == 0).mean() > 0.999
    np.testing.assert_array_equal(index.numbers[1:], index.of(ledger.keys(ids)))


def test_a_table_is_read_back_and_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    table().save(tmp_path)
    again = ItemTable.load(tmp_path)
    for name in ("ids", "statistics", "types", "vectors"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table(), name))
    for read, saved in zip(again.neighbors or (), table().neighbors or (), strict=True):
        np.testing.assert_array_equal(read, saved)
    for rows in (np.full((8, 3), 8, np.int32), np.zeros((8, 2), np.int32)):
        replace(table(), neighbors=drawn_neighbors(np.random.default_rng(0), 8, 3)._replace(rows=rows)).save(tmp_path)
        with pytest.raises(ValueError, match="neighbors"):
            ItemTable.load(tmp_path)
    table().save(tmp_path)
    (tmp_path / "table.neighbors.weights.npy").unlink()
    with pytest.raises(ValueError, match=r"table\.neighbors\.weights\.npy"):
        ItemTable.load(tmp_path)
    table().save(tmp_path)
    replace(table(), ids=IDS[::-1].copy()).save(tmp_path)
    with pytest.raises(ValueError, match="rise strictly"):
        ItemTable.load(tmp_path)
    replace(table(), types=table().types[1:]).save(tmp_path)
    with pytest.raises(ValueError, match="types"):
        ItemTable.load(tmp_path)
    (tmp_path / "table.vectors.npy").unlink()
    with pytest.raises(ValueError, match=r"table\.vectors\.npy"):
        ItemTable.load(tmp_path)
