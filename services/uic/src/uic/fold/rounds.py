"""Steps 3 to 6 of the protocol: batches of several partitions are loaded, folded and committed together. Then the
answers of the store are obeyed:

Written                  adopt
Refused, ours            an earlier try had arrived: adopt
Refused, ahead of us or  ownership lost: wait for leases that were asked for since
  of another writer
Refused, behind, absent  the store lost writes: take the partition up again, from what is stored
Refused, unreadable      take the partition up again, which stops it: an operator decides
StatesLost               states are gone that the store had: fold the batch again, those users as incomplete
NoAnswer                 unsure: read progress until it is one of the above, or unchanged: then commit again
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mimn.state import (
    CorruptState,
    ForeignFingerprint,
    ForeignLayout,
    StateError,
    WrongUser,
    read_header,
    user_hash,
)
from uic.core.commit import NoAnswer, StatesLost, Verdict, Written
from uic.core.fold import NO_ROW, Part, Round, fold
from uic.core.ports import Owned
from uic.core.staged_values import StagedValues
from uic.core.status import Phase
from uic.errors import StoreUnavailable
from uic.fold.health import Health
from uic.fold.partition import Attempt, FoldedBatch, InHand, Partition, Partitions
from uic.fold.setup import Setup
from uic.logs import say

log = logging.getLogger("uic.fold.rounds")

UNREADABLE: dict[type[StateError], str] = {
    CorruptState: "corrupt",
    ForeignLayout: "foreign_layout",
    ForeignFingerprint: "foreign_fingerprint",
    WrongUser: "wrong_user",
}
"""Metric label of each error."""

A = TypeVar("A", bound=Attempt)


class Rounds:
    """Owned by the fold thread."""

    def __init__(self, setup: Setup, partitions: Partitions, health: Health) -> None:
        """Nothing is asked yet."""
        self._setup = setup
        self._partitions = partitions
        self._health = health
        self._store = setup.ports.store
        self._metrics = setup.metrics
        self._connections = 0
        self._read_back_due = 0.0
        """Not later than any partition's."""

    def load(self, batches: Sequence[tuple[Partition, InHand]], now: float) -> list[tuple[Partition, Part]]:
        """Step 3: the states that the batches' users have, from memory or else from the store. A value that cannot be
        read is set aside, once a batch, and its user starts again from the initial state.

        Returns: the parts of a round: of those batches for which the store answers.
        """
        parts = [(partition, partition.part(held)) for partition, held in batches]
        missing = [[i for i, value in enumerate(part.cached) if value is None] for _, part in parts]
        sought = sum(map(len, missing))
        self._metrics.states_cached.inc(sum(len(part.cached) for _, part in parts) - sought)
        if not sought:
            return parts
        self._metrics.states_loaded.inc(sought)
        wanted = [
            (p.number, [part.batch.users[i] for i in lacking])
            for (p, part), lacking in zip(parts, missing, strict=True)
        ]
        loaded: list[tuple[Partition, Part]] = []
        try:
            answers = self._store.load(wanted)
            for (partition, held), (_, part), lacking, values in zip(batches, parts, missing, answers, strict=True):
                if isinstance(values, NoAnswer):
                    self._health.store_failed("load", StoreUnavailable(values.detail), [partition], now)
                else:
                    self._read_states(partition, held, part, lacking, values)
                    loaded.append((partition, part))
        except StoreUnavailable as error:
            self._health.store_failed("load", error, [partition for partition, _ in batches], now)
            return []
        self._health.store_answered(partition for partition, part in loaded if None in part.cached)
        return loaded

    def _read_states(
        self, partition: Partition, held: InHand, part: Part, lacking: list[int], values: list[bytes | None]
    ) -> None:
        unreadable: dict[str, bytes] = {}
        fingerprint, layout = self._setup.model.fingerprint, self._setup.model.layout
        for i, value in zip(lacking, values, strict=True):
            if value is None:
                continue
            user = part.batch.users[i]
            try:
                header = read_header(value, fingerprint, layout, user_hash(user))
            except StateError as error:
                part.suspect.add(i)
                part.unreadable.append(UNREADABLE[type(error)])
                if user not in held.aside:
                    unreadable[user] = value
            else:
                if header.lineage == part.progress.lineage:
                    part.loaded[i] = value
        if unreadable:
            self._store.set_aside(partition.number, list(unreadable.values()))
            partition.set_aside(held, unreadable)

    def fold(self, parts: Sequence[tuple[Partition, Part]]) -> list[tuple[Partition, FoldedBatch]]:
        """Step 4: all events of at least one part, in waves. Returns what is to be written. A batch with a step that
        was not finite stays in hand, without that operation."""
        work = fold(self._setup.model, [part for _, part in parts])
        self._metrics.waves.inc(work.waves)
        for partition, part in parts:
            partition.reject(part.not_finite)
        sound = [(partition, part) for partition, part in parts if not part.not_finite]
        return [
            (partition, partition.batch_attempt(part, work.states, _values(work, part))) for partition, part in sound
        ]

    def commit(self, attempts: Sequence[tuple[Partition, A]], now: float) -> list[tuple[Partition, A]]:
        """Step 5: ask the store to write, and adopt or obey the answers. Returns what is written."""
        if not attempts:
            return []
        answers = self._store.commit([attempt.commit for _, attempt in attempts])
        self._setup.done("commit")
        written = []
        ok = 0
        for (partition, attempt), answer in zip(attempts, answers, strict=True):
            if isinstance(answer, Written):
                ok += 1
                written.append((partition, attempt))
            elif isinstance(answer, NoAnswer):
                self._metrics.commits.labels("unknown").inc()
                partition.unconfirmed(attempt, answer.detail)
                self._health.store_failed("commit", StoreUnavailable(answer.detail), [partition], now)
            elif isinstance(answer, StatesLost):
                self._metrics.lost_states.inc(len(answer.users))
                partition.states_lost(answer)
            elif self._obey(partition, attempt, partition.judge(answer.stored, attempt), now):
                written.append((partition, attempt))
        self._adopt(written)
        if ok:
            self._metrics.commits_ok.inc(ok)
            self._health.store_answered(partition for partition, _ in written)
        return written

    def advise(self, written: Sequence[tuple[Partition, Attempt]]) -> None:
        """Step 6: tell the brokers where the partitions stand, for lag tools."""
        if written:
            offsets = {partition.number: attempt.progress.next_offset for partition, attempt in written}
            self._setup.ports.log.advise(offsets)
            self._setup.done("advise")

    def go_on(self, now: float) -> None:
        """What is due by the clock: commits without an answer, progress to read back."""
        self._find_out(now)
        self._read_back(now)

    def owns(self, owned: Owned, now: float) -> None:
        """Take partitions up again that another process wrote, where the leases still give them to this one."""
        for partition in self._partitions.of(Phase.OWNERSHIP_LOST):
            if partition.lost_at < owned.asked_at:
                say(log, logging.INFO, "the leases say that we own it", partition=partition.number)
                partition.restart(now)

    def _adopt(self, written: Sequence[tuple[Partition, Attempt]]) -> None:
        """The store has these."""
        for partition, attempt in written:
            partition.adopt(attempt)
        if folded := [attempt for _, attempt in written if isinstance(attempt, FoldedBatch)]:
            self._count(folded)

    def _obey(self, partition: Partition, attempt: Attempt | None, verdict: Verdict, now: float) -> bool:
        """Do what a stored record that is not the known one asks for; True if the attempt turned out written, and is to
        be adopted."""
        if verdict is Verdict.OURS and attempt is not None:
            self._metrics.commits.labels("arrived_before").inc()
            return True
        say(log, logging.WARNING, "stored progress differs", partition=partition.number, verdict=verdict.value)
        if verdict is Verdict.OWNERSHIP_LOST:
            self._metrics.commits.labels("ownership_lost").inc()
            partition.lose(now)
            return False
        if verdict is Verdict.STORE_BEHIND:
            self._metrics.commits.labels("store_behind").inc()
            self._metrics.rewinds.inc()
        partition.restart(now)
        return False

    def _find_out(self, now: float) -> None:
        """What became of commits without an answer."""
        unsure = [(p, p.unsure) for p in self._partitions if p.unsure is not None and p.due <= now]
        if not unsure:
            return
        again, written = [], []
        stored = self._stored([partition for partition, _ in unsure], now)
        for partition, attempt in unsure:
            record = stored.get(partition.number)
            if record is None:
                continue
            verdict = partition.judge(record, attempt)
            if verdict is Verdict.UNCHANGED and not record:
                # A claim that others may have seen, built upon and lost again: a lineage begins from nothing once.
                partition.restart(now, unclaimed=True)
            elif verdict is Verdict.UNCHANGED:
                again.append((partition, attempt))
            elif self._obey(partition, attempt, verdict, now):
                written.append((partition, attempt))
        self._adopt(written)
        self.advise(written + self.commit(again, now))

    def _read_back(self, now: float) -> None:
        """Whether the store still has what it acknowledged, for partitions that write nothing now."""
        connections = self._store.connections
        reconnected, self._connections = connections != self._connections, connections
        if now < self._read_back_due and not reconnected:
            return
        reading = self._partitions.of(Phase.VERIFYING, Phase.FOLDING)
        due = [p for p in reading if p.unsure is None and p.due <= now and (reconnected or p.read_back_due <= now)]
        stored = self._stored(due, now)
        for partition in due:
            record = stored.get(partition.number)
            if record is not None:
                partition.read_back(now)
                if (verdict := partition.judge(record)) is not Verdict.UNCHANGED:
                    self._obey(partition, None, verdict, now)
        later = now + self._setup.settings.read_back_interval_s
        self._read_back_due = min((p.read_back_due for p in reading if p.reads), default=later)

    def _stored(self, partitions: Sequence[Partition], now: float) -> dict[int, bytes]:
        """The stored progress of these, of which the store answers."""
        if not partitions:
            return {}
        try:
            said = self._store.read_progress([partition.number for partition in partitions])
        except StoreUnavailable as error:
            self._health.store_failed("read_back", error, partitions, now)
            return {}
        stored: dict[int, bytes] = {}
        for partition in partitions:
            record = said[partition.number]
            if isinstance(record, NoAnswer):
                self._health.store_failed("read_back", StoreUnavailable(record.detail), [partition], now)
            else:
                stored[partition.number] = record
        self._health.store_answered(partition for partition in partitions if partition.number in stored)
        return stored

    def _count(self, written: Sequence[FoldedBatch]) -> None:
        m = self._metrics
        counts = dict.fromkeys(m.records_of, 0)
        unknown_fields, says = 0, log.isEnabledFor(logging.DEBUG)
        for each in written:
            batch, part = each.part.batch, each.part
            operations, folded = len(batch.items), int(np.count_nonzero(batch.items))
            counts["folded"] += folded - part.already_folded
            counts["erased"] += operations - folded
            counts["dead_letter"] += len(batch.rejected)
            counts["already_folded"] += part.already_folded
            counts["erased_later"] += batch.erased_later
            counts["ignored"] += batch.ignored
            unknown_fields += batch.extended
            m.batch_records.observe(len(batch.records))
            m.batch_states.observe(len(each.commit.values))
            if says:
                _say(each)
        for outcome, n in counts.items():
            if n:
                m.records_of[outcome].inc(n)
        if unknown_fields:
            m.unknown_fields.inc(unknown_fields)


def _values(work: Round, part: Part) -> tuple[StagedValues, int, int]:
    """`Commit.values`, `created` and `listed`, of a part."""
    keys, rows = part.batch.keys, part.row_of
    created = [at for at, row in enumerate(rows) if row in work.created] if work.created else []
    listed = [at for at, row in enumerate(rows) if row in work.listed] if work.listed else []
    if 0 < len(created) < len(rows) or listed or NO_ROW in rows:
        first = {*created, *listed}
        order = [*created, *listed, *[at for at, row in enumerate(rows) if row != NO_ROW and at not in first]]
        keys, rows = [keys[at] for at in order], [rows[at] for at in order]
    return StagedValues(keys, rows, work.states), len(created), len(listed)


def _say(written: FoldedBatch) -> None:
    batch = written.part.batch
    say(
        log,
        logging.DEBUG,
        "batch",
        partition=batch.partition,
        first=batch.records[0].offset,
        last=batch.records[-1].offset,
        records=len(batch.records),
        states=len(written.commit.values),
        dead_letters=len(batch.rejected),
    )
