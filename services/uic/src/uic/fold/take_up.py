"""Taking partitions up: look up what is stored, ask the log for its bounds, decide where to begin
(`core.start_position`), read the erasures if it is a replay or leaves records out, store progress that is new, and
begin to read. An operator's decision about a broken partition is one more way to begin.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mimn.state import REMOVAL, encode_progress
from uic.core.commit import Commit, NoAnswer
from uic.core.ports import Erasures, Log, StateStore
from uic.core.start_position import (
    WRITTEN_AGAIN,
    Begin,
    BrokenReason,
    CannotContinue,
    LogBounds,
    Mint,
    accept_misrouted,
    among_removed,
    continue_broken,
    new_lineage,
    start_position,
    still_broken,
    where_it_parts,
)
from uic.core.start_position import Broken as Stop
from uic.core.trouble import Cause
from uic.core.unfolded_erasures import below, logs_of, users_to_forget
from uic.errors import InvalidField, LogUnavailable, NamespaceConflict, NoLeader, NotBroken, NotOurs, StoreUnavailable
from uic.fold.health import REMOVED, Health, phase_of, why_waits
from uic.fold.session import Attempt, Broken, Claiming, Reading, Resolution, Session, Sessions, TakingUp
from uic.fold.settlement import Settlement
from uic.logs import say
from uic.metrics import Metrics
from uic.settings import FoldSettings

log = logging.getLogger("uic.fold.take_up")

REPLAY_RECORDS = 10_000
"""A partition this far behind is replaying, and reads the erasures first; nearer ones reach them soon enough, if they
leave no record out."""


@dataclass(frozen=True, slots=True)
class Topic:
    """The log that is folded."""

    name: str
    partitions: int
    start: Literal["earliest", "latest"] = "earliest"


class TakeUp:
    """From an assigned partition to one that is read. Owned by the fold thread."""

    def __init__(
        self,
        *,
        topic: Topic,
        store: StateStore,
        event_log: Log,
        erasures: Erasures,
        sessions: Sessions,
        settlement: Settlement,
        health: Health,
        settings: FoldSettings,
        metrics: Metrics,
        random_id: Callable[[], int],
    ) -> None:
        """`random_id` gives lineages their ids."""
        self._topic = topic
        self._store = store
        self._log = event_log
        self._erasures = erasures
        self._sessions = sessions
        self._settlement = settlement
        self._health = health
        self._settings = settings
        self._metrics = metrics
        self._random_id = random_id
        self._look_for_namespace_at = 0.0

    def obey(self, resolutions: deque[Resolution], now: float) -> None:
        """Begin what operators decided; tell them at once what cannot be done."""
        while resolutions:
            resolution = resolutions.popleft()
            partition = resolution.partition
            if resolution.outcome.cancelled():
                continue
            session = self._sessions.get(partition)
            if session is None:
                resolution.refuse(NotOurs(f"partition {partition} is not assigned to this process"))
            elif not isinstance(session, Broken):
                resolution.refuse(NotBroken(f"partition {partition} is not stopped: {_under_way(session)}"))
            elif session.cause is BrokenReason.MISROUTED and (
                resolution.action != "continue" or resolution.from_offset is not None
            ):
                resolution.refuse(
                    InvalidField(
                        "the partition stopped because of misrouted records: correct the producers, then continue "
                        "without an offset, and what is misrouted so far goes to the dead letters"
                    )
                )
            else:
                say(log, logging.WARNING, "operator", partition=partition, action=resolution.action)
                resolution.about = session.cause
                self._sessions.restart(session, now).resolution = resolution

    def go_on(self, now: float) -> None:
        """What is due by the clock."""
        self._look_up(now)
        self._claim(now)
        self._keep_namespace(now)

    def ask_again(self, tags: Sequence[int], now: float) -> None:
        """The log did not say where these begin and end: ask it again later."""
        for session in self._sessions.of(TakingUp):
            if session.tag in tags:
                session.stored = None
                session.due = now + self._settings.retry_interval_s

    def described(self, session: TakingUp, bounds: LogBounds, now: float) -> None:
        """The log answered: decide."""
        if session.stored is None:
            return
        begin = self._decide(session, session.stored, bounds)
        if isinstance(begin, Stop):
            if session.resolution is not None:
                session.resolution.refuse(InvalidField(f"the log is broken ({begin.reason}): decide about that"))
            session.progress = begin.progress  # so that an operator sees where the states end
            self.stop(session, begin.reason)
            return
        progress = begin.progress
        if not session.unclaimed:  # else it was said, twice a second while the store refuses claims
            self._say_taken_up(session, begin, bounds)
        untouched = progress.next_offset == progress.base
        self._sessions.put(
            Claiming(
                hold=session.hold,
                due=now,
                start=bounds.start,
                end=bounds.end,
                progress=progress,
                begin=begin,
                topic_id=bounds.topic_id,
                decided_end=bounds.end if begin.others_from is None else begin.others_from,
                known=session.stored,
                claimed=not begin.store_first,
                resolution=session.resolution,
                unclaimed=session.unclaimed,
                wants_erasures=begin.store_first or untouched or bounds.end - progress.next_offset > REPLAY_RECORDS,
            )
        )

    def _say_taken_up(self, session: TakingUp, begin: Begin, bounds: LogBounds) -> None:
        partition, progress = session.partition, begin.progress
        decision = "rebuilt" if begin.kind == "new" and session.resolution is not None else begin.kind
        self._metrics.take_ups.labels(decision).inc()
        say(
            log,
            logging.WARNING if begin.kind in ("gap", "continued") else logging.INFO,
            "taken up",
            partition=partition,
            kind=decision,
            next_offset=progress.next_offset,
            end=bounds.end,
            lineage=f"{progress.lineage:016x}",
            era=progress.era,
        )
        if begin.lost_from is not None:
            self._metrics.gaps.inc()
            say(
                log,
                logging.ERROR,
                "data gap",
                partition=partition,
                lost_from=begin.lost_from,
                complete_from=progress.complete_from,
            )

    def stop(self, session: TakingUp | Reading, cause: BrokenReason, detail: str = "") -> None:
        """Read no more of a partition until an operator has decided."""
        self._log.park(session.partition)
        if cause in WRITTEN_AGAIN and session.progress is not None:
            detail = where_it_parts(session.progress)
        self._sessions.put(
            Broken(
                hold=session.hold,
                reason=_named(cause, detail),
                start=session.start,
                end=session.end,
                progress=session.progress,
                cause=cause,
            )
        )
        self._metrics.take_ups.labels("broken").inc()
        say(log, logging.ERROR, "broken log", partition=session.partition, reason=cause.value, detail=detail)
        self._health.changed()

    def _look_up(self, now: float) -> None:
        """Read what is stored of new sessions, and ask the log for their bounds."""
        new = [s for s in self._sessions.of(TakingUp) if s.stored is None and s.due <= now]
        if not new:
            return
        if not self._claim_namespace(new, now):
            return
        try:
            said = self._store.read_progress([s.partition for s in new])
        except StoreUnavailable as error:
            self._health.not_asked(new)
            self._health.store_failed("read_progress", error, new, now)
            return
        known: list[TakingUp] = []
        for session in new:
            record = said[session.partition]
            if isinstance(record, NoAnswer):
                self._health.store_failed("read_progress", StoreUnavailable(record.detail), [session], now)
            elif record.startswith(REMOVAL):
                if not session.removed:
                    say(log, logging.WARNING, "namespace is being removed", partition=session.partition)
                session.removed, session.reason = True, REMOVED
                session.due = now + self._settings.retry_interval_s
            else:
                session.removed, session.reason = False, ""
                session.stored = record
                known.append(session)
        self._health.store_answered(s for s in new if s.removed or s.stored is not None)
        self._health.not_asked(s for s in new if s.stored is None)
        self._log.describe({s.partition: s.tag for s in known})

    def _claim_namespace(self, sessions: Sequence[Session], now: float) -> bool:
        """Say in the store that there is this namespace, before progress is read for `sessions`, or after they have
        stored the first of a lineage: the namespace may have been removed in between."""
        try:
            self._store.claim_namespace(self._topic.partitions, self._topic.name)
        except NamespaceConflict as error:
            self._health.stop(f"namespace: {error.detail}")
            return False
        except StoreUnavailable as error:
            self._health.not_asked(s for s in sessions if isinstance(s, TakingUp))
            self._health.store_failed("read_progress", error, sessions, now)
            return False
        return True

    def _keep_namespace(self, now: float) -> None:
        """While a partition is folded, write again what the store says of the namespace, if that is gone: without it
        the commands find no namespace. The progress that is asked first is ours only while no removal has begun, for a
        removal puts its mark in place of every progress record before it takes the rest. What another program wrote in
        its place is left to the next take-up, and a store that does not answer to other questions."""
        if now < self._look_for_namespace_at:
            return
        folded = next((s for s in self._sessions.of(Reading) if s.unsure is None and s.due <= now), None)
        if folded is None:
            return
        self._look_for_namespace_at = now + self._settings.read_back_interval_s
        with suppress(StoreUnavailable, NamespaceConflict):
            if self._store.read_progress([folded.partition])[folded.partition] == folded.known:
                self._store.claim_namespace(self._topic.partitions, self._topic.name)

    def _decide(self, session: TakingUp, stored: bytes, bounds: LogBounds) -> Begin | Stop:
        mint = Mint(self._topic.partitions, self._topic.start, self._random_id(), session.hold.writer)
        resolution = session.resolution
        if resolution is None:
            return start_position(stored, bounds, mint)
        if resolution.outcome.cancelled():
            session.resolution = None
            return still_broken(stored, bounds, mint, resolution.about)
        if resolution.about is BrokenReason.MISROUTED:
            return accept_misrouted(stored, bounds, mint)
        try:
            begin = (
                new_lineage(bounds, mint)
                if resolution.action == "rebuild"
                else continue_broken(
                    stored, bounds, mint, resolution.from_offset, about=resolution.about, log_end=session.end
                )
            )
        except CannotContinue as error:
            resolution.refuse(InvalidField(str(error)))
            session.resolution = None
            return still_broken(stored, bounds, mint, resolution.about)
        return among_removed(begin, bounds) if resolution.about is BrokenReason.REMOVED else begin

    def _claim(self, now: float) -> None:
        """Before the first record: read the erasures, and store progress that is new. With it go the states of users
        whose erasure the partition will not read."""
        claiming = self._sessions.of(Claiming)
        if not any(s.wants_erasures for s in claiming):
            self._health.trouble.clear(Cause.ERASURES)
        ready = [s for s in claiming if s.unsure is None and s.due <= now]
        if not ready:
            return
        if not self._read_erasures([s for s in ready if s.wants_erasures], now):
            ready = [s for s in ready if not s.wants_erasures]
        claims = [(s, _claim_of(s)) for s in ready if not s.claimed]
        self._settlement.advise(self._settlement.commit(claims, now))
        begun = [session for session in ready if session.claimed]
        new = [session for session in begun if session.begin.kind == "new"]
        if new and self._claim_namespace(new, now):
            self._health.store_answered(new)
        elif new:
            begun = [session for session in begun if session.begin.kind != "new"]
        for session in begun:
            self._begin_reading(session, now)
        if begun:
            self._log.describe({s.partition: s.tag for s in begun})  # so that an idle one soon knows it is caught up

    def _read_erasures(self, wanting: list[Claiming], now: float) -> bool:
        by_log: dict[bytes, list[Claiming]] = {}
        for session in wanting:
            for topic_id in logs_of(session.known, session.progress):
                by_log.setdefault(topic_id, []).append(session)
        try:
            erased = {
                topic_id: self._erasures.read([s.partition for s in sessions], topic_id)
                for topic_id, sessions in by_log.items()
            }
        except LogUnavailable as error:
            self._health.trouble.set(Cause.ERASURES, error.detail)
            away = error.partitions if isinstance(error, NoLeader) else [s.partition for s in wanting]
            for session in (s for s in wanting if s.partition in away):  # the others are read in the next turn
                session.due = now + self._settings.retry_interval_s
                session.reason = "waiting for the erasures"
            return False
        for session in wanting:
            notes = {one: erased[one][session.partition] for one in logs_of(session.known, session.progress)}
            session.erased = below(session.decided_end, notes[session.progress.topic_id])
            if not session.claimed:
                session.forgets = users_to_forget(session.known, session.progress, notes)
            session.wants_erasures = False
        if wanting and not any(s.wants_erasures for s in self._sessions.of(Claiming)):
            self._health.trouble.clear(Cause.ERASURES)
        return True

    def _begin_reading(self, session: Claiming, now: float) -> None:
        begin = session.begin
        self._sessions.put(
            Reading(
                hold=session.hold,
                due=session.due,
                start=session.start,
                end=session.end,
                leaderless=session.leaderless,
                untold=session.untold,
                progress=session.progress,
                known=session.known,
                erased=session.erased,
                verify=None if begin.witness is None else begin,
                position=session.progress.next_offset,
                read_back_due=now + self._settings.read_back_interval_s,
            )
        )
        if session.resolution is not None:
            session.resolution.fulfil(session.progress)
        self._log.read(session.partition, session.tag, begin.read_from, session.topic_id)


def _named(cause: BrokenReason, detail: str) -> str:
    """Why a partition is stopped."""
    named = cause.value if cause is BrokenReason.MISROUTED else f"broken_log: {cause}"
    return ": ".join(part for part in (named, detail) if part)


def _claim_of(session: Claiming) -> Attempt:
    commit = Commit(
        session.partition,
        session.known,
        encode_progress(session.progress),
        tuple((user, None) for user in session.forgets),
        begins_lineage=session.begin.kind == "new",
        erases=bool(session.forgets),
    )
    return Attempt(commit, session.progress)


def _under_way(session: Session) -> str:
    """What a partition does that is not stopped, and what an operator's decision about it waits for, if there is one
    that is not carried out yet."""
    does = f"it is {phase_of(session)}"
    decided = session.resolution if isinstance(session, TakingUp | Claiming) else None
    if decided is None:
        return does
    return f"{does}, for an operator's {decided.action}, which is not done yet" + (
        f": {why}" if (why := why_waits(session)) else ""
    )
