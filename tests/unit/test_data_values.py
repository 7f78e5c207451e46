"""A value has one text, whether training reads it from a file or serving from a request's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.bundle.fields import FieldEncoder, FieldSpec, code_of, text_of, values_of
from mimn.data.column_values import Meaning, Wanted, list_of_text
from mimn.data.description import Table
from mimn.data.events import DataError
from mimn.data.tables import TableReader

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")  # files with a NUL byte in a text are refused
TEXTS = st.text(CHARACTERS, max_size=6) | st.sampled_from(["a|b", "|", "1.0", "true", "None", "[]"])
WHOLE_FLOATS = st.integers(1 - 2**53, 2**53 - 1).map(float) | st.just(-0.0)
OF_TYPE = {
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): WHOLE_FLOATS,
    pa.float32(): st.integers(1 - 2**24, 2**24 - 1).map(float),
    pa.float16(): st.integers(1 - 2**11, 2**11 - 1).map(np.float16),
    pa.dictionary(pa.int32(), pa.float64()): WHOLE_FLOATS,
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.string_view(): TEXTS,
    pa.dictionary(pa.int32(), pa.int64()): st.integers(0, 5),
    pa.dictionary(pa.int32(), pa.string()): TEXTS,
}


def stored(folder: Path, column: pa.Array | list[str], meaning: Meaning) -> list[str | None]:
    """The texts that training stores of a column of Parquet, or of a CSV with one column."""
    if isinstance(column, list):
        name = "t.csv"
        (folder / name).write_text("f\n" + "".join(f"{text}\n" for text in column), "utf-8")
    else:
        name = "t.parquet"
        pq.write_table(pa.table({"f": column}), folder / name)
    reader = TableReader(Table(files=(name,)), folder, {"f": Wanted("f", meaning, "fields.context.f")}, "uint64")
    codes = [code for batch in reader.batches() for code in batch["f"].tolist()]
    return [reader.texts["f"].get(code) for code in codes]


def asked_for(values: list[Any]) -> list[Any]:
    """What a request's JSON says for values."""
    asked: list[Any] = json.loads(json.dumps(values, default=float))
    return asked


def columns() -> st.SearchStrategy[tuple[pa.DataType, list[Any]]]:
    return st.sampled_from(list(OF_TYPE)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.lists(st.none() | OF_TYPE[kind], min_size=1, max_size=8))
    )


@given(columns())
def test_training_stores_the_text_that_serving_makes_of_the_same_value_as_json(
    tmp_path_factory: pytest.TempPathFactory, column: tuple[pa.DataType, list[Any]]
) -> None:
    kind, values = column
    asked = asked_for(values)
    made = stored(tmp_path_factory.mktemp("values"), pa.array(values, kind), "value")
    assert made == [text_of(value) for value in asked]


@given(columns(), st.sampled_from([pa.list_, pa.large_list]))
def test_training_stores_the_list_that_serving_makes_of_the_same_list_as_json(
    tmp_path_factory: pytest.TempPathFactory, column: tuple[pa.DataType, list[Any]], of: Any
) -> None:
    kind, values = column
    lists = [values, values[:1], [], None]
    made = stored(tmp_path_factory.mktemp("lists"), pa.array(lists, of(kind)), "values")
    asked = asked_for(lists)
    assert [[] if text is None else list_of_text(text) for text in made] == [
        [text_of(value) for value in values_of(one)] for one in asked
    ]


@given(columns())
def test_a_column_of_single_values_is_a_list_of_what_serving_makes_of_each(
    tmp_path_factory: pytest.TempPathFactory, column: tuple[pa.DataType, list[Any]]
) -> None:
    kind, values = column
    made = stored(tmp_path_factory.mktemp("single"), pa.array(values, kind), "values")
    # A whole number as a request's one value has the text that a file has of it.
    asked = [values_of(text_of(value)) for value in asked_for(values)]
    assert [[] if text is None else list_of_text(text) for text in made] == asked


def test_a_value_with_a_separator_is_split_in_a_text_and_not_in_a_list(tmp_path: Path) -> None:
    (listed,) = stored(tmp_path, pa.array([["a|b", None, "", "c"]]), "values")
    assert list_of_text(listed or "") == ["a|b", "c"]
    (text,) = stored(tmp_path, pa.array(["a|b||c"]), "values")
    assert list_of_text(text or "") == ["a", "b", "c"]


def test_nan_in_a_column_or_list_of_floats_is_no_value(tmp_path: Path) -> None:
    nan = float("nan")
    assert stored(tmp_path, pa.array([1.0, nan, None, 2.0]), "value") == ["1", None, None, "2"]
    assert stored(tmp_path, pa.array([[1.0, nan], [nan]]), "values") == ['["1"]', "[]"]


@pytest.mark.parametrize(
    ("column", "meaning", "message"),
    [
        (pa.array([1.0, 1.5]), "value", r"holds '1.5' in row 2, so it holds fractions: make the field"),
        (pa.array([1.0, 1.5]).dictionary_encode(), "value", "holds '1.5' in row 2, so it holds fractions"),
        (pa.array([None, [], [1.0, 2.5]]), "values", "holds '2.5' in row 3, so it holds fractions"),
        (pa.array([[1.0], [float("inf")]]), "values", "holds 'inf' in row 2, not whole numbers"),
        (pa.array([1.0, float("inf")]), "value", "holds 'inf' in row 2, not whole numbers"),
        (pa.array([[b"a"], None, [b"a", b"\xff"]]).cast(pa.list_(pa.string()), safe=False), "values", "UTF-8 in row 3"),
        (pa.array([["a"]]), "value", r'holds lists: make the field `kind = "multi"`'),
        (pa.array([[[1]]]), "values", "not text, whole numbers or lists of them"),
        (pa.array([0], pa.date32()), "value", "is date32.day., not text, whole numbers"),
        (pa.array([b"a"]), "value", "is binary, not text"),
    ],
)
def test_a_column_whose_values_have_no_one_text_is_refused(
    tmp_path: Path, column: pa.Array, meaning: Meaning, message: str
) -> None:
    with pytest.raises(DataError, match=rf"t.parquet: column f \(`fields.context.f`\) .*{message}"):
        stored(tmp_path, column, meaning)


@pytest.mark.parametrize(("kind", "bits"), [(pa.float16(), 11), (pa.float32(), 24), (pa.float64(), 53)])
@pytest.mark.parametrize("ids", ["uint64", "string"])
def test_a_float_that_may_stand_for_another_whole_number_is_refused_by_the_width_of_its_type(
    tmp_path: Path, kind: pa.DataType, bits: int, ids: Any
) -> None:
    """Else 2^24 and 2^24 + 1 of float32 are one user, and one value that a request never says."""
    largest = 2**bits - 1
    held = np.array([largest, -largest, largest], kind.to_pandas_dtype())
    lost = np.array([1, 2**bits], kind.to_pandas_dtype())
    assert stored(tmp_path, pa.array(held), "value") == [str(largest), str(-largest), str(largest)]
    for negative in (lost, -lost):
        with pytest.raises(
            DataError, match=r"holds '-?[0-9.]+' in row 2, not whole numbers that a float holds exactly"
        ):
            stored(tmp_path, pa.array(negative), "value")
    for column, good in ((held, True), (lost, False)):
        pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
        reader = TableReader(Table(files=("x.parquet",)), tmp_path, {"x": Wanted("x", "id", "events.user")}, ids)
        if good:
            assert sum(len(batch["x"]) for batch in reader.batches()) == (2 if ids == "uint64" else 3)
        else:
            with pytest.raises(DataError, match="in row 2, not whole numbers that a float holds exactly"):
                list(reader.batches())


def test_whole_numbers_that_csv_writes_with_a_fraction_of_zero_are_whole_numbers(tmp_path: Path) -> None:
    """A table with gaps is written so by pandas: 21.0 beside nothing."""
    texts = stored(tmp_path, ["21.0", "NULL", "21", "021", "22.00", "21.5", "x", "9" * 5000], "value")
    encoder = FieldEncoder(FieldSpec(name="f", source="user", kind="categorical", rows=32, whole=True))
    codes = np.array([0 if text is None else code_of(text) for text in texts], np.uint64)
    trained = encoder.rows(codes, {code_of(text): text for text in texts if text is not None}).tolist()
    assert trained == [23, 1, 23, 23, 24, 0, 0, 0]
    assert [encoder.row(value) for value in (21, 21.0, "21.0", "21", None)] == [23, 23, 23, 23, 1]
