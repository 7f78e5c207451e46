"""What a round does to many states at once: numpy and compiled code do it as for one state after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.rows.live import compiled_events
from mimn.state import HEADERS, Block, Ledger, Sketch, StateLayout, encode_states, user_hash
from support import skips
from uic.core.numpy_states import NUMPY
from uic.core.ports import ManyStates

NOW, HOUR_MS = 1_700_000_000_000, 3_600_000
SKETCH, LEDGER = Sketch(5, 11, (0, 7)), Ledger(3, 4)
DEPTHS = st.lists(st.integers(0, 6), min_size=1, max_size=9).filter(any).map(lambda some: sorted(some, reverse=True))
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", params=["numpy", "compiled"])
def many(request: pytest.FixtureRequest) -> ManyStates:
    """Each of both."""
    found = NUMPY if request.param == "numpy" else compiled_events()
    if found is None:
        pytest.skip(skips.NO_COMPILED_STEP)  # an error in CI, which sets CTR_COMPILED_STEP
    return found


def drawn_sound(rng: np.random.Generator, events: int) -> NDArray[np.bool_] | None:
    """Which events are sound; None: all are."""
    return rng.random(events) > 0.3 if rng.random() > 0.3 else None


def rows_of(depth: Sequence[int], sound: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """The sound events and their rows, one after another."""
    rows = np.repeat(np.arange(len(depth)), depth).tolist()
    return [(event, row) for event, row in enumerate(rows) if sound is None or sound[event]]


@given(depth=DEPTHS, seed=SEEDS)
def test_counters_are_as_if_events_came_one_after_another(many: ManyStates, depth: list[int], seed: int) -> None:
    rng, events = np.random.default_rng(seed), sum(depth)
    addresses = SKETCH.addresses_of(rng.integers(1, 60, events).astype(np.uint64), rng.integers(0, 9, events))
    moments = SKETCH.moments(NOW + rng.integers(0, 4000, events) * HOUR_MS)
    sound, states = drawn_sound(rng, events), np.zeros((len(depth), SKETCH.values + 3 + 2), np.float32)
    want = states.copy()
    for event, row in rows_of(depth, sound):
        SKETCH.add(want[row : row + 1], addresses[event : event + 1], moments[event : event + 1])
    many.add_counts(SKETCH, states, np.array(depth), addresses, moments, sound)
    assert states.tobytes() == want.tobytes()


@given(depth=DEPTHS, seed=SEEDS)
def test_ledgers_are_as_if_events_came_one_after_another(many: ManyStates, depth: list[int], seed: int) -> None:
    rng, events = np.random.default_rng(seed), sum(depth)
    items, times = rng.integers(1, 30, events).astype(np.uint64), NOW + rng.integers(0, 4000, events) * HOUR_MS
    sound, states = drawn_sound(rng, events), np.zeros((len(depth), 5 + LEDGER.words), np.float32)
    want, keys = states.copy(), LEDGER.keys(items)
    for event, row in rows_of(depth, sound):
        LEDGER.add(want[row : row + 1], keys.part(event, event + 1), times[event : event + 1])
    many.add_entries(LEDGER, states, np.array(depth), items, times, sound)
    assert states.tobytes() == want.tobytes()


@given(keys=st.lists(st.text(min_size=1, max_size=20), max_size=9))
def test_users_hashes_are_those_of_each(many: ManyStates, keys: list[str]) -> None:
    assert many.user_hashes([key.encode() for key in keys]).tolist() == [user_hash(key) for key in keys]


@given(n=st.integers(1, 9), seed=SEEDS)
def test_stored_states_are_read_into_the_rows_that_are_named(many: ManyStates, n: int, seed: int) -> None:
    rng, layout = np.random.default_rng(seed), StateLayout((Block("halves", (6,), "float16"), Block("floats", (9,))))
    tensors = layout.round(rng.standard_normal((n, layout.floats)).astype(np.float32))
    headers = np.frombuffer(rng.bytes(n * HEADERS.itemsize), HEADERS).copy()
    headers["partial"] = rng.random(n) > 0.5
    values, to = encode_states(headers, tensors, bytes(16), layout), rng.permutation(n + 2)[:n]
    got_headers, got_tensors = np.zeros(n + 2, HEADERS), np.full((n + 2, layout.floats), 7, np.float32)
    want_headers, want_tensors = got_headers.copy(), got_tensors.copy()
    want_headers[to], want_tensors[to] = headers, tensors
    many.read_headers(values, got_headers, to)
    many.read_tensors(values, layout, got_tensors, to)
    assert got_headers.tobytes() == want_headers.tobytes()
    assert got_tensors.tobytes() == want_tensors.tobytes()
