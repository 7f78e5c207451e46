"""A described data set as memory-mapped arrays: what everything behind the description works on.

A folder of plain .npy columns for events, impressions, users and items, which `mimn.data.preparation` writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.data.column_values import Wanted, hashed_text
from mimn.data.columns import COMPUTED, event_columns, impression_columns
from mimn.data.description import (
    Description,
    Source,
    Table,
)
from mimn.data.events import Events
from mimn.data.members import Members
from mimn.data.tables import TableReader

Ints = NDArray[np.int64]
FORMAT = 11
"""Raised when the same files give other arrays, or a folder says more of itself: older ones are then made again."""
META, TEXTS, COLUMN = "prepared.json", "texts.json", ".npy"
WITHHELD = 255
"""In place of a label that must not be known. Nothing can be computed from it: a label is 0 or 1."""


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a prepared folder says of itself."""

    format: int
    name: str
    rows: dict[str, int]
    """Rows that can be used, by table."""
    refused: dict[str, int]
    """Rows that were left out, by table and reason."""
    event_unit_ms: int
    """Milliseconds of the unit that times of events are in: a second if the description says seconds and no event has
    a fraction of one."""
    event_rounded_ms: tuple[int, ...]
    """As `Events.rounded_ms`; none without impressions."""
    sha256: dict[str, str]
    """Of all other files of the folder, by path."""


class Damaged(Exception):
    """The message is the path of what is damaged, missing or not of this program."""


def hashes(folder: Path) -> dict[str, str]:
    """The hash of each column and of the texts in a folder, by path."""
    return {name: _sha256(folder / name) for name in sorted(_files(folder))}


def read_meta(folder: Path) -> Meta:
    """What a prepared folder says of itself, all of its files compared with it.

    Raises:
        Damaged: a file is not what was written.
        OSError: a file cannot be read.
    """
    try:
        meta = msgspec.json.decode((folder / META).read_bytes(), type=Meta)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(folder / META) from error
    for name, sha256 in meta.sha256.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != sha256:
            raise Damaged(path)
    return meta


def _files(folder: Path) -> Iterator[str]:
    for path in (folder / TEXTS, *folder.rglob(f"*{COLUMN}")):
        yield path.relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Impressions:
    """m impressions, sorted by user and then by time. All arrays are [m]."""

    user_id: Ints
    item_id: Ints
    category_id: Ints
    time_ms: Ints
    label: NDArray[np.uint8]
    """1: clicked within the window."""
    known_ms: Ints
    """When the label is known for good: the window's end."""
    seen_ms: Ints
    """When the click was seen, from `time_ms` to `known_ms`; the latter where the files do not say, and without a
    click."""
    request: Ints
    """Impressions with the same number were shown together; a number of its own each without a column."""
    weight: NDArray[np.float32]
    position: NDArray[np.float32]
    """NaN where unknown."""
    context: Mapping[str, NDArray[Any]]
    """By field: uint64 codes of values, or float64 numbers."""
    slices: Mapping[str, NDArray[np.uint64]]
    """By column that evaluation divides by: codes of values."""

    def __len__(self) -> int:
        return len(self.user_id)


@dataclass(frozen=True)
class Side:
    """Fields of users or of items, one row a key."""

    key: Ints
    """[k], rising."""
    fields: Mapping[str, NDArray[Any]]
    """[k] by field, as `Impressions.context`."""

    def rows(self, ids: Ints) -> Ints:
        """The row of each id, -1 where it has none. [n] → [n]"""
        if not len(self.key):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(self.key, ids), len(self.key) - 1)
        return np.where(self.key[at] == ids, at, -1)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set. Arrays are mapped when they are first asked for."""

    folder: Path
    description: Description
    meta: Meta
    root: Path
    """What the description's files are relative to."""

    @cached_property
    def sha256(self) -> str:
        """Hash of all columns of all tables: of everything that a model or a figure of the data set rests on."""
        columns = sorted((Path(name), sha256) for name, sha256 in self.meta.sha256.items() if name.endswith(COLUMN))
        return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in columns).encode()).hexdigest()

    def say_refused(self, log: logging.Logger) -> None:
        """Log which rows of the files are not read, and why."""
        for reason, rows in self.meta.refused.items():
            log.warning("%d rows are left out: %s (`python -m mimn.data check` shows the first ones)", rows, reason)

    def names(self, what: Literal["user", "item", "category"], ids: Iterable[int]) -> dict[int, str]:
        """Ids as the owner's files write them; texts are looked for there, table by table, until all are found."""
        described, asked = self.description, set(ids)
        if described.ids == "uint64":
            return {one: str(one) for one in asked}
        left = asked - {0}  # no text: a row without a category
        columns: list[tuple[Table, Wanted]] = [
            (table, wanted[what])
            for table, wanted in (
                (described.events, event_columns(described.events)),
                (described.impressions, impression_columns(described.impressions) if described.impressions else {}),
            )
            if table is not None and what in wanted
        ]
        if described.items is not None and what != "user":
            column = described.items.key if what == "item" else described.items.category
            columns += [] if column is None else [(described.items, Wanted(column, "id", f"items.{what}"))]
        found: dict[int, str] = {}
        for table, wanted in columns:
            if left:
                found |= TableReader(table, self.root, {what: wanted}, described.ids).texts_of(what, left)
                left -= found.keys()
        return found | {one: hashed_text(one) for one in asked - found.keys()}

    def _column(self, table: str, name: str) -> NDArray[Any]:
        mapped: NDArray[Any] = np.load(self.folder / table / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return mapped.view(np.ndarray)

    @cached_property
    def events(self) -> Events:
        """The behaviors that are folded."""
        user, item, category, time, together = (
            self._column("events", name) for name in ("user", "item", "category", "time", "together")
        )
        action = self._column("events", "action") if self.description.actions else None
        meta = self.meta
        return Events(user, item, category, time, together, meta.event_unit_ms, action, meta.event_rounded_ms)

    @cached_property
    def event_context(self) -> Mapping[str, NDArray[Any]]:
        """By field, as `Impressions.context`: the context of each event. [n]; none where impressions have it."""
        if self.description.impressions is not None:
            return {}
        return {name: self._column("events", f"context.{name}") for name in _own(self.description, "context")}

    @cached_property
    def impressions(self) -> Impressions | None:
        """The labelled impressions; None if negatives are to be drawn."""
        if self.description.impressions is None:
            return None
        names = {"user_id": "user", "item_id": "item", "category_id": "category", "time_ms": "time"}
        names |= {"known_ms": "known", "seen_ms": "seen"}
        names |= {name: name for name in ("label", "request", "weight", "position")}
        context = {name: self._column("impressions", f"context.{name}") for name in _own(self.description, "context")}
        return Impressions(
            **{name: self._column("impressions", column) for name, column in names.items()},
            context=context,
            slices={name: self._column("impressions", f"slice.{name}") for name in self.description.impressions.slices},
        )

    def side(self, source: Source) -> Side:
        """The table of user or item fields; empty without one."""
        fields = {name: self._column(f"{source}s", f"field.{name}") for name in _own(self.description, source)}
        if getattr(self.description, f"{source}s") is None:
            return Side(np.empty(0, np.int64), fields)
        return Side(self._column(f"{source}s", "key"), fields)

    @cached_property
    def members(self) -> Members | None:
        """What each candidate stands for; None if the data set does not say."""
        if self.description.members is None:
            return None
        return Members(self._column("members", "key"), self._column("members", "item"))

    @cached_property
    def texts(self) -> dict[str, dict[int, str]]:
        """By field: the text of each code. A hashed field has none."""
        stored = json.loads((self.folder / TEXTS).read_text("utf-8"))
        return {name: dict(zip(codes, texts, strict=True)) for name, (codes, texts) in stored.items()}


def _own(description: Description, source: Source) -> list[str]:
    """The fields of a source that have a column."""
    return [name for name, field in getattr(description.fields, source).items() if field.kind not in COMPUTED]
