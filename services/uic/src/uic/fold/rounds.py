"""Rounds: batches of several partitions, loaded and folded together and made into commits (steps 3 to 5 of the protocol
in `uic.fold.updater`). What was folded enters the cache once the store has it, never before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mimn.state import (
    CorruptState,
    ForeignFingerprint,
    ForeignLayout,
    StateError,
    WrongUser,
    encode_progress,
    read_header,
    user_hash,
)
from uic.core.advance import advance
from uic.core.commit import Commit, NoAnswer
from uic.core.fold import ERASED_ROW, NO_ROW, Part, Round, fold
from uic.core.model import Model
from uic.core.ordering import Batch
from uic.core.ports import StateStore
from uic.core.staged_values import StagedValues, States
from uic.fold.session import FoldedBatch, Reading
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


class Rounds:
    """The model and the store, as a round needs them; a session has its part of the cache. Owned by the fold thread."""

    def __init__(self, model: Model, store: StateStore, metrics: Metrics) -> None:
        """Nothing is asked yet."""
        self._model = model
        self._store = store
        self._metrics = metrics

    def load(
        self, batches: Sequence[tuple[Reading, Batch]]
    ) -> tuple[list[tuple[Reading, Part]], list[tuple[Reading, NoAnswer]]]:
        """Step 3: the states that the batches' users have, from the cache or else from the store. A value that cannot
        be read is set aside, once a batch, and its user starts again from the initial state.

        Returns:
            The parts of a round, and of a cluster the partitions whose server does not answer.

        Raises:
            StoreUnavailable: it did not answer at all, or could not set a value aside.
        """
        parts: list[tuple[Reading, Part]] = []
        silent: list[tuple[Reading, NoAnswer]] = []
        wanted: list[tuple[int, list[str]]] = []
        missing: list[list[int]] = []
        found = sought = 0
        for reading, batch in batches:
            cached = reading.hold.shelf.find(batch.keys)
            lacking = [i for i, value in enumerate(cached) if value is None]
            missing.append(lacking)
            found += len(cached) - len(lacking)
            sought += len(lacking)
            wanted.append((reading.partition, [batch.users[i] for i in lacking]))
            lost = set() if reading.in_hand is None else reading.in_hand.lost
            suspect = {i for i, user in enumerate(batch.users) if user in lost} if lost else set()
            parts.append((reading, Part(batch, reading.progress, cached, suspect=suspect)))
        self._metrics.states_cached.inc(found)
        if sought:
            self._metrics.states_loaded.inc(sought)
            answers = self._store.load(wanted)
            for (reading, part), lacking, values in zip(parts, missing, answers, strict=True):
                if isinstance(values, NoAnswer):
                    silent.append((reading, values))
                else:
                    self._read_states(reading, part, lacking, values)
            if silent:
                parts = [one for one, values in zip(parts, answers, strict=True) if not isinstance(values, NoAnswer)]
        return parts, silent

    def _read_states(self, reading: Reading, part: Part, lacking: list[int], values: list[bytes | None]) -> None:
        aside = set() if reading.in_hand is None else reading.in_hand.aside
        unreadable: dict[str, bytes] = {}
        fingerprint, layout = self._model.fingerprint, self._model.layout
        for i, value in zip(lacking, values, strict=True):
            if value is None:
                continue
            try:
                header = read_header(value, fingerprint, layout, user_hash(part.batch.users[i]))
            except StateError as error:
                part.suspect.add(i)
                part.unreadable.append(UNREADABLE[type(error)])
                if part.batch.users[i] not in aside:
                    unreadable[part.batch.users[i]] = value
            else:
                if header.lineage == part.progress.lineage:
                    part.loaded[i] = value
        if unreadable:
            self._store.set_aside(reading.partition, list(unreadable.values()))
            aside.update(unreadable)

    def fold(self, parts: Sequence[Part]) -> Round:
        """Step 4: all events of at least one part, in waves."""
        work = fold(self._model, parts)
        self._metrics.waves.inc(work.waves)
        return work

    def attempts(self, work: Round, parts: Sequence[tuple[Reading, Part]]) -> list[tuple[Reading, FoldedBatch]]:
        """What step 5 asks the store to write: the parts of a round whose steps were all finite."""
        return [(reading, _attempt(reading, work, part, work.states)) for reading, part in parts if not part.not_finite]

    def keep(self, written: Sequence[tuple[Reading, FoldedBatch]]) -> None:
        """The store has these batches: put their states into the cache. Their unreadable states are gone from the store
        only now, so they are counted here: until a batch is written, it may be loaded several times."""
        for reading, batch in written:
            for error in batch.part.unreadable:
                self._metrics.unreadable_states.labels(error).inc()
                say(log, logging.ERROR, "unreadable state", partition=reading.partition, error=error)
            shelf, keys, rows = reading.hold.shelf, batch.part.batch.keys, batch.part.row_of
            if ERASED_ROW in rows:
                for key, row in zip(keys, rows, strict=True):
                    if row == ERASED_ROW:
                        shelf.drop(key)
            if min(rows, default=0) < 0:
                keys = [key for key, row in zip(keys, rows, strict=True) if row >= 0]
                rows = [row for row in rows if row >= 0]
            encoded = batch.states.encoded
            shelf.put(keys, [encoded[row] for row in rows])


def _attempt(reading: Reading, work: Round, part: Part, states: States) -> FoldedBatch:
    """The commit of a part; `states` are the round's."""
    batch = part.batch
    all_read = len(batch.records) == len(reading.pending)
    after = advance(
        part.progress,
        writer=reading.hold.writer,
        last=batch.records[-1],
        position=reading.position if all_read else None,
        caught_up=reading.caught_up,
    )
    values = _values(work, part, states)
    commit = Commit(reading.partition, reading.known, encode_progress(after), *values, erases=batch.erases)
    return FoldedBatch(commit, after, part, states)


def _values(work: Round, part: Part, states: States) -> tuple[StagedValues, int, int]:
    """`Commit.values`, `created` and `listed`, of a part."""
    keys, rows = part.batch.keys, part.row_of
    created = [at for at, row in enumerate(rows) if row in work.created] if work.created else []
    listed = [at for at, row in enumerate(rows) if row in work.listed] if work.listed else []
    if 0 < len(created) < len(rows) or listed or NO_ROW in rows:
        first = {*created, *listed}
        order = [*created, *listed, *[at for at, row in enumerate(rows) if row != NO_ROW and at not in first]]
        keys, rows = [keys[at] for at in order], [rows[at] for at in order]
    return StagedValues(keys, rows, states), len(created), len(listed)
