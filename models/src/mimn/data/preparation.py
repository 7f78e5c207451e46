"""Reads a described data set once, and keeps it as arrays.

    prepare(Path("dataset.toml"))  →  <cache>/<name>-<key>/   what `mimn.data.prepared` reads back

The key is a hash of the description and of the names, sizes and change times of its files, so a changed file is read
again and an unchanged one never. The folder appears by one rename when it is complete and on the disk. It states the
hash of each of its files; they are compared before the arrays are used, and what is damaged is prepared again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from mimn.data.column_values import Wanted
from mimn.data.columns import TableName, columns_of, field_columns
from mimn.data.description import (
    Description,
    MembersTable,
    SideTable,
    Source,
    Table,
    TimedTable,
    read_description,
)
from mimn.data.events import DataError
from mimn.data.faults import large_id, nothing_folded, nothing_to_learn, weight_not_above_0
from mimn.data.labels import clicks_seen, known_labels, labels_known
from mimn.data.mapped import save
from mimn.data.members import distinct_pairs
from mimn.data.prepared import FORMAT, META, TEXTS, Damaged, Ints, Meta, Prepared, hashes, read_meta
from mimn.data.rounding import WholeTimes, certain_ms
from mimn.data.sorting import SortingWriter
from mimn.data.tables import Columns, TableReader
from mimn.state.actions import NAMES
from mimn.whole_file import beside, cause, sync_all, sync_folder

log = logging.getLogger("mimn.data")


def prepare(path: Path, cache: Path) -> Prepared:
    """The data set that the description at `path` describes, read from its files or from `cache`.

    Raises:
        DataError: the description, a file, a column, a row or `cache` cannot be used; the message names it and the fix.
            Nothing is left behind then.
    """
    description = read_description(path)
    folder = _folder(description, path, cache)
    try:
        meta = _kept(folder) or _made(folder, path, description)
    except OSError as error:  # not of the data set's files: those are told as DataError where they are read
        raise DataError(
            f"prepared data cannot be kept in {cache} ({cause(error)}): choose another folder with --cache or CTR_CACHE"
        ) from error
    return Prepared(folder, description, meta, path.parent)


def prepared_folder(path: Path, cache: Path) -> Path:
    """Where `prepare` keeps the data set as its files are now.

    Raises:
        DataError: the description cannot be used, or a file is missing.
    """
    return _folder(read_description(path), path, cache)


def _folder(description: Description, path: Path, cache: Path) -> Path:
    try:
        return cache / f"{description.name}-{_key(description, path)}"
    except DataError as error:
        hint = f" ({description.source})" if description.source else ""
        raise DataError(f"{path}: {error}{hint}") from error


def _kept(folder: Path) -> Meta | None:
    """What a prepared folder says of itself; None, with a line that says so, if it is damaged, or if there is none."""
    try:
        return read_meta(folder) if folder.exists() else None
    except Damaged as damage:
        log.warning("%s is damaged: the files of the data set are read again", damage)
        return None


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of the same name; None if there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _made(folder: Path, path: Path, description: Description) -> Meta:
    """Prepare `folder`, in place of one that is damaged; what it says of itself.

    Raises:
        DataError: as `prepare`.
        OSError:   it cannot be written.
    """
    damaged = _identity(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as partial:
        partial.mkdir()
        made = _Preparation(description, path.parent, partial).run()
        _check_events(path, made)
        sync_all(partial)
        if damaged is not None and _identity(folder) == damaged:  # else another process has put a good one there
            folder.rename(partial.with_name("damaged"))
        if not folder.exists():  # else another process was faster, with the same content
            partial.rename(folder)
            sync_folder(folder.parent)
        return made.meta


def _check_events(path: Path, made: Prepared) -> None:
    """Raises DataError if the events are not those that the description names."""
    expected = made.description.events.sha256
    if expected is not None and made.events.sha256 != expected:
        raise DataError(
            f"{path}: these are not the events of `events.sha256`, which published figures were made from: restore the "
            "files, or describe yours in a description of your own, without that line"
        )


class _Preparation:
    """One reading of all tables into a folder."""

    def __init__(self, description: Description, root: Path, folder: Path) -> None:
        self._description, self._root, self._folder = description, root, folder
        self._rows: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._texts: dict[str, dict[int, str]] = {}
        self._category_of: tuple[Ints, Ints] | None = None
        """Items and their categories, by the table of items."""
        self._event_unit_ms = 1
        self._event_rounded_ms: tuple[int, ...] = ()

    def run(self) -> Prepared:
        described = self._description
        if described.items is not None:
            self._side(described.items, "item")
        if described.users is not None:
            self._side(described.users, "user")
        self._events()
        if described.impressions is not None:
            self._impressions()
        if described.members is not None:
            self._members(described.members)
        texts = {name: (list(of), list(of.values())) for name, of in self._texts.items()}
        (self._folder / TEXTS).write_text(json.dumps(texts, ensure_ascii=False), "utf-8")
        meta = Meta(
            format=FORMAT,
            name=described.name,
            rows=self._rows,
            refused=self._refused,
            event_unit_ms=self._event_unit_ms,
            event_rounded_ms=self._event_rounded_ms,
            sha256=hashes(self._folder),
        )
        (self._folder / META).write_bytes(msgspec.json.format(msgspec.json.encode(meta)))
        return Prepared(self._folder, described, meta, self._root)

    def _read(self, reader: TableReader, table: str) -> Iterator[Columns]:
        used = 0
        for batch in reader.batches():
            used += len(next(iter(batch.values())))
            yield batch
        for name, texts in reader.texts.items():
            self._texts.setdefault(name.partition(".")[2] or name, {}).update(texts)
        self._rows[table] = used
        self._refused |= {f"{table}: {reason}": n for reason, n in reader.refused.rows.items()}
        if not used:
            reasons = "; ".join(f"{reason}: {n}" for reason, n in reader.refused.rows.items()) or "there are none"
            raise DataError(f"`{table}`: none of {reader.rows} rows can be used: {reasons}")

    def _reader(self, name: TableName) -> TableReader:
        described = self._description
        return TableReader(getattr(described, name), self._root, columns_of(described, name), described.ids)

    def _side(self, table: SideTable, source: Source) -> None:
        named: TableName = "users" if source == "user" else "items"
        reader = self._reader(named)
        batches = list(self._read(reader, named))
        columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        key = self._signed(columns["key"], table.key, named)
        order = np.argsort(key, kind="stable")
        key = key[order]
        repeated = np.flatnonzero(key[1:] == key[:-1])
        if len(repeated):
            first, second = sorted(order[repeated[0] : repeated[0] + 2] + 1)
            text = reader.text_of("key", int(key[repeated[0]]))
            raise DataError(
                f"`{source}s`, column {table.key} of {', '.join(table.files)}: key {text} "
                f"has more than one row, the usable rows {first} and {second} ({len(repeated)} repeated rows): keep "
                "one row a key"
            )
        folder = self._folder / f"{source}s"
        folder.mkdir()
        save(folder / "key.npy", key)
        for name in field_columns(self._description, source):
            save(folder / f"{name}.npy", columns[name][order])
        if table.category is not None:
            self._category_of = key, self._signed(columns["category"], table.category, named)[order]

    def _events(self) -> None:
        described = self._description
        table = described.events
        context = {} if described.impressions else field_columns(described, "context", prefix="context")
        reader = self._reader("events")
        dtypes: dict[str, DTypeLike] = dict.fromkeys(("user", "item", "category", "time", "together"), np.int64)
        if described.actions:
            dtypes |= {"action": np.uint8}
        dtypes |= _dtypes(context)
        folder = self._folder / "events"
        folder.mkdir()
        left_out = read = 0
        whole = WholeTimes()
        with SortingWriter(folder, dtypes, ("user", "time")) as writer:
            for batch in self._read(reader, "events"):
                columns: Columns = {
                    "user": self._signed(batch["user"], table.user, "events"),
                    "item": self._signed(batch["item"], table.item, "events") + table.item_offset,
                    "time": batch["time"],
                    **{name: batch[name] for name in context},
                }
                columns["category"] = self._categories(batch, columns["item"], reader, "events")
                columns["together"] = (
                    batch["together"].view(np.int64) if "together" in batch else read + np.arange(len(batch["user"]))
                )
                read += len(batch["user"])
                if described.actions:
                    columns["action"], folded = self._actions(batch["action"], reader.texts["action"])
                    left_out += len(folded) - int(folded.sum())
                    columns = {name: values[folded] for name, values in columns.items()}
                whole.add(columns["time"])
                writer.add(columns)
            if described.impressions is not None:
                self._event_rounded_ms = whole.units
            writer.finish(lambda times: certain_ms(times, self._event_rounded_ms))
            self._rows["events"] = writer.rows
        if table.time_unit == "s" and whole.counts[1000] == writer.rows:
            _to_seconds(folder / "time.npy")
            self._event_unit_ms = 1000
        if left_out:
            self._refused["events: action of weight 0, not folded"] = left_out
        if not writer.rows:
            raise DataError(nothing_folded())

    def _actions(
        self, codes: NDArray[np.uint64], texts: Mapping[int, str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """What each event was, by number on the wire, and whether it is folded. [n] → [n], [n]"""
        found, place = np.unique(codes, return_inverse=True)
        numbers, folded = np.zeros(len(found), np.uint8), np.zeros(len(found), np.bool_)
        for at, code in enumerate(found.tolist()):
            action = self._description.actions.get(texts.get(code, ""))
            if action is None:
                raise DataError(
                    f"`[actions]` lacks {texts.get(code, '')!r}, which column {self._description.events.action} "
                    "holds: give it a line, with weight 0 to leave its events out"
                )
            if action.is_ is not None and action.weight != 0.0:
                numbers[at], folded[at] = NAMES.index(action.is_), True
        return numbers[place], folded[place]

    def _impressions(self) -> None:
        described = self._description
        table = described.impressions
        assert table is not None  # noqa: S101 (the caller looked)
        context = field_columns(described, "context", prefix="context")
        sliced = [f"slice.{name}" for name in table.slices]
        reader = self._reader("impressions")
        ids = ("user", "item", "category", "time", "request", "known", "seen")
        dtypes: dict[str, DTypeLike] = dict.fromkeys(ids, np.int64)
        dtypes |= {"label": np.uint8, "weight": np.float32, "position": np.float32}
        dtypes |= _dtypes(context) | dict.fromkeys(sliced, np.uint64)
        folder = self._folder / "impressions"
        folder.mkdir()
        clicks = late = 0
        with SortingWriter(folder, dtypes, ("user", "time")) as writer:
            for batch in self._read(reader, "impressions"):
                n = len(batch["user"])
                known = labels_known(batch, table.window_ms)
                label = known_labels(batch, known)
                columns: Columns = {
                    "user": self._signed(batch["user"], table.user, "impressions"),
                    "item": self._signed(batch["item"], table.item, "impressions"),
                    "time": batch["time"],
                    "label": label,
                    "known": known,
                    "seen": clicks_seen(batch, known, label),
                    "request": batch["request"].view(np.int64) if "request" in batch else writer.rows + np.arange(n),
                    "weight": batch.get("weight", np.ones(n)),
                    "position": batch.get("position", np.full(n, np.nan)),
                    **{name: batch[name] for name in (*context, *sliced)},
                }
                columns["category"] = self._categories(batch, columns["item"], reader, "impressions")
                if fault := weight_not_above_0(table, columns["weight"]):
                    raise DataError(fault)
                late += int(batch["label"].sum()) - int(label.sum())
                clicks += int(label.sum())
                writer.add(columns)
            writer.finish()
        if clicks in (0, writer.rows):
            raise DataError(nothing_to_learn(table, clicks, writer.rows, late))

    def _members(self, table: MembersTable) -> None:
        batches = list(self._read(self._reader("members"), "members"))
        key, item = (
            self._signed(np.concatenate([batch[name] for batch in batches]), column, "members")
            for name, column in (("key", table.key), ("item", table.item))
        )
        folder = self._folder / "members"
        folder.mkdir()
        for name, values in zip(
            ("key", "item"), distinct_pairs(key, item + self._description.events.item_offset), strict=True
        ):
            save(folder / f"{name}.npy", values)

    def _categories(
        self, batch: Columns, items: Ints, reader: TableReader, table: Literal["events", "impressions"]
    ) -> Ints:
        described: TimedTable = getattr(self._description, table)
        if described.category is not None:
            return self._signed(batch["category"], described.category, table)
        if self._category_of is None:
            return np.zeros(len(items), np.int64)
        keys, categories = self._category_of
        at = np.minimum(np.searchsorted(keys, items), len(keys) - 1)
        missing = keys[at] != items
        if bool(missing.any()):
            item = batch["item"].view(np.int64)[np.argmax(missing)]
            raise DataError(
                f"`{table}`, column {described.item} of {', '.join(described.files)}: item "
                f"{reader.text_of('item', int(item))} has no row in `[items]`, or one without a "
                f"category: add it, or name a column `{table}.category`"
            )
        return categories[at]

    def _signed(self, ids: NDArray[np.uint64], column: str, named: TableName) -> Ints:
        """Ids as int64. Hashes of strings use all 64 bits; whole numbers keep their value."""
        if self._description.ids == "uint64" and (fault := large_id(column, ids)):
            table: Table = getattr(self._description, named)
            raise DataError(f"`{named}`, {', '.join(table.files)}: {fault}")
        return ids.view(np.int64)


def _to_seconds(path: Path) -> None:
    """Times in whole seconds in place of ms, in the file itself."""
    times = np.lib.format.open_memmap(path, "r+")
    np.floor_divide(times, 1000, out=times)
    times.flush()


def _dtypes(fields: Mapping[str, Wanted]) -> dict[str, DTypeLike]:
    """Of columns of fields: numbers, or codes of values."""
    return {name: np.float64 if want.meaning == "number" else np.uint64 for name, want in fields.items()}


def cache_folder() -> Path:
    """Where prepared data sets are kept: `$CTR_CACHE`, else `ctr-serving` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CTR_CACHE") or Path(cache, "ctr-serving")) / "data"


def _key(description: Description, path: Path) -> str:
    """16 hex digits that change with the description, and with the files' names, sizes and times of change.

    `[protocol]` is left out: it changes what is made of the arrays, not the arrays.
    """
    stored = msgspec.structs.replace(description, protocol=None)
    digest = hashlib.sha256(f"{FORMAT}\0".encode() + msgspec.json.encode(stored, order="sorted"))
    described = description
    tables = [described.events, described.impressions, described.users, described.items, described.members]
    for table in tables:
        if table is not None:
            for file in TableReader(table, path.parent, {}, description.ids).paths:
                stat = file.stat()
                digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
