"""Folding: planned operations of several partitions' batches, pooled into waves, from loaded states to staged ones.

Wave k holds the k-th pending event of every user, so the users in a wave are distinct and it is one run of the step
graph; waves are pooled over partitions, whose users are distinct anyway. An erasure ends a user's row, and events after
it begin a new row from the initial state, so no wave has to know of erasures.

Nothing that was read is changed: results lie in the round's own arena until the store has acknowledged them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mimn.state import (
    EMPTY_DIGEST,
    HeaderColumns,
    Progress,
    StateLayout,
    UserState,
    encode_states,
    extend_digest,
    user_hash,
)
from uic.core.cache import Entry
from uic.core.ordering import ERASE, Cut
from uic.core.ports import Counting, Step, Vectors

NO_ROW = -1
ERASED_ROW = -2


@dataclass(slots=True)
class Part:
    """One partition's share of a round: its cut, what is known of the users' states, and where the results lie.

    `cached`, `loaded` and `row_of` run parallel to `cut.users`.
    """

    cut: Cut
    progress: Progress
    cached: list[Entry | None]
    loaded: list[UserState | None]
    """States that the store had, of any lineage."""
    suspect: set[int] = field(default_factory=set)
    """Users whose stored value could not be read: they begin anew, `partial`."""
    row_of: list[int] = field(default_factory=list)
    """Row of the round that holds the user's result; `NO_ROW`: unchanged, `ERASED_ROW`: to be deleted."""
    already_folded: int = 0
    not_finite: list[int] = field(default_factory=list)
    """Operations whose step was not finite. The part's headers are then wrong: plan it again without them."""


class Round:
    """The rows of one round: staged headers as lists by row, staged tensors as one array [rows, F] by `place[row]`.

    Built by `plan`, then `run`.
    """

    def __init__(self, initial: NDArray[np.float32]) -> None:
        self._initial = initial
        self.users: list[int] = []
        """64-bit user hashes."""
        self.last_offset: list[int] = []
        self.count: list[int] = []
        self.time: list[int] = []
        self.digest: list[bytes] = []
        self.partial: list[bool] = []
        self._lineage: list[int] = []
        self._era: list[int] = []
        self.waves = 0
        self.events = 0
        self.tensors: NDArray[np.float32] = np.empty((0, len(initial)), np.float32)
        self.place: list[int] = []
        """Where a row's tensors lie."""
        self._from_cache: tuple[list[int], list[int]] = ([], [])
        self._from_store: tuple[list[int], list[NDArray[np.float32]]] = ([], [])
        self._event_row: list[int] = []
        self._event_wave: list[int] = []
        self._event_item: list[int] = []
        self._event_category: list[int] = []
        self._event_time: list[int] = []
        self._event_op: list[int] = []
        self._parts: list[Part] = []
        self._first_event: list[int] = []
        """Of each part."""

    def plan(self, part: Part) -> None:
        """Stage the headers of a part and queue its events into waves. Fills `part.row_of`."""
        cut = part.cut
        records, record_of, user_of = cut.records, cut.record_of, cut.user_of
        row_of = part.row_of = [NO_ROW] * len(cut.users)
        last_offset, count, time, digest = self.last_offset, self.count, self.time, self.digest
        event_row, event_wave = self._event_row, self._event_wave
        event_item, event_category, event_op = self._event_item, self._event_category, self._event_op
        event_time = self._event_time
        self._parts.append(part)
        self._first_event.append(len(event_row))
        part.already_folded = 0
        part.not_finite = []
        depth: dict[int, int] = {}
        for op, item in enumerate(cut.items):
            user = user_of[op]
            row = row_of[user]
            if item == ERASE:
                if row >= 0:
                    depth.pop(row)
                row_of[user] = ERASED_ROW
                continue
            if row < 0:
                row = row_of[user] = self._begin_row(part, user, fresh=row == ERASED_ROW)
                depth[row] = 0
            record = records[record_of[op]]
            offset = record.offset
            if offset <= last_offset[row]:
                part.already_folded += 1
                continue
            wave = depth[row]
            depth[row] = wave + 1
            event_row.append(row)
            event_wave.append(wave)
            event_item.append(item)
            event_category.append(cut.categories[op])
            event_time.append(cut.times[op])
            event_op.append(op)
            last_offset[row] = offset
            count[row] += 1
            time[row] = cut.times[op]
            digest[row] = extend_digest(digest[row], offset, record.value or b"")
        for user, row in enumerate(row_of):
            if row >= 0 and not depth[row]:
                row_of[user] = NO_ROW

    def run(self, step: Step, vectors: Vectors, arena: NDArray[np.float32], counting: Counting | None = None) -> None:
        """Fold all queued events; `arena` holds the cached states. A step that is not finite leaves its row as it was
        and is noted in its part.

        Rows are placed by how many events they get, most first: then the rows of a wave are the first so many, and a
        wave reads and writes one slice. With counters, the step has the rest of a state; they are added to in place.
        """
        event_row = np.asarray(self._event_row, np.intp)
        depth = np.bincount(event_row, minlength=len(self.users))
        place = np.empty(len(depth), np.intp)
        place[np.argsort(-depth, kind="stable")] = np.arange(len(depth))
        self.place = place.tolist()
        tensors = self._gather(arena, place)
        self.events = len(event_row)
        if not self.events:
            return
        wave_of = np.asarray(self._event_wave)
        order = np.lexsort((place[event_row], wave_of))
        ids = np.asarray(self._event_item, np.uint64)[order], np.asarray(self._event_category, np.uint64)[order]
        inputs = vectors(*ids)
        rest = slice(None) if counting is None else counting.sketch.rest
        if counting is not None:
            addresses = counting.addresses(*ids)
            moments = counting.sketch.moments(np.asarray(self._event_time, np.int64)[order])
        begin = 0
        for width in np.bincount(wave_of).tolist():
            end = begin + width
            states = tensors[:width]
            before = states[:, rest]
            after = step(inputs[begin:end], np.ascontiguousarray(before))
            finite = np.isfinite(after)
            good: NDArray[np.bool_] | None = None
            if not finite.all():
                good = np.all(finite, axis=1)
                for event in order[begin:end][~good].tolist():
                    part = self._parts[bisect_right(self._first_event, event) - 1]
                    part.not_finite.append(self._event_op[event])
                after = np.where(good[:, np.newaxis], after, before)
            before[:] = after
            if counting is not None:
                counting.sketch.add(states, addresses[begin:end], moments[begin:end], good)
            begin = end
            self.waves += 1

    def values(self, fingerprint: bytes, layout: StateLayout) -> list[bytes]:
        """The rows' states as they are stored, once `run` is done."""
        columns = HeaderColumns(
            self.users,
            self._lineage,
            self._era,
            self.last_offset,
            self.count,
            self.time,
            self.digest,
            self.partial,
        )
        return encode_states(columns, self.tensors[self.place], fingerprint, layout)

    def _begin_row(self, part: Part, user: int, *, fresh: bool) -> int:
        """A row that continues the user's state, or begins from the initial one (`fresh`: just erased)."""
        row = len(self.users)
        progress = part.progress
        cached = None if fresh else part.cached[user]
        loaded = None if fresh or cached is not None else part.loaded[user]
        if cached is not None:
            self.users.append(cached.user_hash)
            last, era, partial = cached.last_offset, cached.era, cached.partial
            self.count.append(cached.count)
            self.time.append(cached.time)
            self.digest.append(cached.digest)
            self._from_cache[0].append(row)
            self._from_cache[1].append(cached.row)
        elif loaded is not None and loaded.header.lineage == progress.lineage:
            header = loaded.header
            self.users.append(header.user)
            last, era, partial = header.last_offset, header.era, header.partial
            self.count.append(header.event_count)
            self.time.append(header.last_event_time)
            self.digest.append(header.digest)
            self._from_store[0].append(row)
            self._from_store[1].append(loaded.tensors)
        else:
            self.users.append(user_hash(part.cut.users[user]))
            last, era, partial = -1, progress.era, not fresh and user in part.suspect
            self.count.append(0)
            self.time.append(0)
            self.digest.append(EMPTY_DIGEST)
        # After an erasure nothing is missing: what came before is not to be known.
        self._lineage.append(progress.lineage)
        self._era.append(progress.era)
        self.partial.append(partial or (not fresh and max(last, 0) < progress.complete_from))
        # Offsets of an earlier era are another log's, or another reading of this one.
        self.last_offset.append(last if era == progress.era else -1)
        return row

    def _gather(self, arena: NDArray[np.float32], place: NDArray[np.intp]) -> NDArray[np.float32]:
        """The rows as they are before any event: initial, cached or stored."""
        self.tensors = np.empty((len(self.users), len(self._initial)), np.float32)
        self.tensors[:] = self._initial
        to, rows = self._from_cache
        if to:
            self.tensors[place[to]] = arena[rows]
        to, states = self._from_store
        if to:
            self.tensors[place[to]] = states
        return self.tensors
