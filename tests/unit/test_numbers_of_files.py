"""A number that training showed is read alike from a file and from a request that says it, whatever the column's type.

A request says a number as its shortest decimal text, which JSON makes the nearest float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimn.bundle.fields import FIRST, FieldEncoder, FieldSpec, Transform
from mimn.bundle.request_fields import FLOAT32_MAX, RequestFields
from mimn.data.column_values import Wanted
from mimn.data.description import Table
from mimn.data.number_bounds import usual_bounds
from mimn.data.number_intervals import interval_edges
from mimn.data.tables import TableReader


def column_of(numbers: Iterable[Any], kind: pa.DataType) -> tuple[pa.Array, list[str]]:
    """A column, and what a request says for each of its numbers. Decimals are given as whole numbers of their unit."""
    if pa.types.is_decimal(kind):
        numbers = [Decimal(number).scaleb(-kind.scale, Context(prec=80)) for number in numbers]
    column = pa.array(numbers, kind)
    short = {pa.float16(): np.float16, pa.float32(): np.float32}.get(kind)
    values = column.to_pylist() if short is None else map(short, column.to_pylist())
    return column, [str(number) for number in values]


CENTS = st.integers(-500, 500).map(lambda cents: cents / 100)
NUMBERS = (
    (st.integers(-9_999, 9_999), pa.decimal128(10, 2)),
    (st.integers(1 - 10**9, 10**9 - 1), pa.decimal32(9, 2)),
    (st.integers(1 - 10**18, 10**18 - 1), pa.decimal64(18, 4)),
    (st.integers(1 - 10**38, 10**38 - 1), pa.decimal128(38, 9)),
    (st.integers(1 - 10**38, 10**38 - 1), pa.decimal128(38, 38)),
    (st.integers(1 - 10**60, 10**60 - 1), pa.decimal256(76, 20)),
    (st.floats(allow_nan=False, allow_infinity=False, width=32), pa.float32()),
    (CENTS, pa.float32()),
    (CENTS.map(np.float16), pa.float16()),
    (st.floats(-1e308, 1e308), pa.float64()),
    (CENTS, pa.float64()),
    (st.integers(0, 2**31 - 1), pa.int32()),
    (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    (st.integers(0, 2**64 - 1), pa.uint64()),
)
COLUMNS = st.sampled_from(NUMBERS).flatmap(
    lambda of: st.lists(of[0], min_size=1, max_size=30).map(lambda numbers: column_of(numbers, of[1]))
)


def read(folder: Path, *columns: pa.Array) -> np.ndarray:
    """The numbers of files with one column each."""
    for at, column in enumerate(columns):
        pq.write_table(pa.table({"x": column}), folder / f"{at}.parquet")
    names = tuple(f"{at}.parquet" for at in range(len(columns)))
    reader = TableReader(Table(files=names), folder, {"x": Wanted("x", "number", "fields.context.x")}, "uint64")
    return np.concatenate([batch["x"] for batch in reader.batches()])


def fitted(x: np.ndarray, transform: Transform, buckets: int) -> tuple[FieldSpec, FieldSpec]:
    """Specs of the column with intervals and with bounds, as training makes them."""
    blank = FieldSpec(name="x", source="context", kind="numeric", transform=transform)
    shown = FieldEncoder(blank).transformed(x)
    ones = np.ones(len(x), np.int64)
    edges = interval_edges(shown, ones, buckets)
    divided = FieldSpec(
        name="x",
        source="context",
        kind="numeric",
        transform=transform,
        rows=len(edges) + 1 + FIRST,
        edges=tuple(edges.tolist()),
    )
    bounds = usual_bounds(shown, ones)
    scaled = FieldSpec(
        name="x", source="context", kind="numeric", transform=transform, bounds=bounds, mean=shown[0] / 2, deviation=3.0
    )
    return divided, scaled


def served(spec: FieldSpec, text: str) -> tuple[float, list[str]]:
    """What a request reads, its row or its number, and whether the number is beyond the bounds."""
    rows = np.arange(spec.rows, dtype=np.float32).reshape(-1, 1)
    made = RequestFields([spec], {}, rows).vector({}, json.loads(f'{{"x": {text}}}'))
    return float(made.values[0]), made.beyond


def is_within(spec: FieldSpec, x: np.ndarray) -> np.ndarray:
    """Whether numbers are within the bounds."""
    assert spec.bounds is not None
    shown = FieldEncoder(spec).transformed(x)
    return (shown >= spec.bounds[0]) & (shown <= spec.bounds[1])


@given(COLUMNS, st.sampled_from(("none", "log1p")), st.integers(2, 9))
@example(column_of(np.array([0.1, 1.3], np.float16), pa.float16()), "none", 2)
def test_a_request_reads_what_training_read_of_the_same_number(
    tmp_path_factory: pytest.TempPathFactory,
    column: tuple[pa.Array, list[str]],
    transform: Transform,
    buckets: int,
) -> None:
    x = read(tmp_path_factory.mktemp("numbers"), column[0])
    assert x.tolist() == [float(text) for text in column[1]]
    divided, scaled = fitted(x, transform, buckets)
    rows, numbers = FieldEncoder(divided).intervals(x), FieldEncoder(scaled).numbers(x)
    within = is_within(scaled, x)
    for at, text in enumerate(column[1]):
        assert served(divided, text) == (rows[at], [])
        if abs(numbers[at]) <= FLOAT32_MAX:
            number, beyond = served(scaled, text)
            assert number == np.float32(numbers[at])
            assert not (within[at] and beyond)


@given(st.lists(st.integers(1, 499), min_size=1, max_size=40), st.sampled_from(("none", "log1p")), st.integers(2, 9))
def test_a_number_that_the_caller_or_another_file_has_as_another_type_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, cents: list[int], transform: Transform, buckets: int
) -> None:
    """Decimals, float32 and float64 side by side, and one whose last bit another program changed."""
    decimals = column_of(cents, pa.decimal128(10, 2))[0]
    prices = np.array(cents) / 100
    columns = [
        decimals,
        pa.array(prices.astype(np.float32)),
        pa.array(prices),
        decimals.cast(pa.float64()),
        pa.array(np.nextafter(prices, np.inf)),
    ]
    x = read(tmp_path_factory.mktemp("types"), *columns)
    divided, scaled = fitted(x, transform, buckets)
    rows = FieldEncoder(divided).intervals(x).reshape(len(columns), -1)
    assert (rows == rows[0]).all()
    within = is_within(scaled, prices)
    for at, price in enumerate(prices.tolist()):
        widened = repr(float(np.float32(price)))
        for text in (repr(price), widened, repr(price * (1 + 2**-50))):
            assert served(divided, text)[0] == rows[0][at]
            assert not (within[at] and served(scaled, text)[1])
