"""The fold of whole partitions, compiled: no Python object for an event, and no copy of a state.

States lie in one table in their stored form, from their first event to the file. A piece of the log is folded in passes
over arrays: the rows of its keys, the events of its values, and then user after user the step, the counters and the
headers, each in C (`mimn.rows`). What is not plain, such as a key that is not ASCII, JSON, or an erasure, is decided
record by record by the same rules that UIC calls (`uic.core`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa, pc
from mimn.rows.library import library
from mimn.rows.records import Grouping, Groups, KeyTable, Texts, read_events
from mimn.rows.states import add_counts, add_entries, extend_headers, hashes
from mimn.state import partition_of
from uic.bulk.partition_log import Course, headers_of
from uic.bulk.state_table import StateTable
from uic.core.event import ERASE_ITEM, LAST_ACTION, Reason, check_key, parse
from uic.core.event_columns import in_bounds
from uic.core.ordering import ERASE, OutOfOrder, not_folded
from uic.core.ports import FoldsMany
from uic.fold.rounds import Model

WRITTEN_AT_ONCE: Final = 1024
KEY_BYTES: Final = 200
"""Of a user in the table of keys."""
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]


class _Operations(NamedTuple):
    """What the records of one partition ask for, in log order."""

    row: Integers
    """Row of the user; -1: nothing, the record is rejected, ignored or left out."""
    offsets: Integers
    items: NDArray[np.uint64]
    """`ERASE` if the operation erases the user."""
    categories: NDArray[np.uint64]
    times: Integers
    actions: NDArray[np.uint8]
    at: NDArray[np.uint64]
    sizes: Integers
    """Where the values lie, and their bytes."""

    @classmethod
    def joined(cls, several: Sequence[_Operations]) -> _Operations:
        """All of several, one after another."""
        columns: list[Any] = [np.concatenate(column) for column in zip(*several, strict=True)]
        return cls(*columns)

    def take(self, which: Integers) -> _Operations:
        """Some of them."""
        columns: list[Any] = [column[which] for column in self]
        return _Operations(*columns)


@dataclass(slots=True)
class _Records:
    """Some records as they come."""

    offsets: Integers
    timestamps: Integers
    keys: Texts
    values: Texts
    headers: pa.Array

    def take(self, which: Integers) -> _Records:
        """Some of them."""
        columns = (self.offsets[which], self.timestamps[which], self.keys.take(which), self.values.take(which))
        return _Records(*columns, self.headers.take(pa.array(which)))


class CompiledFold:
    """All states of a fold. Implements `Fold`."""

    def __init__(self, model: Model, step: FoldsMany, built: CDLL, shard: tuple[int, int]) -> None:
        """Use `compiled_fold`."""
        self._model = model
        self._step = step
        self._built = built
        self._shard = shard
        self._keys = KeyTable(built)
        self._grouping = Grouping(built)
        self._states = StateTable(built, model.layout, model.fingerprint, model.initial_state)
        self._rest = model.rest

    def fold(self, read: Sequence[tuple[Course, pa.RecordBatch]]) -> None:
        """See `Fold`."""
        found = [self._operations(course, some) for course, some in read]
        parts = np.repeat(np.arange(len(read)), [len(one.row) for one in found])
        all_of = _Operations.joined(found)
        chosen = np.flatnonzero(all_of.row >= 0)
        operations, part_of = all_of.take(chosen), parts[chosen]
        courses = [course for course, _ in read]
        self._states.reserve(len(self._keys))
        erases = operations.items == ERASE
        special = np.flatnonzero(erases | (operations.actions == ERASE_ITEM))
        for course, folded, erased in zip(
            courses,
            np.bincount(part_of[~erases], minlength=len(courses)).tolist(),
            np.bincount(part_of[erases], minlength=len(courses)).tolist(),
            strict=True,
        ):
            course.tally.folded += folded
            course.tally.erased += erased
        fresh: set[int] = set()
        turn = _turns(operations.row, special)
        for n in range(int(turn.max(initial=0)) + 1):
            now = turn == n
            now[special] = False
            self._events(operations, np.flatnonzero(now) if len(special) else None, part_of, courses, fresh)
            for at in special[turn[special] == n].tolist():
                self._special(operations, at, courses[part_of[at]], fresh)

    def folded(self, course: Course) -> _Folded:
        """See `Fold`."""
        rows = np.flatnonzero(self._keys.places == course.partition)
        self._states.reserve(len(self._keys))
        return _Folded(self._keys, self._states, rows[self._states.stored["event_count"][rows] > 0])

    @property
    def user_bytes(self) -> int:
        """See `Fold`."""
        return KEY_BYTES + self._states.stored.itemsize

    # What the records ask for

    def _operations(self, course: Course, some: pa.RecordBatch) -> _Operations:
        """The operations of the shard's records; what the others are is counted."""
        records = _records(some)
        offsets = records.offsets
        course.enter(int(offsets[0]))
        floor = course.progress.next_offset
        if offsets[0] < floor or (offsets[1:] <= offsets[:-1]).any():
            raise OutOfOrder(f"offsets {offsets[0]} to {offsets[-1]} do not rise from {floor} or more")
        mine, shards = self._shard
        if shards > 1:
            keys = some.column("key").to_pylist()
            records = records.take(np.flatnonzero([crc32(key or b"") % shards == mine for key in keys]))
        row = self._keys.find(records.keys, course.partition, course.progress.partitions)
        items, categories, times, actions, common = read_events(self._built, records.values, records.keys, LAST_ACTION)
        common &= (row >= 0) & in_bounds(items, times, records.timestamps)
        if records.headers.null_count < len(common):
            common &= ~np.array(pc.fill_null(pc.greater(pc.list_value_length(records.headers), 0), False))
        found = _Operations(
            row, records.offsets, items, categories, times, actions, records.values.at, records.values.sizes
        )
        odd = np.flatnonzero(~common)
        if len(odd):
            self._decide(course, records, found, odd)
        self._leave_out(course, found)
        return found

    def _decide(self, course: Course, records: _Records, found: _Operations, odd: Integers) -> None:
        """Decide record by record about those that are not plain, in place."""
        partitions, headers = course.progress.partitions, headers_of(records.headers.take(pa.array(odd)))
        for at, some in zip(odd.tolist(), headers, strict=True):
            key, value = records.keys.text(at), records.values.text(at)
            if found.row[at] < 0:
                reason = check_key(key)
                if reason is None and key is not None and partition_of(key, partitions) != course.partition:
                    reason = Reason.MISROUTED
                if reason is not None or key is None:
                    course.tally.reject(reason or Reason.MISSING_KEY)
                    continue
                one = records.keys.take(np.array([at]))
                [found.row[at]] = self._keys.find(one, course.partition, partitions, trusted=True)
            if value is None:
                found.items[at] = ERASE
                continue
            timestamp, text_ids = int(records.timestamps[at]), self._model.text_ids
            event = parse(value, some, (key or b"").decode(), timestamp, text_ids=text_ids)
            if isinstance(event, Reason):
                course.tally.reject(event)
                found.row[at] = -1
                continue
            found.items[at], found.categories[at] = event.item_id, event.category_id
            found.times[at], found.actions[at] = event.event_time, event.action

    def _leave_out(self, course: Course, found: _Operations) -> None:
        """Leave out events whose action is not folded, and those of users who are erased later in the log."""
        named, tally = self._model.actions, course.tally
        if named is not None:
            foreign, ignored = not_folded(named, found.row >= 0, found.items, found.actions)
            for _ in range(int(np.count_nonzero(foreign))):
                tally.reject(Reason.UNKNOWN_ACTION)
            tally.ignored += int(np.count_nonzero(ignored))
            found.row[foreign | ignored] = -1
        if erased := course.log.erased:
            rows = self._keys.find(Texts.of(list(erased)), course.partition, course.progress.partitions)
            upto = np.fromiter(erased.values(), np.int64, len(erased))
            by_row = np.argsort(rows)
            rows, upto = rows[by_row], upto[by_row]
            at = np.minimum(np.searchsorted(rows, found.row), len(rows) - 1)
            left_out = (found.row >= 0) & (rows[at] == found.row) & (found.items != ERASE) & (upto[at] >= found.offsets)
            tally.erased_later += int(np.count_nonzero(left_out))
            found.row[left_out] = -1

    # What they change

    def _events(
        self,
        operations: _Operations,
        which: Integers | None,
        part_of: Integers,
        courses: Sequence[Course],
        fresh: set[int],
    ) -> None:
        """Fold behaviors: those at `which`, or all."""
        row = operations.row if which is None else operations.row[which]
        if not len(row):
            return
        groups = self._grouping.group(row, len(self._keys))
        order = groups.order if which is None else which[groups.order]
        first = order[groups.first]
        self._begin(groups.rows, courses, part_of[first], fresh)
        model, states = self._model, self._states
        items, categories = operations.items[order], operations.categories[order]
        times, actions = operations.times[order], operations.actions[order]
        sound = self._step.fold(
            np.ascontiguousarray(model.vectors(items, categories, actions)),
            groups.depth,
            states.tensors(self._rest),
            groups.rows,
        )
        words = 0 if model.ledger is None else model.ledger.words
        if (counting := model.counting) is not None:
            periods = states.tensors(slice(-words - len(counting.sketch.half_lives), -words or None))
            addresses, moments = counting.addresses(items, categories), counting.moments(times, actions)
            counters = states.stored["half"]
            add_counts(self._built, counting.sketch, counters, periods, groups, addresses, moments, sound)
        if (ledger := model.ledger) is not None:
            entries = states.tensors(slice(-words, None)).view(np.uint32)
            add_entries(self._built, ledger, entries, groups, ledger.keys(items), times, sound)
        self._headers(groups, operations, order, sound)
        if sound is not None:
            for at in order[~sound].tolist():
                tally = courses[part_of[at]].tally
                tally.folded -= 1
                tally.reject(Reason.NON_FINITE)

    def _headers(self, groups: Groups, operations: _Operations, order: Integers, sound: Truths | None) -> None:
        values = Texts(operations.at[order], operations.sizes[order], operations)
        offsets, times = operations.offsets[order], operations.times[order]
        extend_headers(self._built, self._states.bytes, groups, offsets, times, values, sound)

    def _special(self, operations: _Operations, at: int, course: Course, fresh: set[int]) -> None:
        """Erase a user, or one of a user's items."""
        row = np.array([operations.row[at]])
        if operations.items[at] == ERASE:
            self._states.erase(int(row[0]))
            fresh.add(int(row[0]))
            return
        self._begin(row, [course], np.zeros(1, np.int64), fresh)
        state = self._states.flat(int(row[0]))
        self._model.forget(state, int(operations.items[at]))
        self._states.put(int(row[0]), state)
        zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
        self._headers(Groups(row, zero, one, zero), operations, np.array([at]), None)

    def _begin(self, rows: Integers, courses: Sequence[Course], part_of: Integers, fresh: set[int]) -> None:
        """Begin the states of users who have none, and mark those that lack events. `part_of`: by row, whose it is."""
        states = self._states
        absent = np.flatnonzero(states.stored["event_count"][rows] == 0)
        if len(absent):
            progress = [course.progress for course in courses]
            new, of = rows[absent], part_of[absent]
            lineage = np.array([p.lineage for p in progress], np.uint64)[of]
            era = np.array([p.era for p in progress], np.uint32)[of]
            states.begin(new, hashes(self._built, self._keys.texts(new)), lineage, era)
        complete_from = np.array([course.progress.complete_from for course in courses])
        if complete_from.any():
            lacking = np.maximum(states.stored["last_offset"][rows], 0) < complete_from[part_of]
            if fresh:
                lacking &= np.array([row not in fresh for row in rows.tolist()], np.bool_)
            states.mark_partial(rows[lacking])


class _Folded:
    """One partition's users."""

    def __init__(self, keys: KeyTable, states: StateTable, rows: Integers) -> None:
        self._keys = keys
        self._states = states
        self._rows = rows

    @property
    def users(self) -> list[bytes]:
        """See `FoldedStates`."""
        users: list[bytes] = self._users(self._rows).to_pylist()
        return users

    @property
    def headers(self) -> NDArray[np.void]:
        """See `FoldedStates`."""
        return self._states.headers(self._rows)

    @property
    def tensors(self) -> NDArray[np.float32]:
        """See `FoldedStates`."""
        return self._states.flats(self._rows)

    def values(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """See `FoldedStates`."""
        for at in range(0, len(self._rows), WRITTEN_AT_ONCE):
            rows = self._rows[at : at + WRITTEN_AT_ONCE]
            stored, ends = self._states.sealed(rows)
            bounds = np.concatenate([[0], ends]).astype(np.int32)
            values = pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(bounds), pa.py_buffer(stored)])
            yield self._users(rows), values

    def _users(self, rows: Integers) -> pa.Array:
        buffers = [None, pa.py_buffer(self._keys.ends), pa.py_buffer(self._keys.letters)]
        keys = pa.Array.from_buffers(pa.large_binary(), len(self._keys), buffers)
        return keys.take(pa.array(rows)).cast(pa.binary())


def compiled_fold(model: Model, shard: tuple[int, int]) -> CompiledFold | None:
    """A fold without states yet; None where the step is not compiled, or states have parts that only numpy folds."""
    built, halves = library(), 0 if model.counting is None else model.counting.sketch.values
    if built is None or not isinstance(model.step, FoldsMany) or model.layout.half_floats != halves:
        return None
    return CompiledFold(model, model.step, built, shard)


def _turns(row: Integers, special: Integers) -> Integers:
    """By operation, how many special ones of its user precede it."""
    turn, before = np.zeros(len(row), np.int64), dict.fromkeys(row[special].tolist(), 0)
    specials = set(special.tolist())
    for at in np.flatnonzero(np.isin(row, row[special])).tolist() if before else ():
        turn[at] = before[int(row[at])]
        before[int(row[at])] += at in specials
    return turn


def _records(some: pa.RecordBatch) -> _Records:
    return _Records(
        some.column("offset").to_numpy(),
        some.column("timestamp").to_numpy(),
        _texts(some.column("key")),
        _texts(some.column("value")),
        some.column("headers"),
    )


_NOTHING: Final = np.zeros(1, np.uint8)


def _texts(column: pa.Array) -> Texts:
    """Where a column of binary lies."""
    _, ends, data = column.buffers()
    n = len(column)
    ends = np.frombuffer(ends, np.int32, n + 1, 4 * column.offset).astype(np.int64)
    base = data.address if data is not None and data.address else _NOTHING.ctypes.data
    at = (ends[:-1] + base).astype(np.uint64)
    if column.null_count:
        at[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    return Texts(at, np.diff(ends), column)
