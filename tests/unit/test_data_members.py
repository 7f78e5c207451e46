"""What a candidate stands for: its vector is made of its members', and the user's touches of them are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mimn.bundle.members import MemberIndex, Touched, read_width
from mimn.data.events import DataError
from mimn.data.labelled import Labelled, label_parts
from mimn.data.member_reads import MemberReads
from mimn.data.members import Members, distinct_pairs
from mimn.data.prepared import prepare
from mimn.nn.fields import FieldTables, ItemMembers, ModelFields

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


@given(events, pairs.filter(bool), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_the_reads_of_training_are_those_of_a_request(
    tmp_path_factory: pytest.TempPathFactory, happened: Events, members: list[tuple[int, int]], length: int
) -> None:
    data, table = log(tmp_path_factory.mktemp("log"), happened, members)
    shown = data.impressions
    got = MemberReads(data, table, HALF_LIVES).of(np.arange(len(shown)), length)
    place, item = table.of(np.array(OFFERS))
    index = MemberIndex(len(OFFERS), place, item.astype(np.uint64))
    ordered = sorted(happened, key=lambda event: (event[0], event[2]))  # stable, as preparation sorts
    for row in range(len(shown)):
        user, now = int(shown.user_id[row]), int(shown.time_ms[row])
        past = [(i, T + d * DAY) for u, i, d in ordered if u == user and (T + d * DAY) * 1000 < now][-length:]
        items = sorted({i for i, _ in past})
        touched = Touched(
            np.array(items, np.uint64),
            np.array([sum(i == j for j, _ in past) for i in items], np.int64),
            np.array([max(t for j, t in past if i == j) * 1000 for i in items], np.int64),
        )
        candidate = np.array([OFFERS.index(int(shown.item_id[row]))])
        expected = index.read(touched, candidate, now, HALF_LIVES)[0]
        assert np.allclose(got[row], expected, rtol=1e-6, atol=1e-7)


def test_reads_count_what_is_said(tmp_path: Path) -> None:
    happened = [(1, 1, 0), (1, 1, 3), (1, 2, 5), (1, 3, 6), (1, 1, 20)]
    data, table = log(tmp_path, happened, [(101, 1), (101, 2), (101, 7), (102, 3)])
    reads = MemberReads(data, table, HALF_LIVES)
    shown = data.impressions
    row = np.flatnonzero((shown.user_id == 1) & (shown.item_id == 101) & (shown.time_ms == (T + 10 * DAY) * 1000))
    assert reads.of(row, 100)[0].tolist() == pytest.approx(
        [
            np.log1p(3),
            np.log1p(2),
            np.log1p(2 * 2 ** (-7 / 7) + 2 ** (-5 / 7)),
            np.log1p(2 * 2 ** (-7 / 30) + 2 ** (-5 / 30)),
        ],
        rel=1e-6,
    )
    assert reads.of(row, 2)[0, :2].tolist() == pytest.approx([np.log1p(1), np.log1p(1)])
    nobody = np.flatnonzero(shown.user_id == 9)
    assert not reads.of(nobody, 100).any()
    assert reads.of(row, 100).shape[-1] == read_width(HALF_LIVES)


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
