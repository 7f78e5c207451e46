"""An owner's files, Parquet or CSV, as batches of plain arrays: ids in 64 bits, times in ms, labels 0 or 1.

Files are streamed, so a table may be larger than memory. Only columns that the description names are read; those of CSV
are read as text, and become numbers by what they mean, never by what their first rows look like. What is wrong with a
column (it is missing, of another type, in another time unit, a text in it is no number) raises `DataError` with the
file, the column and the fix. Rows that cannot be used although their types are right are refused: they are counted by
reason, and the first of each is remembered.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mimn.bundle.fields import Value, text_of, values_of
from mimn.data.description import Table, TimeUnit
from mimn.data.events import DataError
from mimn.data.ids import SECOND_SEED, Strings, xxh64

Meaning = Literal["id", "time", "optional_time", "label", "number", "value", "values"]
EARLIEST_MS = 946_684_800_000
"""2000-01-01, as in the event's format."""
LATEST_MS = 4_102_444_800_000
"""2100-01-01"""
BATCH_ROWS = 1 << 17
PER_MS: dict[TimeUnit, tuple[int, int]] = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}
"""A time in the unit, times the first, divided by the second, is in ms."""
TIMES = 'use whole numbers with `time_unit`, timestamps, or ISO text such as 2024-05-01T12:00:00Z (`time_unit = "iso"`)'
"""What a column of times may hold."""
FRACTIONS = 'holds fractions: make the field `kind = "numeric"`, or write it as text'
HASHES = (1 << 64) - 1
MAX_TEXT_BYTES = 128
"""Longest id, as in the event's format."""
MAX_SHOWN = 60
"""Characters of a value that an error shows."""
LARGEST_EXACT = 1 << 53
"""Beyond it a float may stand for another whole number than was written."""


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


@dataclass(frozen=True, slots=True)
class _Place:
    """A column in a batch of a file: what errors name."""

    path: Path
    want: Wanted
    first_row: int = 0

    def __str__(self) -> str:
        return f"{self.path}: column {self.want.column} (`{self.want.said}`)"

    def holds(self, column: pa.Array, at: int) -> str:
        """The column, one of its values, and its row."""
        text = str(column[at].as_py())
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
        return f"{self} holds {shown!r} in row {self.first_row + at + 1}"


@dataclass(slots=True)
class Refused:
    """Rows that were left out, by reason."""

    rows: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    """Reason → file and row of the first."""

    def add(self, reason: str, mask: NDArray[np.bool_], path: Path, first_row: int) -> None:
        """Count the rows where the mask is true."""
        n = int(np.count_nonzero(mask))
        if n:
            self.rows[reason] = self.rows.get(reason, 0) + n
            self.first.setdefault(reason, f"{path}, row {first_row + int(np.argmax(mask)) + 1}")

    @property
    def total(self) -> int:
        """Refused rows; a row that is refused for two reasons counts twice."""
        return sum(self.rows.values())


Columns = dict[str, NDArray[Any]]
"""By the name in the description's table: ids uint64; times int64 ms, -1 for none; labels uint8; numbers float64, NaN
for none; values, and lists of values, as uint64 codes, 0 for none, whose texts are in `TableReader.texts`."""


class TableReader:
    """Reads one table of a description. Iterate `batches` once; `refused` grows meanwhile."""

    def __init__(
        self, table: Table, root: Path, wanted: Mapping[str, Wanted], ids: Literal["uint64", "string"]
    ) -> None:
        """
        Args:
            table: where the files are.
            root: the folder that their names are relative to.
            wanted: what to read, by the name that the batch gives it.
            ids: how ids are written.

        Raises:
            DataError: a pattern matches no file.
        """
        self._table, self._root, self._wanted, self._ids = table, root, wanted, ids
        self.paths = _expand(table.files, root)
        self.refused = Refused()
        self.rows = 0
        """Rows read, refused ones included."""
        self.texts: dict[str, dict[int, str]] = {n: {} for n, w in wanted.items() if w.meaning in ("value", "values")}
        """The text of each code, by column; empty where texts are not kept. It is `mimn.bundle.fields.text_of` of the
        value, and of a list `text_of_list`."""

    def batches(self, *, strings: Strings | None = None) -> Iterator[Columns]:
        """The rows that can be used, in the order of the files. `strings` also notes the strings that are ids.

        Raises:
            DataError: a file cannot be read, or a whole column cannot be used.
        """
        for path in self.paths:
            first_row = 0
            for batch in self._read(path):
                out, good = {}, np.ones(batch.num_rows, np.bool_)
                for name, want in self._wanted.items():
                    out[name], bad = self._convert(
                        batch.column(want.column), name, _Place(path, want, first_row), strings
                    )
                    for reason, mask in bad:
                        self.refused.add(f"{want.column}: {reason}", mask, path, first_row)
                        good &= ~mask
                self.rows += batch.num_rows
                first_row += batch.num_rows
                yield out if bool(good.all()) else {name: values[good] for name, values in out.items()}

    def texts_of(self, name: str, ids: Iterable[int]) -> dict[int, str]:
        """Ids of the column `name` as the files write them, for messages to the files' owner; signed or unsigned.

        Nothing else remembers texts, so they are looked for in the files until all are found. One that is not there is
        not in the answer (see `hashed_text`).
        """
        asked = list(ids)
        if self._ids == "uint64":
            return {one: str(one) for one in asked}
        wanted = np.array([one & HASHES for one in asked], np.uint64)
        alone = TableReader(self._table, self._root, {name: self._wanted[name]}, self._ids)
        found: dict[int, str] = {}
        for hashed, column in alone._texts(name):
            hits = np.flatnonzero(np.isin(hashed, wanted))
            new, first = np.unique(hashed[hits], return_index=True)
            found |= {one: column[at].as_py() for one, at in zip(new.tolist(), hits[first].tolist(), strict=True)}
            if len(found) == len(set(wanted.tolist())):
                break
        return {one: found[one & HASHES] for one in asked if one & HASHES in found}

    def text_of(self, name: str, identity: int) -> str:
        """As `texts_of`, of one id."""
        return self.texts_of(name, [identity]).get(identity, hashed_text(identity))

    def _texts(self, name: str) -> Iterator[tuple[NDArray[np.uint64], pa.Array]]:
        """The usable ids of one column with their texts, batch by batch."""
        place = _Place(Path(), self._wanted[name])
        for path in self.paths:
            for batch in self._read(path):
                column = _id_texts(_without_null_type(batch.column(place.want.column), pa.string()), place)
                hashed, bad = _hashed(column, None)
                good = ~np.any([mask for _, mask in bad], axis=0)
                yield hashed[good], column.filter(pa.array(good))

    @property
    def files(self) -> str:
        """The files' names, as the description has them."""
        return ", ".join(self._table.files)

    def _read(self, path: Path) -> Iterator[pa.RecordBatch]:
        columns = sorted({want.column for want in self._wanted.values()})
        repeated = {
            w.column
            for w in self._wanted.values()
            if w.meaning in ("value", "values") or (w.meaning == "id" and self._ids == "string")
        }
        try:
            if path.suffix == ".parquet":
                schema = pq.read_schema(path)
                self._check_columns(path, columns, schema.names)
                plain = [name for name in sorted(repeated) if not pa.types.is_nested(schema.field(name).type)]
                file = pq.ParquetFile(path, read_dictionary=plain)
                yield from file.iter_batches(BATCH_ROWS, columns=columns)
            else:
                yield from self._read_csv(path, columns, repeated)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    def _read_csv(self, path: Path, columns: list[str], repeated: set[str]) -> Iterator[pa.RecordBatch]:
        """Columns of text, those whose texts repeat as dictionaries."""
        table = self._table
        broken = 0

        def skip(row: Any) -> str:
            nonlocal broken
            broken += 1
            self.refused.rows["broken line"] = self.refused.rows.get("broken line", 0) + 1
            self.refused.first.setdefault(
                "broken line", f"{path}, {row.actual_columns} fields in place of {row.expected_columns}"
            )
            return "skip"

        names = list(table.columns) if table.columns is not None else None
        if names is not None:
            self._check_columns(path, columns, names)
        text, dictionary = pa.string(), pa.dictionary(pa.int32(), pa.string())

        def opened(columns: list[str] | None) -> pcsv.CSVStreamingReader:
            return pcsv.open_csv(
                path,
                read_options=pcsv.ReadOptions(column_names=names, encoding=table.encoding, block_size=8 << 20),
                parse_options=pcsv.ParseOptions(
                    delimiter=table.delimiter,
                    quote_char='"' if table.quote else False,
                    double_quote=table.quote,
                    newlines_in_values=table.quote,
                    invalid_row_handler=skip,
                ),
                convert_options=pcsv.ConvertOptions(
                    include_columns=columns,
                    column_types={name: dictionary if name in repeated else text for name in columns or ()},
                    null_values=list(table.nulls),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )

        try:
            reader = opened(columns)
        except KeyError:  # a column is not in the header line: which ones are?
            self._check_columns(path, columns, opened(None).schema.names)
            raise
        for batch in reader:
            yield batch.select(columns)
        self.rows += broken

    def _check_columns(self, path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
        missing = [w for w in self._wanted.values() if w.column in set(wanted) - set(there)]
        if missing:
            named = ", ".join(f"{w.column!r} (`{w.said}`)" for w in missing)
            raise DataError(
                f"{path} has no column {named}; its columns are {', '.join(there)}: name one of them in the description"
            )

    def _convert(
        self, column: pa.Array, name: str, place: _Place, strings: Strings | None
    ) -> tuple[NDArray[Any], list[tuple[str, NDArray[np.bool_]]]]:
        """The column's values, and which rows cannot be used and why."""
        meaning = place.want.meaning
        column = _without_null_type(column, self._empty_type(place.want))
        try:
            if meaning in ("value", "values"):
                return self._to_codes(column, name, place), []
            if pa.types.is_dictionary(column.type) and not (meaning == "id" and self._ids == "string"):
                column = column.cast(column.type.value_type)
            if place.path.suffix != ".parquet":
                column = self._from_text(column, place)
            match meaning:
                case "id" if self._ids == "string":
                    return _hashed(_id_texts(column, place), strings)
                case "id":
                    return _to_ids(column, place)
                case "label":
                    return _to_labels(column, place)
                case "number":
                    return _to_numbers(column, place)
                case _:
                    return _to_times(column, place)
        except UnicodeDecodeError as error:
            raise DataError(f"{place} holds text that is not UTF-8: {error}") from error
        except pa.ArrowException as error:
            raise DataError(f"{place} cannot be converted from {column.type}: {error}") from error

    def _empty_type(self, want: Wanted) -> pa.DataType:
        """What a column without any value is taken for."""
        match want.meaning:
            case "id":
                return pa.int64() if self._ids == "uint64" else pa.string()
            case "time" | "optional_time":
                return pa.timestamp("ms")
            case "label" | "number":
                return pa.float64()
            case _:
                return pa.string()

    def _from_text(self, column: pa.Array, place: _Place) -> pa.Array:
        """A column of CSV as the type that it has to be."""
        match place.want.meaning:
            case "id" if self._ids == "uint64":
                fault = 'not whole numbers: set `ids = "string"`, or correct it'
                return _parsed(column, (pa.int64(), pa.uint64(), pa.float64()), place, fault)
            case "label":
                return _parsed(column, (pa.bool_(), pa.float64()), place, "but a label is 0 or 1, or true or false")
            case "number":
                fault = "not a number: correct it, add it to `nulls`, or name another column"
                return _parsed(column, (pa.float64(),), place, fault)
            case "time" | "optional_time" if place.want.unit != "iso" and _begins_with_number(column):
                return _parsed(column, (pa.int64(), pa.float64()), place, f"not a time: {TIMES}")
            case _:
                return column

    def _to_codes(self, column: pa.Array, name: str, place: _Place) -> NDArray[np.uint64]:
        """Codes of values, or of lists of values; their texts are kept once each."""
        column = _texts_of(column, place) if place.want.meaning == "value" else _texts_of_lists(column, place)
        if not len(column.dictionary):
            return np.zeros(len(column), np.uint64)
        data, offsets = _bytes_of(column.dictionary)
        codes = xxh64(data, offsets)
        codes[codes == 0] = 1
        codes[_mask(column.dictionary.is_null())] = 0
        if place.want.texts:
            known = self.texts[name]
            new = [at for at, code in enumerate(codes.tolist()) if code and code not in known]
            texts = column.dictionary.take(pa.array(new, pa.int64())).to_pylist()
            known.update(zip(codes[new].tolist(), texts, strict=True))
        return np.where(_mask(column.is_null()), np.uint64(0), codes[_numpy(column.indices.fill_null(0))])


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


def _without_null_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column that is empty throughout has no type of its own: as if it were of the one that is wanted."""
    return pa.nulls(len(column), kind) if pa.types.is_null(column.type) else column


def _given(value: Value) -> Value:
    """None for NaN, which tables of floats hold where a value is missing."""
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124


def _texts_of(column: pa.Array, place: _Place) -> pa.DictionaryArray:
    """Values as their texts, by the one rule of training and serving: `text_of`."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if _is_list(kind):
        raise DataError(f'{place} holds lists: make the field `kind = "multi"`, or convert the column')
    if not _is_value(kind):
        raise DataError(f"{place} is {kind}, not text, whole numbers or lists of them: convert it")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.dictionary
    if pa.types.is_integer(kind) or pa.types.is_string_view(kind):
        values = values.cast(pa.string() if pa.types.is_integer(kind) else pa.large_string())
    elif not _is_text(kind):
        try:
            values = pa.array([text_of(_given(value)) for value in values.to_pylist()], pa.string())
        except ValueError as error:
            raise DataError(f"{place} {FRACTIONS}") from error
    return pa.DictionaryArray.from_arrays(column.indices, values)


def _texts_of_lists(column: pa.Array, place: _Place) -> pa.DictionaryArray:
    """Lists as their texts (`text_of_list`), by the one rule of training and serving: `values_of`."""
    if not _is_list(column.type):
        column = _texts_of(column, place)
        lists = [None if text is None else text_of_list(values_of(text)) for text in column.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(column.indices, pa.array(lists, pa.string()))
    if not _is_value(column.type.value_type):
        raise DataError(f"{place} is {column.type}, not text, whole numbers or lists of them: convert it")
    try:
        lists = [
            None if row is None else text_of_list(values_of([_given(value) for value in row]))
            for row in column.to_pylist()
        ]
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError(f"{place} {FRACTIONS}") from error
    return pa.array(lists, pa.string()).dictionary_encode()


def _parsed(column: pa.Array, kinds: Sequence[pa.DataType], place: _Place, fault: str) -> pa.Array:
    """Texts as the first of some types that holds them all.

    Raises:
        DataError: names the first text that is none of these.
    """
    for text in (column, pc.utf8_trim_whitespace(column)):
        for kind in kinds:
            if _reads(text, kind):
                return text.cast(kind)
    bad = max(_first_that_fails(text, kind) for kind in kinds)
    raise DataError(f"{place.holds(column, bad)}, {fault}")


def _reads(text: pa.Array, kind: pa.DataType) -> bool:
    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _first_that_fails(text: pa.Array, kind: pa.DataType) -> int:
    """The row of the first text that is not of a type; there is one."""
    good, bad = 0, len(text)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _reads(text.slice(good, middle - good), kind):
            good = middle
        else:
            bad = middle
    return good


def _begins_with_number(text: pa.Array) -> bool:
    """Whether the first text that is there is a number, which tells numbers of a time unit from ISO text."""
    first = pc.utf8_trim_whitespace(text.drop_null().slice(0, 1))
    return _reads(first, pa.float64())


def _whole_numbers(column: pa.Array, place: _Place) -> pa.Array:
    """Floats as whole numbers: tables with gaps hold whole numbers as floats, and NaN in the gaps.

    Raises:
        DataError: one is a fraction, or too large to be exact.
    """
    values = _numpy(column.cast(pa.float64()).fill_null(np.nan))
    empty = np.isnan(values)
    bad = ~empty & ((np.abs(values) > LARGEST_EXACT) | (values != np.floor(values)))
    if bad.any():
        raise DataError(
            f"{place.holds(column, int(np.argmax(bad)))}, not whole numbers that a float holds exactly: write the "
            "column as whole numbers or as text"
        )
    return pa.array(np.where(empty, 0, values).astype(np.int64), mask=empty)


def _to_ids(column: pa.Array, place: _Place) -> tuple[NDArray[np.uint64], list[tuple[str, NDArray[np.bool_]]]]:
    """Ids that are whole numbers."""
    if pa.types.is_floating(column.type):
        column = _whole_numbers(column, place)
    if not pa.types.is_integer(column.type):
        fix = 'set `ids = "string"`, or convert the column' if _is_text(column.type) else "convert the column"
        raise DataError(f"{place} is {column.type}, not whole numbers: {fix}")
    empty, values = _mask(column.is_null()), _numpy(column.fill_null(0))
    bad = [("empty", empty)]
    if pa.types.is_signed_integer(column.type):
        bad.append(("negative id", values < 0))
    return values.astype(np.uint64), bad


def _id_texts(column: pa.Array, place: _Place) -> pa.DictionaryArray:
    """The texts of ids that are strings."""
    if pa.types.is_floating(column.type):
        column = _whole_numbers(column, place)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{place} is {kind}, not text or whole numbers: convert the column")
    return _texts_of(column, place)


def _hashed(
    column: pa.DictionaryArray, strings: Strings | None
) -> tuple[NDArray[np.uint64], list[tuple[str, NDArray[np.bool_]]]]:
    """Ids of texts. `strings` notes them."""
    empty = _mask(column.is_null())
    data, offsets = _bytes_of(column.dictionary)
    hashed = xxh64(data, offsets)
    hashed[hashed == 0] = 1
    if strings is not None:
        strings.add(hashed, xxh64(data, offsets, SECOND_SEED))
    lengths = np.diff(offsets)
    long = (lengths == 0) | (lengths > MAX_TEXT_BYTES) | _mask(column.dictionary.is_null())
    if not len(hashed):  # a batch without any value
        hashed, long = np.zeros(1, np.uint64), np.ones(1, np.bool_)
    codes = _numpy(column.indices.fill_null(0)).astype(np.int64)
    return hashed[codes], [
        ("empty", empty),
        (f"empty, or longer than {MAX_TEXT_BYTES} bytes", long[codes] & ~empty),
    ]


def _instants(column: pa.Array, place: _Place) -> pa.Array:
    """ISO texts as milliseconds; finer digits are dropped, and without a zone a text is UTC."""
    text = pc.replace_substring_regex(column.cast(pa.string()), r"(\.\d{3})\d+", r"\1")
    zoned = pc.match_substring_regex(text, r"\d[T ].*(Z|[+-]\d\d(:?\d\d)?)\s*$")
    none = pa.scalar(None, pa.string())
    read = [
        _parsed(pc.if_else(mask, text, none), (pa.timestamp("ms", zone),), place, f"not a time: {TIMES}")
        for mask, zone in ((zoned, "UTC"), (pc.invert(zoned), None))
    ]
    return pc.coalesce(*(times.cast(pa.int64()) for times in read))


def _to_times(column: pa.Array, place: _Place) -> tuple[NDArray[np.int64], list[tuple[str, NDArray[np.bool_]]]]:
    want, kind, unit = place.want, column.type, place.want.unit
    dated = _is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
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
    values = _numpy(column.fill_null(0))
    empty = _mask(column.is_null()) | ~np.isfinite(values.astype(np.float64))
    times, over = PER_MS[unit]
    ms = (np.where(empty, 0, values) * times // over).astype(np.int64)  # down, before 1970 as well
    earliest = min(EARLIEST_MS, want.since_ms)
    outside = ~empty & ((ms < earliest) | (ms >= LATEST_MS))
    if outside.any() and bool(outside[~empty].all()):
        if dated:
            raise DataError(f"{place}: no time is between 2000 and 2100: name the column of times")
        _refuse_unit(ms, empty, place)
    cut = ~empty & ~outside & ((ms < want.since_ms) | (ms >= want.until_ms))
    year = datetime.fromtimestamp(earliest / 1000, UTC).year
    bad = [(f"not between {year} and 2100", outside), ("before `since`, or not before `until`", cut)]
    if want.meaning == "time":
        bad.append(("empty", empty))
    return np.where(empty | outside, -1, ms), bad


def _refuse_unit(ms: NDArray[np.int64], empty: NDArray[np.bool_], place: _Place) -> None:
    """Raise the error for a column all of whose times lie outside 2000 to 2100: most often it is in another unit."""
    stated = place.want.unit
    times, over = PER_MS[stated]
    one = int(ms[~empty][0])
    raw = one * over / times
    for unit, (t, o) in PER_MS.items():
        if unit != stated and EARLIEST_MS <= raw * t / o < LATEST_MS:
            day = datetime.fromtimestamp(raw * t / o / 1000, UTC).date()
            raise DataError(
                f"{place}: {raw:.0f} is not between 2000 and 2100 in {stated}, and is {day} in {unit}: set "
                f'`time_unit = "{unit}"`'
            )
    raise DataError(f"{place}: {raw:.0f} is not between 2000 and 2100 in any unit: name the column of times")


def _to_labels(column: pa.Array, place: _Place) -> tuple[NDArray[np.uint8], list[tuple[str, NDArray[np.bool_]]]]:
    empty = _mask(column.is_null())
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = _numpy(pc.cast(column, pa.float64(), safe=False).fill_null(0))
    else:
        raise DataError(f"{place} is {column.type}: a label is 0 or 1, or true or false; convert the column")
    return (values == 1).astype(np.uint8), [("empty", empty), ("neither 0 nor 1", ~empty & ~np.isin(values, (0, 1)))]


def _to_numbers(column: pa.Array, place: _Place) -> tuple[NDArray[np.float64], list[tuple[str, NDArray[np.bool_]]]]:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{place} is {column.type}, not a number: name another column, or convert this one")
    return _numpy(pc.cast(column, pa.float64(), safe=False).fill_null(np.nan)), []


def _expand(patterns: Sequence[str], root: Path) -> list[Path]:
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(str(root / pattern), recursive=True))  # noqa: PTH207 (a pattern may be absolute)
        if not found:
            raise DataError(f"`files`: nothing matches {pattern} in {root}")
        paths += map(Path, found)
    return paths


def _bytes_of(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of n texts behind one another, without a copy, and where each begins. → [bytes], [n + 1]"""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    begins = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), begins


def _mask(array: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


def _numpy(array: pa.Array) -> NDArray[Any]:
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values
