"""The whole path of a bundle with a sketch: events of the last weeks through a real broker, counters in Redis, scores
at the time of the request."""

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

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny_sketch" / "tiny-sketch" / "1"
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
    for t in range(len(items)):
        state[:, sketch.rest] = step(vectors[t : t + 1], np.ascontiguousarray(state[:, sketch.rest]))
        sketch.add(state, addresses[t : t + 1], moments[t : t + 1])
    folded_once: NDArray[np.float32] = state[0]
    return folded_once


def test_stored_counters_are_the_logs_and_scores_are_read_at_the_requests_time(tmp_path: Path) -> None:
    bundle = load_bundle(BUNDLE)
    assert bundle.sketch is not None
    sketch, events, head = bundle.sketch.sketch, shopping(bundle), HeadGraph(bundle)
    items = np.append(bundle.items.ids[:9], [np.uint64(5555), np.uint64(4444)])
    categories = np.resize(bundle.categories.ids, len(items))
    addresses, context = bundle.sketch.addresses(items, categories), np.zeros(0, np.float32)
    vectors = bundle.vectors(items, categories)
    differing = 0
    with folded_log(tmp_path, BUNDLE, events) as log:
        for user in log.users:
            stored = log.state(user.user_id).tensors
            want = folded(bundle, events, slice(user.rows.start, user.rows.stop))
            np.testing.assert_array_equal(stored[: sketch.values], want[: sketch.values])
            np.testing.assert_array_equal(stored[-len(sketch.half_lives) :], want[-len(sketch.half_lives) :])
            np.testing.assert_allclose(stored[sketch.rest], want[sketch.rest], atol=1e-5, rtol=1e-5)
            answer = log.predict(user.user_id, items, categories)
            moment = sketch.moments(np.array([time.time_ns() // 10**6]))[0]
            scores = head(vectors, want, context, addresses, moment)
            np.testing.assert_allclose(answer["scores"], scores, atol=1e-4, rtol=0)
            later = sketch.moments(np.array([time.time_ns() // 10**6 + 3 * DAY_S * 1000]))[0]
            differing += int(np.abs(head(vectors, want, context, addresses, later) - scores).max() > 1e-3)
    assert differing >= USERS // 2, "three days later the scores are others, so the time of the request is tested"
