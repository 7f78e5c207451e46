"""The common form of the data: what is sorted, what a history is, and what a reader refuses."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.data import complete_journey, movielens, online_retail
from mimn.data.datasets import READERS, check_name, read_dataset
from mimn.data.events import (
    COLUMNS,
    DataError,
    Events,
    file_sha256,
    read_events,
    sorted_rows_sha256,
    write_tables,
)
from mimn.data.split import PARTS, part_of, parts_of

ROOT = Path(__file__).parents[2]
ONLINE_RETAIL = ROOT / "models/data/online_retail"


def column(table: pa.Table, name: str, values: object) -> pa.Table:
    """`table` with other values in one column."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return table.set_column(table.column_names.index(name), name, array)


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
        (
            lambda table: table.drop_columns(["basket_id"]),
            "no column basket_id: the columns must be user_id, item_id, category_id, timestamp, basket_id$",
        ),
        (lambda table: column(table, "item_id", [1.5, 2.5]), "item_id is double, not an integer: give each value an"),
        (lambda table: column(table, "item_id", [1, None]), "item_id has 1 nulls: fill them in or remove the rows"),
        (
            lambda table: column(table, "timestamp", [1_764_136_349_000, 1_764_136_349_001]),
            "timestamp has 1764136349000 in row 0: times are in seconds .*; divide milliseconds by 1,000",
        ),
        (
            lambda table: column(table, "timestamp", [5, 1_764_136_349_000_000]),
            "timestamp has 1764136349000000 in row 1: .* divide microseconds by 1,000,000",
        ),
        (
            lambda table: column(table, "timestamp", [5, 1_764_136_349_000_000_000]),
            "timestamp has 1764136349000000000 in row 1: .* divide nanoseconds by 1,000,000,000",
        ),
        (
            lambda table: column(table, "timestamp", pa.array([1, 2], pa.timestamp("ms"))),
            r"timestamp is timestamp\[ms\], not an integer: convert it to whole seconds since 1970-01-01",
        ),
        (lambda table: column(table, "timestamp", [-1, 5]), "timestamp has -1 in row 0, below 0: use seconds since"),
        (lambda table: column(table, "user_id", [-7, 1]), "user_id has -7 in row 0, below 0: number the ids"),
        (lambda table: column(table, "item_id", [1, -2]), "item_id has -2 in row 1, below 0: number the ids"),
        (lambda table: column(table, "category_id", [1, -2]), "category_id has -2 in row 1, below 0: number the ids"),
        (
            lambda table: column(table, "user_id", pa.array([1, 2**63], pa.uint64())),
            r"user_id has 9223372036854775808 in row 1: training reads ids up to 9223372036854775807 \(2\^63 - 1\)",
        ),
        (
            lambda table: table.append_column("label", pa.array([1, 0])),
            "column label would be ignored: every row counts as a positive. Keep only the rows that are behaviors",
        ),
        (lambda table: column(table, "timestamp", [7, 5]), "row 1 is out of order: sort events by user_id"),
    ],
    ids=[
        "a column missing",
        "a column not of integers",
        "a null",
        "milliseconds",
        "microseconds",
        "nanoseconds",
        "a time type",
        "a time before 1970",
        "a negative user",
        "a negative item",
        "a negative category",
        "a user above 2^63",
        "labels",
        "unsorted",
    ],
)
def test_a_file_of_another_form_is_refused_by_column(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    table = pa.table({name: pa.array([1, 1], pa.int64()) for name in COLUMNS})
    pq.write_table(table, tmp_path / "good.parquet")
    assert len(read_events(tmp_path / "good.parquet")) == 2
    pq.write_table(change(table), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=message) as refused:
        read_events(tmp_path / "bad.parquet")
    assert str(refused.value).startswith(f"{tmp_path / 'bad.parquet'}: ")
    assert "FieldRef" not in str(refused.value)


def test_other_columns_are_ignored(tmp_path: Path) -> None:
    table = pa.table({name: pa.array([1, 1], pa.int64()) for name in COLUMNS}).append_column(
        "quantity", pa.array([3, 4])
    )
    pq.write_table(table, tmp_path / "events.parquet")
    assert len(read_events(tmp_path / "events.parquet")) == 2


def test_the_largest_id_is_read_as_it_is(tmp_path: Path) -> None:
    table = pa.table({name: pa.array([1, 1], pa.int64()) for name in COLUMNS})
    pq.write_table(column(table, "item_id", pa.array([2**63 - 1] * 2, pa.uint64())), tmp_path / "events.parquet")
    assert read_events(tmp_path / "events.parquet").item_id.tolist() == [2**63 - 1] * 2


def test_a_preparation_never_overwrites_what_it_did_not_write(tmp_path: Path) -> None:
    ours = {"events": pa.table({"a": [1, 2]}), "items": pa.table({"b": [3]})}
    write_tables(tmp_path / "new", ours)
    stamp = (tmp_path / "new" / "events.parquet").stat().st_mtime_ns
    write_tables(tmp_path / "new", ours)
    assert (tmp_path / "new" / "events.parquet").stat().st_mtime_ns == stamp
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "items.parquet").write_bytes(b"my own")
    with pytest.raises(
        DataError, match=r"items\.parquet holds other data, which is not overwritten: name another folder"
    ):
        write_tables(tmp_path / "mine", ours)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["items.parquet"]
    assert (tmp_path / "mine" / "items.parquet").read_bytes() == b"my own"


@pytest.mark.parametrize("dataset", [complete_journey, movielens])
def test_data_of_the_users_own_under_a_known_name_is_not_to_be_deleted(tmp_path: Path, dataset: ModuleType) -> None:
    pq.write_table(pa.table({name: pa.array([1, 1], pa.int64()) for name in COLUMNS}), tmp_path / "events.parquet")
    with pytest.raises(
        DataError, match=r"prepare it in another folder and name that folder in data\.folder"
    ) as refused:
        dataset.read(tmp_path)
    assert "delete" not in str(refused.value)


def test_the_same_for_online_retail(tmp_path: Path) -> None:
    pq.write_table(pa.table({name: pa.array([1, 1], pa.int64()) for name in COLUMNS}), tmp_path / "events.parquet")
    with pytest.raises(DataError, match="restore that file, or name its folder") as refused:
        online_retail.read(tmp_path)
    assert "delete" not in str(refused.value)


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        DataError, match="no data set 'my_shop'; the data sets are online_retail, complete_journey, mov"
    ):
        check_name("my_shop")
    for name in READERS:
        check_name(name)
    with pytest.raises(DataError, match="no data set 'my_shop'"):
        read_dataset("my_shop", "anywhere")


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
