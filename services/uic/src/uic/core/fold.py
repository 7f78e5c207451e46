"""Folding: planned operations of several partitions' batches, pooled into waves, from loaded states to staged ones.

Wave k holds the k-th pending event of every user, so the users in a wave are distinct and it is one run of the step
graph; waves are pooled over partitions, whose users are distinct anyway. An erasure ends a user's row, and events after
it begin a new row from the initial state, so no wave has to know of erasures.

Nothing that was read is changed: results lie in the round's own arrays until the store has acknowledged them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from mimn.state import (
    EMPTY_DIGEST,
    HEADERS,
    Progress,
    StateHeader,
    StateLayout,
    UserState,
    encode_states,
    extend_digests,
    header_rows,
    user_hash,
)
from uic.core.cache import StateCache
from uic.core.ordering import ERASE, Cut
from uic.core.ports import Counting, Step, Vectors

NO_ROW = -1
ERASED_ROW = -2
Integers = NDArray[np.int64]


@dataclass(slots=True)
class Part:
    """One partition's share of a round: its cut, what is known of the users' states, and where the results lie."""

    cut: Cut
    progress: Progress
    cached: NDArray[np.intp]
    """By user of the cut: row of the cache, `NOT_CACHED` if there is none."""
    loaded: dict[int, UserState] = field(default_factory=dict)
    """By index of the user: states that the store had, of any lineage."""
    suspect: set[int] = field(default_factory=set)
    """Users whose stored value could not be read: they begin anew, `partial`."""
    row_of: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    """By user of the cut: row of the round that holds the result; `NO_ROW`: unchanged, `ERASED_ROW`: to be deleted."""
    already_folded: int = 0
    not_finite: list[int] = field(default_factory=list)
    """Operations whose step was not finite. The part's headers are then wrong: plan it again without them."""


@dataclass(frozen=True, slots=True)
class _Events:
    """Events of a part that are to be folded, in log order, one array a field."""

    row: Integers
    """Of the round."""
    operation: Integers
    """Of the part's cut."""
    item: NDArray[np.uint64]
    category: NDArray[np.uint64]
    time: Integers


class Round:
    """The rows of one round: staged headers by row, staged tensors by `place[row]`.

    Built by `plan`, then `run`.
    """

    def __init__(self, initial: NDArray[np.float32], cache: StateCache) -> None:
        self._initial = initial
        self._cache = cache
        self.waves = 0
        self.headers: NDArray[np.void] = np.empty(0, HEADERS)
        self.tensors: NDArray[np.float32] = np.empty((0, len(initial)), np.float32)
        self.place: NDArray[np.intp] = np.empty(0, np.intp)
        """Where a row's tensors lie."""
        self._rows = 0
        self._headers: list[NDArray[np.void]] = []
        self._from_cache: list[tuple[Integers, NDArray[np.intp]]] = []
        """Rows, and where the cache has their tensors."""
        self._from_store: list[tuple[int, NDArray[np.float32]]] = []
        self._parts: list[Part] = []
        self._events: list[_Events] = []
        self._first_event: list[int] = []
        """Of each part."""

    def plan(self, part: Part) -> None:
        """Stage the headers of a part and queue its events. Fills `part.row_of`."""
        cut, users = part.cut, len(part.cut.users)
        part.not_finite = []
        erases = cut.items == ERASE
        # A user's rows are numbered by how often he was erased before: one row a user unless there are erasures.
        lives, ended = _lives(cut.user_of, erases, users)
        events = np.flatnonzero(~erases)
        begun, row = np.unique(lives[events] * users + cut.user_of[events], return_inverse=True)
        life, user = np.divmod(begun, max(users, 1))
        headers = self._begin(part, user, life > 0)

        new = cut.offsets[events] > headers["last_offset"][row]
        part.already_folded = len(events) - int(np.count_nonzero(new))
        events, row = events[new], row[new]
        folded = np.bincount(row, minlength=len(begun))
        latest = np.zeros(len(begun), np.int64)
        np.maximum.at(latest, row, np.arange(len(row)))
        some = np.flatnonzero(folded)
        headers["event_count"] += folded.astype(np.uint64)
        headers["last_offset"][some] = cut.offsets[events[latest[some]]]
        headers["last_event_time"][some] = cut.times[events[latest[some]]]
        digests = headers["digest"].tolist()
        values = [cut.records[at].value or b"" for at in cut.record_of[events].tolist()]
        extend_digests(digests, row.tolist(), cut.offsets[events], values)
        headers["digest"] = np.frombuffer(b"".join(digests), "V8")

        part.row_of = np.where(ended > 0, ERASED_ROW, NO_ROW)
        last = (folded > 0) & (life == ended[user])
        part.row_of[user[last]] = self._rows + np.flatnonzero(last)
        self._first_event.append(sum(len(before.row) for before in self._events))
        self._parts.append(part)
        self._events.append(
            _Events(self._rows + row, events, cut.items[events], cut.categories[events], cut.times[events])
        )
        self._headers.append(headers)
        self._rows += len(begun)

    def run(self, step: Step, vectors: Vectors, counting: Counting | None = None) -> None:
        """Fold all queued events. A step that is not finite leaves its row as it was and is noted in its part.

        Rows are placed by how many events they get, most first: then the rows of a wave are the first so many, and what
        a wave gives is what the next one takes. With counters, the step has the rest of a state; they are added to in
        place.
        """
        self.headers = np.concatenate([self.headers, *self._headers])
        row = np.concatenate([np.empty(0, np.int64), *(events.row for events in self._events)])
        depth = np.bincount(row, minlength=self._rows)
        self.place = np.empty(self._rows, np.intp)
        self.place[np.argsort(-depth, kind="stable")] = np.arange(self._rows)
        tensors = self._gather()
        if not len(row):
            return
        by_row = np.argsort(row, kind="stable")
        wave = np.empty(len(row), np.int64)
        wave[by_row] = np.arange(len(row)) - np.repeat(np.cumsum(depth) - depth, depth)
        order = np.lexsort((self.place[row], wave))
        ids = (
            np.concatenate([events.item for events in self._events])[order],
            np.concatenate([events.category for events in self._events])[order],
        )
        inputs = vectors(*ids)
        rest = slice(None) if counting is None else counting.sketch.rest
        if counting is not None:
            addresses = counting.addresses(*ids)
            moments = counting.sketch.moments(np.concatenate([events.time for events in self._events])[order])
        widths = np.bincount(wave).tolist()
        states = np.ascontiguousarray(tensors[: widths[0], rest])
        begin = 0
        for width, next_width in zip(widths, [*widths[1:], 0], strict=True):
            end = begin + width
            before, states = states, step(inputs[begin:end], states)
            good: NDArray[np.bool_] | None = None
            if not isfinite(np.vdot(states, states)):  # then one may be, or is large; asking each costs twice as much
                sound: NDArray[np.bool_] = np.isfinite(states).min(axis=1)
                self._note(order[begin:end][~sound])
                states = np.where(sound[:, np.newaxis], states, before)
                good = sound
            if counting is not None:
                counting.sketch.add(tensors[:width], addresses[begin:end], moments[begin:end], good)
            tensors[next_width:width, rest] = states[next_width:]
            states = states[:next_width]
            begin = end
        self.waves = len(widths)

    def values(self, fingerprint: bytes, layout: StateLayout) -> list[bytes]:
        """The rows' states as they are stored, once `run` is done."""
        return encode_states(self.headers, self.tensors[self.place], fingerprint, layout)

    def _begin(self, part: Part, user: Integers, fresh: NDArray[np.bool_]) -> NDArray[np.void]:
        """The headers of rows that continue users' states, or begin from the initial one (`fresh`: just erased)."""
        progress = part.progress
        headers = np.zeros(len(user), HEADERS)
        cached = np.where(fresh, -1, part.cached[user])
        found = np.flatnonzero(cached >= 0)
        headers[found] = self._cache.headers[cached[found]]
        self._from_cache.append((self._rows + found, cached[found]))
        others = np.flatnonzero(cached < 0)
        begun = []
        for at, index, anew in zip(others.tolist(), user[others].tolist(), fresh[others].tolist(), strict=True):
            loaded = None if anew else part.loaded.get(index)
            if loaded is not None and loaded.header.lineage == progress.lineage:
                begun.append(loaded.header)
                self._from_store.append((self._rows + at, loaded.tensors))
            else:
                suspect = not anew and index in part.suspect
                owner = user_hash(part.cut.users[index])
                begun.append(StateHeader(owner, progress.lineage, progress.era, -1, 0, 0, EMPTY_DIGEST, suspect))
        headers[others] = header_rows(begun)
        # After an erasure nothing is missing: what came before is not to be known.
        headers["partial"] |= ~fresh & (np.maximum(headers["last_offset"], 0) < progress.complete_from)
        # Offsets of an earlier era are another log's, or another reading of this one.
        headers["last_offset"][headers["era"] != progress.era] = -1
        headers["era"] = progress.era
        headers["lineage"] = progress.lineage
        return headers

    def _gather(self) -> NDArray[np.float32]:
        """The rows as they are before any event: initial, cached or stored."""
        self.tensors = np.empty((self._rows, len(self._initial)), np.float32)
        self.tensors[:] = self._initial
        for rows, cached in self._from_cache:
            self.tensors[self.place[rows]] = self._cache.tensors[cached]
        if self._from_store:
            self.tensors[self.place[[row for row, _ in self._from_store]]] = [stored for _, stored in self._from_store]
        return self.tensors

    def _note(self, events: Integers) -> None:
        """Note events whose step was not finite in their parts."""
        for event in events.tolist():
            at = bisect_right(self._first_event, event) - 1
            operation = self._events[at].operation[event - self._first_event[at]]
            self._parts[at].not_finite.append(int(operation))


def _lives(user_of: NDArray[np.intp], erases: NDArray[np.bool_], users: int) -> tuple[Integers, Integers]:
    """How often an operation's user was erased before it, by operation, and how often in all, by user."""
    lives, ended = np.zeros(len(user_of), np.int64), [0] * users
    if erases.any():
        for at, (user, erase) in enumerate(zip(user_of.tolist(), erases.tolist(), strict=True)):
            lives[at] = ended[user]
            ended[user] += erase
    return lives, np.array(ended, np.int64)
