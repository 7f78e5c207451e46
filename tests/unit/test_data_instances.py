"""The clean protocol: no leak of the label, the same instances everywhere, and files that notice a change."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mimn.data import instances as protocol
from mimn.data import synthetic
from mimn.data.events import DataError, Events
from mimn.data.instances import DEFAULT_RULE, NEGATIVES, Instances, build_instances, source, stored_instances
from mimn.data.negatives import NegativeRule
from mimn.data.split import PARTS, part_of, parts_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary
from support import datasets

INSTANCES_SHA256 = "598874c36ca1c24fdee3f0582bac94fbc0ec553ae87b15dabb562391ae5a269d"
"""What every figure on Online Retail is based on: if it changes, all records are incomparable."""
SAMPLINGS = DEFAULT_RULE.samplings


@cache
def retail() -> tuple[Events, Vocabulary, Instances]:
    events = datasets.retail()
    vocabulary = build_vocabulary(events, parts_of(events.users) == 0)
    return events, vocabulary, build_instances(events)


def test_the_instances_of_online_retail_are_the_recorded_ones() -> None:
    _, _, instances = retail()
    assert instances.sha256 == INSTANCES_SHA256


def test_parts_and_protocols_have_about_the_published_sizes() -> None:
    """Published: 6,865 / 932 / 847 (B) and 1,735 / 218 / 208 (A), unknown targets included; here a basket that was
    entered over two minutes has less history."""
    _, _, instances = retail()
    assert [len(instances.of(part)) for part in PARTS] == [6862, 930, 846]
    assert [len(instances.of(part, "A")) for part in PARTS] == [1734, 218, 208]
    assert instances.unknown.tolist() == [0, 1, 0]


def test_every_user_is_in_one_part() -> None:
    _, _, instances = retail()
    for part in PARTS:
        assert all(part_of(int(user)) == part for user in np.unique(instances.of(part).user_id))


def test_no_row_of_the_targets_basket_or_time_is_in_its_history() -> None:
    events, _, instances = retail()
    for i in range(len(instances)):
        history = slice(int(instances.begin[i]), int(instances.end[i]))
        assert (events.user_id[history] == instances.user_id[i]).all()
        assert events.timestamp[history].max() < instances.timestamp[i]
        mine = slice(int(instances.begin[i]), int(instances.end[i]) + 1000)
        target = (events.timestamp[mine] == instances.timestamp[i]) & (events.item_id[mine] == instances.item[i])
        target &= events.user_id[mine] == instances.user_id[i]
        assert not np.isin(events.basket_id[history], events.basket_id[mine][target][:1]).any()
        assert instances.end[i] - instances.begin[i] >= protocol.MIN_HISTORY


def test_the_vocabulary_is_of_train_users_alone() -> None:
    events, vocabulary, _ = retail()
    train = parts_of(events.users)[events.user_index] == 0
    assert set(vocabulary.items.tolist()) == set(events.item_id[train].tolist())
    assert vocabulary.item_events.sum() == train.sum()
    # The other users' behavior, changed out of recognition, changes nothing.
    strangers = np.where(train, events.item_id, 999_999)
    other = build_vocabulary(replace(events, item_id=strangers), parts_of(events.users) == 0)
    np.testing.assert_array_equal(other.items, vocabulary.items)
    np.testing.assert_array_equal(other.item_events, vocabulary.item_events)
    np.testing.assert_array_equal(other.item_users, vocabulary.item_users)


def test_every_candidate_is_known_so_that_being_unknown_says_nothing() -> None:
    _, vocabulary, instances = retail()
    for sampling in SAMPLINGS:
        assert (vocabulary.item_places(instances.candidates(sampling, NEGATIVES).item) >= 0).all()


def test_a_target_is_no_special_row_of_its_basket() -> None:
    """On real data ids do mean something (a shop numbers new products higher), so the comparison is within baskets:
    a target's id, and its place among the rows, against those of the other rows. Standard error about 0.003."""
    events, _, instances = retail()
    ids, places, labels = [], [], []
    for i in range(len(instances)):
        # The basket's rows begin behind the history; a torn basket's earlier rows are left out here.
        first = int(np.searchsorted(events.user_id, instances.user_id[i]))
        stop = int(np.searchsorted(events.user_id, instances.user_id[i], side="right"))
        rows = first + np.flatnonzero(events.timestamp[first:stop] == instances.timestamp[i])
        is_target = events.item_id[rows] == instances.item[i]
        if len(rows) > 1 and is_target.sum() == 1:
            ids.append(np.argsort(np.argsort(events.item_id[rows], kind="stable")) / (len(rows) - 1))
            places.append(np.arange(len(rows)) / (len(rows) - 1))
            labels.append(is_target.astype(np.int64))
    label = np.concatenate(labels)
    assert label.sum() > 7000
    # Within-basket ranks are uniform in [0, 1] for any random row, so the targets' mean is 1/2.
    for ranks in (np.concatenate(ids), np.concatenate(places)):
        assert ranks[label == 1].mean() == pytest.approx(0.5, abs=0.015)


def test_instances_do_not_depend_on_the_users_around() -> None:
    """A draw is a hash of the instance: leaving other non-train users out moves nothing but row numbers."""
    events, _, instances = retail()
    keep = np.isin(events.user_id, instances.of("test").user_id) | (parts_of(events.users)[events.user_index] == 0)
    fewer = build_instances(events.select(keep)).of("test")
    test = instances.of("test")
    for name in ("user_id", "timestamp", "item", "popularity_item", "uniform_item"):
        np.testing.assert_array_equal(fewer.arrays[name], test.arrays[name])


def test_saved_instances_come_back_the_same(tmp_path: Path) -> None:
    events = synthetic.make()
    instances = build_instances(events)
    instances.save(tmp_path / "x" / "i.npz", source(events))
    back = Instances.load(tmp_path / "x" / "i.npz", source(events))
    assert back.sha256 == instances.sha256
    for name, array in instances.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)


def test_an_instances_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    path, events = tmp_path / "i.npz", synthetic.make()
    build_instances(events).save(path, source(events))
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["item"][0] += 1
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"was changed.* delete it, and it is made again"):
        Instances.load(path, source(events))


@pytest.mark.parametrize("what", ["text", "another archive", "nothing", "a half", "another byte"])
def test_a_file_that_holds_no_instances_is_named_with_the_fix(tmp_path: Path, what: str) -> None:
    events = synthetic.make()
    stored_instances(tmp_path, events)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    at = len(whole) // 2
    flipped = whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :]
    path.write_bytes({"text": b"nothing", "a half": whole[:at], "another byte": flipped}.get(what, b""))
    if what == "another archive":
        np.savez(path, mine=np.arange(3))
    with pytest.raises(DataError, match=rf"{path} holds no instances .* delete it, and it is made again"):
        stored_instances(tmp_path, events)


def test_stored_instances_are_made_once_for_each_data_set_fold_and_rule(tmp_path: Path) -> None:
    events = synthetic.make()
    made = stored_instances(tmp_path, events)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    assert stored_instances(tmp_path, events).sha256 == made.sha256
    assert path.stat().st_mtime_ns == stamp
    others = [
        stored_instances(tmp_path, synthetic.make(users=300)),
        stored_instances(tmp_path, events, 1),
        stored_instances(tmp_path, events, 2),
        stored_instances(tmp_path, events, rule=NegativeRule(exclude="history")),
    ]
    assert len({made.sha256, *(one.sha256 for one in others)}) == len(list(tmp_path.iterdir())) == 5


def test_items_below_the_cut_share_the_unknown_row() -> None:
    vocabulary = Vocabulary(
        items=np.array([3, 5, 9]),
        item_category=np.array([1, 1, 2]),
        item_events=np.array([10, 9, 8]),
        item_users=np.array([4, 1, 2]),
        categories=np.array([1, 2]),
        category_events=np.array([19, 8]),
        event_items=np.repeat([0, 1, 2], [10, 9, 8]),
    )
    ids = vocabulary.embedding_ids(2)
    assert ids.item_rows(np.array([3, 5, 9, 1, 99])).tolist() == [1, 0, 2, 0, 0]
    assert ids.category_rows(np.array([0, 1, 2, 3])).tolist() == [0, 1, 2, 0]
    assert vocabulary.popularity(np.array([5, 4])).tolist() == [9, 0]


def test_an_item_of_two_categories_is_refused() -> None:
    user, item, category, time, basket = (np.array(column) for column in ([1, 1], [5, 5], [1, 2], [0, 1], [1, 2]))
    events = Events(user, item, category, time, basket)
    with pytest.raises(DataError, match="item 5 has two categories"):
        build_vocabulary(events, np.array([True]))


def test_a_folds_candidates_are_known_to_its_own_train_users_and_its_targets_are_the_splits() -> None:
    """The split's test users are tested in the last fold as well: the same targets, other negatives."""
    events, _, instances = retail()
    train = parts_of(events.users, 4) == PARTS.index("train")
    vocabulary = build_vocabulary(events, train)
    fold = build_instances(events, fold=4)
    for sampling in SAMPLINGS:
        assert (vocabulary.item_places(fold.candidates(sampling, NEGATIVES).item) >= 0).all()
    in_train = set(events.users[train].tolist())
    assert not in_train & set(fold.of("test").user_id.tolist())
    assert set(fold.of("train").user_id.tolist()) <= in_train

    def targets(of: Instances) -> set[tuple[int, int, int]]:
        return set(zip(of.user_id.tolist(), of.timestamp.tolist(), of.item.tolist(), strict=True))

    here, there = targets(fold.of("test")), targets(instances.of("test"))
    assert len(there - here) <= fold.unknown[PARTS.index("test")]
    assert len(there & here) > 800
