"""What the values of a column mean: ids, times, labels, numbers, and values of fields, from Arrow to plain arrays. The
file is long because each meaning takes every type of column that may hold it.

Each function takes a column of any type that may hold such values, and returns the array, and for some meanings which
rows cannot be used and why. A column that cannot be used at all raises `DataError` with the file, the column and the
fix. Values of fields become text by `mimn.bundle.fields.text_of`, as those of requests do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa, pc
from mimn.bundle.fields import MAX_ID_BYTES, Value, text_of, values_of
from mimn.data.description import TimeUnit
from mimn.data.events import DataError
from mimn.data.ids import SECOND_SEED, Strings, xxh64

Meaning = Literal["id", "time", "optional_time", "label", "number", "value", "values"]
EARLIEST_MS = 946_684_800_000
"""2000-01-01, as in the event's format."""
LATEST_MS = 4_102_444_800_000
"""2100-01-01"""
PER_MS: dict[TimeUnit, tuple[int, int]] = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}
"""A time in the unit, times the first, divided by the second, is in ms."""
TIMES = 'use whole numbers with `time_unit`, timestamps, or ISO text such as 2024-05-01T12:00:00Z (`time_unit = "iso"`)'
"""What a column of times may hold."""
FRACTIONS = 'so it holds fractions: make the field `kind = "numeric"`, or write it as text'
NO_ID = 'not whole numbers: set `ids = "string"`, correct it, or add it to `nulls`'
ROUNDED = "a number that a spreadsheet or R may have rounded: export the column as text"
INEXACT = "not whole numbers that a float holds exactly: write the column as whole numbers or as text"
_ZONED = r"\d[T ].*(Z|[+-]\d\d(:?\d\d)?)\s*$"
_NAMED_ZONE = r"\s*(UTC|GMT)\s*$"
HASHES = (1 << 64) - 1
MAX_SHOWN = 60
"""Characters of a value that an error shows."""
EXACT_BELOW = {pa.float16(): 1 << 11, pa.float32(): 1 << 24, pa.float64(): 1 << 53}
"""From this on a float of the type may stand for another whole number than was written."""
_WHOLE = r"^-?[0-9]+(\.0*)?$"
"""An id of CSV, in `ids = "uint64"`. A sign or a letter, as in +49 and 0x10, is a part of a text: requests name a user
by it."""
_EXPONENT = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A column to read: what it means, and what the description calls it."""

    column: str
    meaning: Meaning
    said: str
    """Its place in the description, for errors: the table, a dot, the key."""
    unit: TimeUnit = "s"
    texts: bool = True
    """Whether the texts of its codes are kept: memory for each distinct one."""
    since_ms: int = EARLIEST_MS
    until_ms: int = LATEST_MS
    """Times from the first to before the second can be used."""


def row_name(row: int) -> str:
    """What a row is called, of which the first one is 0."""
    return f"row {row + 1}"


@dataclass(frozen=True, slots=True)
class Place:
    """A column in a batch of a file: what errors name."""

    path: Path
    want: Wanted
    named: Callable[[int], str] = row_name
    """What a row of the batch is called."""
    typed: bool = True
    """Whether the file says of which type its values are; those of CSV are all text."""
    in_unit: str | None = None
    """Another column of the table whose numbers are times in the unit of this one."""
    rows: pa.Array | None = None
    """Of each value its row in the batch, where a row has several: the values of lists."""

    def __str__(self) -> str:
        return f"{self.path}: column {self.want.column} (`{self.want.said}`)"

    def row(self, at: int) -> str:
        """What the row that has a value of the column is called."""
        return self.named(at if self.rows is None else self.rows[at].as_py())

    def holds(self, column: pa.Array, at: int) -> str:
        """The column, one of its values, and its row."""
        text = str(column[at].as_py())
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
        return f"{self} holds {shown!r} in {self.row(at)}"


def text_of_list(values: Iterable[Value]) -> str:
    """A list of values as one text, which `list_of_text` reads: JSON, so that a value may hold any character.

    Raises:
        ValueError: a value is a fraction.
    """
    return json.dumps([text_of(value) for value in values], ensure_ascii=False)


def list_of_text(text: str) -> list[str]:
    """The values of a list that `text_of_list` wrote."""
    values: list[str] = json.loads(text)
    return values


def hashed_text(identity: int) -> str:
    """What is said of a text that cannot be found: its id in hex."""
    return f"{identity & HASHES:016x}"


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_value(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_value(kind.value_type)
    tests = (_is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def without_null_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column that is empty throughout has no type of its own: as if it were of the one that is wanted."""
    return pa.nulls(len(column), kind) if pa.types.is_null(column.type) else column


def without_decimals(column: pa.Array, meaning: Meaning) -> pa.Array:
    """Decimals, in which warehouses keep whole numbers, too: as text or whole numbers where they are whole, else as
    floats; other columns as they are."""
    if not pa.types.is_decimal(column.type):
        return column
    if meaning in ("label", "number"):
        return _floats_of_text(column)
    if column.type.bit_width < 128:  # Arrow finds no decimal32 within the bounds of int64
        column = column.cast(pa.decimal128(column.type.precision, column.type.scale))
    for kind in (pa.int64(), pa.uint64()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:  # a fraction, or too large
            continue
    return column.cast(pa.string()) if column.type.scale <= 0 else _floats_of_text(column)


def _floats_of_text(column: pa.Array) -> pa.Array:
    """Decimals and short floats as the float64 of their shortest decimal text, which is what a request says for them.

    Arrow's own casts give other numbers: of the decimal 0.35 they make 0.35000000000000003, of the float32 1.3 they
    make 1.2999999523162842, and as the text of the float16 0.1 they have 0.0999755859375.
    """
    if pa.types.is_float16(column.type):
        column = pa.array(numpy_of(column).astype(str))
    return column.cast(pa.string()).cast(pa.float64())


def value_texts(column: pa.Array, place: Place) -> pa.DictionaryArray:
    """Values as their texts, by the one rule of training and serving: `text_of`. [n]

    Raises:
        DataError: the column holds lists, fractions, text that is not UTF-8, or values of another type.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if _is_list(kind):
        raise DataError(f'{place} holds lists: make the field `kind = "multi"`, or convert the column')
    if not _is_value(kind):
        raise DataError(f"{place} is {kind}, not text, whole numbers or lists of them: convert it")
    if pa.types.is_floating(kind):
        column = _whole_numbers(column.cast(kind), place, FRACTIONS)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.dictionary
    if pa.types.is_integer(values.type) or pa.types.is_string_view(kind):
        values = values.cast(pa.string() if pa.types.is_integer(values.type) else pa.large_string())
    elif not _is_text(kind):
        values = pa.array([text_of(value) for value in values.to_pylist()], pa.string())
    made = pa.DictionaryArray.from_arrays(column.indices, values)
    _check_utf8(made, place)
    return made


def list_texts(column: pa.Array, place: Place) -> pa.DictionaryArray:
    """Lists as their texts (`text_of_list`), by the one rule of training and serving: `values_of`. [n]

    Raises:
        DataError: the column holds fractions, text that is not UTF-8, or values of another type.
    """
    if not _is_list(column.type):
        column = value_texts(column, place)
        lists = [None if text is None else text_of_list(values_of(text)) for text in column.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(column.indices, pa.array(lists, pa.string()))
    if not _is_value(column.type.value_type):
        raise DataError(f"{place} is {column.type}, not text, whole numbers or lists of them: convert it")
    each = value_texts(pc.list_flatten(column), replace(place, rows=pc.list_parent_indices(column))).to_pylist()
    values, lengths = iter(each), pc.list_value_length(column).to_pylist()
    lists = [None if n is None else text_of_list(values_of(list(islice(values, n)))) for n in lengths]
    return pa.array(lists, pa.string()).dictionary_encode()


def parsed(
    column: pa.Array, kinds: Sequence[pa.DataType], place: Place, fault: str, written: pa.Array | None = None
) -> pa.Array:
    """Texts as the first of some types that holds them all. `written`: the texts of the file, if `column` has others.

    Raises:
        DataError: a text has none of these types; the message names the first one.
    """
    for text in (column, pc.utf8_trim_whitespace(column)):
        for kind in kinds:
            if _reads(text, kind):
                return text.cast(kind)
    bad = max(_first_that_fails(text, partial(_reads, kind=kind)) for kind in kinds)
    raise DataError(f"{place.holds(column if written is None else written, bad)}, {fault}")


def _reads(text: pa.Array, kind: pa.DataType) -> bool:
    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _first_that_fails(text: pa.Array, passes: Callable[[pa.Array], bool]) -> int:
    """Where the first text is that does not pass; there is one."""
    good, bad = 0, len(text)
    while bad - good > 1:
        middle = (good + bad) // 2
        if passes(text.slice(good, middle - good)):
            good = middle
        else:
            bad = middle
    return good


def _check_utf8(column: pa.DictionaryArray, place: Place) -> None:
    """Raises DataError if bytes of Parquet are said to be text, and are not."""
    if _is_utf8(column.dictionary):
        return
    texts = column.dictionary.take(column.indices)  # the dictionary may be that of more rows than these
    if not _is_utf8(texts):
        row = place.row(_first_that_fails(texts, _is_utf8))
        raise DataError(f"{place} holds text that is not UTF-8 in {row}: write it as UTF-8")


def _is_utf8(text: pa.Array) -> bool:
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def begins_with_number(text: pa.Array) -> bool:
    """Whether the first text that is there is a number, which tells numbers of a time unit from ISO text."""
    first = pc.utf8_trim_whitespace(text.drop_null().slice(0, 1))
    return _reads(first, pa.float64())


def _whole_numbers(
    column: pa.Array, place: Place, fraction: str = INEXACT, written: pa.Array | None = None
) -> pa.Array:
    """Floats as whole numbers: tables with gaps hold whole numbers as floats, and NaN in the gaps. `fraction` is said
    of one that is a fraction; `written` is what a message shows, if that is not the column.

    Raises:
        DataError: one is a fraction, infinite, or too large to be exact.
    """
    values = numpy_of(column.cast(pa.float64()).fill_null(np.nan))
    empty = np.isnan(values)
    inexact = np.abs(values) >= EXACT_BELOW[column.type]
    bad = ~empty & (inexact | (values != np.floor(values)))
    if bad.any():
        at = int(np.argmax(bad))
        shown = column if written is None else written
        raise DataError(f"{place.holds(shown, at)}, {INEXACT if inexact[at] else fraction}")
    return pa.array(np.where(empty, 0, values).astype(np.int64), mask=empty)


def ids_of_text(column: pa.Array, place: Place) -> pa.Array:
    """Ids of CSV as whole numbers: digits, which may have zeros in front, and blanks around. Behind them may be a point
    and zeros, which tables with gaps are written with.

    No id goes through a float unless it has a point: it would lose its last digits.

    Raises:
        DataError: a text is something else, or too large.
    """
    kinds = (pa.int64(), pa.uint64())
    kind = next((kind for kind in kinds if _reads(column, kind)), None)
    if kind is not None and not _has_hex(column):
        return column.cast(kind)
    text = pc.utf8_trim_whitespace(column)
    whole = mask_of(pc.match_substring_regex(text, _WHOLE).fill_null(True))
    if not whole.all():
        bad = int(np.argmin(whole))
        rounded = _EXPONENT.fullmatch(text[bad].as_py())
        raise DataError(f"{place.holds(column, bad)}, {ROUNDED if rounded else NO_ID}")
    none, pointed = pa.scalar(None, pa.string()), pc.match_substring(text, ".")
    digits = parsed(pc.if_else(pointed, none, text), kinds, place, NO_ID, column)
    floats = _whole_numbers(pc.if_else(pointed, text, none).cast(pa.float64()), place, written=column)
    negative = mask_of(pc.less(floats, 0).fill_null(False))
    if digits.type == pa.uint64() and negative.any():  # beside an id beyond 2^63
        raise DataError(f"{place.holds(column, int(np.argmax(negative)))}, {NO_ID}")
    return pc.coalesce(digits, floats.cast(digits.type))


def _has_hex(text: pa.Array) -> bool:
    """Whether a text among whole numbers is one like 0x10, which Arrow reads."""
    data, begins = bytes_of(text)
    held = data[begins[0] : begins[-1]].tobytes()
    return b"x" in held or b"X" in held


def to_ids(column: pa.Array, place: Place) -> tuple[NDArray[np.uint64], list[tuple[str, NDArray[np.bool_]]]]:
    """Ids that are whole numbers; which rows cannot be used and why. [n]

    Raises:
        DataError: the column holds something else.
    """
    if pa.types.is_floating(column.type):
        column = _whole_numbers(column, place)
    if not pa.types.is_integer(column.type):
        fix = 'set `ids = "string"`, or convert the column' if _is_text(column.type) else "convert the column"
        raise DataError(f"{place} is {column.type}, not whole numbers: {fix}")
    empty, values = mask_of(column.is_null()), numpy_of(column.fill_null(0))
    bad = [("empty", empty)]
    if pa.types.is_signed_integer(column.type):
        bad.append(("negative id", values < 0))
    return values.astype(np.uint64), bad


def id_texts(column: pa.Array, place: Place) -> pa.DictionaryArray:
    """The texts of ids that are strings. [n]

    Raises:
        DataError: the column holds neither text nor whole numbers.
    """
    if pa.types.is_floating(column.type):
        column = _whole_numbers(column, place)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{place} is {kind}, not text or whole numbers: convert the column")
    return value_texts(column, place)


def hash_texts(
    column: pa.DictionaryArray, strings: Strings | None
) -> tuple[NDArray[np.uint64], list[tuple[str, NDArray[np.bool_]]]]:
    """Ids of texts; which rows cannot be used and why. `strings` notes the texts. [n]"""
    empty = mask_of(column.is_null())
    data, offsets = bytes_of(column.dictionary)
    hashed = xxh64(data, offsets)
    hashed[hashed == 0] = 1
    if strings is not None:
        strings.add(hashed, xxh64(data, offsets, SECOND_SEED))
    lengths = np.diff(offsets)
    long = (lengths == 0) | (lengths > MAX_ID_BYTES) | mask_of(column.dictionary.is_null())
    if not len(hashed):  # a batch without any value
        hashed, long = np.zeros(1, np.uint64), np.ones(1, np.bool_)
    codes = numpy_of(column.indices.fill_null(0)).astype(np.int64)
    return hashed[codes], [
        ("empty", empty),
        (f"empty, or longer than {MAX_ID_BYTES} bytes", long[codes] & ~empty),
    ]


def _instants(column: pa.Array, place: Place) -> pa.Array:
    """ISO texts as milliseconds; finer digits are dropped, and without a zone a text is UTC. Logs put a comma before
    the digits, and warehouses the zone's name behind."""
    written = column.cast(pa.string())
    text = pc.replace_substring_regex(written, r"(:\d\d)[.,](\d{1,3})\d*", r"\1.\2")
    text = pc.replace_substring_regex(text, _NAMED_ZONE, "Z")
    zoned = pc.match_substring_regex(text, _ZONED)
    none = pa.scalar(None, pa.string())
    read = [
        parsed(pc.if_else(mask, text, none), (pa.timestamp("ms", zone),), place, f"not a time: {TIMES}", written)
        for mask, zone in ((zoned, "UTC"), (pc.invert(zoned), None))
    ]
    return pc.coalesce(*(times.cast(pa.int64()) for times in read))


def says_its_unit(kind: pa.DataType) -> bool:
    """Whether times of a type need no `time_unit`."""
    return _is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def says_zone(column: pa.Array, at: int) -> bool | None:
    """Whether the time in a row says its zone; None if its type has none: numbers, and dates."""
    if pa.types.is_timestamp(column.type):
        return column.type.tz is not None
    if not _is_text(column.type):
        return None
    return re.search(_ZONED, re.sub(_NAMED_ZONE, "Z", column[at].as_py())) is not None


def to_times(column: pa.Array, place: Place) -> tuple[NDArray[np.int64], list[tuple[str, NDArray[np.bool_]]]]:
    """When rows happened, in ms, -1 for none; which cannot be used and why. [n]

    Raises:
        DataError: the column holds no times, or none between 2000 and 2100 in its unit.
    """
    want, kind, unit = place.want, column.type, place.want.unit
    dated = says_its_unit(kind)
    if _is_text(kind):
        column, unit = _instants(column, place), "ms"
    elif pa.types.is_date(kind):
        column, unit = column.cast(pa.timestamp("ms")).cast(pa.int64()), "ms"
    elif pa.types.is_timestamp(kind):
        column, unit = column.cast(pa.int64()), kind.unit
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{place} is {kind}, not a time: {TIMES}")
    elif unit == "iso":
        raise DataError(f"{place} is {kind}, and `time_unit` says iso: set it to s, ms, us or ns")
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        raise DataError(f"{place} is {kind}, which holds no time exactly: {TIMES}")
    values = numpy_of(column.fill_null(0))
    empty = mask_of(column.is_null()) | ~np.isfinite(values.astype(np.float64))
    if want.meaning == "optional_time" and not dated:
        empty |= values <= 0  # how a field that is not set is written
    ms = _to_ms(np.where(empty, 0, values), unit)
    earliest = min(EARLIEST_MS, want.since_ms)
    outside = ~empty & ((ms < earliest) | (ms >= LATEST_MS))
    if outside.any() and bool(outside[~empty].all()):
        if dated:
            raise DataError(f"{place}: no time is between 2000 and 2100: name the column of times")
        _refuse_unit(float(values[~empty][0]), place)
    cut = ~empty & ~outside & ((ms < want.since_ms) | (ms >= want.until_ms))
    year = datetime.fromtimestamp(earliest / 1000, UTC).year
    bad = [(f"not between {year} and 2100", outside), ("before `since`, or not before `until`", cut)]
    if want.meaning == "time":
        bad.append(("empty", empty))
    return np.where(empty | outside, -1, ms), bad


def _to_ms(values: NDArray[Any], unit: TimeUnit) -> NDArray[np.int64]:
    """Times of a unit in ms, rounded down, before 1970 as well. What lies beyond `LATEST_MS`, and as far before 1970,
    is cut, so that nothing overflows. [n] → [n]

    A float is the nearest one to the time that was written: pandas makes floats of whole numbers if one is missing. It
    is read as the latest time that it may stand for, because a click that is read too early lies before its impression.
    """
    times, over = PER_MS[unit]
    most = (LATEST_MS + 1) * over // times
    part: NDArray[np.int64] | int = 0
    if values.dtype.kind == "f":
        values = np.clip(values, -most, most)
        whole = np.floor(values)
        spacing = np.spacing(np.maximum(np.abs(values), 1.0))  # what is left of a small negative one is near 1
        part = np.floor((values - whole + spacing) * times).astype(np.int64)
        values = whole
    elif values.dtype.kind == "u":
        values = np.minimum(values, np.uint64(most))
    ms: NDArray[np.int64] = (np.clip(values.astype(np.int64), -most, most) * times + part) // over
    return ms


def _refuse_unit(raw: float, place: Place) -> None:
    """Raise the error for a column all of whose times, such as `raw`, lie outside 2000 to 2100: most often it is in
    another unit."""
    stated = place.want.unit
    for unit, (t, o) in PER_MS.items():
        if unit != stated and EARLIEST_MS <= raw * t / o < LATEST_MS:
            day = datetime.fromtimestamp(raw * t / o / 1000, UTC).date()
            fix = f'set `time_unit = "{unit}"`'
            if place.in_unit is not None:
                fix = (
                    f"column {place.in_unit} is in {stated}, and one `time_unit` holds for both: convert "
                    f"{place.want.column} to {stated}"
                )
            raise DataError(
                f"{place}: {raw:.0f} is not between 2000 and 2100 in {stated}, and is {day} in {unit}: {fix}"
            )
    raise DataError(f"{place}: {raw:.0f} is not between 2000 and 2100 in any unit: name the column of times")


def to_labels(column: pa.Array, place: Place) -> tuple[NDArray[np.uint8], list[tuple[str, NDArray[np.bool_]]]]:
    """0 or 1; which rows have neither. [n]

    Raises:
        DataError: the column holds neither numbers nor true and false, or counts clicks.
    """
    empty = mask_of(column.is_null())
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = numpy_of(pc.cast(column, pa.float64(), safe=False).fill_null(0))
    else:
        raise DataError(f"{place} is {column.type}: a label is 0 or 1, or true or false; convert the column")
    if len(above := values[values > 1]):
        raise DataError(
            f"{place} has the label {above[0]:g}: a label is 0 or 1; of a count, write whether it is above 0"
        )
    return (values == 1).astype(np.uint8), [("empty", empty), ("neither 0 nor 1", ~empty & ~np.isin(values, (0, 1)))]


def to_numbers(column: pa.Array, place: Place) -> tuple[NDArray[np.float64], list[tuple[str, NDArray[np.bool_]]]]:
    """Numbers, NaN for none; every row can be used. [n]

    Raises:
        DataError: the column holds something else.
    """
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        column = _floats_of_text(column)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{place} is {column.type}, not a number: name another column, or convert this one")
    return numpy_of(pc.cast(column, pa.float64(), safe=False).fill_null(np.nan)), []


def bytes_of(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of n texts behind one another, without a copy, and where each begins. → [bytes], [n + 1]"""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    begins = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), begins


def mask_of(array: pa.Array) -> NDArray[np.bool_]:
    """Booleans as an array. [n]"""
    mask: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


def numpy_of(array: pa.Array) -> NDArray[Any]:
    """Values as an array. [n]"""
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values
