"""The common form of a behavior data set: one row per behavior, grouped by user, each user's rows in time order.

Every reader returns `Events`, and the code after the readers (split, instances, windows) works on nothing else. A row's
history is what was known before its basket began; `history_end` is the one definition of where that is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

COLUMNS = ("user_id", "item_id", "category_id", "timestamp", "basket_id")
LABELS = ("label", "clicked")
"""Columns that would say which rows are positives. Every row is one here, so a file with such a column is refused."""
LATEST = 100_000_000_000
"""Seconds since 1970 that no event reaches (the year 5138); any later time is in a smaller unit."""
LARGEST_ID = 2**63 - 1


class DataError(Exception):
    """A data set that cannot be used; the message names the file or column and the fix."""


@dataclass(frozen=True)
class Events:
    """n behaviors, sorted by user and then by time. The order among rows with one timestamp means nothing.

    All columns are [n] int64; `timestamp` counts units of `unit_ms` milliseconds since 1970-01-01 UTC.

    Raises:
        DataError: the columns differ in length or are not sorted.
    """

    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    category_id: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    basket_id: NDArray[np.int64]
    unit_ms: int = 1000
    action: NDArray[np.uint8] | None = None
    """[n]: number on the wire (`mimn.state.actions.NAMES`); None: the data set does not say."""

    def __post_init__(self) -> None:
        if not len(self.user_id):
            raise DataError("no events: the data set is empty")
        for name in COLUMNS:
            if len(getattr(self, name)) != len(self.user_id):
                raise DataError(f"column {name} has {len(getattr(self, name))} rows, user_id has {len(self.user_id)}")
        if self.action is not None and len(self.action) != len(self.user_id):
            raise DataError(f"column action has {len(self.action)} rows, user_id has {len(self.user_id)}")
        same_user = self.user_id[1:] == self.user_id[:-1]
        in_order = np.where(same_user, self.timestamp[1:] >= self.timestamp[:-1], self.user_id[1:] > self.user_id[:-1])
        if not bool(in_order.all()):
            row = int(np.argmin(in_order)) + 1
            raise DataError(f"row {row} is out of order: sort events by user_id, then timestamp")

    def __len__(self) -> int:
        return len(self.user_id)

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """[U]: the distinct user ids, rising."""
        return self.user_id[self.bounds[:-1]]

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """[U + 1]: user u's rows are `bounds[u]:bounds[u + 1]`."""
        changes = np.flatnonzero(self.user_id[1:] != self.user_id[:-1]) + 1
        return np.concatenate([[0], changes, [len(self)]]).astype(np.int64)

    @cached_property
    def user_index(self) -> NDArray[np.int64]:
        """[n]: each row's place in `users`."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.bounds))

    @cached_property
    def occasion(self) -> NDArray[np.int64]:
        """[n]: a number for each distinct (user, timestamp), rising by 1 along the rows."""
        new = np.ones(len(self), bool)
        new[1:] = (self.user_id[1:] != self.user_id[:-1]) | (self.timestamp[1:] != self.timestamp[:-1])
        return np.cumsum(new) - 1

    @cached_property
    def history_end(self) -> NDArray[np.int64]:
        """[n]: the first row that is *not* in this row's history.

        The history of a row is `bounds[u]:history_end[row]`: the user's rows strictly before the first timestamp of
        the row's own basket. A basket normally has one timestamp; where a shop's clock advanced while a basket was
        being entered, the basket's earlier rows are not in the history of its later rows either.
        """
        _, basket = np.unique(self.basket_id, return_inverse=True)
        # The pair keeps baskets of two users apart where the data gives both the same number.
        _, first_row, key = np.unique(
            basket * len(self.users) + self.user_index, return_index=True, return_inverse=True
        )
        occasion_start = np.concatenate([[0], np.flatnonzero(np.diff(self.occasion)) + 1])
        return occasion_start[self.occasion[first_row]][key]

    def select(self, rows: NDArray[np.bool_]) -> Events:
        """The rows where the mask is true."""
        user_id, item_id, category_id, timestamp, basket_id = (getattr(self, name)[rows] for name in COLUMNS)
        action = None if self.action is None else self.action[rows]
        return Events(user_id, item_id, category_id, timestamp, basket_id, self.unit_ms, action)

    @cached_property
    def sha256(self) -> str:
        """sha256 over the columns' little-endian int64 bytes, then the actions': the data hash that every record
        states."""
        digest = hashlib.sha256()
        for name in COLUMNS:
            digest.update(np.ascontiguousarray(getattr(self, name), "<i8").tobytes())
        if self.action is not None:
            digest.update(np.ascontiguousarray(self.action).tobytes())
        return digest.hexdigest()


def read_events(path: str | Path, *, sha256: str | None = None) -> Events:
    """The events of a parquet file in the common form. Columns other than `COLUMNS` and `LABELS` are ignored.

    Raises:
        DataError: the file is missing, its bytes do not have the hash `sha256`, it has a column of labels, a column is
            missing, is not of integers or has a value that cannot be used, or the rows are not sorted. The message
            names the file, the column and the fix.
    """
    path = Path(path)
    if sha256 is not None and file_sha256(path) != sha256:
        raise DataError(f"{path} is not the published file (sha256 differs): restore that file, or name its folder")
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow)
            table = file.read(columns=list(COLUMNS))
        columns = {name: _integers(table[name], name) for name in COLUMNS}
        _check_values(columns)
        user_id, item_id, category_id, timestamp, basket_id = columns.values()
        return Events(user_id, item_id, category_id, timestamp, basket_id)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_prepared(folder: str | Path, *, title: str, install: str, command: str, sha256: str) -> Events:
    """The events of a known data set, as its command prepared them in `folder`.

    Args:
        folder: has `events.parquet`.
        title, install, command: the data set, and the commands that install its source and prepare it, for messages.
        sha256: `Events.sha256` of the prepared events.

    Raises:
        DataError: the file does not exist, cannot be used, or has other events.
    """
    path = Path(folder) / "events.parquet"
    if not path.exists():
        raise DataError(f"{path} does not exist: make it with `{install}` and `{command} --output {folder}`")
    events = read_events(path)
    if events.sha256 != sha256:
        raise DataError(
            f"{path} is not {title} as `{command}` prepares it: prepare it in another folder and name that folder in "
            "data.folder"
        )
    return events


def _check_schema(schema: pa.Schema) -> None:
    if missing := [name for name in COLUMNS if name not in schema.names]:
        raise DataError(f"no column {', '.join(missing)}: the columns must be {', '.join(COLUMNS)}")
    if labels := [name for name in LABELS if name in schema.names]:
        raise DataError(
            f"column {labels[0]} would be ignored: every row counts as a positive. Keep only the rows that are "
            "behaviors, and remove the column"
        )
    for name in COLUMNS:
        kind = schema.field(name).type
        if pa.types.is_timestamp(kind):
            raise DataError(f"column {name} is {kind}, not an integer: convert it to whole seconds since 1970-01-01")
        if not pa.types.is_integer(kind):
            raise DataError(f"column {name} is {kind}, not an integer: give each value an integer id")


def _integers(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    if column.null_count:
        raise DataError(f"column {name} has {column.null_count} nulls: fill them in or remove the rows")
    values: NDArray[np.int64] = column.to_numpy()
    if values.dtype == np.uint64 and bool((values > LARGEST_ID).any()):
        row = int(np.argmax(values > LARGEST_ID))
        raise DataError(
            f"column {name} has {values[row]} in row {row}: training reads ids up to {LARGEST_ID} (2^63 - 1); "
            "map the ids to smaller numbers"
        )
    return values.astype(np.int64)


def _check_values(columns: Mapping[str, NDArray[np.int64]]) -> None:
    """Raise DataError if an id is negative, or times are not in seconds."""
    for name, values in columns.items():
        if len(values) and int(values.min()) < 0:
            row = int(np.argmax(values < 0))
            fix = "use seconds since 1970-01-01" if name == "timestamp" else "number the ids from 0 or 1 up"
            raise DataError(f"column {name} has {values[row]} in row {row}, below 0: {fix}")
    times = columns["timestamp"]
    if len(times) and int(times.max()) >= LATEST:
        row = int(np.argmax(times >= LATEST))
        raise DataError(
            f"column timestamp has {times[row]} in row {row}: times are in seconds since 1970-01-01; "
            f"{_unit_fix(int(times[row]))}"
        )


def _unit_fix(timestamp: int) -> str:
    """How to get seconds from a time in a smaller unit, which its size gives away."""
    if timestamp < 1000 * LATEST:
        return "divide milliseconds by 1,000"
    if timestamp < 1000**2 * LATEST:
        return "divide microseconds by 1,000,000"
    return "divide nanoseconds by 1,000,000,000"


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write each table as `<name>.parquet` into `folder`; files that already hold the same rows stay as they are.

    Raises:
        DataError: a file of that name holds something else. Nothing is written then.
    """
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        if path.exists() and not _holds(path, table):
            raise DataError(f"{path} holds other data, which is not overwritten: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        if not path.exists():
            partial = folder / f".{name}.{os.getpid()}.tmp"
            pq.write_table(table, partial, compression="zstd")
            partial.replace(path)


def _holds(path: Path, table: pa.Table) -> bool:
    try:
        return bool(pq.read_table(path).equals(table))
    except (OSError, pa.ArrowInvalid):
        return False


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def sorted_rows_sha256(table: pa.Table) -> str:
    """sha256 of a table's rows as a multiset: equal for two tables that differ only in the order of their rows.

    Each row is its values joined by tabs, in the table's column order, nulls as empty text; the rows are sorted as
    UTF-8 text and joined by newlines.
    """
    columns = [column.cast(pa.string()).fill_null("").to_pylist() for column in table.columns]
    rows = sorted("\t".join(values) for values in zip(*columns, strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
