"""What a candidate stands for: its vector is made of its members', and the user's touches of them are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from mimn.bundle.members import MOST_CANDIDATES, MemberIndex, MemberIndexError, MemberReads, read_width
from mimn.bundle.reads import Reads
from mimn.data.events import DataError
from mimn.data.labelled import Labelled, label_parts
from mimn.data.member_reads import ImpressionReads, index_of
from mimn.data.members import Members, distinct_pairs
from mimn.data.preparation import prepare
from mimn.nn.fields import FieldTables, ItemMembers, ModelFields
from mimn.state.ledger import Ledger

pytestmark = pytest.mark.torch

DAY = 86_400
T = 1_600_000_000 // DAY * DAY
HALF_LIVES = (7, 30)

Events = list[tuple[int, int, int]]
"""User, item, day."""
events = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 30)), min_size=1, max_size=40)
pairs = st.lists(st.tuples(st.integers(101, 104), st.integers(1, 7)), max_size=12)
OFFERS = (101, 102, 103, 104, 5)
"""Candidates; 5 is an item of the events, too."""


def log(folder: Path, happened: Events, members: list[tuple[int, int]], extra: str = "") -> tuple[Labelled, Members]:
    columns = zip("uit", zip(*((u, i, T + d * DAY) for u, i, d in happened), strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), folder / "events.parquet")
    shown = [(u, c, T + d * DAY, (d + c) % 2) for u in (1, 2, 3, 9) for d in (1, 10, 11, 16, 17, 40) for c in OFFERS]
    names = zip("uity", zip(*shown, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in names}), folder / "shown.parquet")
    keys, items = ([p[k] for p in members] for k in (0, 1))
    pq.write_table(pa.table({"c": pa.array(keys, pa.int64()), "m": pa.array(items, pa.int64())}), folder / "m.parquet")
    (folder / "d.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "y"\n'
        f'window = "1h"\n[members]\nfiles = ["m.parquet"]\nkey = "c"\nitem = "m"\n{extra}'
        '[split]\nby = "time"\ntrain_until = 2020-09-23\nvalidate_until = 2020-09-28\n'
    )
    data = prepare(folder / "d.toml", folder / "cache")
    assert data.members is not None
    return label_parts(data), data.members


LEDGERS = (Ledger(64), Ledger(1, ways=2))
"""One that forgets nothing of these logs, and one that must."""


def reads_of(ledger: Ledger, members: Members | None) -> Reads:
    return Reads(ledger, members=MemberReads(ledger, index_of(ledger, members), HALF_LIVES))


def folded(ledger: Ledger, past: list[tuple[int, int]]) -> NDArray[np.uint32]:
    """The words of a user after events, item and second, one at a time."""
    state = np.zeros((1, ledger.words), np.float32)
    for item, second in past:
        ledger.add(state, ledger.keys(np.array([item], np.uint64)), np.array([second * 1000]))
    return ledger.of(state[0])


@pytest.mark.parametrize("ledger", LEDGERS, ids=["large", "evicting"])
@given(happened=events, members=pairs.filter(bool), length=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_the_reads_of_training_are_those_of_a_request_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    ledger: Ledger,
    happened: Events,
    members: list[tuple[int, int]],
    length: int,
) -> None:
    data, table = log(tmp_path_factory.mktemp("log"), happened, members)
    shown, reads = data.impressions, reads_of(ledger, table)
    trained = ImpressionReads(data, reads, length)
    some = np.random.default_rng(0).permutation(len(shown))
    got = np.empty((len(shown), reads.width), np.float32)
    for rows in np.array_split(some, 5):  # in any order and grouping
        got[rows] = trained.of(rows)
    ordered = sorted(happened, key=lambda event: (event[0], event[2]))  # stable, as preparation sorts
    for row in range(len(shown)):
        user, now = int(shown.user_id[row]), int(shown.time_ms[row])
        past = [(i, T + d * DAY) for u, i, d in ordered if u == user and (T + d * DAY) * 1000 < now][-length:]
        served = reads.read(folded(ledger, past), np.array([shown.item_id[row]], np.uint64), now)
        assert got[row].tobytes() == served[0].tobytes()


@given(happened=events, members=pairs, now=st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_reads_are_sums_over_the_members_that_a_user_touched(
    happened: Events, members: list[tuple[int, int]], now: int
) -> None:
    ledger, pairs_of = LEDGERS[0], sorted(set(members))
    keys, items = (np.array([pair[k] for pair in pairs_of], np.uint64) for k in (0, 1))
    reads = MemberReads(ledger, MemberIndex.of(ledger, keys, items), HALF_LIVES)
    past = sorted((d, i) for u, i, d in happened if u == 1)
    words = folded(ledger, [(i, T + d * DAY) for d, i in past])
    asked = [*OFFERS, 101, 999]  # one twice, one that stands for itself and was never touched
    got = reads.read(words, np.array(asked, np.uint64), (T + now * DAY) * 1000)
    for values, candidate in zip(got, asked, strict=True):
        of = {i for c, i in pairs_of if c == candidate} or {candidate}
        days = {item: {d for d, i in past if i == item} for item in of}
        touched = {item: (len(ds), max(now - max(ds), 0)) for item, ds in days.items() if ds}  # a day is a basket
        expected = [float(sum(n for n, _ in touched.values())), float(len(touched))]
        expected += [sum(n * 2 ** (-age / h) for n, age in touched.values()) for h in HALF_LIVES]
        np.testing.assert_allclose(values, np.log1p(expected), rtol=1e-6)


def test_reads_count_baskets_and_days(tmp_path: Path) -> None:
    happened = [(1, 1, 0), (1, 1, 0), (1, 1, 3), (1, 2, 5), (1, 3, 6), (1, 1, 20)]
    data, table = log(tmp_path, happened, [(101, 1), (101, 2), (101, 7), (102, 3)])
    shown = data.impressions
    row = np.flatnonzero((shown.user_id == 1) & (shown.item_id == 101) & (shown.time_ms == (T + 10 * DAY) * 1000))
    reads = ImpressionReads(data, reads_of(LEDGERS[0], table), 100)
    assert reads.of(row)[0].tolist() == pytest.approx(
        [
            np.log1p(3),
            np.log1p(2),
            np.log1p(2 * 2 ** (-7 / 7) + 2 ** (-5 / 7)),
            np.log1p(2 * 2 ** (-7 / 30) + 2 ** (-5 / 30)),
        ],
        rel=1e-6,
    )
    latest = ImpressionReads(data, reads_of(LEDGERS[0], table), 2)
    assert latest.of(row)[0, :2].tolist() == pytest.approx([np.log1p(1), np.log1p(1)])
    unknown = np.flatnonzero(shown.user_id == 9)
    assert not reads.of(unknown).any()
    assert reads.of(row).shape[-1] == read_width(HALF_LIVES)


def test_without_members_a_candidate_is_read_by_itself(tmp_path: Path) -> None:
    data, _ = log(tmp_path, [(1, 5, 0), (1, 5, 3)], [(101, 1)])
    shown = data.impressions
    row = np.flatnonzero((shown.user_id == 1) & (shown.time_ms == (T + 10 * DAY) * 1000))
    reads = ImpressionReads(data, reads_of(LEDGERS[0], None), 100).of(row)
    assert (reads[:, 0] > 0).tolist() == (shown.item_id[row] == 5).tolist()


def test_two_items_with_one_key_are_one_member() -> None:
    ledger, ids = Ledger(1), np.arange(1, 5000, dtype=np.uint64)
    tags = ledger.keys(ids).tags
    pairs_alike = [np.flatnonzero(tags == tag) for tag in np.unique(tags)[np.unique(tags, return_counts=True)[1] > 1]]
    one, other = (ids[pairs_alike[0][k]] for k in (0, 1))
    index = MemberIndex.of(ledger, np.array([7, 7], np.uint64), np.array([one, other], np.uint64))
    reads = MemberReads(ledger, index, HALF_LIVES)
    words = folded(ledger, [(int(one), T)])
    assert reads.read(words, np.array([7], np.uint64), T * 1000)[0, 1] == pytest.approx(np.log1p(1))


def test_an_item_of_too_many_candidates_is_refused() -> None:
    candidates = np.arange(MOST_CANDIDATES + 1, dtype=np.uint64)
    with pytest.raises(MemberIndexError, match="belongs to 1025 candidates, at most 1024"):
        MemberIndex.of(LEDGERS[0], candidates, np.ones_like(candidates))
    of_all = Members(candidates.astype(np.int64), np.ones(len(candidates), np.int64))
    with pytest.raises(DataError, match=r"`\[members\]`.*at most 1024"):
        index_of(LEDGERS[0], of_all)


def test_a_damaged_index_is_refused_by_name(tmp_path: Path) -> None:
    pairs_of = np.array([3, 3, 4, 9], np.uint64), np.array([1, 2, 2, 5], np.uint64)
    index, ledger = MemberIndex.of(LEDGERS[0], *pairs_of), LEDGERS[0]
    index.save(tmp_path)
    again = MemberIndex.load(tmp_path, ledger)
    assert all(np.array_equal(value, getattr(again, name)) for name, value in vars(index).items())
    broken: dict[str, dict[str, Any]] = {
        "members.ids.npy is float64": {"ids": index.ids.astype(np.float64)},
        "members.ids.npy must rise": {"ids": index.ids[::-1]},
        "each candidate needs a member": {"ids": np.arange(9, dtype=np.uint64)},
        "members.keys.npy must rise": {"keys": index.keys[::-1]},
        "by the ledger's buckets": {"keys": index.keys + (64 << 20)},
        "members.first.npy must rise from 0 to 4": {"first": index.first + 1},
        "a step for each": {"first": np.array([0, 2, 2, 4])},
        "places in members.ids.npy": {"candidates": index.candidates + np.int32(1)},
        "rising for each key": {"candidates": np.array([0, 0, 0, 0], np.int32)},
    }
    for message, change in broken.items():
        with pytest.raises(MemberIndexError, match=message):
            replace(index, **change).check(ledger)
    (tmp_path / "members.keys.npy").write_bytes(b"x")
    with pytest.raises(MemberIndexError, match=r"members\.keys\.npy is not a plain array"):
        MemberIndex.load(tmp_path, ledger)


def test_the_vector_of_a_candidate_is_its_own_plus_the_mean_of_its_members() -> None:
    first, rows = torch.tensor([0, 0, 0, 0, 2, 3]), torch.tensor([1, 2, 1])
    none = FieldTables((), 2, first_order=False)
    fields = ModelFields(none, none, None, torch.tensor([0, 1, 2, 0, 4]), ItemMembers(first, rows))
    table = nn.Embedding(5, 2)
    vectors = fields.item_embeddings(table, torch.tensor([[3, 1], [4, 3]]))
    w = table.weight
    assert torch.allclose(vectors[0, 0], w[0] + (w[1] + w[2]) / 2)
    assert torch.equal(vectors[0, 1], w[1])
    assert torch.allclose(vectors[1, 0], w[4] + w[1])
    assert torch.allclose(vectors[1, 1], vectors[0, 0])
    (gradient,) = torch.autograd.grad(vectors.sum(), table.weight)
    assert gradient[1].tolist() == pytest.approx([0.5 + 1 + 1 + 0.5] * 2)


def test_pairs_are_kept_once_and_found_by_candidate() -> None:
    key, item = distinct_pairs(np.array([7, 5, 7, 7]), np.array([2, 9, 1, 2]))
    members = Members(key, item)
    assert list(zip(key.tolist(), item.tolist(), strict=True)) == [(5, 9), (7, 1), (7, 2)]
    place, found = members.of(np.array([7, 6, 5]))
    assert sorted(zip(place.tolist(), found.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 6), (2, 9)]


def test_members_without_impressions_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": [1], "i": [1], "t": [T]}), tmp_path / "events.parquet")
    (tmp_path / "d.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
        '[members]\nfiles = ["m.parquet"]\nkey = "c"\nitem = "m"\n'
    )
    with pytest.raises(DataError, match=r"needs a table `\[impressions\]`"):
        prepare(tmp_path / "d.toml", tmp_path / "cache")
