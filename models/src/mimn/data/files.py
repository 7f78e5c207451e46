"""An owner's files: which ones a table names, what each is, and its rows as batches of the chosen columns.

A file is what its first bytes say, whatever its name is: Parquet, or text of CSV, which may be compressed. So a writer
that puts no suffix, or another one, is read. Only `.parquet` is believed: such a file is Parquet or refused. Folders
are read as Spark and Hive write them: files whose names begin with `_` or `.` are marks of the writer, not data.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from mimn.arrow import pa, pc, pcsv, pq
from mimn.data.column_values import row_name
from mimn.data.csv_lines import BrokenLine, CsvLines, line_at
from mimn.data.description import Table
from mimn.data.events import DataError
from mimn.data.quotes import ClosedQuotes, OpenQuote
from mimn.whole_file import cause

BATCH_ROWS = 1 << 17
CSV_BLOCK_BYTES = 8 << 20
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files → Arrow's name for it."""
_PARQUET = b"PAR1"
_SNIFFED = 1 << 12
_WIDE_MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # the first begins as one of UTF-16 does
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""Encoding → what may stand at the beginning of its text."""
_UNITS = 8
"""Bytes in which every second one is NUL in UTF-16 of ASCII, such as the beginning of a header."""
_MARKS = ("_", ".")
_ANY_DEPTH = "**"


def expand(patterns: Sequence[str], root: Path) -> list[Path]:
    """The files that patterns name, relative to `root`; of a folder, the files in and below it.

    Links are followed. A file that has several names is read by one of them, else its rows would count twice.

    Raises:
        DataError: a pattern names no file, a link leads to nothing, or a folder cannot be read.
    """
    paths: list[Path] = []
    places: set[Path] = set()
    for pattern in patterns:
        try:
            found = _files(pattern, root)
        except OSError as error:
            raise DataError(f"`files`: {error.filename} cannot be read: {error.strerror}") from error
        if not found:
            raise DataError(f"`files`: nothing matches {pattern} in {root}")
        paths += sorted(file for place, file in found.items() if place not in places)
        places |= found.keys()
    return paths


def _files(pattern: str, root: Path) -> dict[Path, Path]:
    """The files that a pattern names: where each is, and its name."""
    said = Path(pattern).parts
    found: dict[Path, Path] = {}
    for one in _matches(said, root):
        if any(_is_mark(name, said) for name in (one.relative_to(root) if one.is_relative_to(root) else one).parts):
            continue
        for file in _below(one, said) if one.is_dir() else [one]:
            if file.is_file():
                found.setdefault(file.resolve(), file)
            elif file.is_symlink() and not file.exists():
                raise DataError(
                    f"`files`: {file} is a link to {file.readlink()}, where nothing is: correct or remove it"
                )
    return found


def _matches(said: Sequence[str], root: Path) -> Iterator[Path]:
    """Files, folders and broken links that a pattern names, given by its parts; those that are no links first.

    `glob` follows a link to a folder around it forty times, and two such links forty times at each step.
    """
    deep = said.index(_ANY_DEPTH) if _ANY_DEPTH in said else len(said)
    found = [root / one for one in glob.glob(str(Path(*said[:deep])), root_dir=root)]  # noqa: PTH207 (a pattern may be absolute)
    for one in sorted(found, key=_links_last):
        if deep == len(said):
            yield one
        elif one.is_dir():
            every = (one, *_below(one, said))
            yield from (each for each in every if _fits(each.relative_to(one).parts, said[deep:]))


def _fits(names: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the names on the way to a file are those that the parts of a pattern say."""
    if not said:
        return not names
    if said[0] == _ANY_DEPTH:
        return any(_fits(names[at:], said[1:]) for at in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], said[0]) and _fits(names[1:], said[1:])


def _below(folder: Path, said: Sequence[str], around: Sequence[Path] = ()) -> Iterator[Path]:
    """What is in and below a folder, without the marks of writers. A link to a folder around it is not entered."""
    place = folder.resolve()
    if place in around:
        return
    for one in sorted(folder.iterdir(), key=_links_last):
        if not _is_mark(one.name, said):
            yield one
            if one.is_dir():
                yield from _below(one, said, (*around, place))


def _links_last(path: Path) -> tuple[bool, Path]:
    return path.is_symlink(), path


def _is_mark(name: str, said: Sequence[str]) -> bool:
    """Whether a name is a mark of a writer, and not one that the description says."""
    return name.startswith(_MARKS) and name not in said


class Unchanged:
    """Files that must stay as they are while they are read: one that is still being written, or replaced, is read in
    part, which its rows do not tell."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Notes size and time of change of each.

        Raises:
            DataError: one is gone, or cannot be looked at.
        """
        self._found = {path: _size_and_time(path) for path in paths}

    def check(self, path: Path) -> None:
        """Look at one again.

        Raises:
            DataError: it is another one.
        """
        if _size_and_time(path) != self._found[path]:
            raise DataError(_changed(path))

    def check_all(self) -> None:
        """Look at all again, once the last one was read.

        Raises:
            DataError: one is another one.
        """
        for path in self._found:
            self.check(path)


def _changed(path: Path) -> str:
    return f"{path} changed while it was read: wait until it is whole, and run this again"


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {cause(error)}") from error
    return found.st_size, found.st_mtime_ns


def column_names(path: Path, table: Table) -> list[str]:
    """The names of a file's columns, in order.

    Raises:
        DataError: it is neither Parquet nor text, or not what its name says, or a quote of its header is left open.
        OSError, pa.ArrowException: it cannot be read.
    """
    if is_parquet(path):
        return list(pq.read_schema(path).names)
    with _text_of(path, table) as text:
        if table.columns is not None:
            return list(table.columns)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if table.quote else csv.QUOTE_NONE
        reader = csv.reader(text, delimiter=table.delimiter, quoting=quoting)
        try:
            names = next(reader, [])
        except csv.Error as error:
            _check_quotes(path, table)
            raise DataError(f"{path}: its first line is no header of CSV: {error}") from error
        if reader.line_num > 1:  # such as if a quote was left open
            _check_quotes(path, table)
        return names


def _check_quotes(path: Path, table: Table) -> None:
    """Raises DataError if a quote of a CSV is left open."""
    text = _text_for_arrow(path, table)
    try:
        while text.read(CSV_BLOCK_BYTES):
            pass
    except OpenQuote as error:
        raise DataError(_left_open(path, table, error)) from error


def record_batches(
    path: Path, table: Table, columns: Sequence[str], repeated: set[str], broken: Callable[[], None]
) -> Iterator[pa.RecordBatch]:
    """The rows of a file.

    Args:
        path: the file.
        table: how text is to be read.
        columns: which ones, all there once. Those of CSV are text.
        repeated: those whose texts repeat: they are dictionaries.
        broken: called for each row of CSV with another number of fields than the header has: it is left out.

    Raises:
        DataError: text has a NUL byte, a quote is left open, or a row is too long.
        OSError, pa.ArrowException: it cannot be read.
    """
    if is_parquet(path):
        schema = pq.read_schema(path)
        texts = [name for name in sorted(repeated) if _is_text(schema.field(name).type)]
        batches = pq.ParquetFile(path, read_dictionary=texts).iter_batches(BATCH_ROWS, columns=list(columns))
    else:
        batches = _csv_batches(path, table, columns, repeated, broken)
    yield from _without_nul(batches, path, table)


def _csv_batches(
    path: Path, table: Table, columns: Sequence[str], repeated: set[str], broken: Callable[[], None]
) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV; see `record_batches`."""

    def skip(row: Any) -> str:
        broken()
        return "skip"

    text, dictionary = pa.string(), pa.dictionary(pa.int32(), pa.string())
    options = {
        "read_options": pcsv.ReadOptions(
            column_names=None if table.columns is None else list(table.columns), block_size=CSV_BLOCK_BYTES
        ),
        "parse_options": pcsv.ParseOptions(
            delimiter=table.delimiter,
            quote_char='"' if table.quote else False,
            double_quote=table.quote,
            newlines_in_values=table.quote,
            invalid_row_handler=skip,
        ),
        "convert_options": pcsv.ConvertOptions(
            include_columns=list(columns),
            column_types={name: dictionary if name in repeated else text for name in columns},
            null_values=list(table.nulls),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    }
    rows = 0
    try:
        for batch in pcsv.open_csv(_text_for_arrow(path, table), **options):
            yield batch.select(list(columns))
            rows += batch.num_rows
    except OpenQuote as error:
        raise DataError(_left_open(path, table, error)) from error
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        long = f"a row behind {place_of_row(path, table, rows - 1)}" if rows else "its first row"
        raise DataError(
            f"{path}: {long} is longer than {CSV_BLOCK_BYTES >> 20} MiB: correct it, or write Parquet"
        ) from error


def _left_open(path: Path, table: Table, error: OpenQuote) -> str:
    """What is wrong with a quote, and what to do."""
    line = line_at(_utf8(path, table), error.at)
    return f"{path}: the quote that opens a value in line {line} {error}: close it, or set `quote = false`"


def place_of_row(path: Path, table: Table, row: int) -> str:
    """Where one of the rows of `record_batches` is, from 0 on: the line of CSV in which it begins, the row of Parquet.

    Raises:
        DataError: it is not there any longer.
    """
    if is_parquet(path):
        return row_name(row)
    try:
        return f"line {_lines_of(path, table).of_row(row)}"
    except ValueError as error:
        raise DataError(_changed(path)) from error


def first_broken(path: Path, table: Table) -> BrokenLine:
    """The first row of a CSV for which `record_batches` calls `broken`.

    Raises:
        DataError: it is not there any longer.
    """
    try:
        return _lines_of(path, table).first_broken()
    except ValueError as error:
        raise DataError(_changed(path)) from error


def _lines_of(path: Path, table: Table) -> CsvLines:
    columns = None if table.columns is None else len(table.columns)
    return CsvLines(_utf8(path, table), table.delimiter, quote=table.quote, columns=columns)


def _without_nul(batches: Iterable[pa.RecordBatch], path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    """The batches of a file, without a NUL byte in a text: text has none, but a file that was damaged, or is no text,
    or was made from such a file, has.

    Raises:
        DataError: a text has one.
    """
    first_row = 0
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if _has_nul(column):
                raise DataError(
                    f"{path}: column {name} has a NUL byte in "
                    f"{place_of_row(path, table, first_row + _first_nul(column))}, as text never has: the file is "
                    "damaged: write it again"
                )
        first_row += batch.num_rows
        yield batch


def _has_nul(column: pa.Array) -> bool:
    """Whether a text of a column has a NUL byte; no other type has one."""
    if pa.types.is_dictionary(column.type):
        # The dictionary may be that of more rows than these.
        return _has_nul(column.dictionary) and _has_nul(column.dictionary.take(column.indices))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return _has_nul(column.flatten())
    if pa.types.is_string_view(column.type):  # for which Arrow has no search
        column = column.cast(pa.large_string())
    return _is_text(column.type) and bool(pc.any(pc.match_substring(column, "\0")).as_py())


def _first_nul(column: pa.Array) -> int:
    """The row of the first text with a NUL byte; there is one."""
    good, bad = 0, len(column)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _has_nul(column.slice(good, middle - good)):
            bad = middle
        else:
            good = middle
    return good


def hint(path: Path, wanted: str, there: Sequence[str]) -> str:
    """What a file without the column `wanted` seems to be, and what to do; the common advice if nothing is known."""
    if any(part.startswith(f"{wanted}=") for part in path.parts):
        return f"{wanted} is a part of its folder's name, which is not read: write it into the files"
    if there and there[0].lstrip().startswith(("{", "[")):
        return "it seems to hold JSON, which is not read: write Parquet or CSV"
    if len(there) == 1 and (found := [mark for mark in ";\t|" if mark in there[0]]):
        return f"set `delimiter = {json.dumps(found[0])}`"
    return "name one of them in the description"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its first bytes. A file without a byte is none.

    Raises:
        DataError: its name ends with `.parquet` and its first bytes are others. Most such files are damaged, and read
            as text they would be rows of nonsense.
    """
    first = _first_bytes(path)
    if first not in (_PARQUET, b"") and path.suffix == ".parquet":
        raise DataError(
            f"{path} does not begin as Parquet does ({_PARQUET.decode()}): if it holds CSV, give it a name that does "
            "not end with .parquet; else it is damaged: write it again"
        )
    return first == _PARQUET


def _bytes_of(path: Path) -> pa.NativeFile:
    """What a file holds, decompressed."""
    first = _first_bytes(path)
    kind = next((kind for magic, kind in _COMPRESSIONS.items() if first.startswith(magic)), None)
    return pa.input_stream(str(path), compression=kind)


def _utf8(path: Path, table: Table) -> pa.NativeFile:
    """What a file of CSV holds, in UTF-8."""
    return pa.transcoding_input_stream(_bytes_of(path), table.encoding, "utf-8")


def _text_for_arrow(path: Path, table: Table) -> pa.NativeFile | ClosedQuotes:
    """As `_utf8`; reading it raises `OpenQuote` where a quote is left open."""
    text = _utf8(path, table)
    return ClosedQuotes(text, table.delimiter) if table.quote else text


def _check_bytes(path: Path, first: bytes, delimiter: str) -> None:
    """Raises DataError if the first bytes of a file are not those of text whose characters begin with bytes of ASCII.

    A first line of text makes it CSV, whatever comes behind: a NUL byte there is told with its row.
    """
    wide = _wide_encoding(first)
    if wide is not None:
        raise DataError(f'{path} seems to be text in another encoding: set `encoding = "{wide}"`')
    line, nul = first.split(b"\n", 1)[0], first.find(b"\0")
    controls = set(range(32)) - {*b"\t\r", *delimiter.encode()}
    if nul >= 0 and not controls.isdisjoint(line):
        raise DataError(f"{path} is neither Parquet nor text (byte {nul + 1} is NUL): convert it to Parquet or CSV")


def _wide_encoding(first: bytes) -> str | None:
    """The encoding of text in units of more than a byte: by its mark, or by where its NUL bytes are."""
    for name, marks in _WIDE_MARKS.items():
        if first.startswith(marks):
            return name
    even, odd = first[:_UNITS:2], first[1:_UNITS:2]
    if len(first) < _UNITS or any(even) == any(odd):
        return None
    return "utf-16-le" if all(even) else "utf-16-be" if all(odd) else None


def _text_of(path: Path, table: Table) -> io.TextIOWrapper:
    """What a file of CSV holds, as text.

    Raises:
        DataError: it is no text.
    """
    try:
        encoding = codecs.lookup(table.encoding).name
    except LookupError as error:
        raise DataError(f"`encoding`: {table.encoding} is no encoding of text, such as utf-8 or latin-1") from error
    with _bytes_of(path) as stream:
        first = stream.read(_SNIFFED)
    if not first:
        raise DataError(f"{path} is empty: leave it out of `files`")
    if first.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is a zip archive or a spreadsheet: unpack it, or save it as CSV")
    if not encoding.startswith(("utf-16", "utf-32")):
        _check_bytes(path, first, table.delimiter)
    return io.TextIOWrapper(
        _bytes_of(path), "utf-8-sig" if encoding == "utf-8" else encoding, errors="replace", newline=""
    )
