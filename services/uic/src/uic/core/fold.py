"""Folding: applies the operations of several partitions' batches to loaded states, in waves, and stages the results.

Wave k holds the k-th pending event of every user. The users in a wave are distinct, so a wave is one run of the step
graph. Waves combine partitions, whose users are distinct anyway. A compiled step folds user after user instead. An
erasure ends a user's row, and later events begin a new row from the initial state, so neither needs a special case for
erasures. The erasure of one item is an event of its user, which the digest covers; only instead of a step, the item is
taken out of the state.

What is done to many states at once (`ports.ManyStates`) is done by numpy (`numpy_states`), or by compiled code with the
same results. A round chooses one of them when it begins, and folding does not ask which.

Loaded states are never modified: results stay in the round's own arrays until the store has acknowledged them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from mimn.state import HEADERS, Progress, Staged
from uic.core.event import ERASE_ITEM
from uic.core.model import Model
from uic.core.numpy_states import NUMPY, in_waves
from uic.core.ordering import ERASE, Batch
from uic.core.ports import FoldsMany, ManyStates
from uic.core.records import taken, values_of
from uic.core.staged_values import States

NO_ROW = -1
ERASED_ROW = -2
Integers = NDArray[np.int64]


@dataclass(slots=True)
class Part:
    """One partition's share of a round: its batch, what is known about the users' states, and where the results are."""

    batch: Batch
    progress: Progress
    cached: Sequence[bytes | None]
    """By user of the batch: the stored value, if it is in memory."""
    loaded: dict[int, bytes] = field(default_factory=dict)
    """By index of the user: values read from the store, checked, of the partition's lineage."""
    suspect: set[int] = field(default_factory=set)
    """Users whose state could not be read, or was lost: they start again from the initial state, `partial`."""
    unreadable: list[str] = field(default_factory=list)
    """What is wrong with each value that could not be read."""
    row_of: list[int] = field(default_factory=list)
    """By user of the batch: row of the round with the result; `NO_ROW`: unchanged, `ERASED_ROW`: delete the state."""
    already_folded: int = 0
    not_finite: list[int] = field(default_factory=list)
    """Operations whose step gave a non-finite value. The part's headers are then wrong: plan it again without them."""


@dataclass(frozen=True, slots=True)
class _Events:
    """The events to fold, in log order within a part; one array per field."""

    row: Integers
    """Row of the round."""
    operation: Integers
    """Index over the operations of all parts' batches."""
    item: NDArray[np.uint64]
    category: NDArray[np.uint64]
    time: Integers
    action: NDArray[np.uint8]


class Round:
    """The rows of one round: staged headers by row, staged tensors by `place[row]`. Made by `fold`."""

    def __init__(self, model: Model) -> None:
        """Without compiled code in the model, numpy does its work."""
        self._model = model
        self._many: ManyStates = NUMPY if model.compiled is None else model.compiled
        self.waves = 0
        self.headers: NDArray[np.void] = np.empty(0, HEADERS)
        self.tensors: NDArray[np.float32] = np.empty((0, len(model.initial_state)), np.float32)
        self.place: NDArray[np.intp] = np.empty(0, np.intp)
        """By row: index of its tensors."""
        self._parts: Sequence[Part] = ()
        self._first_operation: Integers = np.empty(0, np.int64)
        """By part: index of its first operation."""
        self._begun: Integers = np.empty(0, np.int64)
        """Rows that begin from the initial state."""
        self._continued: Integers = np.empty(0, np.int64)
        """The other rows."""
        self._values: Sequence[bytes] = ()
        """The stored values that those continue."""
        self.created: set[int] = set()
        """Rows that begin from the initial state because the user had no state."""
        self.listed: set[int] = set()
        """Rows whose users the store may not list: read from the store, erased in this round, or suspect."""
        self._events: _Events

    def plan(self, parts: Sequence[Part]) -> None:
        """Stage the headers of one or more parts and queue the events. Fills each part's `row_of`.

        All parts are planned together: at a steady rate a part has one or two events, and the calls dominate the cost.
        """
        batches = [part.batch for part in parts]
        sizes, users = (
            np.array([len(batch.items) for batch in batches]),
            np.array([len(batch.users) for batch in batches]),
        )
        self._parts, self._first_operation = parts, sizes.cumsum() - sizes
        first_user = users.cumsum() - users
        part_of = np.arange(len(parts)).repeat(users)
        user_of = np.concatenate([batch.user_of for batch in batches]) + first_user.repeat(sizes)
        columns = [
            np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("offsets", "items", "categories", "times", "actions")
        ]
        values = values_of([(batch.records, batch.record_of) for batch in batches])
        in_part = np.arange(len(part_of)) - first_user.repeat(users)
        cached = [value for part in parts for value in part.cached]
        erases = columns[1] == ERASE
        some_erase = np.count_nonzero(erases) > 0
        if some_erase:  # a user's rows are numbered by how many erasures precede them
            lives, ended = _lives(user_of, erases, len(part_of))
            events = np.flatnonzero(~erases)
            begun, row = np.unique(lives[events] * len(part_of) + user_of[events], return_inverse=True)
            life, user = np.divmod(begun, len(part_of))
            fresh = life > 0
            held = [None if new else cached[of] for new, of in zip(fresh.tolist(), user.tolist(), strict=True)]
            headers = self._begin(held, part_of[user], in_part[user], fresh)
            columns, values = [column[events] for column in columns], taken(values, events)
        else:  # each user has one, in their order
            events, row = np.arange(len(user_of)), user_of
            headers = self._begin(cached, part_of, in_part, np.zeros(len(part_of), np.bool_))
        self.headers = headers

        new = self._many.absorb(headers, row, columns[0], columns[3], values)
        folded_before = [0] * len(parts)
        if np.count_nonzero(new) < len(new):
            folded_before = np.bincount(part_of[user_of[events[~new]]], minlength=len(parts)).tolist()
            events, row, columns = events[new], row[new], [column[new] for column in columns]
        self._events = _Events(row, events, *columns[1:])

        folded = np.bincount(row, minlength=len(headers)) > 0
        if some_erase:
            row_of = np.where(ended > 0, ERASED_ROW, NO_ROW)
            results = (folded & (life == ended[user])).nonzero()[0]
            row_of[user[results]] = results
        else:
            row_of = np.where(folded, np.arange(len(folded)), NO_ROW)
        rows = row_of.tolist()
        for part, begin, count, before in zip(parts, first_user.tolist(), users.tolist(), folded_before, strict=True):
            part.row_of = rows[begin : begin + count]
            part.already_folded = before
            part.not_finite = []

    def run(self) -> None:
        """Fold all queued events. A step with a non-finite result leaves its row unchanged and is noted in its part.

        A compiled step folds user after user, several times faster than waves; no item can be taken out of a state in
        between, so rows with an erased item go by waves, and so do all where the step is a graph.
        """
        queued, step = self._events, self._model.step
        row = queued.row
        depth = np.bincount(row, minlength=len(self.headers))
        in_waves_too = np.ones(len(depth), np.bool_)
        if isinstance(step, FoldsMany):
            in_waves_too[:] = False
            in_waves_too[row[queued.action == ERASE_ITEM]] = True
        self.place = np.empty(len(depth), np.intp)
        self.place[np.lexsort((-depth, ~in_waves_too))] = np.arange(len(depth))
        tensors = self._gather()
        if not len(row):
            return
        by_row = self.place[row].argsort(kind="stable")
        depth[self.place] = depth.copy()
        self.waves = int(depth.max())
        rows = int(np.count_nonzero(in_waves_too))
        events = int(depth[:rows].sum())
        if events:
            self._fold_waves(by_row[:events], depth[:rows], tensors[:rows])
        if isinstance(step, FoldsMany) and events < len(by_row):
            self._fold_rows(step, by_row[events:], depth[rows:], tensors[rows:])

    def _fold_waves(self, by_row: Integers, depth: Integers, tensors: NDArray[np.float32]) -> None:
        """Fold the events of some rows wave by wave. `by_row`: the events, row after row; `depth`: by row how many,
        never rising, so that the rows of a wave are the first ones; `tensors`: of the rows.

        With a sketch or a ledger, the step gets the rest of a state, and counters and entries are updated in place.
        """
        queued, model = self._events, self._model
        counting, ledger, rest = model.counting, model.ledger, model.rest
        in_order, widths = in_waves(depth)
        order = by_row[in_order]
        ids, actions = (queued.item[order], queued.category[order]), queued.action[order]
        erases = actions == ERASE_ITEM
        any_erase = bool(erases.any())
        if any_erase:
            actions = np.where(erases, 0, actions)  # what a step would make of them is not used
        inputs = model.vectors(*ids, actions)
        before_ledger = tensors if ledger is None else tensors[:, : -ledger.words]
        times = queued.time[order]
        if counting is not None:
            addresses = counting.addresses(*ids)
            moments = counting.moments(times, actions)
        if ledger is not None:
            keys = ledger.keys(ids[0])
        states = np.ascontiguousarray(tensors[: widths[0], rest])
        begin = 0
        for width, next_width in zip(widths, [*widths[1:], 0], strict=True):
            end = begin + width
            good: NDArray[np.bool_] | None = ~erases[begin:end] if any_erase else None
            before, states = states, model.step(inputs[begin:end], states)
            if not isfinite(np.vdot(states, states)):  # or only large; checking each costs twice as much
                finite: NDArray[np.bool_] = np.isfinite(states).min(axis=1)
                self._note(order[begin:end][~finite if good is None else ~finite & good])
                good = finite if good is None else finite & good
            if good is not None:
                states = np.where(good[:, np.newaxis], states, before)
            if counting is not None:
                counting.sketch.add(before_ledger[:width], addresses[begin:end], moments[begin:end], good)
            if ledger is not None:
                ledger.add(tensors[:width], keys.part(begin, end), times[begin:end], good)
            for place in np.flatnonzero(erases[begin:end]).tolist() if any_erase else ():
                tensors[place, rest] = states[place]
                model.forget(tensors[place], int(ids[0][begin + place]))
                states[place] = tensors[place, rest]
            tensors[next_width:width, rest] = states[next_width:]
            states = states[:next_width]
            begin = end

    def _fold_rows(self, step: FoldsMany, by_row: Integers, depth: Integers, tensors: NDArray[np.float32]) -> None:
        """Fold the events of some rows in one call, and add them to counters and ledger in one call each; arguments as
        of `_fold_waves`."""
        queued, model = self._events, self._model
        items, categories, actions = queued.item[by_row], queued.category[by_row], queued.action[by_row]
        times = queued.time[by_row]
        sound = step.fold(model.vectors(items, categories, actions), depth, tensors[:, model.rest])
        if sound is not None:
            self._note(by_row[~sound])
        if (counting := model.counting) is not None:
            before_ledger = tensors if model.ledger is None else tensors[:, : -model.ledger.words]
            addresses, moments = counting.addresses(items, categories), counting.moments(times, actions)
            self._many.add_counts(counting.sketch, before_ledger, depth, addresses, moments, sound)
        if model.ledger is not None:
            self._many.add_entries(model.ledger, tensors, depth, items, times, sound)

    @cached_property
    def states(self) -> States:
        """The rows' states as they are stored, once `run` is done."""
        model = self._model
        return States(Staged(self.headers, self.tensors, self.place, model.fingerprint, model.layout), model.compiled)

    def _begin(
        self, values: list[bytes | None], at_part: Integers, user: Integers, fresh: NDArray[np.bool_]
    ) -> NDArray[np.void]:
        """The headers of rows that continue states or begin from the initial state.

        Args:
            values: by row, the cached value; those from the store are filled in.
            at_part: by row, index of the part.
            user: by row, index of the user in that part's batch.
            fresh: by row, whether the user was just erased.
        """
        headers = np.zeros(len(user), HEADERS)
        others = np.array([row for row, value in enumerate(values) if value is None], np.int64)
        begins, names, suspects = [], [], []
        for row, at, index, erased in zip(
            others.tolist(), at_part[others].tolist(), user[others].tolist(), fresh[others].tolist(), strict=True
        ):
            part = self._parts[at]
            loaded = None if erased else part.loaded.get(index)
            if loaded is not None:
                values[row] = loaded
                self.listed.add(row)
                continue
            suspect = not erased and index in part.suspect
            if suspect:
                suspects.append(row)
            (self.listed if erased or suspect else self.created).add(row)
            begins.append(row)
            names.append(part.batch.keys[index])
        self._begun = np.array(begins, np.int64)
        if begins:
            headers["user"][self._begun] = self._many.user_hashes(names)
            headers["last_offset"][self._begun] = -1
            headers["partial"][suspects] = True
        if len(begins) < len(values):
            self._continued = np.array([row for row, value in enumerate(values) if value is not None], np.int64)
            self._values = [value for value in values if value is not None]
            self._many.read_headers(self._values, headers, self._continued)
        progress = [part.progress for part in self._parts]
        # Offsets of an earlier era belong to another log, or to another reading of this log: they compare with nothing.
        era = np.array([p.era for p in progress], headers["era"].dtype)[at_part]
        headers["last_offset"][headers["era"] != era] = -1
        complete_from = [p.complete_from for p in progress]
        if any(complete_from):  # after an erasure nothing is missing: the earlier events must stay unknown
            first_known = np.array(complete_from)[at_part]
            headers["partial"] |= ~fresh & (np.maximum(headers["last_offset"], 0) < first_known)
        headers["era"] = era
        headers["lineage"] = np.array([p.lineage for p in progress], np.uint64)[at_part]
        return headers

    def _gather(self) -> NDArray[np.float32]:
        """The rows as they are before any event: initial, or as they were stored."""
        self.tensors = np.empty((len(self.headers), len(self._model.initial_state)), np.float32)
        self.tensors[self.place[self._begun]] = self._model.initial_state
        if len(self._continued):
            self._many.read_tensors(self._values, self._model.layout, self.tensors, self.place[self._continued])
        return self.tensors

    def _note(self, events: Integers) -> None:
        """Note events with a non-finite step in their parts."""
        for operation in self._events.operation[events].tolist():
            at = int(np.searchsorted(self._first_operation, operation, "right")) - 1
            self._parts[at].not_finite.append(operation - int(self._first_operation[at]))


def fold(model: Model, parts: Sequence[Part]) -> Round:
    """Fold the events of at least one part; fills each part's `row_of` and `not_finite`. The only fold there is:
    workers, backfills and whoever verifies states call it."""
    work = Round(model)
    work.plan(parts)
    work.run()
    return work


def _lives(user_of: NDArray[np.intp], erases: NDArray[np.bool_], users: int) -> tuple[Integers, Integers]:
    """By operation, how often its user was erased before it; by user, how often in total."""
    lives, ended = np.zeros(len(user_of), np.int64), [0] * users
    for at, (user, erase) in enumerate(zip(user_of.tolist(), erases.tolist(), strict=True)):
        lives[at] = ended[user]
        ended[user] += erase
    return lives, np.array(ended, np.int64)
