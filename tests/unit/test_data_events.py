"""The common form of the data: what is sorted, what a history is, and what a reader refuses."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.data import online_retail
from mimn.data.events import COLUMNS, DataError, Events, file_sha256, read_events, sorted_rows_sha256
from mimn.data.split import PARTS, part_of, parts_of

ROOT = Path(__file__).parents[2]
ONLINE_RETAIL = ROOT / "models/data/online_retail"


def events_of(rows: list[tuple[int, int, int, int, int]]) -> Events:
    """Rows of (user, item, category, timestamp, basket)."""
    return Events(*np.array(rows, np.int64).T)


@st.composite
def some_events(draw: st.DrawFn) -> Events:
    """Users with baskets of one to four rows; a basket may be torn over two timestamps."""
    rows = []
    for user in range(1, draw(st.integers(1, 4)) + 1):
        time, basket = 0, 0
        for _ in range(draw(st.integers(1, 12))):
            time += draw(st.integers(0, 2))
            basket += draw(st.integers(0, 1))
            item = draw(st.integers(1, 9))
            rows.append((user, item, item % 3, time, 100 * user + basket))
    return events_of(rows)


@given(some_events())
def test_a_history_is_what_lies_strictly_before_the_first_timestamp_of_the_basket(events: Events) -> None:
    for row in range(len(events)):
        mine = events.user_id == events.user_id[row]
        begun = events.timestamp[mine & (events.basket_id == events.basket_id[row])].min()
        begin = events.bounds[events.user_index[row]]
        history = np.arange(begin, events.history_end[row])
        expected = np.flatnonzero(mine & (events.timestamp < begun))
        np.testing.assert_array_equal(history, expected)


@given(some_events())
def test_no_row_of_its_own_basket_or_timestamp_is_in_a_history(events: Events) -> None:
    for row in range(len(events)):
        history = slice(int(events.bounds[events.user_index[row]]), int(events.history_end[row]))
        assert not (events.basket_id[history] == events.basket_id[row]).any()
        assert not (events.timestamp[history] >= events.timestamp[row]).any()
        assert (events.user_id[history] == events.user_id[row]).all()


@given(some_events())
def test_bounds_cut_the_rows_by_user(events: Events) -> None:
    assert events.bounds[0] == 0
    assert events.bounds[-1] == len(events)
    for user, begin, end in zip(events.users, events.bounds[:-1], events.bounds[1:], strict=True):
        assert begin < end
        assert (events.user_id[begin:end] == user).all()


def test_unsorted_rows_are_refused_with_the_row() -> None:
    with pytest.raises(DataError, match="row 2 is out of order"):
        events_of([(1, 1, 1, 5, 1), (1, 1, 1, 7, 1), (1, 1, 1, 6, 1)])
    with pytest.raises(DataError, match="row 1 is out of order"):
        events_of([(2, 1, 1, 5, 1), (1, 1, 1, 7, 1)])


def test_the_committed_files_are_the_published_ones() -> None:
    assert file_sha256(ONLINE_RETAIL / "events.parquet") == online_retail.EVENTS_SHA256
    assert file_sha256(ONLINE_RETAIL / "items.parquet") == online_retail.ITEMS_SHA256
    events = online_retail.read(ONLINE_RETAIL)
    assert (len(events.users), len(events), len(np.unique(events.item_id))) == (4335, 396_370, 3659)


def test_the_readme_states_the_hashes_that_are_checked() -> None:
    text = (ONLINE_RETAIL / "README.md").read_text("utf-8")
    assert online_retail.EVENTS_SHA256 in text
    assert online_retail.ITEMS_SHA256 in text


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    data = bytearray((ONLINE_RETAIL / "events.parquet").read_bytes())
    data[1000] ^= 1
    (tmp_path / "events.parquet").write_bytes(data)
    with pytest.raises(DataError, match="sha256 differs"):
        online_retail.read(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        online_retail.read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["basket_id"]), "basket_id"),
        (lambda table: table.set_column(1, "item_id", pa.array([1.5, 2.5])), "item_id is double"),
        (lambda table: table.set_column(1, "item_id", pa.array([1, None])), "1 nulls"),
    ],
    ids=["a column missing", "a column not of integers", "a null"],
)
def test_a_file_of_another_form_is_refused_by_column(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    table = pa.table({name: pa.array([1, 1], pa.int64()) for name in COLUMNS})
    pq.write_table(table, tmp_path / "good.parquet")
    assert len(read_events(tmp_path / "good.parquet")) == 2
    pq.write_table(change(table), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=message):
        read_events(tmp_path / "bad.parquet")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("user_id,item_id\n")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_events(tmp_path / "x.parquet")


def test_the_row_hash_ignores_the_order_of_rows_and_nothing_else() -> None:
    table = pa.table({"a": [3, 1, 2], "b": ["x", None, "y"]})
    shuffled = table.take([2, 0, 1])
    assert sorted_rows_sha256(table) == sorted_rows_sha256(shuffled)
    assert sorted_rows_sha256(table) != sorted_rows_sha256(table.slice(0, 2))
    assert sorted_rows_sha256(table) != sorted_rows_sha256(pa.table({"a": [3, 1, 2], "b": ["y", None, "x"]}))


def test_a_user_is_in_the_part_that_the_hash_of_the_id_says() -> None:
    for user in range(12346, 12446):
        digit = int(hashlib.sha256(b"split-v1:" + str(user).encode()).hexdigest(), 16) % 10
        assert part_of(user) == ("train", "validation", "test")[max(0, digit - 7)]


def test_the_parts_of_online_retail_have_their_published_sizes() -> None:
    events = online_retail.read(ONLINE_RETAIL)
    sizes = np.bincount(parts_of(events.users), minlength=len(PARTS))
    assert sizes.tolist() == [3432, 466, 437]


def test_reading_splitting_and_drawing_instances_needs_no_torch() -> None:
    code = (
        "import sys, mimn.data.online_retail, mimn.data.split, mimn.data.instances, mimn.data.windows;"
        "sys.exit(any(name.split('.')[0] in ('torch', 'pandas', 'sklearn') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
