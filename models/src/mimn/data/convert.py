"""Published files that a description alone cannot read, rewritten as Parquet: run on what you downloaded.

    amazon-books   reviews (one JSON object a line) and their meta file (2014: Python literals; 2018: JSON)
    movielens-1m   ratings.dat, movies.dat and users.dat: Latin-1, fields separated by `::`
    criteo         train.txt: a label, 13 numbers, 26 values; no users, no items, no times

Data sets that a Python package ships have a module of their own: `mimn.data.complete_journey`, `mimn.data.movielens`.

Files are streamed and may be gzipped. Lines that cannot be used are counted by reason. The output folder appears by one
rename when it is complete, or not at all.
"""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa, pcsv, pq
from mimn.bundle.fields import MAX_ID_BYTES
from mimn.data.events import DataError
from mimn.data.files import Unchanged
from mimn.data.ids import string_ids
from mimn.whole_file import cause, making

Row = TypeVar("Row")
ROWS_PER_GROUP = 1 << 16
MAX_LINE_BYTES = 8 << 20
"""A longer line is refused: it is no review and no item, and must not fill the memory."""
NO_CATEGORY = "default_cat"
"""The category of books that the meta file does not have, as in the authors' script."""
CRITEO_NUMBERS = tuple(f"I{n}" for n in range(1, 14))
CRITEO_VALUES = tuple(f"C{n}" for n in range(1, 27))
CRITEO_BEGIN = 946_684_800
"""Row n of Criteo gets the time 2000-01-01 plus n seconds: the rows are in order of time, the times are not given."""


@dataclass
class Converted:
    """What a conversion did."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows written, by file."""
    refused: dict[str, int] = field(default_factory=dict)
    """Lines left out, by file and reason."""
    first: dict[str, str] = field(default_factory=dict)
    """File and line of the first of each reason."""

    def refuse(self, path: Path, line: int, reason: str) -> None:
        """Count one line. `line`: its number, from 1."""
        key = f"{path.name}: {reason}"
        self.refused[key] = self.refused.get(key, 0) + 1
        self.first.setdefault(key, f"{path}, line {line}")


class _Refused(Exception):
    """A line that cannot be used; the message is the reason."""


def amazon_books(reviews: Path, meta: Path, output: Path) -> Converted:
    """Write `events.parquet`: reviewerID, asin, category, overall, unixReviewTime; one row a review.

    The category of a book is the last one of its first path (2014) or of its list (2018). Memory holds 12 bytes a book.

    Raises:
        DataError: a file cannot be read or has no line that can be used, or `output` exists. Nothing is left then.
    """
    done = Converted()
    with new_folder(output) as folder:
        category_of = _Categories(meta, done)
        schema = pa.schema(
            [
                ("reviewerID", pa.string()),
                ("asin", pa.string()),
                ("category", pa.string()),
                ("overall", pa.float64()),
                ("unixReviewTime", pa.int64()),
            ]
        )
        with _Rows(folder / "events.parquet", schema, done) as rows:
            pending: list[tuple[str, str, float | None, int]] = []

            def write() -> None:
                categories = category_of([asin for _, asin, _, _ in pending])
                for (user, asin, stars, time), category in zip(pending, categories, strict=True):
                    rows.add((user, asin, category, stars, time))
                pending.clear()

            for review in _records(reviews, _review, done):
                pending.append(review)
                if len(pending) == ROWS_PER_GROUP:
                    write()
            write()
        if category_of.missing:
            done.refused[f"{meta.name}: no category for the book of a review, {NO_CATEGORY} instead"] = (
                category_of.missing
            )
    return done


class _Categories:
    """Books and their categories, by the 64-bit hash of the book's id."""

    def __init__(self, meta: Path, done: Converted) -> None:
        self.missing = 0
        numbers: dict[str, int] = {}
        asins: list[str] = []
        hashes: list[NDArray[np.uint64]] = []
        codes: list[NDArray[np.int32]] = []
        batch: list[int] = []

        def close() -> None:
            hashes.append(string_ids(asins))
            codes.append(np.array(batch, np.int32))
            asins.clear()
            batch.clear()

        for asin, category in _records(meta, _book, done):
            asins.append(asin)
            batch.append(numbers.setdefault(category, len(numbers)))
            if len(asins) == ROWS_PER_GROUP:
                close()
        close()
        # The first of repeated books, as the authors' script has it.
        self._hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        self._codes = np.concatenate(codes)[first]
        self._names = list(numbers)
        if repeated := sum(map(len, codes)) - len(first):
            done.refused[f"{meta.name}: book that had a line before"] = repeated

    def __call__(self, asins: list[str]) -> list[str]:
        hashed = string_ids(asins)
        at = np.minimum(np.searchsorted(self._hashes, hashed), len(self._hashes) - 1)
        known = self._hashes[at] == hashed
        self.missing += int(np.count_nonzero(~known))
        return [
            self._names[code] if there else NO_CATEGORY
            for code, there in zip(self._codes[at].tolist(), known.tolist(), strict=True)
        ]


def _review(line: str) -> tuple[str, str, float | None, int]:
    try:
        review = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Refused("not JSON") from error
    user, asin, time, stars = (_of(review, key) for key in ("reviewerID", "asin", "unixReviewTime", "overall"))
    if type(time) is not int or not -(1 << 40) < time < 1 << 40:
        raise _Refused("unixReviewTime is not a whole number of seconds")
    return _text(user, "reviewerID"), _text(asin, "asin"), float(stars) if type(stars) in (int, float) else None, time


def _book(line: str) -> tuple[str, str]:
    try:
        book = json.loads(line)
    except (ValueError, RecursionError):
        try:
            book = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise _Refused("neither JSON nor a Python literal") from error
    asin = _text(_of(book, "asin"), "asin")
    path = _of(book, "category")
    if path is None:
        paths = _of(book, "categories")
        path = paths[0] if isinstance(paths, list) and paths else None
    name = path[-1] if isinstance(path, list) and path else None
    return asin, name if isinstance(name, str) and _fits(name) else NO_CATEGORY


def _of(record: Any, key: str) -> Any:
    if not isinstance(record, dict):
        raise _Refused("not an object")
    return record.get(key)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not _fits(value):
        raise _Refused(f"no {key} of 1 to {MAX_ID_BYTES} bytes")
    return value


def _fits(text: str) -> bool:
    """Whether a text can be an id. JSON may hold halves of surrogate pairs, which are no text."""
    try:
        return 0 < len(text.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        return False


MOVIELENS_1M: dict[str, dict[str, pa.DataType]] = {
    "ratings": {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.int64(), "timestamp": pa.int64()},
    "movies": {"movieId": pa.int64(), "title": pa.string(), "genres": pa.string()},
    "users": {
        "userId": pa.int64(),
        "gender": pa.string(),
        "age": pa.string(),
        "occupation": pa.string(),
        "zip": pa.string(),
    },
}


def movielens_1m(folder: Path, output: Path) -> Converted:
    """Write `ratings.parquet`, `movies.parquet` and `users.parquet`, with the names of the later releases' columns.

    Raises:
        DataError: a file cannot be read or has no line that can be used, or `output` exists. Nothing is left then.
    """
    done = Converted()
    with new_folder(output) as partial:
        for name, columns in MOVIELENS_1M.items():
            whole = [pa.types.is_integer(kind) for kind in columns.values()]

            def row(line: str, whole: list[bool] = whole) -> tuple[Any, ...]:
                parts = line.split("::")
                if len(parts) != len(whole):
                    raise _Refused(f"not {len(whole)} fields separated by ::")
                try:
                    return tuple(int(part) if number else part for part, number in zip(parts, whole, strict=True))
                except ValueError as error:
                    raise _Refused("an id, a rating or a time is not a whole number") from error

            with _Rows(partial / f"{name}.parquet", pa.schema(list(columns.items())), done) as rows:
                for values in _records(folder / f"{name}.dat", row, done, encoding="latin-1"):
                    rows.add(values)
    return done


def criteo(path: Path, output: Path) -> Converted:
    """Write `impressions.parquet` (row, item, time, label, I1 to I13, C1 to C26) and `events.parquet`.

    The file has neither users nor items nor times. Each row becomes a user of its own who was shown item 1, at the time
    that its place in the file gives. A data set has events, so there is one: of user 0, of whom there is no impression.

    Raises:
        DataError: the file cannot be read as 40 columns separated by tabs, or `output` exists. Nothing is left then.
    """
    done = Converted()
    broken = 0

    def skip(_: Any) -> str:
        nonlocal broken
        broken += 1
        return "skip"

    with new_folder(output) as folder:
        rows = 0
        writer = None
        try:
            for batch in _criteo_batches(path, skip):
                place = np.arange(rows, rows + batch.num_rows) + 1
                head = {"row": place, "item": np.ones_like(place), "time": CRITEO_BEGIN + place}
                table = pa.table(head | dict(zip(batch.schema.names, batch.columns, strict=True)))
                writer = writer or pq.ParquetWriter(folder / "impressions.parquet", table.schema)
                writer.write_table(table)
                rows += batch.num_rows
        finally:
            if writer is not None:
                writer.close()
        if not rows:
            raise DataError(f"{path} has no line of 40 fields ({broken} others): is it train.txt?")
        one = {"user": np.zeros(1, np.int64), "item": np.ones(1, np.int64), "time": np.full(1, CRITEO_BEGIN)}
        pq.write_table(pa.table(one), folder / "events.parquet")
    if broken:
        done.refused[f"{path.name}: not 40 fields"] = broken
    done.rows |= {"impressions.parquet": rows, "events.parquet": 1}
    return done


def _criteo_batches(path: Path, skip: Callable[[Any], str]) -> Iterator[pa.RecordBatch]:
    """The rows of Criteo's file; `skip` is called for each line with another number of fields.

    Raises:
        DataError: the file cannot be read, or changed meanwhile.
    """
    unchanged = Unchanged([path])
    names = ("label", *CRITEO_NUMBERS, *CRITEO_VALUES)
    numbers = dict.fromkeys(("label", *CRITEO_NUMBERS), pa.int64())
    try:
        yield from pcsv.open_csv(
            path,
            read_options=pcsv.ReadOptions(column_names=names, block_size=8 << 20),
            parse_options=pcsv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip),
            convert_options=pcsv.ConvertOptions(
                column_types=numbers | dict.fromkeys(CRITEO_VALUES, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (OSError, pa.ArrowException) as error:
        unchanged.check_all()
        raise DataError(
            f"{path} cannot be read as Criteo's train.txt (a label, 13 whole numbers, 26 values, separated by "
            f"tabs): {error}"
        ) from error
    unchanged.check_all()


def _records(path: Path, read: Callable[[str], Row], done: Converted, *, encoding: str = "utf-8") -> Iterator[Row]:
    """What `read` makes of each line; lines that it refuses are counted.

    Raises:
        DataError: the file cannot be read, changed meanwhile, or has no line that can be used.
    """
    unchanged = Unchanged([path])
    used = number = 0
    before = dict(done.refused)
    try:
        with _open(path) as file:
            for number, line in enumerate(_lines(file), 1):
                if line is None:
                    done.refuse(path, number, f"longer than {MAX_LINE_BYTES >> 20} MiB")
                    continue
                try:
                    row = read(line.decode(encoding))
                except UnicodeDecodeError:
                    done.refuse(path, number, f"not {encoding}")
                except _Refused as error:
                    done.refuse(path, number, str(error))
                else:
                    used += 1
                    yield row
    except (OSError, EOFError, zlib.error) as error:
        unchanged.check_all()
        raise DataError(f"{path} cannot be read after line {number}: {error}; download it again") from error
    unchanged.check_all()
    if not used:
        reasons = [
            f"{reason}: {n - before.get(reason, 0)}" for reason, n in done.refused.items() if n > before.get(reason, 0)
        ]
        raise DataError(
            f"{path}: none of {number} lines can be used ({'; '.join(reasons) or 'it is empty'}): is it the right file?"
        )


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too long. Empty lines are passed over."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif stripped := line.strip(b"\r\n"):
            yield stripped


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


class _Rows:
    """A Parquet file that is written row by row."""

    def __init__(self, path: Path, schema: pa.Schema, done: Converted) -> None:
        self._path, self._schema, self._done = path, schema, done
        self._pending: list[tuple[Any, ...]] = []
        self._rows = 0

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._path, self._schema)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write()
        self._writer.close()
        self._done.rows[self._path.name] = self._rows

    def add(self, row: tuple[Any, ...]) -> None:
        self._pending.append(row)
        if len(self._pending) == ROWS_PER_GROUP:
            self._write()

    def _write(self) -> None:
        if self._pending:
            columns = [
                pa.array(values, kind)
                for values, kind in zip(zip(*self._pending, strict=True), self._schema.types, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._rows += len(self._pending)
        self._pending.clear()


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> Converted:
    """Write each table as `<name>.parquet` into `folder`."""
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    return Converted({f"{name}.parquet": table.num_rows for name, table in tables.items()})


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` if all goes well, and else vanishes.

    Raises:
        DataError: `output` exists, or cannot be written.
    """
    if output.exists():
        raise DataError(f"{output} exists: remove it, or choose another folder")
    try:
        with making(output) as partial:
            yield partial
    except OSError as error:  # not of the files that are read: those are told as DataError where they are
        raise DataError(f"{output} cannot be written ({cause(error)}): choose another folder with --output") from error
