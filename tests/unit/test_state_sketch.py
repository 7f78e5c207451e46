"""The sketch"s rules in numpy: which cells, how they decay, and what never happens to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.config import MimnConfig
from mimn.reference import cells, count
from mimn.state import Sketch
from mimn.state.sketch import DAY_MS, half, mix

CONFIG = MimnConfig(sketch_category_cells=6, sketch_item_cells=11, sketch_half_lives=(0, 5, 30))
REST = 7
START = 1_600_000_000_000
Touch = tuple[int, int, int]
"""Item id, category row, time in ms."""
TOUCHES = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 2**53 + 1, 2**64 - 1]), st.integers(0, 12), st.integers(START, START + 400 * DAY_MS)
    ),
    min_size=1,
    max_size=40,
)

GOLDEN_MIX = [
    "0x0",
    "0xb456bcfc34c2cb2c",
    "0x3abf2a20650683e7",
    "0xe6be2c94a54a2c62",
    "0x8e42bdec3c281f79",
    "0x64b5720b4b825f21",
]
GOLDEN_CELLS = [[0, 304, 1264], [1, 1052, 1580], [303, 983, 1872], [0, 850, 2116], [1, 361, 1372], [0, 337, 1595]]


def sketch() -> Sketch:
    assert CONFIG.sketch is not None
    return CONFIG.sketch


def blank(users: int = 1) -> NDArray[np.float32]:
    state = np.zeros((users, sketch().values + REST + len(sketch().half_lives)), np.float32)
    state[:, sketch().rest] = 0.1  # not a float16 value: whoever rounds it is found out
    return state


def graph_inputs(touches: list[Touch]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Addresses [k, A] and moments [k, 2, S]."""
    items, rows, times = zip(*touches, strict=True)
    addresses = sketch().addresses_of(np.array(items, np.uint64), np.array(rows, np.intp))
    return addresses, sketch().moments(np.array(times, np.int64))


def fold(state: NDArray[np.float32], touches: list[Touch]) -> NDArray[np.float32]:
    for address, moment in zip(*graph_inputs(touches), strict=True):
        sketch().add(state, address[np.newaxis], moment[np.newaxis])
    return state


def held(state: NDArray[np.float32], item: int, row: int, now: int) -> NDArray[np.float64]:
    """What the cells of a candidate hold: [A, S]."""
    address = sketch().addresses_of(np.array([item], np.uint64), np.array([row], np.intp))[0]
    counters = state[0, : sketch().values].reshape(-1, sketch().cells)[:, address].T.astype(np.float64)
    period, weight = sketch().moments(np.array([now]))[0].astype(np.float64)
    return np.asarray(counters * 2.0 ** (state[0, -3:] - period) / weight)


def test_the_cells_of_ids_are_pinned() -> None:
    ids = np.array([0, 1, 2, 100, 2**53 + 1, 2**64 - 1], np.uint64)
    assert [hex(x) for x in mix(ids).tolist()] == GOLDEN_MIX
    got = Sketch(304, 960, (240,)).addresses_of(ids, np.array([0, 1, 303, 304, 305, 0], np.intp))
    assert got.tolist() == GOLDEN_CELLS


def test_moments_are_pinned() -> None:
    got = Sketch(4, 4, (0, 30)).moments(np.array([0, 1_700_000_000_000, -5, 2**62]))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[:, 0], [[0, 0], [0, 655], [0, 0], [0, 2**24 - 1]])
    np.testing.assert_array_equal(got[:, 1, 0], 1)
    np.testing.assert_allclose(got[:, 1, 1], [1, 1.8203, 1, 1], atol=1e-4)


@given(st.integers(0, 2**64 - 1), st.integers(0, 400))
def test_cells_are_what_the_naive_rule_says_and_lie_in_their_own_ranges(item: int, row: int) -> None:
    got = sketch().addresses_of(np.array([item], np.uint64), np.array([row], np.intp))[0].tolist()
    assert got == cells(CONFIG, item, row)
    assert 0 <= got[0] < 6 <= got[1] < 17 <= got[2] < 28


def test_items_spread_evenly_over_both_rows_and_independently() -> None:
    got = Sketch(0, 64, (0,)).addresses_of(
        np.arange(1, 64 * 64 * 8, dtype=np.uint64), np.zeros(64 * 64 * 8 - 1, np.intp)
    )
    pairs = np.bincount(got[:, 0] * 64 + got[:, 1] - 64, minlength=64 * 64)
    assert abs(pairs.var() / pairs.mean() - 1) < 0.15, "as many share both cells as by chance"


@given(TOUCHES, st.integers(0, 100 * DAY_MS))
def test_a_cell_holds_the_decayed_sum_of_what_was_added_in_any_order(touches: list[Touch], later: int) -> None:
    state = fold(blank(), touches)
    now = max(time for _, _, time in touches) + later
    touched = [(time, cells(CONFIG, item, row)) for item, row, time in touches]
    for item, row, _ in touches:
        got = held(state, item, row, now)
        for a, cell in enumerate(cells(CONFIG, item, row)):
            want = [count(cell, days, touched, now) for days in CONFIG.sketch_half_lives]
            np.testing.assert_allclose(got[a], want, rtol=1e-2, atol=1e-4)


@given(TOUCHES)
def test_folding_again_gives_the_same_bits_and_every_counter_is_a_float16_value(touches: list[Touch]) -> None:
    state = fold(blank(), touches)
    np.testing.assert_array_equal(state, fold(blank(), touches))
    counters = state[:, : sketch().values]
    np.testing.assert_array_equal(counters, half(counters))
    np.testing.assert_array_equal(state[:, sketch().rest], np.float32(0.1))


@given(st.lists(TOUCHES.map(lambda touches: touches[0]), min_size=2, max_size=6), st.data())
def test_users_of_a_batch_do_not_see_each_other_and_only_the_chosen_change(
    touches: list[Touch], data: st.DataObject
) -> None:
    n = len(touches)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    before = np.concatenate([fold(blank(), [touch]) for touch in reversed(touches)])
    got = before.copy()
    sketch().add(got, *graph_inputs(touches), chosen)
    for user, touch in enumerate(touches):
        alone = before[user : user + 1].copy()
        np.testing.assert_array_equal(got[user], fold(alone, [touch])[0] if chosen[user] else before[user])


def test_nothing_grows_with_the_years_and_a_plain_counter_stays_at_2048() -> None:
    state = fold(blank(), [(7, 1, START + i * DAY_MS) for i in range(3000)])
    now = START + 2999 * DAY_MS
    plain, five, thirty = held(state, 7, 1, now)[0]
    assert plain == 2048
    assert five == pytest.approx(1 / (1 - 2 ** (-1 / 5)), rel=0.01)
    assert thirty == pytest.approx(1 / (1 - 2 ** (-1 / 30)), rel=0.01)
    assert state[:, : sketch().values].max() == 2048


def test_a_pause_of_centuries_leaves_nothing_of_decaying_counters() -> None:
    state = fold(blank(), [(7, 1, START), (8, 2, START + 200_000 * DAY_MS)])
    np.testing.assert_array_equal(held(state, 7, 1, START + 200_000 * DAY_MS)[0], [1, 0, 0])


@pytest.mark.parametrize(("categories", "items", "addresses"), [(6, 0, 1), (0, 11, 2), (6, 11, 3)])
def test_either_kind_can_be_left_out(categories: int, items: int, addresses: int) -> None:
    part = Sketch(categories, items, (30,))
    got = part.addresses_of(np.array([5, 6], np.uint64), np.array([1, 9], np.intp))
    assert got.shape == (2, addresses) == (2, part.addresses)
    assert got.max() < part.cells


@given(TOUCHES, st.sampled_from([1, 2, 3]))
def test_a_forgotten_item_reads_as_never_touched_and_one_that_shares_no_cell_as_before(
    touches: list[Touch], item: int
) -> None:
    state = fold(blank(), touches)
    before = state.copy()
    addresses = sketch().addresses_of(np.array([item], np.uint64), np.zeros(1, np.intp))[0]
    sketch().forget(state[0], addresses)
    shape = len(CONFIG.sketch_half_lives), sketch().cells
    counters, old = state[0, : sketch().values].reshape(shape), before[0, : sketch().values].reshape(shape)
    cells = addresses[1:]
    np.testing.assert_array_equal(counters[:, cells].min(1), 0)
    others = np.setdiff1d(np.arange(sketch().cells), cells)
    np.testing.assert_array_equal(counters[:, others], old[:, others])
    np.testing.assert_array_equal(state[0, sketch().values :], before[0, sketch().values :])
    np.testing.assert_array_equal(counters, half(counters))
    assert (counters >= 0).all()


def test_where_two_items_share_one_cell_forgetting_one_leaves_the_other_its_count() -> None:
    items = np.arange(1, 200, dtype=np.uint64)
    cells = sketch().addresses_of(items, np.zeros(len(items), np.intp))[:, 1:]
    one, other = next(
        (i, j) for i in range(len(items)) for j in range(i) if (cells[i] == cells[j]).tolist() == [True, False]
    )
    state = fold(blank(), [(int(items[one]), 0, START)] * 3 + [(int(items[other]), 0, START)] * 5)
    sketch().forget(state[0], np.array([0, *cells[one]]))
    plain = state[0, : sketch().cells]
    assert plain[cells[one]].min() == 0
    assert plain[cells[other]].tolist() == [5, 5]
