"""Rounds: batches of several partitions, loaded and folded together and made into commits (steps 3 and 4 of the
protocol in `uic.fold.updater`). What was folded enters the cache once the store has it, never before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mimn.state import (
    CorruptState,
    ForeignFingerprint,
    ForeignLayout,
    StateError,
    StateLayout,
    WrongUser,
    decode_state,
    encode_progress,
    user_hash,
    witness,
)
from uic.core.cache import NOT_CACHED, StateCache
from uic.core.commit import Commit
from uic.core.event import Reason
from uic.core.fold import ERASED_ROW, NO_ROW, Part, Round
from uic.core.ordering import Cut
from uic.core.ports import Counting, StateStore, Step, Vectors
from uic.fold.session import Session, Staged
from uic.logs import say
from uic.metrics import Metrics

log = logging.getLogger("uic.fold.rounds")

UNREADABLE: dict[type[StateError], str] = {
    CorruptState: "corrupt",
    ForeignLayout: "foreign_layout",
    ForeignFingerprint: "foreign_fingerprint",
    WrongUser: "wrong_user",
}
"""Metric label of each error."""


@dataclass(frozen=True, slots=True)
class Model:
    """What folding needs of a bundle."""

    step: Step
    vectors: Vectors
    initial_state: NDArray[np.float32]
    layout: StateLayout
    fingerprint: bytes
    counting: Counting | None = None
    """With a sketch only."""


class Rounds:
    """The model, the cache and the store, as a round needs them. Owned by the fold thread."""

    def __init__(
        self, model: Model, store: StateStore, cache: StateCache, metrics: Metrics, after: Callable[[str], None]
    ) -> None:
        """`after` hears each step of the protocol when it is done."""
        self._model = model
        self._store = store
        self._cache = cache
        self._metrics = metrics
        self._after = after

    def load(self, cuts: Sequence[tuple[Session, Cut]]) -> list[tuple[Session, Part]]:
        """Step 3: the states that the batches' users have, from the cache or else from the store. A value that cannot
        be read is set aside, and its user begins anew.

        Raises:
            StoreUnavailable: it did not answer, or could not set a value aside.
        """
        started = perf_counter()
        parts: list[tuple[Session, Part]] = []
        wanted: list[tuple[int, list[str]]] = []
        missing: list[list[int]] = []
        for session, batch in cuts:
            cached = session.shelf.find(batch.keys)
            lacking = np.flatnonzero(cached == NOT_CACHED).tolist()
            missing.append(lacking)
            wanted.append((session.partition, [batch.users[i] for i in lacking]))
            parts.append((session, Part(batch, session.folding(), cached)))
            self._metrics.states_cached.inc(len(cached) - len(lacking))
            self._metrics.states_loaded.inc(len(lacking))
        answers = self._store.load(wanted)
        for (session, part), lacking, values in zip(parts, missing, answers, strict=True):
            self._read_states(session.partition, part, lacking, values)
        self._metrics.stage.labels("load").observe(perf_counter() - started)
        self._after("load")
        return parts

    def _read_states(self, partition: int, part: Part, lacking: list[int], values: list[bytes | None]) -> None:
        unreadable = []
        fingerprint, layout = self._model.fingerprint, self._model.layout
        for i, value in zip(lacking, values, strict=True):
            if value is None:
                continue
            try:
                part.loaded[i] = decode_state(value, fingerprint, layout, user_hash(part.cut.users[i]))
            except StateError as error:
                name = UNREADABLE[type(error)]
                self._metrics.unreadable_states.labels(name).inc()
                say(log, logging.ERROR, "unreadable state", partition=partition, error=name)
                part.suspect.add(i)
                unreadable.append(value)
        if unreadable:
            self._store.set_aside(partition, unreadable)

    def fold(self, parts: Sequence[tuple[Session, Part]]) -> Round:
        """Step 4: all events of at least one part, in waves."""
        started = perf_counter()
        work = Round(self._model.initial_state, self._cache)
        work.plan([part for _, part in parts])
        work.run(self._model.step, self._model.vectors, self._model.counting)
        self._metrics.stage.labels("fold").observe(perf_counter() - started)
        self._metrics.waves.inc(work.waves)
        self._after("fold")
        return work

    def stage(self, work: Round, parts: Sequence[tuple[Session, Part]]) -> list[tuple[Session, Staged]]:
        """The commits of what was folded. A batch with a step that was not finite has none: it stays in hand, without
        that operation."""
        states = work.values(self._model.fingerprint, self._model.layout)
        staged = []
        for session, part in parts:
            if part.not_finite:
                self._metrics.non_finite.inc(len(part.not_finite))
                session.cut = part.cut.without(part.not_finite, Reason.NON_FINITE)
            else:
                staged.append((session, _staged(session, work, part, states)))
        return staged

    def keep(self, session: Session, work: Round, part: Part) -> None:
        """The store has the part: put its states into the cache."""
        rows = {}
        for key, row in zip(part.cut.keys, part.row_of.tolist(), strict=True):
            if row == ERASED_ROW:
                session.shelf.drop(key)
            elif row >= 0:
                rows[session.shelf.touch(key)] = row  # a full cache may give a row away again
        if rows:
            to, these = list(rows), list(rows.values())
            self._cache.headers[to] = work.headers[these]
            self._cache.tensors[to] = work.tensors[work.place[these]]


def _staged(session: Session, work: Round, part: Part, states: list[bytes]) -> Staged:
    """The commit of a part; `states` are the round's, encoded, by row."""
    batch, progress = part.cut, part.progress
    changed = [
        (user, states[row] if row >= 0 else None)
        for user, row in zip(batch.users, part.row_of.tolist(), strict=True)
        if row != NO_ROW
    ]
    last = batch.records[-1]
    next_offset = last.offset + 1
    if len(batch.records) == len(session.pending):
        next_offset = max(next_offset, session.position)
    as_of_ms = progress.as_of_ms
    if session.caught_up_at is not None and next_offset >= session.caught_up_at[0]:
        as_of_ms = max(as_of_ms, session.caught_up_at[1])
    after = replace(
        progress,
        next_offset=next_offset,
        last_offset=last.offset,
        witness=witness(last.key, last.value, last.timestamp),
        writer=session.writer,
        as_of_ms=as_of_ms,
    )
    commit = Commit(session.partition, session.known, encode_progress(after), tuple(changed))
    return Staged(commit, after, work, part)
