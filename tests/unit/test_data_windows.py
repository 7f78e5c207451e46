"""Training windows: a target's state lies before its basket, negatives are outside it, epochs are reproducible."""

from __future__ import annotations

from datetime import date

import msgspec
import numpy as np
import pytest

from mimn.data import synthetic
from mimn.data.events import DataError, Events
from mimn.data.split import parts_of
from mimn.data.touches import addresses_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary
from mimn.data.windows import Batch, WindowPlan, WindowSampler
from mimn.state import Sketch

PLAN = WindowPlan(length=16, per_user=3, occasions=3, rows_per_occasion=2, min_history=5)


def sampler(plan: WindowPlan = PLAN, users: int = 60) -> tuple[Events, Vocabulary, WindowSampler]:
    events = synthetic.make(users=users)
    train = parts_of(events.users) == 0
    vocabulary = build_vocabulary(events, train)
    return events, vocabulary, WindowSampler(events, vocabulary, vocabulary.embedding_ids(1), train, plan)


def epoch(seed: int, plan: WindowPlan = PLAN) -> list[Batch]:
    return list(sampler(plan)[2].epoch(np.random.default_rng(seed), 8))


def test_the_state_of_a_target_is_taken_before_its_basket_began() -> None:
    """Found back in the raw events: the window is a slice of one user, and the target of a later basket follows it."""
    events, vocabulary, windows = sampler()
    rows = vocabulary.embedding_ids(1).item_rows(events.item_id)
    checked = 0
    for batch in windows.epoch(np.random.default_rng(3), 8):
        for w in range(len(batch.item)):
            window = batch.item[w, : batch.length[w]]
            places = [
                int(start)
                for start in range(len(rows) - len(window))
                if np.array_equal(rows[start : start + len(window)], window)
            ]
            assert places, "the window is no slice of the events"
            start = places[0]
            for position, (item, _) in zip(batch.position[w], batch.target_item[w], strict=True):
                end = start + int(position)
                assert events.user_id[end] == events.user_id[start]
                assert events.timestamp[end - 1] < events.timestamp[end], "the state lies within an occasion"
                occasion = events.occasion == events.occasion[end]
                assert item in rows[occasion], "the target is not of the occasion that follows the state"
                checked += 1
    assert checked > 100


def test_windows_keep_to_the_plan() -> None:
    for batch in epoch(0):
        assert batch.item.shape[1] <= PLAN.length
        assert (batch.position >= PLAN.min_history).all()
        assert (batch.position <= batch.length[:, np.newaxis]).all()
        assert batch.position.shape[1] <= PLAN.occasions * PLAN.rows_per_occasion
        assert (batch.length == batch.position.max(1)).all(), "events behind the last state are folded for nothing"
        for w, length in enumerate(batch.length):
            assert (batch.item[w, length:] == 0).all()
            assert (batch.item[w, :length] > 0).all()


def test_without_a_least_history_a_users_first_events_are_targets_of_the_empty_state() -> None:
    plan = msgspec.structs.replace(PLAN, min_history=0)
    events, _, windows = sampler(plan)
    first = 0
    for batch in windows.epoch(np.random.default_rng(2), 8):
        assert (batch.length == np.maximum(batch.position.max(1), 1)).all(), "a window has an event, read or not"
        begin = events.bounds[events.user_index[batch.target]]
        state = events.history_end[batch.target] - batch.position  # where the window begins
        assert (state == batch.start[:, np.newaxis]).all()
        assert (state >= begin).all()
        first += int((events.history_end[batch.target] == begin).sum())
    assert first > 10


def test_repeated_targets_weigh_nothing() -> None:
    for batch in epoch(1):
        for w in range(len(batch.item)):
            real = batch.weight[w] == 1
            assert real[: real.sum()].all()
            pairs = {
                (int(p), int(i)) for p, i in zip(batch.position[w, real], batch.target_item[w, real, 0], strict=True)
            }
            for p, i in zip(batch.position[w, ~real], batch.target_item[w, ~real, 0], strict=True):
                assert (int(p), int(i)) in pairs


def test_each_target_has_as_many_negatives_as_the_plan_says() -> None:
    events, vocabulary, windows = sampler(msgspec.structs.replace(PLAN, negatives=3))
    bought = set(zip(events.occasion.tolist(), events.item_id.tolist(), strict=True))
    rows, checked = vocabulary.embedding_ids(1).item_rows(events.item_id), 0
    for batch in windows.epoch(np.random.default_rng(0), 8):
        assert batch.target_item.shape == batch.target_category.shape == (*batch.position.shape, 4)
        np.testing.assert_array_equal(batch.target_item[..., 0], rows[batch.target])
        np.testing.assert_array_equal(vocabulary.items[batch.target_item[..., 1:] - 1], batch.drawn_id)
        for target, drawn in zip(batch.target.flat, batch.drawn_id.reshape(-1, 3), strict=True):
            assert not any((int(events.occasion[target]), int(item)) in bought for item in drawn)
            checked += len(set(drawn.tolist())) > 1
    assert checked > 100, "the negatives of a target are one item"


def test_an_epoch_is_a_function_of_its_seed() -> None:
    first, again, other = epoch(5), epoch(5), epoch(6)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.item, b.item)
        np.testing.assert_array_equal(a.target_item, b.target_item)
        np.testing.assert_array_equal(a.position, b.position)
    assert any(
        a.item.shape != b.item.shape or not np.array_equal(a.item, b.item) for a, b in zip(first, other, strict=False)
    )


def test_only_train_users_are_in_windows() -> None:
    events = synthetic.make(users=60)
    train = parts_of(events.users) == 0
    vocabulary = build_vocabulary(events, train)
    # Every other user is given one item of its own; no window may hold it.
    marked = np.where(train[events.user_index], events.item_id, 10_000)
    changed = Events(events.user_id, marked, events.category_id, events.timestamp, events.basket_id)
    windows = WindowSampler(changed, vocabulary, vocabulary.embedding_ids(1), train, PLAN)
    for batch in windows.epoch(np.random.default_rng(0), 8):
        for w, length in enumerate(batch.length):
            assert (batch.item[w, :length] > 0).all(), "an item that no train user has"


def test_days_that_are_left_out_have_no_target_and_stay_history() -> None:
    days = (date(2020, 1, 5), date(2020, 1, 8))
    events, vocabulary, _ = sampler()
    sketch = Sketch(4, 1009, (0,))
    train = parts_of(events.users) == 0

    def days_of(times: np.ndarray) -> set[str]:
        return set(times.astype("datetime64[ms]").astype("datetime64[D]").astype(str).flat)

    def targets_and_histories(plan: WindowPlan) -> tuple[set[str], set[str]]:
        windows = WindowSampler(events, vocabulary, vocabulary.embedding_ids(1), train, plan, sketch=sketch)
        targets, histories = set(), set()
        for batch in windows.epoch(np.random.default_rng(0), 8):
            assert batch.sketch is not None
            targets |= days_of(batch.sketch.target_time)
            for w, length in enumerate(batch.length):
                histories |= days_of(batch.sketch.time[w, :length])
        return targets, histories

    out = {"2020-01-05", "2020-01-06", "2020-01-07"}
    everything, _ = targets_and_histories(PLAN)
    targets, histories = targets_and_histories(msgspec.structs.replace(PLAN, without=days))
    assert out < everything
    assert targets == everything - out
    assert out < histories


def test_a_plan_that_no_user_satisfies_is_refused() -> None:
    _, _, windows = sampler(WindowPlan(length=300, min_history=200))
    with pytest.raises(DataError, match="lower min_history"):
        windows.epoch(np.random.default_rng(0), 8)


def test_with_a_sketch_a_batch_says_which_cells_were_touched_and_when() -> None:
    events, vocabulary, _ = sampler()
    ids, sketch = vocabulary.embedding_ids(1), Sketch(4, 1009, (0,))
    several = msgspec.structs.replace(PLAN, negatives=2)
    windows = WindowSampler(events, vocabulary, ids, parts_of(events.users) == 0, several, sketch=sketch)
    category_of = dict(zip(ids.item_rows(events.item_id).tolist(), events.category_id.tolist(), strict=True))
    without = [batch.item for batch in epoch(5, several)]
    for batch, same in zip(windows.epoch(np.random.default_rng(5), 8), without, strict=True):
        assert batch.sketch is not None
        np.testing.assert_array_equal(batch.item, same)
        for rows, addresses in ((batch.item, batch.sketch.address), (batch.target_item, batch.sketch.target_address)):
            real = rows > 0
            items = vocabulary.items[rows[real] - 1]
            categories = np.array([category_of[row] for row in rows[real].tolist()])
            np.testing.assert_array_equal(addresses[real], addresses_of(sketch, ids, items, categories))
        for w, length in enumerate(batch.length):
            times = batch.sketch.time[w, :length]
            assert (np.diff(times) >= 0).all()
            assert np.isin(times, events.timestamp * 1000).all()
            for position, now in zip(batch.position[w], batch.sketch.target_time[w], strict=True):
                assert times[position - 1] < now, "what is read was known before"
                assert position == length or now <= times[position]
