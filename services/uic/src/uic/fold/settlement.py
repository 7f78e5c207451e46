"""What becomes of commits: adopted once the store has them; else what is stored instead is judged and obeyed.

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
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from uic.core.commit import NoAnswer, StatesLost, Verdict, Written, judge
from uic.core.ports import Log, Owned, StateStore
from uic.errors import NotOurs, StoreUnavailable
from uic.fold.health import Health
from uic.fold.rounds import Rounds
from uic.fold.session import Attempt, Claiming, FoldedBatch, Lost, Reading, Sessions
from uic.logs import say
from uic.metrics import Metrics
from uic.settings import FoldSettings

log = logging.getLogger("uic.fold.settlement")

Writing = Claiming | Reading
"""The phases that write."""
W = TypeVar("W", bound=Writing)
A = TypeVar("A", bound=Attempt)


class Settlement:
    """Steps 5 and 6 of the protocol. Owned by the fold thread."""

    def __init__(
        self,
        *,
        store: StateStore,
        event_log: Log,
        rounds: Rounds,
        sessions: Sessions,
        health: Health,
        settings: FoldSettings,
        metrics: Metrics,
        after: Callable[[str], None],
    ) -> None:
        """`after` is called after each step of the protocol."""
        self._store = store
        self._log = event_log
        self._rounds = rounds
        self._sessions = sessions
        self._health = health
        self._settings = settings
        self._metrics = metrics
        self._after = after
        self._connections = 0
        self._doubtful: set[int] = set()
        """All partitions with a commit without an answer, and perhaps others that had one."""
        self._read_back_due = 0.0
        """Not later than any session's."""

    def commit(self, attempts: Sequence[tuple[W, A]], now: float) -> list[tuple[W, A]]:
        """Step 5: ask the store to write, and adopt or obey the answers. Returns what is written."""
        if not attempts:
            return []
        answers = self._store.commit([attempt.commit for _, attempt in attempts])
        self._after("commit")
        written = []
        ok = 0
        for (session, attempt), answer in zip(attempts, answers, strict=True):
            if isinstance(answer, Written):
                ok += 1
            elif isinstance(answer, NoAnswer):
                self._metrics.commits.labels("unknown").inc()
                session.unsure = attempt
                self._doubtful.add(session.partition)
                session.reason = f"the store did not confirm a commit: {answer.detail}"
                self._health.store_failed("commit", StoreUnavailable(answer.detail), [session], now)
                continue
            elif isinstance(answer, StatesLost):
                self._lost(session, answer)
                continue
            elif not self._obey(session, attempt, judge(answer.stored, session.known, attempt.commit.progress), now):
                continue
            written.append((session, attempt))
        self._adopt(written)
        if ok:
            self._metrics.commits_ok.inc(ok)
            self._health.store_answered(session for session, _ in written)
        return written

    def _lost(self, session: Writing, answer: StatesLost) -> None:
        """The batch stays in hand; what is folded again of these users is marked as incomplete."""
        self._metrics.lost_states.inc(len(answer.users))
        say(log, logging.ERROR, "states lost", partition=session.partition, users=len(answer.users))
        session.unsure = None
        if isinstance(session, Reading) and session.in_hand is not None:
            session.in_hand.lost |= set(answer.users)

    def advise(self, written: Sequence[tuple[Writing, Attempt]]) -> None:
        """Step 6: tell the brokers where the partitions stand, for lag tools."""
        if written:
            self._log.advise({session.partition: attempt.progress.next_offset for session, attempt in written})
            self._after("advise")

    def go_on(self, now: float) -> None:
        """What is due by the clock: commits without an answer, progress to read back."""
        self._find_out(now)
        self._read_back(now)

    def owns(self, owned: Owned, now: float) -> None:
        """Take partitions up again that another process wrote, where the leases still give them to this one."""
        for session in self._sessions.of(Lost):
            if session.since < owned.asked_at:
                say(log, logging.INFO, "the leases say that we own it", partition=session.partition)
                self._sessions.restart(session, now)

    def _adopt(self, written: Sequence[tuple[Writing, Attempt]]) -> None:
        """The store has these: they are what the sessions know from now on."""
        folded: list[tuple[Reading, FoldedBatch]] = []
        for session, attempt in written:
            session.unsure = None
            session.known = attempt.commit.progress
            session.reason = ""
            if isinstance(session, Claiming):
                session.claimed, session.unclaimed = True, False
                continue
            session.progress = attempt.progress
            if session.caught_up is not None and attempt.progress.next_offset >= session.caught_up.end:
                session.caught_up = None
            if isinstance(attempt, FoldedBatch):
                folded.append((session, attempt))
                records = len(attempt.part.batch.records)
                self._sessions.folded(session, records)
                session.in_hand = None
                self._log.took(session.tag, records)
        if folded:
            self._count([attempt for _, attempt in folded])
            self._rounds.keep(folded)

    def _obey(self, session: Writing, attempt: Attempt | None, verdict: Verdict, now: float) -> bool:
        """Do what a stored record that is not the known one asks for; True if the attempt turned out written, and is to
        be adopted."""
        if verdict is Verdict.OURS and attempt is not None:
            self._metrics.commits.labels("arrived_before").inc()
            return True
        say(log, logging.WARNING, "stored progress differs", partition=session.partition, verdict=verdict.value)
        if verdict is Verdict.OWNERSHIP_LOST:
            self._metrics.commits.labels("ownership_lost").inc()
            self._lose(session, now)
            return False
        if verdict is Verdict.STORE_BEHIND:
            self._metrics.commits.labels("store_behind").inc()
            self._metrics.rewinds.inc()
        self._sessions.restart(session, now)
        return False

    def _lose(self, session: Writing, now: float) -> None:
        if isinstance(session, Claiming) and session.resolution is not None:
            session.resolution.refuse(NotOurs(f"another process has written partition {session.partition}"))
            session.resolution = None
        again = self._sessions.restart(session, now)
        self._sessions.put(
            Lost(
                hold=again.hold,
                since=now,
                reason="another process wrote this partition's progress",
                progress=session.progress,
            )
        )

    def _find_out(self, now: float) -> None:
        """What became of commits without an answer."""
        if not self._doubtful:
            return
        unsure: list[tuple[Writing, Attempt]] = []
        for partition in sorted(self._doubtful):
            session = self._sessions.get(partition)
            if not isinstance(session, Writing) or session.unsure is None:
                self._doubtful.remove(partition)
            elif session.due <= now:
                unsure.append((session, session.unsure))
        again, written = [], []
        stored = self._stored([session for session, _ in unsure], now)
        for session, attempt in unsure:
            record = stored.get(session.partition)
            if record is None:
                continue
            verdict = judge(record, session.known, attempt.commit.progress)
            if verdict is Verdict.UNCHANGED and not record:
                # A claim that others may have seen, built upon and lost again: a lineage begins from nothing once.
                self._sessions.restart(session, now).unclaimed = True
            elif verdict is Verdict.UNCHANGED:
                again.append((session, attempt))
            elif self._obey(session, attempt, verdict, now):
                written.append((session, attempt))
        self._adopt(written)
        self.advise(written + self.commit(again, now))

    def _read_back(self, now: float) -> None:
        """Whether the store still has what it acknowledged, for partitions that write nothing now."""
        connections = self._store.connections
        reconnected, self._connections = connections != self._connections, connections
        if now < self._read_back_due and not reconnected:
            return
        readings = self._sessions.of(Reading)
        due = [
            reading
            for reading in readings
            if reading.unsure is None and reading.due <= now and (reconnected or reading.read_back_due <= now)
        ]
        stored = self._stored(due, now)
        for reading in due:
            record = stored.get(reading.partition)
            if record is None:
                continue
            reading.read_back_due = now + self._settings.read_back_interval_s
            verdict = judge(record, reading.known, None)
            if verdict is not Verdict.UNCHANGED:
                self._obey(reading, None, verdict, now)
        later = now + self._settings.read_back_interval_s
        self._read_back_due = min((r.read_back_due for r in readings), default=later)

    def _stored(self, sessions: Sequence[Writing], now: float) -> dict[int, bytes]:
        """The stored progress of these, of which the store answers."""
        if not sessions:
            return {}
        try:
            said = self._store.read_progress([session.partition for session in sessions])
        except StoreUnavailable as error:
            self._health.store_failed("read_back", error, sessions, now)
            return {}
        stored: dict[int, bytes] = {}
        for session in sessions:
            record = said[session.partition]
            if isinstance(record, NoAnswer):
                self._health.store_failed("read_back", StoreUnavailable(record.detail), [session], now)
            else:
                stored[session.partition] = record
        self._health.store_answered(session for session in sessions if session.partition in stored)
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
