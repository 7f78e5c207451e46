"""History in files that a data set's description names, in order of time."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.arrow import pa
from mimn.data.column_values import Wanted
from mimn.data.columns import event_columns
from mimn.data.description import Description, Table, read_description
from mimn.data.events import DataError
from mimn.data.faults import large_id
from mimn.data.ids import string_ids
from mimn.data.sorting import SortingWriter
from mimn.data.tables import TableReader
from mimn.state.actions import NAMES
from uic.bulk.history import HistoryRecord, Place
from uic.bulk.work_folder import WorkFolder
from uic.core.event import DAY_MS

ROWS: Final = 1 << 16
NOT_ON_THE_WIRE: Final = -1
_ALL_BITS: Final = (1 << 64) - 1


@dataclass(slots=True)
class LeftOut:
    """Rows of described files that become no record, by reason."""

    rows: dict[str, int]
    first: dict[str, str]


class DescribedHistory:
    """The `[events]` of a description, sorted by time; rows of one time in the order of the files. One lane.

    Records are appended with the current time, and an event may be a day after its record's: rows beyond that are left
    out. They keep their places, the last ones, so that a later import of the same files appends them when their time
    has come.
    """

    oldest_ms = None
    first_lanes = range(0)

    def __init__(self, path: Path, work: Path | None = None, *, now_ms: int | None = None) -> None:
        """Reads and sorts the files into a temporary folder below `work` (default: the system's); `close` removes it.
        `now_ms`: the time before which records are appended (default: that of the clock).

        Raises:
            DataError: a file or column cannot be used; the message names it and the fix. No folder is left.
            FolderUnavailable: the temporary folder is full, or cannot be written. No folder is left.
        """
        self._description = read_description(path)
        self._latest_ms = (time.time_ns() // 1_000_000 if now_ms is None else now_ms) + DAY_MS
        self.left_out = LeftOut({}, {})
        table = self._description.events
        wanted = event_columns(table)
        wanted.pop("together", None)
        self._users: dict[int, str] = {}
        """With `ids = "string"`: the text of each user's id, which is its hash."""
        reader = TableReader(table, path.parent, wanted, self._description.ids)
        self._folder = WorkFolder("ctr-import-", work)
        try:
            with self._folder.writing():  # what cannot be read is a DataError
                self._columns = self._sorted(reader, path.parent)
        except BaseException:
            self._folder.close()
            raise
        self.source = self._identity()

    @property
    def records(self) -> int:
        """See `History`; rows that `left_out` counts are none."""
        return int(np.searchsorted(self._columns["time"], self._latest_ms, "right"))

    def actions(self) -> dict[str, int]:
        """How many records have each action of the wire, by its name in `[actions]`."""
        counts: Counter[int] = Counter()
        for at in range(0, self.records, ROWS):
            found, n = np.unique(self._columns["action"][at : min(at + ROWS, self.records)], return_counts=True)
            counts.update(dict(zip(found.tolist(), n.tolist(), strict=True)))
        return {NAMES[number]: n for number, n in sorted(counts.items())}

    def read(self, after: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """See `History`."""
        begin, end = after.get(0, -1) + 1, self.records
        for at in range(begin, end, ROWS):
            rows = {name: values[at : min(at + ROWS, end)].tolist() for name, values in self._columns.items()}
            for i, (code, item, category, action, time_ms) in enumerate(
                zip(rows["user"], rows["item"], rows["category"], rows["action"], rows["time"], strict=True)
            ):
                key = self._key(code & _ALL_BITS)
                event = BehaviorEvent(
                    event_id=f"{self.source}/{at + i}",
                    user_id=key,
                    item_id=item & _ALL_BITS,
                    category_id=category & _ALL_BITS,
                    action=action,
                    event_time=time_ms,
                )
                yield HistoryRecord(Place(0, at + i), key.encode(), event.SerializeToString(), (), None)

    def _key(self, user: int) -> str:
        """A user's id as requests name it: the digits of the number that training reads, or the text."""
        return str(user) if self._description.ids == "uint64" else self._users[user]

    def _identity(self) -> str:
        """Of what makes the records, and of nothing else that a description or a file says. Users are hashes of their
        keys in it, as they are with either kind of ids."""
        seen = hashlib.sha256(self._description.ids.encode())
        for name, values in self._columns.items():
            for at in range(0, len(values), ROWS):
                part = values[at : at + ROWS]
                if name == "user" and self._description.ids == "uint64":
                    part = string_ids(map(str, part.view(np.uint64).tolist()))
                seen.update(part.tobytes())
        return seen.hexdigest()[:16]

    def _note(self, column: str, texts: pa.Array) -> None:
        """Keep the texts of users, in which requests name them."""
        if column == "user":
            named = [text for text in texts.to_pylist() if text is not None]
            self._users |= zip(string_ids(named).tolist(), named, strict=True)

    def close(self) -> None:
        """Remove the sorted rows."""
        self._columns = {}
        self._folder.close()

    def _sorted(self, reader: TableReader, root: Path) -> dict[str, NDArray[Any]]:
        described, table, folder = self._description, self._description.events, self._folder.path
        categories = _categories(described, root) if table.category is None else None
        with SortingWriter(
            folder,
            {
                "time": np.int64,
                "row": np.int64,
                "user": np.int64,
                "item": np.int64,
                "category": np.int64,
                "action": int,
            },
            ("time", "row"),
        ) as writer:
            for batch in reader.batches(note=self._note):
                _refuse_large(described, "events", table, batch)
                n = len(batch["user"])
                items = batch["item"] + np.uint64(table.item_offset)
                columns = {
                    "time": batch["time"],
                    "row": writer.rows + np.arange(n),
                    "user": batch["user"].view(np.int64),
                    "item": items.view(np.int64),
                    "category": (batch["category"] if categories is None else _category_of(items, *categories)).view(
                        np.int64
                    ),
                    "action": self._actions(batch["action"], reader.texts["action"])
                    if described.actions
                    else np.zeros(n, np.int64),
                }
                good = self._usable(columns, reader)
                writer.add({name: values[good] for name, values in columns.items()})
            writer.finish()
        self.left_out = LeftOut(dict(reader.refused.rows), dict(reader.refused.first))
        if writer.rows == self.left_out.rows.get(self._too_late, 0):
            reasons = "; ".join(f"{reason}: {n}" for reason, n in self.left_out.rows.items()) or "there are none"
            raise DataError(f"`events`: none of {reader.rows} rows can be imported: {reasons}")
        return {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("time", "user", "item", "category", "action")
        }

    def _usable(self, columns: Mapping[str, NDArray[Any]], reader: TableReader) -> NDArray[np.bool_]:
        """Rows that the event's format allows; the reader has refused ids that it does not. [n]"""
        bad = {
            f"{self._description.events.item}: item 0": columns["item"] == 0,
            f"{self._description.events.action}: an action without `is` in `[actions]`": (
                columns["action"] == NOT_ON_THE_WIRE
            ),
        }
        good = np.ones(len(columns["item"]), np.bool_)
        for reason, mask in bad.items():
            reader.refuse(reason, mask)
            good &= ~mask
        reader.refuse(self._too_late, good & (columns["time"] > self._latest_ms))  # which keep their places
        return good

    @property
    def _too_late(self) -> str:
        return f"{self._description.events.time}: more than a day from now"

    def _actions(self, codes: NDArray[np.uint64], texts: Mapping[int, str]) -> NDArray[np.int64]:
        found, place = np.unique(codes, return_inverse=True)
        wire = np.empty(len(found), np.int64)
        for at, code in enumerate(found.tolist()):
            meant = self._description.actions.get(texts.get(code, ""))
            if meant is None:
                raise DataError(
                    f"`[actions]` lacks {texts.get(code, '(none)')!r}, which column {self._description.events.action} "
                    "holds: give it a line"
                )
            wire[at] = NOT_ON_THE_WIRE if meant.is_ is None else NAMES.index(meant.is_)
        return wire[place]


def _categories(described: Description, root: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint64]] | None:
    """Items and their categories by the table of items, sorted by item; None without such a column."""
    table = described.items
    if table is None or table.category is None:
        return np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    wanted = {
        "key": Wanted(table.key, "id", "items.key"),
        "category": Wanted(table.category, "id", "items.category"),
    }
    batches = list(TableReader(table, root, wanted, described.ids).batches())
    read = {name: np.concatenate([batch[name] for batch in batches]) for name in wanted}
    _refuse_large(described, "items", table, read)
    keys, categories = read["key"], read["category"]
    order = np.argsort(keys, kind="stable")
    return keys[order], categories[order]


def _refuse_large(described: Description, name: str, table: Table, columns: Mapping[str, NDArray[Any]]) -> None:
    """Raises DataError if training refuses an id of a table's columns as too large."""
    if described.ids != "uint64":  # hashes of texts use all 64 bits
        return
    for meaning in ("user", "item", "key", "category"):
        if meaning in columns and (fault := large_id(getattr(table, meaning), columns[meaning])):
            raise DataError(f"`{name}`, {', '.join(table.files)}: {fault}")


def _category_of(
    items: NDArray[np.uint64], keys: NDArray[np.uint64], categories: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The category of each item, 0 if it has none. [n]"""
    at = np.minimum(np.searchsorted(keys, items), len(keys) - 1)
    return np.where(keys[at] == items, categories[at], np.uint64(0))
