"""History that is not in the log yet, as records to append: from files that a data set's description names, or from the
archive of another topic.

Every record has a place in its source, `(lane, number)`: numbers rise within a lane, and all records of a user lie in
one lane in the user's order; where the archived topic has grown, in two, of which one comes first. Appended in this
order with the place in a header, a user's records keep their order, and a reader of the topic can tell for each lane
how far a killed import came.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.arrow import pc
from mimn.data.column_values import Wanted
from mimn.data.columns import event_columns
from mimn.data.description import Description, read_description
from mimn.data.events import DataError
from mimn.data.sorting import SortingWriter
from mimn.data.tables import TableReader
from mimn.state import partition_of
from mimn.state.actions import NAMES
from uic.bulk.archive import Archive, PartitionManifest
from uic.bulk.errors import BulkRefused
from uic.bulk.work_folder import WorkFolder
from uic.core.event import DAY_MS, MAX_KEY_BYTES, MAX_VALUE_BYTES, Reason, check_key
from uic.tools.letter_replay import REPLAY_OF, decode_origin

PLACE: Final = "ctr-import"
"""Header of an imported record: the source, lane and number, as `encode_place` writes them."""
ROWS: Final = 1 << 16
_WHOLE: Final = re.compile(r"\s*0*([0-9]+)(?:\.0+)?\s*")


class Place(NamedTuple):
    """Where a record lies in its source."""

    lane: int
    number: int


class HistoryRecord(NamedTuple):
    """A record to append."""

    place: Place
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int | None
    """None: the time at which it is appended."""


class History(Protocol):
    """A source."""

    @property
    def source(self) -> str:
        """Its identity: the same for the same records in the same order."""

    @property
    def records(self) -> int:
        """How many there are, those left out included."""

    @property
    def first_lanes(self) -> range:
        """Lanes that must be in the topic whole before a record of any other is."""

    @property
    def oldest_ms(self) -> int | None:
        """The lowest timestamp that records are appended with; None: they are appended with the current time."""

    def read(self, after: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """The records in order, without those of a lane up to the number in `after`."""

    def read_up_to(self, last: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """The records in order of each lane that `last` has, up to the number there. Nothing is counted as left out."""


def encode_place(source: str, place: Place) -> bytes:
    """The header's value."""
    return f"{source}/{place.lane}/{place.number}".encode()


def decode_place(value: bytes) -> tuple[str, Place] | None:
    """The source and the place that a header names; None if it is none that `encode_place` writes."""
    source, _, rest = value.decode("utf-8", "replace").partition("/")
    lane, _, number = rest.partition("/")
    return (source, Place(int(lane), int(number))) if lane.isdecimal() and number.isdecimal() else None


@dataclass(slots=True)
class LeftOut:
    """Rows of described files that become no record, by reason."""

    rows: dict[str, int]
    first: dict[str, str]


def _digits(text: str) -> str:
    """A user's id as requests name it: where training reads a whole number, its digits, as of ` 7`, `007` and `7.0`;
    any other text as it is."""
    found = _WHOLE.fullmatch(text)
    return text if found is None else found[1]


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
        wanted["user"] = Wanted(table.user, "value", "events.user")
        reader = TableReader(table, path.parent, wanted, self._description.ids)
        self._folder = WorkFolder("ctr-import-", work)
        try:
            with self._folder.writing():  # what cannot be read is a DataError
                self._columns = self._sorted(reader, path.parent)
        except BaseException:
            self._folder.close()
            raise
        self.source = self._identity()
        as_id = _digits if self._description.ids == "uint64" else str
        self._users = {code: as_id(text).encode() for code, text in reader.texts["user"].items()}

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
        yield from self._read(after.get(0, -1) + 1, self.records)

    def read_up_to(self, last: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """See `History`."""
        yield from self._read(0, min(last.get(0, -1) + 1, self.records))

    def _read(self, begin: int, end: int) -> Iterator[HistoryRecord]:
        for at in range(begin, end, ROWS):
            rows = {name: values[at : min(at + ROWS, end)].tolist() for name, values in self._columns.items()}
            for i, (code, item, category, action, time_ms) in enumerate(
                zip(rows["user"], rows["item"], rows["category"], rows["action"], rows["time"], strict=True)
            ):
                key = self._users[code & _ALL_BITS]
                event = BehaviorEvent(
                    event_id=f"{self.source}/{at + i}",
                    user_id=key.decode(),
                    item_id=item & _ALL_BITS,
                    category_id=category & _ALL_BITS,
                    action=action,
                    event_time=time_ms,
                )
                yield HistoryRecord(Place(0, at + i), key, event.SerializeToString(), (), None)

    def _identity(self) -> str:
        """Of what makes the records, and of nothing else that a description or a file says. A user's code is the hash
        of the id's text, the same in every run."""
        seen = hashlib.sha256(self._description.ids.encode())
        for values in self._columns.values():
            for at in range(0, len(values), ROWS):
                seen.update(values[at : at + ROWS].tobytes())
        return seen.hexdigest()[:16]

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
            for batch in reader.batches():
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
                good = self._usable(columns, reader.texts["user"], reader)
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

    def _usable(
        self, columns: Mapping[str, NDArray[Any]], users: Mapping[int, str], reader: TableReader
    ) -> NDArray[np.bool_]:
        """Rows that the event's format allows. [n]"""
        codes = columns["user"].view(np.uint64)
        found, place = np.unique(codes, return_inverse=True)
        sizes = np.array([len(users[code].encode()) if code else 0 for code in found.tolist()])
        bad = {
            f"{self._description.events.user}: empty, or longer than {MAX_KEY_BYTES} bytes": (
                (sizes == 0) | (sizes > MAX_KEY_BYTES)
            )[place],
            f"{self._description.events.item}: item 0": columns["item"] == 0,
            f"{self._description.events.action}: an action that is none of the wire": (
                columns["action"] == NOT_ON_THE_WIRE
            ),
        }
        good = np.ones(len(codes), np.bool_)
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


_ALL_BITS: Final = (1 << 64) - 1
NOT_ON_THE_WIRE: Final = -1


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
    keys, categories = (np.concatenate([batch[name] for batch in batches]) for name in ("key", "category"))
    order = np.argsort(keys, kind="stable")
    return keys[order], categories[order]


def _category_of(
    items: NDArray[np.uint64], keys: NDArray[np.uint64], categories: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The category of each item, 0 if it has none. [n]"""
    at = np.minimum(np.searchsorted(keys, items), len(keys) - 1)
    return np.where(keys[at] == items, categories[at], np.uint64(0))


class ArchivedHistory:
    """An archive's records, partition by partition: a lane each. Records keep key, value, headers and time, so that
    what was malformed stays malformed. Events of users who were erased since are left out, and so are records that
    were dead letters whatever they hold: a misrouted one would be in its place now, and be folded.

    If the topic had N partitions and was given more, a user may have older records in the partition by N, and newer
    ones in the one by the count of now. What lies in its place by N alone comes first, in lanes of its own; then what
    lies in its place by the count of now. A user's records in one partition are in order there; so all are, without
    holding or comparing any.
    """

    def __init__(
        self, archive: Archive, erased: Mapping[int, Mapping[bytes, int]], grew_from: int | None = None
    ) -> None:
        """
        Args:
            archive: of another topic.
            erased: by partition of the archive, key → offset up to which the user's events are left out.
            grew_from: N before the topic grew, if the archive does not say it.

        Raises:
            BadArchive: it has a hole, or files that do not belong.
            BulkRefused: `grew_from` is no lower count.
        """
        self._archive = archive
        self._erased = erased
        self.grew_from = archive.about.grew_from if grew_from is None else grew_from
        """N before the topic grew; None if it did not."""
        if self.grew_from is not None and not 0 < self.grew_from < archive.partitions:
            raise BulkRefused(
                f"the archived topic has {archive.partitions} partitions, so it has not grown from {self.grew_from}"
            )
        self._manifests = [archive.checked(p) for p in range(archive.partitions)]
        about = archive.about
        self.topic = about.topic, archive.topic_id
        self.source = hashlib.sha256(f"{about.topic} {about.topic_id}".encode()).hexdigest()[:16]
        self.left_out: Counter[Reason] = Counter()
        """Dead letters of the archived topic that `read` has left out, without misrouted ones."""
        self.doubled = 0
        """Replays of dead letters that `read` has left out, because it brings the originals."""

    @property
    def records(self) -> int:
        """See `History`."""
        return sum(manifest.records for manifest in self._manifests)

    @property
    def first_lanes(self) -> range:
        """See `History`: of the records that lie in their place by the count before the topic grew."""
        first = self._archive.partitions
        return range(first, first + (self.grew_from or 0))

    @property
    def oldest_ms(self) -> int | None:
        """See `History`: of the first records, which in a log are the oldest."""
        first = [next(self._archive.records(m, 1), None) for m in self._manifests if m.records]
        return min((some.column("timestamp")[0].as_py() for some in first if some is not None), default=None)

    @property
    def complete_from(self) -> dict[int, int]:
        """By partition of the archive, from which offset on none of its records is missing."""
        return {manifest.partition: manifest.complete_from for manifest in self._manifests}

    @property
    def counts(self) -> str:
        """By which N records are looked for, in words."""
        now = f"N = {self._archive.partitions}"
        return now if self.grew_from is None else f"N = {self.grew_from} and by {now}"

    def misrouted(self) -> int:
        """How many records have a key and do not lie in its partition, by no count that the topic had: `read` leaves
        them out. Reads the keys of all of them."""
        found = 0
        for manifest in self._manifests:
            for keys in self._archive.keys(manifest):
                for row in pc.value_counts(keys).to_pylist():
                    key, n = row["values"], row["counts"]
                    if check_key(key) is None and not self._in_place(key, manifest.partition):
                        found += n
        return found

    def read(self, after: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """See `History`."""
        for lane, manifest in self._lanes():
            if manifest.end > after.get(lane, -1) + 1:
                for row in self._lane(lane, manifest, after.get(lane, -1)):
                    match row:
                        case HistoryRecord():
                            yield row
                        case Reason():
                            self.left_out[row] += 1
                        case None:
                            self.doubled += 1

    def read_up_to(self, last: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """See `History`."""
        for lane, manifest in self._lanes():
            for row in self._lane(lane, manifest, -1) if lane in last else ():
                if isinstance(row, HistoryRecord):
                    if row.place.number > last[lane]:
                        break
                    yield row

    def _lanes(self) -> Iterator[tuple[int, PartitionManifest]]:
        """All of them in order, with what each is read from."""
        yield from zip(self.first_lanes, self._manifests, strict=False)
        yield from ((manifest.partition, manifest) for manifest in self._manifests)

    def _lane(self, lane: int, manifest: PartitionManifest, done: int) -> Iterator[HistoryRecord | Reason | None]:
        """The records of a lane above the number `done`; in place of one that is left out because it was a dead letter,
        the reason, and in place of one that replays another one, None."""
        partition, moved = manifest.partition, lane in self.first_lanes
        erased = self._erased.get(partition, {})
        for some in self._archive.records(manifest):
            for row in some.to_pylist():
                offset, key, value = row["offset"], row["key"], row["value"]
                if offset <= done:
                    continue
                if reason := check_key(key):
                    if not moved:  # else it is counted when the partition is read as a whole
                        yield reason
                    continue
                home = partition_of(key, self._archive.partitions)
                if (home != partition) is not moved or (moved and self._place_before(key) != partition):
                    continue
                if value is not None and erased.get(key, -1) >= offset:
                    continue
                if value is not None and moved and key in self._erased.get(home, {}):
                    continue  # erased after the topic grew
                if value is not None and len(value) > MAX_VALUE_BYTES:
                    yield Reason.TOO_LARGE
                    continue
                headers = row["headers"] or ()
                if self.grew_from is not None and self._doubles(key, headers):
                    yield None
                    continue
                # A null header becomes an empty one: kafka-python writes no other.
                kept = tuple((h["name"], h["value"] or b"") for h in headers if h["name"] != PLACE)
                yield HistoryRecord(Place(lane, offset), key, value, kept, row["timestamp"])

    def _in_place(self, key: bytes, partition: int) -> bool:
        """Whether a key's records belong into this partition, by the count of now or by that before."""
        return partition in (partition_of(key, self._archive.partitions), self._place_before(key))

    def _place_before(self, key: bytes) -> int | None:
        """A key's partition before the topic grew."""
        return None if self.grew_from is None else partition_of(key, self.grew_from)

    def _doubles(self, key: bytes, headers: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a record replays a dead letter that was misrouted by the count before the topic grew, and is in its
        place by the count of now: `read` brings the original."""
        for header in headers:
            if header["name"] == REPLAY_OF and (origin := decode_origin(header["value"] or b"")) is not None:
                return (
                    origin.topic == self._archive.about.topic
                    and origin.partition == partition_of(key, self._archive.partitions)
                    and origin.partition != self._place_before(key)
                    and any(f.first <= origin.offset <= f.last for f in self._manifests[origin.partition].files)
                )
        return False


def refuse_short_retention(oldest_ms: int | None, retention_ms: int | None, now_ms: int) -> None:
    """Records keep their time; a topic whose retention is shorter than their age would drop them at once.

    Raises:
        BulkRefused: it would.
    """
    if oldest_ms is not None and retention_ms is not None and 0 <= retention_ms < now_ms - oldest_ms:
        raise BulkRefused(
            f"the oldest record is {(now_ms - oldest_ms) / 86_400_000:.0f} days old, and the topic keeps records for "
            f"{retention_ms / 86_400_000:.0f} days, so it would be dropped at once: raise the topic's retention.ms "
            "until the import and the backfill are done (-1: unlimited)"
        )
