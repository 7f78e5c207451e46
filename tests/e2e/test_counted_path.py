"""The whole path of bundles with a sketch and with a ledger: events of the last weeks through a real broker, counters
and entries in Redis, scores at the time of the request."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import HeadGraph, StepGraph
from mimn.data.events import Events
from support.folded_log import folded_log

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

FIXTURES = Path(__file__).parents[1] / "fixtures"
BUNDLES = {name: FIXTURES / f"bundle_tiny_{name}" / f"tiny-{name}" / "1" for name in ("sketch", "ledger")}
USERS, DAY_S = 12, 86_400


def shopping(bundle: Bundle) -> Events:
    """From 3 to 60 events a user over the last 90 days; some ids unknown, few enough to be touched again."""
    random = np.random.default_rng(3)
    lengths = np.linspace(3, 60, USERS).astype(int)
    total = int(lengths.sum())
    known = bundle.items.ids[bundle.items.ids < 2**62].astype(np.int64)
    end = time.time_ns() // 10**9 - 10
    times = [np.sort(end - random.integers(90 * DAY_S, size=n)) for n in lengths]
    return Events(
        user_id=np.repeat(np.arange(1, USERS + 1), lengths),
        item_id=random.choice(np.append(known[:8], [5555, 6666]), total),
        category_id=random.choice(np.append(bundle.categories.ids[:5].astype(np.int64), 777), total),
        timestamp=np.concatenate(times),
        basket_id=np.arange(total),
    )


def folded(bundle: Bundle, events: Events, rows: slice) -> NDArray[np.float32]:
    """What a user's state must be: the events one at a time, in this process."""
    assert bundle.sketch is not None
    sketch, step = bundle.sketch.sketch, StepGraph(bundle)
    items, categories = events.item_id[rows].astype(np.uint64), events.category_id[rows].astype(np.uint64)
    vectors, addresses = bundle.vectors(items, categories), bundle.sketch.addresses(items, categories)
    moments = sketch.moments(events.timestamp[rows] * 1000)
    state = bundle.initial_state[np.newaxis].copy()
    rest, ledger = bundle.rest, bundle.ledger
    for t in range(len(items)):
        state[:, rest] = step(vectors[t : t + 1], np.ascontiguousarray(state[:, rest]))
        sketch.add(without_ledger(bundle, state), addresses[t : t + 1], moments[t : t + 1])
        if ledger is not None:
            ledger.add(state, ledger.keys(items[t : t + 1]), events.timestamp[rows][t : t + 1] * 1000)
    folded_once: NDArray[np.float32] = state[0]
    return folded_once


def without_ledger(bundle: Bundle, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """The states up to the ledger, a view."""
    return states if bundle.ledger is None else states[..., : -bundle.ledger.words]


@pytest.mark.parametrize("name", BUNDLES)
def test_stored_counters_are_the_logs_and_scores_are_read_at_the_requests_time(tmp_path: Path, name: str) -> None:
    bundle = load_bundle(BUNDLES[name])
    assert bundle.sketch is not None
    sketch, events, head = bundle.sketch.sketch, shopping(bundle), HeadGraph(bundle)
    items = np.append(bundle.items.ids[:9], [np.uint64(5555), np.uint64(4444)])
    categories = np.resize(bundle.categories.ids, len(items))
    addresses, context = bundle.sketch.addresses(items, categories), np.zeros(0, np.float32)
    vectors = bundle.vectors(items, categories)
    differing = 0

    def scored(state: NDArray[np.float32], now_ms: int) -> NDArray[np.float32]:
        moment, reads = sketch.moments(np.array([now_ms]))[0], bundle.reads
        read = None if reads is None else reads.read(reads.ledger.of(state), items, now_ms)
        return head(vectors, state, context, addresses, moment, reads=read)

    with folded_log(tmp_path, bundle.path, events) as log:
        for user in log.users:
            stored = log.state(user.user_id).tensors
            want = folded(bundle, events, slice(user.rows.start, user.rows.stop))
            np.testing.assert_array_equal(stored[: sketch.values], want[: sketch.values])
            behind = slice(bundle.rest.stop, None)  # periods, and the bits of a ledger
            assert stored[behind].tobytes() == want[behind].tobytes()
            np.testing.assert_allclose(stored[bundle.rest], want[bundle.rest], atol=1e-5, rtol=1e-5)
            before_ms = time.time_ns() // 10**6
            answer = log.predict(user.user_id, items, categories)
            after_ms = time.time_ns() // 10**6
            # A ledger counts days and minutes, and the next one may begin while RTP is asked.
            either = [scored(want, now_ms) for now_ms in (before_ms, after_ms)]
            scores = min(either, key=lambda some: float(np.abs(some - answer["scores"]).max()))
            np.testing.assert_allclose(answer["scores"], scores, atol=1e-4, rtol=0)
            later = scored(want, after_ms + 3 * DAY_S * 1000)
            differing += int(np.abs(later - scores).max() > 1e-3)
    assert differing >= USERS // 2, "three days later the scores are others, so the time of the request is tested"
