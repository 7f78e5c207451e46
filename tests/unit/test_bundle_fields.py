"""A value of a field means the same in a training column and in a request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from mimn.bundle.fields import (
    FIRST,
    MISSING,
    UNKNOWN,
    FieldEncoder,
    FieldSpec,
    check_fields,
    code_of,
    crossed_row,
    crossed_rows,
    whole_of,
)
from mimn.bundle.request_fields import FieldFaults, RequestFields
from mimn.data.ids import string_ids

E = 3
VALUES = ("a", "b", "7")
CODES = np.sort(np.array([code_of(value) for value in VALUES], np.uint64))


def spec(name: str, **changes: object) -> FieldSpec:
    return FieldSpec(**({"name": name, "source": "context", "kind": "categorical"} | changes))  # type: ignore[arg-type]


LISTED = spec("listed", rows=len(VALUES) + FIRST)
HASHED = spec("hashed", rows=11 + FIRST, hashed=True)
WHOLE = spec("hour", rows=24 + FIRST, whole=True)
NUMBER = spec("price", kind="numeric", transform="log1p", mean=1.0, deviation=2.0)
BOUNDED = spec("bid", kind="numeric", transform="log1p", mean=1.0, deviation=2.0, bounds=(-1.0, 3.0))
STEPS = spec("steps", kind="numeric", rows=3 + FIRST, edges=(0.0, 10.0))
TAGS = spec("tags", kind="multi", rows=len(VALUES) + FIRST, source="user")
CROSS = spec("both", kind="cross", rows=50 + FIRST, hashed=True, of=("listed", "hour"))
POSITION = spec("position", rows=9 + FIRST, whole=True, training_only=True)
SPECS = (LISTED, HASHED, WHOLE, NUMBER, STEPS, TAGS, CROSS, POSITION)


ENDS = np.cumsum([s.rows for s in SPECS])
VECTORS = np.random.default_rng(0).normal(size=(int(ENDS[-1]), E)).astype(np.float32)
TABLES = {s.name: VECTORS[end - s.rows : end] for s, end in zip(SPECS, ENDS.tolist(), strict=True)}


def fields() -> RequestFields:
    return RequestFields(SPECS, {s.name: CODES for s in SPECS if s.listed}, VECTORS)


def parts(vector: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([s.width(E) for s in SPECS])
    return {s.name: vector[end - s.width(E) : end] for s, end in zip(SPECS, ends.tolist(), strict=True)}


@given(st.lists(st.one_of(st.none(), st.sampled_from(VALUES), st.integers(0, 30).map(str), st.text(max_size=4))))
def test_a_column_and_single_values_have_the_same_rows(texts: list[str | None]) -> None:
    codes = np.array([0 if text is None else code_of(text) for text in texts], np.uint64)
    of = {code_of(text): text for text in texts if text is not None}
    for each in (LISTED, HASHED, WHOLE):
        encoder = FieldEncoder(each, CODES if each.listed else None)
        rows = encoder.rows(codes, of)
        assert rows.tolist() == [encoder.row(text) for text in texts]
        assert all(0 <= row < each.rows for row in rows.tolist())


def test_unknown_and_missing_values_have_rows_of_their_own_and_are_counted() -> None:
    made = fields().vector({}, {"listed": "never seen"})
    vector = parts(made.values)
    assert np.array_equal(vector["listed"], TABLES["listed"][UNKNOWN])
    assert np.array_equal(vector["hour"], TABLES["hour"][MISSING])
    assert vector["price"][0] == 0.0
    assert made.unknown == ["listed"]
    assert made.missing == ["hashed", "hour", "price", "steps", "tags"]


def test_a_request_takes_numbers_strings_and_lists() -> None:
    made = fields().vector({"tags": ["a", "b"]}, {"listed": 7, "hour": 23, "price": np.e - 1, "steps": 10.0})
    vector = parts(made.values)
    rows = FieldEncoder(LISTED, CODES)
    assert np.array_equal(vector["listed"], TABLES["listed"][rows.row("7")])
    assert np.array_equal(vector["hour"], TABLES["hour"][25])
    assert vector["price"][0] == pytest.approx(0.0, abs=1e-6)
    assert np.array_equal(vector["steps"], TABLES["steps"][FIRST + 2])
    both = [TABLES["tags"][rows.row(tag)] for tag in ("a", "b")]
    assert vector["tags"] == pytest.approx(np.mean(both, 0))
    cross = crossed_rows([np.array([rows.row("7")]), np.array([25])], 50)
    assert np.array_equal(vector["both"], TABLES["both"][cross[0]])


def test_a_text_is_split_at_its_separators_and_a_value_of_a_list_is_not() -> None:
    def tags(value: object) -> list[float]:
        made: list[float] = parts(fields().vector({"tags": value}, {}).values)["tags"].tolist()
        return made

    assert tags("a|b") == tags("a||b|") == tags(["a", "", "b"]) == tags(["a", "b"])
    assert fields().vector({"tags": ["a|b"]}, {}).unknown == ["tags"]
    assert tags("") == tags([]) == tags(None)


def test_a_training_only_field_is_missing_when_served() -> None:
    made = fields()
    assert np.array_equal(parts(made.vector({}, {}).values)["position"], TABLES["position"][MISSING])
    with pytest.raises(FieldFaults, match=r"context.position: .* hashed, hour"):
        made.vector({}, {"position": 1})


@pytest.mark.parametrize(
    ("user", "context", "message"),
    [
        ({"age": 3}, {}, "user.age: .* tags"),
        ({"hour": 3}, {}, "user.hour: .* `context`"),
        ({}, {"both": "a"}, "context.both: not a field"),
        ({}, {"hour": 1.5}, "context.hour: .* whole number"),
        ({}, {"price": "1"}, "context.price: .* number"),
        ({}, {"price": True}, "context.price: .* number"),
        ({}, {"price": 10**400}, "context.price: .* within"),
        ({}, {"listed": float("inf")}, "context.listed: .* whole number"),
        ({"tags": ["a", None]}, {}, "user.tags: .* null"),
        ({"tags": [["a"]]}, {}, "user.tags: .* whole number"),
        ({"tags": "|".join("a" * 65)}, {}, "user.tags: .* 64 values, not 65"),
    ],
)
def test_what_a_field_cannot_take_is_refused_by_name(
    user: dict[str, object], context: dict[str, object], message: str
) -> None:
    with pytest.raises(FieldFaults, match=message):
        fields().vector(user, context)


LONG = "https://example.org/?q=" + "w" * 300


@pytest.mark.parametrize(
    "changed", [{"rows": 1 + FIRST}, {"rows": 11 + FIRST, "hashed": True}], ids=["listed", "hashed"]
)
@pytest.mark.parametrize("text", [LONG, LONG + LONG], ids=["seen", "another one"])
def test_a_long_text_is_one_value_to_training_and_to_a_request(changed: dict[str, int], text: str) -> None:
    one, several = spec("ref", **changed), spec("refs", kind="multi", **changed)
    codes = np.array([code_of(LONG)], np.uint64)
    row = int(FieldEncoder(one, codes).rows(np.array([code_of(text)], np.uint64), {})[0])
    assert (row == UNKNOWN) == (text != LONG and not one.hashed)
    tables = np.eye(2 * one.rows, dtype=np.float32)
    read = RequestFields([one, several], {"ref": codes, "refs": codes} if one.listed else {}, tables)
    for values in ([text], f"{text}|{text}"):
        vector = read.vector({}, {"ref": text, "refs": values}).values.reshape(2, -1)
        assert vector.argmax(1).tolist() == [row, one.rows + row]


@pytest.mark.parametrize("zeros", [1, 30, 5000])
@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("7.000", 7), (".0", 0), ("9" * 20, 10**20 - 1), ("9" * 21, None), (".", None)],
)
def test_zeros_in_front_of_a_whole_number_change_nothing(text: str, number: int | None, zeros: int) -> None:
    assert whole_of("0" * zeros + text) == number


def test_all_faults_of_a_request_are_named() -> None:
    with pytest.raises(FieldFaults) as refused:
        fields().vector({"x": 1}, {"price": "1", "hour": 1.5})
    assert [name for name, _ in refused.value.faults] == ["user.x", "context.hour", "context.price"]


def test_a_number_that_float32_cannot_hold_is_refused() -> None:
    plain = RequestFields([spec("n", kind="numeric", deviation=1e-30)], {}, np.empty((0, 1), np.float32))
    assert plain.vector({}, {"n": 1.0}).values == pytest.approx(1e30)
    with pytest.raises(FieldFaults, match=r"context.n: must lie within .3.403e\+38"):
        plain.vector({}, {"n": 1e10})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (spec("a", rows=2), "a table has 3 to"),
        (spec("listed", rows=5), "two fields of this name"),
        (spec("a", kind="numeric", rows=4, edges=(2.0, 1.0)), "`edges`"),
        (spec("a", kind="numeric", rows=3, edges=(1.0,)), "a row for each interval"),
        (spec("a", kind="numeric", deviation=0.0), "`deviation`"),
        (spec("a", kind="numeric", bounds=(0.0, np.inf)), "`bounds`"),
        (spec("a", rows=9, bounds=(0.0, 1.0)), "numbers without intervals"),
        (spec("a"), "others have a table"),
        (spec("a", rows=9, hashed=True, whole=True), "`hashed`, `whole` or of intervals"),
        (spec("a", kind="cross", rows=9, hashed=True), "names its parts in `of`"),
        (spec("a", kind="cross", rows=9, of=("listed", "hour")), "a cross is `hashed`"),
        (spec("a", kind="cross", rows=9, hashed=True, of=("listed", "later")), "fields that stand before it"),
        (spec("a", kind="cross", rows=9, hashed=True, of=("listed", "tags")), "fields with one row each"),
        (spec("a", kind="cross", rows=9, hashed=True, of=("listed", "hour"), source="item"), "mixes item and request"),
        (spec("x" * 101, rows=9), "1 to 100 characters"),
        (spec("a", rows=9, examples=("x" * 257,)), "at most 8 `examples`"),
    ],
)
def test_a_field_that_cannot_be_encoded_is_refused(changed: FieldSpec, message: str) -> None:
    check_fields(SPECS)
    with pytest.raises(ValueError, match=message):
        check_fields((*SPECS, changed))


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_has_a_finite_encoding(value: float) -> None:
    number, steps, column = FieldEncoder(NUMBER), FieldEncoder(STEPS), np.array([value])
    assert np.isfinite(number.numbers(column)[0])
    assert number.number(value) == pytest.approx(number.numbers(column)[0], rel=1e-12)
    assert MISSING <= steps.intervals(column)[0] < STEPS.rows
    assert steps.interval(value) == steps.intervals(column)[0]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.sampled_from(("none", "log1p", "log")),
    st.one_of(st.none(), st.tuples(st.floats(-9, 9), st.floats(0, 9)).map(lambda b: (b[0], b[0] + b[1]))),
)
def test_training_and_serving_read_the_same_number_within_the_bounds(
    values: list[float], transform: str, bounds: tuple[float, float] | None
) -> None:
    """To the last bit, wherever in a column the number stands."""
    encoder = FieldEncoder(spec("n", kind="numeric", transform=transform, mean=0.5, deviation=2.0, bounds=bounds))
    served = [encoder.number(value) for value in values]
    assert served == encoder.numbers(np.array(values)).tolist()
    if bounds is not None:
        assert all((bounds[0] - 0.5) / 2.0 <= number <= (bounds[1] - 0.5) / 2.0 for number in served)


@pytest.mark.parametrize("transform", ["none", "log1p"])
def test_a_bound_that_float32_has_rounded_is_not_beyond(transform: str) -> None:
    plain = FieldEncoder(spec("n", kind="numeric", transform=transform))
    high = float(plain.transformed(np.array([4.4]))[0])
    encoder = FieldEncoder(spec("n", kind="numeric", transform=transform, bounds=(-high, high)))
    rounded = float(np.float32(4.4))
    assert rounded > 4.4
    assert encoder.number_within(rounded) == encoder.number_within(4.4) == (high, True)
    assert encoder.number_within(-rounded) == (-high, True)
    assert encoder.number_within(4.40001) == (high, False)


def test_a_huge_number_is_read_as_the_bound_and_counted_and_without_bounds_it_is_not_clipped() -> None:
    def read(field: FieldSpec, value: object) -> tuple[float, list[str]]:
        made = RequestFields([field], {}, np.empty((0, 1), np.float32)).vector({}, {field.name: value})
        return float(made.values[0]), made.beyond

    assert read(BOUNDED, 1e300) == (1.0, ["bid"])
    assert read(BOUNDED, -1e300) == (-1.0, ["bid"])
    usual, beyond = read(BOUNDED, np.e - 1)
    assert usual == pytest.approx(0.0, abs=1e-6)
    assert beyond == []
    assert read(BOUNDED, None) == (0.0, [])
    unbounded, beyond = read(NUMBER, 1e300)
    assert unbounded == pytest.approx((np.log1p(1e300) - 1.0) / 2.0)
    assert beyond == []


RATE = spec("rate", kind="numeric", transform="log", mean=-4.0, deviation=0.5, bounds=(-5.0, -3.0), past_rate=True)


@pytest.mark.parametrize("none", [0, 0.0, -0.0, 1e-300], ids=str)
def test_a_past_rate_of_0_is_read_as_the_lowest_of_training_and_counted(none: float) -> None:
    """As a caller sends it whose counter adds no prior: it has no logarithm, and is not the mean."""
    made = RequestFields([RATE], {}, np.empty((0, 1), np.float32)).vector({}, {"rate": none})
    assert made.values.tolist() == [-2.0]
    assert (made.missing, made.beyond) == ([], ["rate"])
    assert FieldEncoder(RATE).numbers(np.array([none, np.nan])).tolist() == [-2.0, 0.0]


def test_a_past_rate_of_0_without_bounds_keeps_its_reading_and_is_counted() -> None:
    older = RequestFields([structs.replace(RATE, bounds=None)], {}, np.empty((0, 1), np.float32))
    made = older.vector({}, {"rate": 0.0})
    assert (made.values.tolist(), made.beyond) == ([0.0], ["rate"])


@pytest.mark.parametrize("wrong", [-1e-9, 1.0000001, 100])
def test_a_number_that_is_no_share_is_refused_as_a_past_rate(wrong: float) -> None:
    read = RequestFields([RATE], {}, np.empty((0, 1), np.float32))
    with pytest.raises(FieldFaults, match=r"^context.rate: .* 0 and 1"):
        read.vector({}, {"rate": wrong})
    assert read.golden_vector({}, {"rate": wrong}).beyond == ["rate"]
    for right in (0.5, 1, 1.0, None):
        read.vector({}, {"rate": right})


def test_a_number_without_a_logarithm_falls_into_the_first_interval() -> None:
    encoder = FieldEncoder(spec("n", kind="numeric", transform="log", rows=3 + FIRST, edges=(0.0, 1.0)))
    numbers = [0.0, -2.0, 1e-9, 2.0, np.nan]
    rows = [FIRST, FIRST, FIRST, FIRST + 1, MISSING]
    assert [encoder.interval(number) for number in numbers] == encoder.intervals(np.array(numbers)).tolist() == rows


def test_infinite_numbers_are_missing_within_bounds_too() -> None:
    encoder = FieldEncoder(BOUNDED)
    assert encoder.numbers(np.array([np.inf, -np.inf, np.nan])).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20)), min_size=1), st.integers(1, 1000))
def test_crosses_stay_in_their_table_and_depend_on_order(pairs: list[tuple[int, int]], buckets: int) -> None:
    a, b = np.array(pairs, np.int64).T
    rows = crossed_rows([a, b], buckets)
    assert rows.tolist() == [crossed_row(pair, buckets) for pair in pairs]
    assert rows.min() >= FIRST
    assert rows.max() < FIRST + buckets
    one, two = np.array([1]), np.array([2])
    assert crossed_rows([one, two], 1 << 30) != crossed_rows([two, one], 1 << 30)


def test_codes_of_fields_and_ids_of_strings_are_one_rule() -> None:
    assert string_ids(("", "a", "æ")).tolist() == [code_of(text) for text in ("", "a", "æ")]
