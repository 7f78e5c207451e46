"""An owner's files, Parquet or CSV, as batches of plain arrays: ids in 64 bits, times in ms, labels 0 or 1.

Files are streamed, so a table may be larger than memory. What is wrong with all rows of a column (it is missing, of
another type, in another time unit) raises `DataError` with the file, the column and the fix. What is wrong with single
rows refuses those rows: they are counted by reason, and the first of each is remembered.
"""

from __future__ import annotations

import glob
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
HASHES = (1 << 64) - 1
MAX_TEXT_BYTES = 128
"""Longest id, as in the event's format."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A column to read: what it means, and what the description calls it."""

    column: str
    meaning: Meaning
    said: str
    """Its place in the description, for errors: the table, a dot, the key."""
    unit: TimeUnit = "s"
    separator: str = "|"
    """Between the values of a list that is written as one text."""
    texts: bool = True
    """Whether the texts of its codes are kept: memory for each distinct one."""
    since_ms: int = EARLIEST_MS
    until_ms: int = LATEST_MS
    """Times from the first to before the second can be used."""


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
        """The text of each code, by column; empty where texts are not kept. Whole numbers are written in decimal,
        lists joined by their separator."""

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
                    out[name], bad = self._convert(batch.column(want.column), name, want, path, strings)
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
            found |= {one: str(column[at].as_py()) for one, at in zip(new.tolist(), hits[first].tolist(), strict=True)}
            if len(found) == len(set(wanted.tolist())):
                break
        return {one: found[one & HASHES] for one in asked if one & HASHES in found}

    def text_of(self, name: str, identity: int) -> str:
        """As `texts_of`, of one id."""
        return self.texts_of(name, [identity]).get(identity, hashed_text(identity))

    def _texts(self, name: str) -> Iterator[tuple[NDArray[np.uint64], pa.Array]]:
        """The usable ids of one column with their texts, batch by batch."""
        for path in self.paths:
            for batch in self._read(path):
                column = batch.column(self._wanted[name].column)
                hashed, bad = self._to_ids(column, str(path), None)
                good = ~np.any([mask for _, mask in bad], axis=0)
                yield hashed[good], column.filter(pa.array(good))

    @property
    def files(self) -> str:
        """The files' names, as the description has them."""
        return ", ".join(self._table.files)

    def _read(self, path: Path) -> Iterator[pa.RecordBatch]:
        columns = sorted({want.column for want in self._wanted.values()})
        texts = {
            w.column
            for w in self._wanted.values()
            if w.meaning in ("value", "values") or (w.meaning == "id" and self._ids == "string")
        }
        try:
            if path.suffix == ".parquet":
                schema = pq.read_schema(path)
                self._check_columns(path, columns, schema.names)
                plain = [name for name in sorted(texts) if not pa.types.is_nested(schema.field(name).type)]
                file = pq.ParquetFile(path, read_dictionary=plain)
                yield from file.iter_batches(BATCH_ROWS, columns=columns)
            else:
                yield from self._read_csv(path, columns, texts)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    def _read_csv(self, path: Path, columns: list[str], texts: set[str]) -> Iterator[pa.RecordBatch]:
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
        types = {column: pa.dictionary(pa.int32(), pa.string()) for column in texts}
        try:
            reader = pcsv.open_csv(
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
                    include_columns=columns if names is not None else None,
                    column_types=types,
                    null_values=list(table.nulls),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} cannot be read as CSV: {error}") from error
        self._check_columns(path, columns, reader.schema.names)
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
        self, column: pa.Array, name: str, want: Wanted, path: Path, strings: Strings | None
    ) -> tuple[NDArray[Any], list[tuple[str, NDArray[np.bool_]]]]:
        """The column's values, and which rows cannot be used and why."""
        where = f"{path}: column {want.column} (`{want.said}`)"
        match want.meaning:
            case "id":
                return self._to_ids(column, where, strings)
            case "time" | "optional_time":
                return _to_times(column, want, where)
            case "label":
                return _to_labels(column, where)
            case "number":
                return _to_numbers(column, where)
            case _:
                return self._to_codes(column, name, want, where), []

    def _to_codes(self, column: pa.Array, name: str, want: Wanted, where: str) -> NDArray[np.uint64]:
        """Codes of values, or of lists of values; their texts are kept once each."""
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lists = [None if row is None else want.separator.join(map(str, row)) for row in column.to_pylist()]
            column = pa.array(lists, pa.string())
        if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        if pa.types.is_floating(column.type):
            whole = pc.cast(column, pa.int64(), safe=False)
            if not bool(pc.all(pc.equal(whole.cast(column.type), column), min_count=0).as_py()):
                raise DataError(f'{where} holds fractions: make the field `kind = "numeric"`, or write it as text')
            column = whole.cast(pa.string())
        if not pa.types.is_dictionary(column.type):
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise DataError(f"{where} is {column.type}, not text, whole numbers or lists of them: convert it")
            column = column.dictionary_encode()
        if not len(column.dictionary):
            return np.zeros(len(column), np.uint64)
        data, offsets = _bytes_of(column.dictionary)
        codes = xxh64(data, offsets)
        codes[codes == 0] = 1
        codes[_mask(column.dictionary.is_null())] = 0
        if want.texts:
            known = self.texts[name]
            new = [at for at, code in enumerate(codes.tolist()) if code and code not in known]
            try:
                texts = column.dictionary.take(pa.array(new, pa.int64())).to_pylist()
            except UnicodeDecodeError as error:
                raise DataError(f"{where} holds text that is not UTF-8: {error}") from error
            known.update(zip(codes[new].tolist(), texts, strict=True))
        return np.where(_mask(column.is_null()), np.uint64(0), codes[_numpy(column.indices.fill_null(0))])

    def _to_ids(
        self, column: pa.Array, where: str, strings: Strings | None
    ) -> tuple[NDArray[np.uint64], list[tuple[str, NDArray[np.bool_]]]]:
        empty = _mask(column.is_null())
        if self._ids == "uint64":
            if not pa.types.is_integer(column.type):
                raise DataError(
                    f'{where} is {column.type}, not whole numbers: set `ids = "string"`, or convert the column'
                )
            signed = pa.types.is_signed_integer(column.type)
            values = _numpy(column.fill_null(0))
            bad = [("empty", empty)]
            if signed:
                bad.append(("negative id", values < 0))
            return values.astype(np.uint64), bad
        if pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        if not pa.types.is_dictionary(column.type):
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise DataError(f'{where} is {column.type}, not text: set `ids = "uint64"`, or convert the column')
            column = column.dictionary_encode()
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


def hashed_text(identity: int) -> str:
    """What is said of a text that cannot be found: its id in hex."""
    return f"{identity & HASHES:016x}"


def _to_times(
    column: pa.Array, want: Wanted, where: str
) -> tuple[NDArray[np.int64], list[tuple[str, NDArray[np.bool_]]]]:
    empty = _mask(column.is_null())
    if pa.types.is_string(column.type) and want.unit == "iso":
        try:
            column = column.cast(pa.timestamp("ms", "UTC"))
        except pa.ArrowInvalid as error:
            raise DataError(f"{where} holds text that is no time: {error}") from error
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        ms = _numpy(column.cast(pa.timestamp("ms", getattr(column.type, "tz", None))).cast(pa.int64()).fill_null(0))
    elif want.unit == "iso":
        raise DataError(f"{where} is {column.type}, and `time_unit` says iso: set it to s, ms, us or ns")
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type):
        values = (
            _numpy(pc.cast(column, pa.float64(), safe=False).fill_null(0))
            if not pa.types.is_integer(column.type)
            else _numpy(column.fill_null(0))
        )
        empty = empty | ~np.isfinite(values.astype(np.float64))
        times, over = PER_MS[want.unit]
        ms = (np.where(empty, 0, values) * times // over).astype(np.int64)
    else:
        raise DataError(
            f"{where} is {column.type}, not a time: use whole numbers with `time_unit`, timestamps, or ISO text with "
            '`time_unit = "iso"`'
        )
    earliest = min(EARLIEST_MS, want.since_ms)
    outside = ~empty & ((ms < earliest) | (ms >= LATEST_MS))
    if outside.any() and bool(outside[~empty].all()):
        _refuse_unit(ms, empty, want, where)
    cut = ~empty & ~outside & ((ms < want.since_ms) | (ms >= want.until_ms))
    year = datetime.fromtimestamp(earliest / 1000, UTC).year
    bad = [(f"not between {year} and 2100", outside), ("before `since`, or not before `until`", cut)]
    if want.meaning == "time":
        bad.append(("empty", empty))
    return np.where(empty | outside, -1, ms), bad


def _refuse_unit(ms: NDArray[np.int64], empty: NDArray[np.bool_], want: Wanted, where: str) -> None:
    """Raise the error for a column all of whose times lie outside 2000 to 2100: most often it is in another unit."""
    times, over = PER_MS.get(want.unit, (1, 1))
    one = int(ms[~empty][0])
    raw = one * over / times
    for unit, (t, o) in PER_MS.items():
        if unit != want.unit and EARLIEST_MS <= raw * t / o < LATEST_MS:
            day = datetime.fromtimestamp(raw * t / o / 1000, UTC).date()
            raise DataError(
                f"{where}: {raw:.0f} is not between 2000 and 2100 in {want.unit}, and is {day} in {unit}: set "
                f'`time_unit = "{unit}"`'
            )
    raise DataError(f"{where}: {raw:.0f} is not between 2000 and 2100 in any unit: name the column of times")


def _to_labels(column: pa.Array, where: str) -> tuple[NDArray[np.uint8], list[tuple[str, NDArray[np.bool_]]]]:
    empty = _mask(column.is_null())
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = _numpy(pc.cast(column, pa.float64(), safe=False).fill_null(0))
    else:
        raise DataError(f"{where} is {column.type}: a label is 0 or 1, or true or false; convert the column")
    return (values == 1).astype(np.uint8), [("empty", empty), ("neither 0 nor 1", ~empty & ~np.isin(values, (0, 1)))]


def _to_numbers(column: pa.Array, where: str) -> tuple[NDArray[np.float64], list[tuple[str, NDArray[np.bool_]]]]:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"{where} is {column.type}, not a number: name another column, or convert this one")
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
