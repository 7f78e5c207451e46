"""The common form of the data: what is sorted, what a history is, and what a reader refuses."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.data.events import DataError, Events
from mimn.data.preparation import prepare
from mimn.data.split import PARTS, part_of, parts_of
from support import datasets

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


def test_unsorted_rows_are_refused_with_the_row() -> None:
    with pytest.raises(DataError, match="row 2 is out of order"):
        events_of([(1, 1, 1, 5, 1), (1, 1, 1, 7, 1), (1, 1, 1, 6, 1)])
    with pytest.raises(DataError, match="row 1 is out of order"):
        events_of([(2, 1, 1, 5, 1), (1, 1, 1, 7, 1)])


def test_the_committed_files_are_the_published_ones_and_the_readme_states_their_hashes() -> None:
    text = (ONLINE_RETAIL / "README.md").read_text("utf-8")
    for name in ("events.parquet", "items.parquet"):
        assert hashlib.sha256((ONLINE_RETAIL / name).read_bytes()).hexdigest() in text
    events = datasets.retail()
    assert (len(events.users), len(events), len(np.unique(events.item_id))) == (4335, 396_370, 3659)


def test_events_other_than_those_that_a_description_states_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    """A pinned description says what its figures were made from; without the pin, any events are welcome."""
    described = (datasets.DATASETS / "online-retail.toml").read_text("utf-8").replace("../data/online_retail/", "")
    table = pq.read_table(ONLINE_RETAIL / "events.parquet").slice(0, 5000)
    pq.write_table(table, tmp_path / "events.parquet")
    (tmp_path / "pinned.toml").write_text(described, "utf-8")
    with pytest.raises(
        DataError, match=r"pinned\.toml: these are not the events of `events\.sha256`.*without that line"
    ):
        prepare(tmp_path / "pinned.toml", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "own.toml").write_text(
        "\n".join(line for line in described.splitlines() if "sha256" not in line), "utf-8"
    )
    assert len(prepare(tmp_path / "own.toml", tmp_path / "cache").events) == 5000


def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path: Path) -> None:
    for name in ("complete-journey", "movielens-100k", "synthetic"):
        path = tmp_path / f"{name}.toml"
        path.write_text((datasets.DATASETS / f"{name}.toml").read_text("utf-8"), "utf-8")
        with pytest.raises(
            DataError, match=rf"nothing matches .*get it: .*python -m mimn\.data convert {name} --output"
        ):
            prepare(path, tmp_path / "cache")


def test_a_user_is_in_the_part_that_the_hash_of_the_id_says() -> None:
    for user in range(12346, 12446):
        digit = int(hashlib.sha256(b"split-v1:" + str(user).encode()).hexdigest(), 16) % 10
        assert part_of(user) == ("train", "validation", "test")[max(0, digit - 7)]


def test_the_parts_of_online_retail_have_their_published_sizes() -> None:
    events = datasets.retail()
    sizes = np.bincount(parts_of(events.users), minlength=len(PARTS))
    assert sizes.tolist() == [3432, 466, 437]


def test_reading_splitting_and_drawing_instances_needs_no_torch() -> None:
    code = (
        "import sys, mimn.data.preparation, mimn.data.split, mimn.data.instances, mimn.data.windows;"
        "sys.exit(any(name.split('.')[0] in ('torch', 'pandas', 'sklearn') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
