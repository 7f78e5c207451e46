"""The whole path of a bundle whose states are lists: events through a real broker, the last T of them in Redis, and the
scores that the head gives to exactly those events."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from localstack.demo import PATIENT
from localstack.replay import States, expect, replay, wait_folded
from localstack.shoppers import Shopper
from localstack.stack import Options, Stack
from localstack.wait import until
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import open_graph
from mimn.data.events import Events
from mimn.state import Keys, decode_state, namespace, partition_of, user_hash

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny_dien" / "tiny-dien" / "1"
PARTITIONS = 8
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


def predict(url: str, user_id: str, asked: list[dict[str, str]]) -> dict[str, Any]:
    response = httpx.post(f"{url}/predict", json={"user_id": user_id, "candidates": asked}, timeout=60, headers=PATIENT)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_users_last_events_are_stored_and_scored_by(tmp_path: Path) -> None:
    bundle, surroundings = load_bundle(BUNDLE), Options.from_environment()
    rule = bundle.event_list
    assert rule is not None
    assert rule.capacity == T
    events = browsing(bundle)
    bounds = events.bounds
    users = [
        Shopper(str(user), range(int(begin), int(end)), 0, 0, ())
        for user, begin, end in zip(events.users, bounds[:-1], bounds[1:], strict=True)
    ]
    name = f"sequence-{time.time_ns()}"
    options = Options(
        folder=tmp_path / "stack",
        bundle=BUNDLE,
        redis_url=surroundings.redis_url,
        bootstrap=surroundings.bootstrap,
        topic=name,
        prefix=name,
        partitions=PARTITIONS,
    )
    keys = Keys(namespace(bundle.fingerprint.hex()), name)
    items, categories = bundle.items.ids[:9], np.resize(bundle.categories.ids, 9)
    asked = [{"item_id": str(i), "category_id": str(c)} for i, c in zip(items, categories, strict=True)]
    vectors = bundle.vectors(items, categories)
    with Stack(options) as stack:
        at = stack.addresses
        records = replay(at.bootstrap, name, events, users)
        states = States(at.redis_url, BUNDLE, prefix=name, partitions=PARTITIONS)
        wait_folded(states, {user: expect(rows) for user, rows in records.items()}, within_s=60)
        states.close()
        client = redis.Redis.from_url(at.redis_url, protocol=2)
        until(
            lambda: predict(at.predict, users[0].user_id, asked)["state"]["status"] == "warm",
            "RTP has seen that the log is folded",
            within_s=30,
        )
        answers = []
        for user, length in zip(users, LENGTHS, strict=True):
            rows = slice(user.rows.start, user.rows.stop)
            ids = events.item_id[rows].astype(np.uint64), events.category_id[rows].astype(np.uint64)
            value = client.get(keys.state(partition_of(user.user_id.encode(), PARTITIONS), user.user_id))
            assert isinstance(value, bytes)
            state = decode_state(value, bundle.fingerprint, bundle.layout, user_hash(user.user_id))
            assert state.header.event_count == length
            last = ids[0][-T:], ids[1][-T:]
            want = np.stack([bundle.items.rows(last[0]), bundle.categories.rows(last[1])], -1)
            np.testing.assert_array_equal(rule.read(state.tensors), want)
            answer = predict(at.predict, user.user_id, asked)
            assert answer["state"]["events"] == length
            np.testing.assert_allclose(answer["scores"], offline(bundle, *last, vectors), atol=1e-4, rtol=0)
            answers.append(answer["scores"])
        nobody = predict(at.predict, "nobody", asked)
        client.close()
    assert nobody["state"]["status"] == "cold"
    np.testing.assert_allclose(nobody["scores"], offline(bundle, items[:0], categories[:0], vectors), atol=1e-4, rtol=0)
    assert np.std(answers, axis=0).max() > 1e-3, "users get different scores"
