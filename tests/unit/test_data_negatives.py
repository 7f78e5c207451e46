"""How negatives are drawn: nothing excluded is drawn, popularity at a time knows nothing of the future or of other
users, and neither gives the positive away."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimn.data.events import DataError, Events
from mimn.data.instances import Instances, build_instances, source, stored_instances
from mimn.data.negatives import RECENT_MS, Exclusion, NegativeRule, Pool, Sampling
from mimn.data.split import PARTS, parts_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary
from mimn.data.windows import WindowPlan, WindowSampler
from mimn.metrics import auc
from support import datasets

RECENT_S = RECENT_MS // 1000
ALL: tuple[Sampling, ...] = ("popularity", "uniform", "recent")
DAY = 86_400


def made_up(seed: int, *, repeats: bool, users: int = 40, items: int = 120, rows: int = 30) -> Events:
    """Users who act once a day or so over half a year; without `repeats`, each has an item at most once."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(1, users + 1), rows)
    item = np.concatenate([rng.choice(items, rows, replace=repeats) for _ in range(users)]) + 1
    first = rng.integers(0, 150 * DAY, users)
    time = (first[:, np.newaxis] + np.cumsum(rng.integers(0, 2 * DAY, (users, rows)), axis=1)).reshape(-1)
    _, basket = np.unique(np.stack([user, time]), axis=1, return_inverse=True)
    return Events(user, item, item % 7, time, basket.reshape(-1))


def parts(events: Events) -> tuple[np.ndarray, Vocabulary]:
    train = parts_of(events.users) == PARTS.index("train")
    return train, build_vocabulary(events, train)


@given(seed=st.integers(0, 10_000), repeats=st.booleans(), exclude=st.sampled_from(["basket", "history"]))
@settings(max_examples=25, deadline=None)
def test_no_negative_is_excluded_by_the_rule(seed: int, repeats: bool, exclude: Exclusion) -> None:
    events = made_up(seed, repeats=repeats)
    instances = build_instances(events, rule=NegativeRule(ALL, exclude))
    for i in range(len(instances)):
        mine = events.user_id == instances.user_id[i]
        excluded = set(events.item_id[mine & (events.timestamp == instances.timestamp[i])].tolist())
        if exclude == "history":
            excluded |= set(events.item_id[instances.begin[i] : instances.end[i]].tolist())
        for sampling in ALL:
            drawn = instances.negatives[sampling].item[i].tolist()
            assert len(set(drawn)) == len(drawn)
            assert not excluded & set(drawn)


@given(seed=st.integers(0, 10_000), exclude=st.sampled_from(["basket", "history"]), sampling=st.sampled_from(ALL))
@settings(max_examples=25, deadline=None)
def test_no_negative_of_training_is_excluded_by_the_rule(seed: int, exclude: Exclusion, sampling: Sampling) -> None:
    events = made_up(seed, repeats=True)
    train, vocabulary = parts(events)
    samplings = tuple(dict.fromkeys((sampling, *ALL)))
    sampler = WindowSampler(
        events, vocabulary, vocabulary.embedding_ids(1), train, WindowPlan(), rule=NegativeRule(samplings, exclude)
    )
    targets = np.flatnonzero(train[events.user_index])
    drawn = vocabulary.items[sampler.negatives(targets, np.random.default_rng(seed))]
    for row, item in zip(targets.tolist(), drawn.tolist(), strict=True):
        had = slice(int(events.bounds[events.user_index[row]]), int(events.history_end[row]))
        same = (events.occasion == events.occasion[row]) | (events.basket_id == events.basket_id[row])
        assert item not in events.item_id[same]
        assert exclude == "basket" or item not in events.item_id[had]


@given(seed=st.integers(0, 10_000), row=st.integers(0, 1199), after=st.sampled_from([-1, 0, 1, RECENT_S, RECENT_S + 1]))
@settings(max_examples=50, deadline=None)
def test_popularity_at_a_time_is_that_of_train_users_in_the_four_weeks_before(seed: int, row: int, after: int) -> None:
    """At and around the time of an event, and four weeks later."""
    events = made_up(seed, repeats=True)
    train, vocabulary = parts(events)
    time = int(events.timestamp[row]) + after
    pool = Pool("recent", events, vocabulary, train)
    (first,), (end,) = pool.spans(np.array([time]))
    found = sorted(vocabulary.items[pool.entries[first:end]].tolist())
    known = train[events.user_index] & (events.timestamp < time) & (events.timestamp >= time - RECENT_S)
    assert found == sorted(events.item_id[known].tolist())


@given(seed=st.integers(0, 1_000))
@settings(max_examples=10, deadline=None)
def test_recent_negatives_do_not_depend_on_the_future_or_on_other_users(seed: int) -> None:
    """What happens from a moment on, and what users that are not trained on do at any time, is shuffled."""
    events = made_up(seed, repeats=True)
    train, vocabulary = parts(events)
    moment = int(np.median(events.timestamp))
    rng = np.random.default_rng(seed)
    shuffled = events.item_id.copy()
    for rows in (
        np.flatnonzero(train[events.user_index] & (events.timestamp >= moment)),
        np.flatnonzero(~train[events.user_index]),
    ):
        shuffled[rows] = shuffled[rng.permutation(rows)]
    other = replace(events, item_id=shuffled, category_id=shuffled % 7)
    # The same items in another order: which items there are is known to all of them.
    other_vocabulary = build_vocabulary(other, train)
    np.testing.assert_array_equal(other_vocabulary.items, vocabulary.items)
    pool, other_pool = Pool("recent", events, vocabulary, train), Pool("recent", other, other_vocabulary, train)
    before = events.timestamp[events.timestamp <= moment]
    for first, end in zip(*pool.spans(before), strict=True):
        np.testing.assert_array_equal(pool.entries[first:end], other_pool.entries[first:end])
    np.testing.assert_array_equal(pool.spans(before), other_pool.spans(before))


def test_recent_negatives_come_from_those_four_weeks() -> None:
    """But for targets before which train users did too little, which are few."""
    events = made_up(3, repeats=True, users=120)
    train, vocabulary = parts(events)
    instances = build_instances(events, vocabulary, rule=NegativeRule(ALL, "history"))
    pool = Pool("recent", events, vocabulary, train)
    inside = 0
    for i, (first, end) in enumerate(zip(*pool.spans(instances.timestamp), strict=True)):
        recent = set(vocabulary.items[pool.entries[first:end]].tolist())
        inside += set(instances.negatives["recent"].item[i].tolist()) <= recent
    assert inside > 0.95 * len(instances)


def test_where_nothing_repeats_being_new_gives_the_positive_away_unless_the_history_is_excluded() -> None:
    events = made_up(1, repeats=False, users=200)

    def new_to_the_user(exclude: Exclusion) -> float:
        instances = build_instances(events, rule=NegativeRule(exclude=exclude))
        rows = instances.candidates("popularity")
        new = [
            item not in events.item_id[instances.begin[i] : instances.end[i]]
            for i, item in zip(rows.instance, rows.item, strict=True)
        ]
        return auc(rows.label, np.array(new, np.float64))

    assert new_to_the_user("basket") > 0.55
    assert new_to_the_user("history") == 0.5


@cache
def retail() -> tuple[Events, np.ndarray, Vocabulary, Instances]:
    events = datasets.retail()
    train, vocabulary = parts(events)
    return events, train, vocabulary, build_instances(events, vocabulary, rule=NegativeRule(ALL))


def test_an_item_out_of_season_gives_itself_away_unless_negatives_are_drawn_from_the_season() -> None:
    """The share of an item's purchases that fell into the four weeks before, as the score."""
    events, train, vocabulary, instances = retail()
    pool = Pool("recent", events, vocabulary, train)

    def season(sampling: Sampling) -> float:
        rows = instances.of("test").candidates(sampling)
        first, end = pool.spans(instances.of("test").timestamp[rows.instance])
        place = vocabulary.item_places(rows.item)
        recent = [np.count_nonzero(pool.entries[a:b] == p) for a, b, p in zip(first, end, place, strict=True)]
        return auc(rows.label, (np.array(recent) + 0.1) / (vocabulary.popularity(rows.item) + 1.0))

    assert season("popularity") > 0.6
    assert season("recent") < season("popularity") - 0.1


def test_a_third_sampling_changes_nothing_in_the_other_two() -> None:
    events, _, vocabulary, instances = retail()
    default = build_instances(events, vocabulary)
    assert instances.samplings == ALL
    for name, array in default.arrays.items():
        np.testing.assert_array_equal(instances.arrays[name], array)
    assert instances.sha256 != default.sha256


def test_instances_of_each_rule_have_a_file_of_their_own(tmp_path: Path) -> None:
    events = made_up(0, repeats=True)
    rules = [NegativeRule(), NegativeRule(ALL), NegativeRule(exclude="history"), NegativeRule(("recent", "popularity"))]
    assert len({source(events, rule=rule) for rule in rules}) == len(rules)
    for rule in rules:
        assert stored_instances(tmp_path, events, rule=rule).samplings == rule.samplings
    assert len(list(tmp_path.iterdir())) == len(rules)


def test_four_weeks_are_four_weeks_whatever_the_unit_of_time() -> None:
    events = made_up(0, repeats=True)
    in_ms = replace(events, timestamp=events.timestamp * 1000, unit_ms=1)
    train, vocabulary = parts(events)
    spans = Pool("recent", events, vocabulary, train).spans(events.timestamp)
    np.testing.assert_array_equal(spans, Pool("recent", in_ms, vocabulary, train).spans(in_ms.timestamp))


def test_a_data_set_with_too_few_items_is_refused() -> None:
    with pytest.raises(DataError, match="too few items"):
        build_instances(made_up(0, repeats=False, items=32), rule=NegativeRule(exclude="history"))


def test_a_rule_without_popularity_is_refused() -> None:
    with pytest.raises(ValueError, match="include 'popularity'"):
        NegativeRule(("recent",))
    with pytest.raises(ValueError, match="distinct"):
        NegativeRule(("popularity", "popularity"))
