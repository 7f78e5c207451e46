"""The whole path of a bundle whose states are lists: events through a real broker, the last T of them in Redis, and the
scores that the head gives to exactly those events."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import open_graph
from mimn.data.events import Events
from support.folded_log import folded_log

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny_dien" / "tiny-dien" / "1"
T = 21
LENGTHS = (1, 7, 16, 17, T - 1, T, T + 1, 3 * T)


def browsing(bundle: Bundle) -> Events:
    """Users with histories shorter and longer than a list; some ids unknown."""
    random, total = np.random.default_rng(3), sum(LENGTHS)
    end = time.time_ns() // 10**9 - 10
    known = bundle.items.ids[bundle.items.ids < 2**62].astype(np.int64)
    return Events(
        user_id=np.repeat(np.arange(1, len(LENGTHS) + 1), LENGTHS),
        item_id=random.choice(np.append(known, [5555, 6666]), total),
        category_id=random.choice(np.append(bundle.categories.ids[:5].astype(np.int64), 777), total),
        timestamp=np.concatenate([np.sort(end - random.integers(86_400, size=n)) for n in LENGTHS]),
        basket_id=np.arange(total),
    )


def offline(
    bundle: Bundle, items: NDArray[np.uint64], categories: NDArray[np.uint64], asked: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The scores for a user of these events, by the graph alone: no list, no padding."""
    history = bundle.vectors(items, categories) if len(items) else np.zeros((1, bundle.width), np.float32)
    feed = {"candidates": asked, "history": history, "length": np.array([len(items)])}
    scores: NDArray[np.float32] = open_graph(bundle, bundle.manifest.head).run(None, feed)[0]
    return scores


def test_a_users_last_events_are_stored_and_scored_by(tmp_path: Path) -> None:
    bundle = load_bundle(BUNDLE)
    rule = bundle.event_list
    assert rule is not None
    assert rule.capacity == T
    events = browsing(bundle)
    items, categories = bundle.items.ids[:9], np.resize(bundle.categories.ids, 9)
    vectors = bundle.vectors(items, categories)
    with folded_log(tmp_path, BUNDLE, events) as log:
        answers = []
        for user, length in zip(log.users, LENGTHS, strict=True):
            rows = slice(user.rows.start, user.rows.stop)
            ids = events.item_id[rows].astype(np.uint64), events.category_id[rows].astype(np.uint64)
            state = log.state(user.user_id)
            assert state.header.event_count == length
            last = ids[0][-T:], ids[1][-T:]
            want = np.stack([bundle.items.rows(last[0]), bundle.categories.rows(last[1])], -1)
            np.testing.assert_array_equal(rule.read(state.tensors), want)
            answer = log.predict(user.user_id, items, categories)
            assert answer["state"]["events"] == length
            np.testing.assert_allclose(answer["scores"], offline(bundle, *last, vectors), atol=1e-4, rtol=0)
            answers.append(answer["scores"])
        nobody = log.predict("nobody", items, categories)
    assert nobody["state"]["status"] == "cold"
    np.testing.assert_allclose(nobody["scores"], offline(bundle, items[:0], categories[:0], vectors), atol=1e-4, rtol=0)
    assert np.std(answers, axis=0).max() > 1e-3, "users get different scores"
