"""An owner's files, Parquet or CSV, as batches of plain arrays: ids in 64 bits, times in ms, labels 0 or 1.

Files are streamed, so a table may be larger than memory. Only columns that the description names are read; those of CSV
are read as text, and become numbers by what they mean, never by what their first rows look like. What is wrong with a
column (it is missing, of another type, in another time unit, a text in it is no number) raises `DataError` with the
file, the column and the fix. Rows that cannot be used although their types are right are refused: they are counted by
reason, and the first of each is remembered.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.data.column_values import (
    HASHES,
    TIMES,
    Place,
    Wanted,
    begins_with_number,
    bytes_of,
    hash_texts,
    hashed_text,
    id_texts,
    ids_of_text,
    list_texts,
    mask_of,
    numpy_of,
    parsed,
    says_its_unit,
    to_ids,
    to_labels,
    to_numbers,
    to_times,
    value_texts,
    without_decimals,
    without_null_type,
)
from mimn.data.description import Table
from mimn.data.events import DataError
from mimn.data.files import (
    Unchanged,
    column_names,
    expand,
    first_broken,
    hint,
    is_parquet,
    place_of_row,
    record_batches,
)
from mimn.data.ids import Strings, xxh64
from mimn.data.zones import Zones


@dataclass(slots=True)
class Refused:
    """Rows that were left out, by reason."""

    rows: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    """Reason → file and row, or line, of the first."""

    def add(self, reason: str, mask: NDArray[np.bool_], path: Path, named: Callable[[int], str]) -> None:
        """Count the rows where the mask is true. `named`: what a row of the mask is called."""
        n = int(np.count_nonzero(mask))
        if n:
            self.rows[reason] = self.rows.get(reason, 0) + n
            if reason not in self.first:  # a name is looked for in the file
                self.first[reason] = f"{path}, {named(int(np.argmax(mask)))}"

    @property
    def total(self) -> int:
        """Refused rows; a row that is refused for two reasons counts twice."""
        return sum(self.rows.values())


_BROKEN = "broken line"
_DAMAGED = ("compressed stream", "decompress failed", "inflate failed")
"""What Arrow says of a compressed file that was cut or changed."""
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
            DataError: a pattern matches no file, or a file cannot be looked at.
        """
        self._table, self._root, self._wanted, self._ids = table, root, wanted, ids
        self.paths = expand(table.files, root)
        self._unchanged = Unchanged(self.paths)
        self.refused = Refused()
        self.rows = 0
        """Rows read, refused ones included."""
        self._in_unit: str | None = None
        """A column whose numbers were found to be times in the table's `time_unit`."""
        self._yielded: tuple[Path, Callable[[int], str], NDArray[np.bool_]] | None = None
        self.texts: dict[str, dict[int, str]] = {n: {} for n, w in wanted.items() if w.meaning in ("value", "values")}
        """The text of each code, by column, in the order of the files; empty where texts are not kept. It is
        `mimn.bundle.fields.text_of` of the value, and of a list `column_values.text_of_list`."""
        self._texts_before: list[dict[str, int]] = []
        """How many texts of each column were known before each file."""
        self.text_bytes: dict[str, NDArray[np.int64]] = {}
        """Of the batch that `batches` has yielded last: how long the text of each code is, in bytes of UTF-8, even if
        texts are not kept; 0 for none. [n]"""

    def batches(
        self,
        *,
        strings: Strings | None = None,
        note: Callable[[str, pa.Array], None] | None = None,
        zones: Zones | None = None,
    ) -> Iterator[Columns]:
        """The rows that can be used, in the order of the files. `strings` also notes the strings that are ids, `note`
        is called with those of each batch, by the column's name, and `zones` looks at times.

        Raises:
            DataError: a file cannot be read, or changed since this reader was made, or a whole column cannot be used.
        """
        for path in self.paths:
            first_row = 0
            self._texts_before.append({name: len(texts) for name, texts in self.texts.items()})
            for typed, batch in self._read(path):
                named = partial(self._name_of_row, path, first_row)
                out, good = {}, np.ones(batch.num_rows, np.bool_)
                for name, want in self._wanted.items():
                    out[name], bad = self._convert(
                        batch.column(want.column),
                        name,
                        Place(path, want, named, typed),
                        strings=strings,
                        note=note,
                        zones=zones,
                    )
                    for reason, mask in bad:
                        self.refused.add(f"{want.column}: {reason}", mask, path, named)
                        good &= ~mask
                if not good.all():
                    out = {name: values[good] for name, values in out.items()}
                    self.text_bytes = {name: sizes[good] for name, sizes in self.text_bytes.items()}
                self._yielded = path, named, good
                self.rows += batch.num_rows
                first_row += batch.num_rows
                yield out
        self._unchanged.check_all()

    def refuse(self, reason: str, mask: NDArray[np.bool_]) -> None:
        """Count rows of the batch that `batches` has yielded last, [n], as refused, too: by a rule of the caller."""
        if self._yielded is None:
            raise RuntimeError("no batch was read yet")
        path, named, good = self._yielded
        refused = np.zeros(len(good), np.bool_)
        refused[good] = mask
        self.refused.add(reason, refused, path, named)

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
        place = Place(Path(), self._wanted[name])
        for path in self.paths:
            for _, batch in self._read(path):
                column = without_null_type(batch.column(place.want.column), pa.string())
                column = id_texts(without_decimals(column, "id"), place)
                hashed, bad = hash_texts(column, None)
                good = ~np.any([mask for _, mask in bad], axis=0)
                yield hashed[good], column.filter(pa.array(good))

    def first_file(self, name: str, text: str) -> Path:
        """The first file in which the column `name`, one of `texts`, has a text that is there."""
        at = list(self.texts[name].values()).index(text)
        return self.paths[bisect_right(self._texts_before, at, key=lambda known: known[name]) - 1]

    @property
    def files(self) -> str:
        """The files' names, as the description has them."""
        return ", ".join(self._table.files)

    def _read(self, path: Path) -> Iterator[tuple[bool, pa.RecordBatch]]:
        """Batches of the wanted columns, and whether the file says of which types they are.

        Raises:
            DataError: the file cannot be read, or changed since this reader was made.
        """
        columns = sorted({want.column for want in self._wanted.values()})
        repeated = {
            w.column
            for w in self._wanted.values()
            if w.meaning in ("value", "values") or (w.meaning == "id" and self._ids == "string")
        }

        def broken() -> None:
            self.rows += 1
            self.refused.rows[_BROKEN] = self.refused.rows.get(_BROKEN, 0) + 1

        typed = False
        try:
            typed = is_parquet(path)
            self._check_columns(path, columns, column_names(path, self._table))
            for batch in record_batches(path, self._table, columns, repeated, broken):
                yield typed, batch
        except (OSError, pa.ArrowException) as error:
            self._unchanged.check(path)  # else it is no damage
            raise DataError(f"{path} cannot be read: {_in_one_line(error)}{_fix(error, parquet=typed)}") from error
        self._unchanged.check(path)
        if _BROKEN in self.refused.rows and _BROKEN not in self.refused.first:
            one = first_broken(path, self._table)
            self.refused.first[_BROKEN] = (
                f"{path}, line {one.line}, {one.fields} fields in place of {one.expected}: {one.text!r}"
            )

    def _name_of_row(self, path: Path, first_row: int, at: int) -> str:
        """What the row `at` of a batch is called that begins with the row `first_row` of a file."""
        return place_of_row(path, self._table, first_row + at)

    def _check_columns(self, path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
        missing = [w for w in self._wanted.values() if w.column in set(wanted) - set(there)]
        if missing:
            named = ", ".join(f"{w.column!r} (`{w.said}`)" for w in missing)
            raise DataError(
                f"{path} has no column {named}; its columns are {', '.join(there)}: "
                f"{hint(path, missing[0].column, there)}"
            )
        for want in self._wanted.values():
            if (times := list(there).count(want.column)) > 1:
                raise DataError(f"{Place(path, want)} is there {times} times: give each column a name of its own")

    def _convert(
        self,
        column: pa.Array,
        name: str,
        place: Place,
        *,
        strings: Strings | None,
        note: Callable[[str, pa.Array], None] | None,
        zones: Zones | None,
    ) -> tuple[NDArray[Any], list[tuple[str, NDArray[np.bool_]]]]:
        """The column's values, and which rows cannot be used and why."""
        meaning = place.want.meaning
        column = without_null_type(column, self._empty_type(place.want))
        try:
            column = without_decimals(column, meaning)
            if meaning in ("value", "values"):
                return self._to_codes(column, name, place), []
            if pa.types.is_dictionary(column.type) and not (meaning == "id" and self._ids == "string"):
                column = column.cast(column.type.value_type)
            if not place.typed:
                column = self._from_text(column, place)
            match meaning:
                case "id" if self._ids == "string":
                    texts = id_texts(column, place)
                    if note is not None:
                        note(name, texts.dictionary)
                    return hash_texts(texts, strings)
                case "id":
                    return to_ids(column, place)
                case "label":
                    return to_labels(column, place)
                case "number":
                    return to_numbers(column, place)
                case _:
                    times, bad = to_times(column, replace(place, in_unit=self._in_unit))
                    if not says_its_unit(column.type) and bool((times >= 0).any()):
                        self._in_unit = place.want.column
                    if zones is not None:
                        zones.add(column, times, place)
                    return times, bad
        except UnicodeDecodeError as error:
            raise DataError(f"{place} holds text that is not UTF-8: {error}") from error
        except pa.ArrowException as error:
            raise DataError(f"{place} cannot be converted from {column.type}: {_in_one_line(error)}") from error

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

    def _from_text(self, column: pa.Array, place: Place) -> pa.Array:
        """A column of CSV as the type that it has to be."""
        match place.want.meaning:
            case "id" if self._ids == "uint64":
                return ids_of_text(column, place)
            case "label":
                return parsed(column, (pa.bool_(), pa.float64()), place, "but a label is 0 or 1, or true or false")
            case "number":
                fault = "not a number: correct it, add it to `nulls`, or name another column"
                return parsed(column, (pa.float64(),), place, fault)
            case "time" | "optional_time" if place.want.unit != "iso" and begins_with_number(column):
                return parsed(column, (pa.int64(), pa.float64()), place, f"not a time: {TIMES}")
            case _:
                return column

    def _to_codes(self, column: pa.Array, name: str, place: Place) -> NDArray[np.uint64]:
        """Codes of values, or of lists of values; their texts are kept once each."""
        column = value_texts(column, place) if place.want.meaning == "value" else list_texts(column, place)
        if not len(column.dictionary):
            self.text_bytes[name] = np.zeros(len(column), np.int64)
            return np.zeros(len(column), np.uint64)
        data, offsets = bytes_of(column.dictionary)
        codes = xxh64(data, offsets)
        codes[codes == 0] = 1
        codes[mask_of(column.dictionary.is_null())] = 0
        if place.want.texts:
            known = self.texts[name]
            new = [at for at, code in enumerate(codes.tolist()) if code and code not in known]
            texts = column.dictionary.take(pa.array(new, pa.int64())).to_pylist()
            known.update(zip(codes[new].tolist(), texts, strict=True))
        empty, at = mask_of(column.is_null()), numpy_of(column.indices.fill_null(0))
        self.text_bytes[name] = np.where(empty, 0, np.diff(offsets)[at]).astype(np.int64)
        return np.where(empty, np.uint64(0), codes[at])


def _fix(error: Exception, *, parquet: bool) -> str:
    """What to do about a file that cannot be read, as far as the error tells."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return ": there is too little memory: raise its limit (ulimit -v, or the container's), and run this again"
    if "invalid UTF8" in str(error):
        return ': set `encoding`, such as "latin-1"'
    of_system = isinstance(error, OSError) and error.errno
    if not of_system and (parquet or any(said in str(error) for said in _DAMAGED)):
        return ": the file is damaged, or was not written or copied to its end: write it again"
    return ""


def _in_one_line(error: Exception) -> str:
    """What Arrow says, which may be lines."""
    return " ".join(str(error).split())
