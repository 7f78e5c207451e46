"""StateUpdater: from records of the log to states in the store, exactly once and in order. The commit protocol:

    1 poll     raw records, and the position that the client reports with them   (consumer.py, its own thread)
    2 decode   records to operations; those that are none to the dead letters, acknowledged before 5
    3 load     states that the session lacks; absent or of another lineage: the initial state
    4 fold     in waves, pooled over partitions, into a round's own rows
    5 commit   per partition one atomic script: if progress is what we read, states, then progress
    6 advise   the next offset to the group coordinator, for lag tools and as a sign of life

Results are adopted after the script's OK. Every other outcome of 5 ends the session, or keeps the batch until it is
known what became of it:

    Written                  adopt
    Refused, ours            an earlier try had arrived: adopt
    Refused, ahead or        ownership lost: wait for the next assignment, or for the coordinator to accept
      somebody else's          an offset commit of ours
    Refused, behind, absent  the store lost writes: take the partition up anew, from what is stored
    NoAnswer                 unsure: read progress until it is one of the above, or unchanged: then commit again

One thread calls `turn` and owns all of this; `status` and `resolve` may be called from any.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import numpy as np

from mimn.state import (
    Progress,
    encode_progress,
    witness,
)
from uic.core.cache import StateCache
from uic.core.commit import Answer, Commit, NoAnswer, Verdict, Written, judge
from uic.core.fold import Part
from uic.core.letters import Letter
from uic.core.ordering import LARGE, Bounds, Cut, OutOfOrder, Taken, decode, take
from uic.core.ports import (
    Advised,
    Assigned,
    DeadLetters,
    Described,
    Erasures,
    Fetched,
    Log,
    LogAway,
    LogMessage,
    NotDescribed,
    OutOfRange,
    PartitionCountChanged,
    Revoked,
    StateStore,
)
from uic.core.routing import MisroutedWindow
from uic.core.status import STARTING, Action, Phase, Status
from uic.core.takeup import (
    Begin,
    Broken,
    BrokenReason,
    CannotContinue,
    LogBounds,
    Mint,
    continue_broken,
    new_lineage,
    take_up,
)
from uic.errors import (
    InvalidField,
    LogUnavailable,
    NamespaceConflict,
    NotBroken,
    NotOurs,
    StoreUnavailable,
)
from uic.fold.rounds import Model, Rounds
from uic.fold.session import Resolution, Session, Staged
from uic.logs import say
from uic.metrics import Metrics
from uic.settings import FoldSettings

log = logging.getLogger("uic.fold.updater")

WAVES_BESIDE = 64
"""Waves of a large batch while other partitions are nearly caught up: their events wait until it is folded, and a user
who floods can make it a run of waves that carry an event each. A backlog in every partition is folded as fast as can
be: batches so short take a sixth more of it."""
REPLAY_RECORDS = 10_000
"""A partition this far behind is replaying, and reads the erasures first; nearer ones reach them soon enough."""
STATUS_INTERVAL_S = 0.2
COORDINATOR_INTERVAL_S = 5.0
READING = (Phase.VERIFYING, Phase.FOLDING, Phase.UNSURE)


@dataclass(frozen=True, slots=True)
class Topic:
    """The log that is folded."""

    name: str
    partitions: int
    start: Literal["earliest", "latest"] = "earliest"


class StateUpdater:
    """Obeys the protocol above for all assigned partitions."""

    def __init__(
        self,
        *,
        topic: Topic,
        model: Model,
        store: StateStore,
        event_log: Log,
        dead_letters: DeadLetters,
        erasures: Erasures,
        settings: FoldSettings,
        metrics: Metrics,
        random_id: Callable[[], int] = lambda: secrets.randbits(64) or 1,
        after: Callable[[str], None] = lambda step: None,
    ) -> None:
        """Nothing is called yet. `after` hears each step of the protocol when it is done (crash tests end the process
        there)."""
        self._topic = topic
        self._model = model
        self._store = store
        self._log = event_log
        self._dead_letters = dead_letters
        self._erasures = erasures
        self._settings = settings
        self._metrics = metrics
        self._random_id = random_id
        self._after = after
        self._cache = StateCache.of_bytes(settings.cache_mib << 20, len(model.initial_state))
        self._rounds = Rounds(model, store, self._cache, metrics, after)
        self._bounds = Bounds(settings.max_states, settings.max_waves, settings.max_states * settings.max_waves)
        self._bounds_beside = replace(self._bounds, max_waves=min(settings.max_waves, WAVES_BESIDE))
        self._sessions: dict[int, Session] = {}
        self._turn_of: deque[int] = deque()
        self._last_tag = 0
        self._misrouted = MisroutedWindow(settings.misrouted_share)
        self._stopped = ""
        self._degraded: dict[str, str] = {}
        self._resolutions: deque[Resolution] = deque()
        self._connections = 0
        self._ask_due = 0.0
        self._status_due = 0.0
        self._turn_began = 0.0
        self._joined = False
        self._status = STARTING

    # From any thread

    @property
    def status(self) -> Status:
        """As of the last turn, or a fraction of a second before."""
        return self._status

    def resolve(
        self, partition: int, action: Action, from_offset: int | None = None, *, timeout_s: float = 30.0
    ) -> Progress:
        """Obey an operator about a broken partition, and return the progress that was stored.

        Args:
            partition: must be assigned to this process and broken.
            action: `continue` keeps the states and begins a new era; `rebuild` begins a new lineage from nothing.
            from_offset: where `continue` goes on, if not where `takeup.continue_broken` would.
            timeout_s: how long to wait for the store and the log.

        Raises:
            NotOurs, NotBroken, InvalidField: as the names say.
            TimeoutError: not done in time; it may still be.
        """
        if action not in ("continue", "rebuild"):
            raise InvalidField(f"action must be continue or rebuild, not {action!r}")
        if action == "rebuild" and from_offset is not None:
            raise InvalidField("from_offset is for continue: a rebuild begins where the log does")
        outcome: Future[Progress] = Future()
        self._resolutions.append(Resolution(partition, action, from_offset, outcome))
        try:
            return outcome.result(timeout_s)
        except TimeoutError:
            outcome.cancel()
            raise

    # The fold thread

    def turn(self, messages: Sequence[LogMessage], now: float, wall_ms: int) -> bool:
        """Hear what happened to the log, and do what is due.

        Args:
            messages: from `Log.messages`, in order.
            now: monotonic seconds.
            wall_ms: milliseconds since 1970-01-01 UTC.

        Returns: whether there is more to fold at once.
        """
        self._turn_began = perf_counter()
        for message in messages:
            self._hear(message, now)
        if any(isinstance(message, Fetched) for message in messages):
            self._after("poll")
        self._obey_operators(now)
        if not self._stopped:
            self._look_up(now)
            self._claim(now)
            self._settle(now)
            self._read_back(now)
            self._ask_ends(now)
            self._fold(now, wall_ms)
            self._refresh_as_of(now)
        self._publish_status(now)
        return not self._stopped and any(
            s.phase is Phase.FOLDING and self._ready(s, now) for s in self._sessions.values()
        )

    def drain(self) -> None:
        """Say that the end is near. Call no more turns: what is not committed is read again by whoever is next."""
        self._status = Status(False, ("draining",), self._status.partitions)

    def stop(self, reason: str) -> None:
        """Fold nothing any more, and say why; the events wait in the log. Only a restart ends it."""
        if not self._stopped:
            self._stopped = reason
            say(log, logging.ERROR, "consumption stopped", reason=reason)
            for session in self._sessions.values():
                self._log.park(session.partition)
                session.reason = reason
        self._status_due = 0.0

    # Messages

    def _hear(self, message: LogMessage, now: float) -> None:
        match message:
            case Fetched():
                self._fetched(message, now)
            case Assigned(partitions):
                self._joined = True
                self._degraded.pop("log", None)
                say(log, logging.INFO, "assigned", partitions=_ranges(partitions))
                for p in partitions:
                    self._end(p)
                    self._start(p, due=now)
            case Revoked(partitions):
                say(log, logging.INFO, "revoked", partitions=_ranges(partitions))
                for p in partitions:
                    self._end(p)
            case Described(tag=tag):
                session = self._tagged(message.partition, tag)
                if session is not None:
                    self._described(session, message, now)
            case NotDescribed(tags, detail):
                self._degraded["log"] = f"log_unavailable: {detail}"
                for session in self._sessions.values():
                    if session.tag in tags and session.phase is Phase.TAKING_UP:
                        session.asked = False
                        session.due = now + self._settings.retry_interval_s
                        session.reason = f"the log does not answer: {detail}"
            case OutOfRange(partition, tag):
                session = self._tagged(partition, tag)
                if session is not None:
                    say(log, logging.WARNING, "position out of the log's range", partition=partition)
                    self._restart(session, now)
            case Advised(partitions, error):
                self._advised(partitions, error, now)
            case PartitionCountChanged(count):
                self.stop(
                    f"partition_count: topic {self._topic.name} has {count} partitions, not {self._topic.partitions}"
                )
            case LogAway(detail):
                self._degraded["log"] = f"log_unavailable: {detail}"
                say(log, logging.WARNING, "log away", detail=detail)
                for p in list(self._sessions):
                    self._end(p)

    def _fetched(self, message: Fetched, now: float) -> None:
        session = self._tagged(message.partition, message.tag)
        if session is None or session.phase not in READING:
            self._log.took(message.tag, len(message.records))
            return
        records = message.records
        if session.phase is Phase.VERIFYING and records:
            begin, first = session.begin, records[0]
            if begin is None or (first.offset, witness(first.key, first.value, first.timestamp)) != (
                begin.read_from,
                begin.witness,
            ):
                self._break(session, BrokenReason.WITNESS)
                return
            session.phase = Phase.FOLDING
            self._log.took(session.tag, 1)
            records = records[1:]
        session.pending.extend(records)
        session.position = message.position

    def _advised(self, partitions: Sequence[int], error: str | None, now: float) -> None:
        self._metrics.offset_commits.labels("failed" if error else "ok").inc()
        if error:
            say(log, logging.INFO, "offset commit failed", detail=error, partitions=_ranges(partitions))
            return
        for p in partitions:
            session = self._sessions.get(p)
            if session is not None and session.phase is Phase.OWNERSHIP_LOST:
                say(log, logging.INFO, "the group says that we own it", partition=p)
                self._restart(session, now)

    # Sessions

    def _start(self, partition: int, due: float) -> Session:
        self._last_tag += 1
        session = Session(partition, self._last_tag, self._random_id(), self._cache.open(), due=due)
        self._sessions[partition] = session
        self._turn_of.append(partition)
        return session

    def _end(self, partition: int) -> Session | None:
        session = self._sessions.pop(partition, None)
        if session is not None:
            self._cache.close(session.shelf)
            self._turn_of.remove(partition)
            self._forget_gauges(partition)
            _refuse(session, NotOurs(f"partition {partition} was taken away meanwhile"))
        return session

    def _restart(self, session: Session, now: float, *, delay_s: float = 0.0) -> Session:
        """Drop everything, and take the partition up from what is stored."""
        self._log.park(session.partition)
        resolution, session.resolution = session.resolution, None
        self._end(session.partition)
        again = self._start(session.partition, due=now + delay_s)
        again.resolution = resolution
        return again

    def _tagged(self, partition: int, tag: int) -> Session | None:
        session = self._sessions.get(partition)
        return session if session is not None and session.tag == tag else None

    def _break(self, session: Session, reason: BrokenReason) -> None:
        self._log.park(session.partition)
        session.pending.clear()
        session.phase = Phase.BROKEN
        session.reason = f"broken_log: {reason}"
        self._metrics.take_ups.labels("broken").inc()
        say(log, logging.ERROR, "broken log", partition=session.partition, reason=reason.value)
        self._status_due = 0.0

    def _store_failed(self, operation: str, error: StoreUnavailable, sessions: Iterable[Session], now: float) -> None:
        self._metrics.store_failures.labels(operation).inc()
        if "store" not in self._degraded:
            say(log, logging.WARNING, "store away", operation=operation, detail=error.detail)
        self._degraded["store"] = f"store_unavailable: {error.detail}"
        for session in sessions:
            session.due = now + self._settings.retry_interval_s

    def _store_answered(self) -> None:
        if self._degraded.pop("store", None):
            say(log, logging.INFO, "store back")

    # Taking up

    def _look_up(self, now: float) -> None:
        """Read what is stored of new sessions, and ask the log for their bounds."""
        new = [s for s in self._sessions.values() if s.phase is Phase.TAKING_UP and not s.asked and s.due <= now]
        if not new:
            return
        try:
            self._store.claim_namespace(self._topic.partitions, self._topic.name)
            stored = self._store.read_progress([s.partition for s in new])
        except NamespaceConflict as error:
            self.stop(f"namespace: {error.detail}")
            return
        except StoreUnavailable as error:
            self._store_failed("read_progress", error, new, now)
            return
        self._store_answered()
        for session in new:
            session.known = stored[session.partition]
            session.asked = True
        self._log.describe({s.partition: s.tag for s in new})

    def _described(self, session: Session, answer: Described, now: float) -> None:
        bounds = answer.bounds
        session.end = bounds.end
        self._degraded.pop("log", None)
        if session.phase is Phase.TAKING_UP:
            self._decide(session, bounds, now)
        elif session.phase in READING:
            known_id, id_now = session.folding().topic_id, bounds.topic_id
            another = any(known_id) and any(id_now) and known_id != id_now
            # A client whose position is out of the log's range says so, but it may read below progress: it verifies the
            # witness first, and the markers of transactions may lie in between.
            if another or bounds.end < session.folding().next_offset:
                self._restart(session, now)  # taking it up finds the log broken
                return
            session.caught_up_at = (bounds.end, answer.asked_ms)
            if answer.position is not None:
                session.position = max(session.position, answer.position)

    def _decide(self, session: Session, bounds: LogBounds, now: float) -> None:
        mint = Mint(self._topic.partitions, self._topic.start, self._random_id(), session.writer)
        resolution = session.resolution
        if resolution is not None and resolution.outcome.cancelled():
            resolution = session.resolution = None
        decision: Begin | Broken
        if resolution is None:
            decision = take_up(session.known, bounds, mint)
        elif resolution.action == "rebuild":
            decision = new_lineage(bounds, mint)
        else:
            try:
                decision = continue_broken(session.known, bounds, mint, resolution.from_offset)
            except CannotContinue as error:
                _refuse(session, InvalidField(str(error)))
                decision = take_up(session.known, bounds, mint)
        if isinstance(decision, Broken):
            self._break(session, decision.reason)
            return
        session.begin = decision
        session.progress = decision.progress
        self._metrics.take_ups.labels(decision.kind).inc()
        say(
            log,
            logging.WARNING if decision.kind in ("gap", "continued") else logging.INFO,
            "taken up",
            partition=session.partition,
            kind=decision.kind,
            next_offset=decision.progress.next_offset,
            end=bounds.end,
            lineage=f"{decision.progress.lineage:016x}",
            era=decision.progress.era,
        )
        if decision.kind == "gap" or (
            decision.kind == "new" and decision.progress.base > 0 and self._topic.start == "earliest"
        ):
            self._metrics.gaps.inc()
            say(
                log,
                logging.ERROR,
                "data gap",
                partition=session.partition,
                complete_from=decision.progress.complete_from,
            )
        untouched = decision.progress.next_offset == decision.progress.base
        session.wants_erasures = untouched or bounds.end - decision.progress.next_offset > REPLAY_RECORDS
        session.phase = Phase.CLAIMING
        session.due = now

    def _claim(self, now: float) -> None:
        """Before the first record: read the erasures if it is a replay, and store progress that is new."""
        ready = [s for s in self._sessions.values() if s.phase is Phase.CLAIMING and s.due <= now]
        if not ready:
            return
        if not self._read_erasures([s for s in ready if s.wants_erasures], now):
            ready = [s for s in ready if not s.wants_erasures]
        claims = []
        for session in ready:
            begin = session.begin
            if begin is None or not begin.store_first:
                self._begin_reading(session, now)
            else:
                record = encode_progress(begin.progress)
                claims.append((session, Staged(Commit(session.partition, session.known, record), begin.progress)))
        self._commit(claims, now)

    def _read_erasures(self, replaying: list[Session], now: float) -> bool:
        by_topic: dict[bytes, list[Session]] = {}
        for session in replaying:
            by_topic.setdefault(session.folding().topic_id, []).append(session)
        for topic_id, sessions in by_topic.items():
            try:
                erased = self._erasures.read([s.partition for s in sessions], topic_id)
            except LogUnavailable as error:
                say(log, logging.WARNING, "erasures cannot be read", detail=error.detail)
                for session in replaying:
                    session.due = now + self._settings.retry_interval_s
                    session.reason = "waiting for the erasures"
                return False
            for session in sessions:
                session.erased = erased[session.partition]
                session.wants_erasures = False
        return True

    def _begin_reading(self, session: Session, now: float) -> None:
        begin = session.begin
        if begin is None:
            raise AssertionError(f"partition {session.partition} has no decision")
        session.phase = Phase.FOLDING if begin.witness is None else Phase.VERIFYING
        session.reason = ""
        session.reading = True
        session.position = begin.progress.next_offset
        session.read_back_due = now + self._settings.read_back_interval_s
        resolution, session.resolution = session.resolution, None
        if resolution is not None and not resolution.outcome.done():
            resolution.outcome.set_result(begin.progress)
        self._log.read(session.partition, session.tag, begin.read_from)
        self._ask_due = now  # so that an idle partition is soon known to be caught up

    def _obey_operators(self, now: float) -> None:
        while self._resolutions:
            resolution = self._resolutions.popleft()
            if resolution.outcome.cancelled():
                continue
            session = self._sessions.get(resolution.partition)
            if session is None:
                resolution.outcome.set_exception(
                    NotOurs(f"partition {resolution.partition} is not assigned to this process")
                )
            elif session.phase is not Phase.BROKEN:
                resolution.outcome.set_exception(
                    NotBroken(f"partition {resolution.partition} is not stopped: it is {session.phase}")
                )
            else:
                say(log, logging.WARNING, "operator", partition=resolution.partition, action=resolution.action)
                self._restart(session, now).resolution = resolution

    # The rounds

    def _ready(self, session: Session, now: float) -> bool:
        if session.due > now:
            return False
        if session.delivery is not None:
            return session.delivery.done
        return session.cut is not None or bool(session.pending)

    def _fold(self, now: float, wall_ms: int) -> None:
        """The protocol over the partitions that have something pending: small batches in a round of their own, so that
        they do not wait until that of a partition that is flooded is folded too."""
        for large in (False, True):
            self._round(self._decode(large, now), now, wall_ms)

    def _round(self, cuts: list[tuple[Session, Cut]], now: float, wall_ms: int) -> None:
        """Steps 3 to 6, for batches that are loaded, folded and written together."""
        parts = self._load(cuts, now)
        if not parts:
            return
        work = self._rounds.fold(parts)
        started = perf_counter()
        self._commit(self._rounds.stage(work, parts), now, wall_ms)
        self._metrics.stage.labels("commit").observe(perf_counter() - started)

    def _decode(self, large: bool, now: float) -> list[tuple[Session, Cut]]:
        """Step 2, for partitions in turn that have many records pending, or few: cuts whose dead letters, if any, are
        acknowledged."""
        started = perf_counter()
        beside = large and any(s.phase is Phase.FOLDING and len(s.pending) < LARGE for s in self._sessions.values())
        bounds = self._bounds_beside if beside else self._bounds
        chosen: list[Session] = []
        new: list[tuple[Session, Taken]] = []
        records = 0
        for _ in range(len(self._turn_of)):
            if records >= self._settings.max_records:
                break
            session = self._sessions[self._turn_of[0]]
            self._turn_of.rotate(-1)
            if (
                session.phase is not Phase.FOLDING
                or not self._ready(session, now)
                or (len(session.pending) >= LARGE) is not large
            ):
                continue
            if session.cut is not None:
                records += len(session.cut.records)
            elif (taken := self._take(session, bounds, now)) is not None:
                new.append((session, taken))
                records += len(taken.records)
            else:
                continue
            chosen.append(session)
        if new and not self._cut(new):
            return []
        ready = [
            (session, batch)
            for session in chosen
            if (batch := session.cut) is not None and self._delivered(session, batch, now)
        ]
        if ready:
            self._metrics.stage.labels("decode").observe(perf_counter() - started)
            self._after("decode")
        return ready

    def _take(self, session: Session, bounds: Bounds, now: float) -> Taken | None:
        try:
            return take(
                session.pending,
                floor=session.folding().next_offset,
                partition=session.partition,
                partitions=self._topic.partitions,
                known=session.shelf.rows,
                erased=session.erased,
                bounds=bounds,
            )
        except OutOfOrder as error:
            say(log, logging.ERROR, "records out of order", partition=session.partition, detail=str(error))
            self._restart(session, now, delay_s=self._settings.retry_interval_s)
            return None

    def _cut(self, new: list[tuple[Session, Taken]]) -> bool:
        """Make what was taken the batches in hand; False if that showed that nothing may be folded any more."""
        for (session, _), batch in zip(new, decode([taken for _, taken in new]), strict=True):
            if self._misrouted.exceeded_by(batch.misrouted):
                self.stop(
                    f"misrouted: more than {self._settings.misrouted_share:.0%} of the last records do not lie in their"
                    " key's partition; producers must partition by murmur2 (librdkafka: partitioner=murmur2_random)"
                )
                return False
            self._misrouted.add(len(batch.records), batch.misrouted)
            session.cut = batch
            session.letters_sent = session.letters_due = 0
        return True

    def _delivered(self, session: Session, batch: Cut, now: float) -> bool:
        """Whether all of the batch's dead letters are acknowledged; sends those that were not sent yet."""
        delivery = session.delivery
        if delivery is not None:
            session.delivery = None
            if delivery.error is None:
                for _, reason in batch.rejected[session.letters_sent : session.letters_due]:
                    self._metrics.dead_letters.labels(reason.value).inc()
                session.letters_sent = session.letters_due
                session.reason = ""
                self._degraded.pop("dead_letters", None)
            else:
                session.reason = f"dead_letters: {delivery.error}"
                session.due = now + self._settings.retry_interval_s
                self._degraded["dead_letters"] = f"dead_letter_topic_unavailable: {delivery.error}"
                say(log, logging.WARNING, "dead letters away", partition=session.partition, detail=delivery.error)
                return False
        if session.letters_sent == len(batch.rejected):
            return True
        session.letters_due = len(batch.rejected)
        session.delivery = self._dead_letters.send(
            [
                Letter.of(batch.records[at], reason, self._topic.name, session.partition)
                for at, reason in batch.rejected[session.letters_sent :]
            ]
        )
        return False

    def _load(self, cuts: list[tuple[Session, Cut]], now: float) -> list[tuple[Session, Part]]:
        """Step 3; nothing if the store does not answer."""
        if not cuts:
            return []
        try:
            parts = self._rounds.load(cuts)
        except StoreUnavailable as error:
            self._store_failed("load", error, [session for session, _ in cuts], now)
            return []
        self._store_answered()
        return parts

    def _commit(self, staged: list[tuple[Session, Staged]], now: float, wall_ms: int = 0) -> None:
        """Steps 5 and 6."""
        if not staged:
            return
        for session, attempt in staged:
            session.staged = attempt
        answers = self._store.commit([attempt.commit for _, attempt in staged])
        self._after("commit")
        advice = {}
        for (session, attempt), answer in zip(staged, answers, strict=True):
            if self._adopt_if_written(session, attempt, answer, now, wall_ms):
                advice[session.partition] = attempt.progress.next_offset
        if advice:
            self._log.advise(advice)
            self._after("advise")

    def _adopt_if_written(self, session: Session, attempt: Staged, answer: Answer, now: float, wall_ms: int) -> bool:
        if isinstance(answer, Written):
            self._metrics.commits.labels("ok").inc()
            self._store_answered()
            self._adopt(session, attempt, now, wall_ms)
            return True
        if isinstance(answer, NoAnswer):
            self._metrics.commits.labels("unknown").inc()
            session.phase = Phase.UNSURE
            session.reason = "the store did not answer a commit"
            self._store_failed("commit", StoreUnavailable(answer.detail), [session], now)
            return False
        return self._obey(session, judge(answer.stored, session.known, attempt.commit.progress), now, wall_ms)

    def _obey(self, session: Session, verdict: Verdict, now: float, wall_ms: int = 0) -> bool:
        """Do what a stored record that is not the known one asks for; True if the staged batch turned out written."""
        attempt = session.staged
        if verdict is Verdict.OURS and attempt is not None:
            self._metrics.commits.labels("arrived_before").inc()
            self._adopt(session, attempt, now, wall_ms)
            return True
        say(log, logging.WARNING, "stored progress differs", partition=session.partition, verdict=verdict.value)
        if verdict is Verdict.STORE_BEHIND:
            self._metrics.commits.labels("store_behind").inc()
            self._metrics.rewinds.inc()
            self._restart(session, now)
        elif verdict is Verdict.OWNERSHIP_LOST:
            self._metrics.commits.labels("ownership_lost").inc()
            self._lose(session, now)
        else:
            self._restart(session, now)
        return False

    def _lose(self, session: Session, now: float) -> None:
        _refuse(session, NotOurs(f"another process has written partition {session.partition} meanwhile"))
        lost = self._restart(session, now)
        lost.phase = Phase.OWNERSHIP_LOST
        lost.reason = "another process wrote this partition's progress"
        lost.due = now + COORDINATOR_INTERVAL_S
        lost.progress = session.progress

    def _adopt(self, session: Session, attempt: Staged, now: float, wall_ms: int) -> None:
        """The store has it: make it ours."""
        session.staged = None
        session.progress = attempt.progress
        session.known = attempt.commit.progress
        if session.caught_up_at is not None and attempt.progress.next_offset >= session.caught_up_at[0]:
            session.caught_up_at = None
        if not session.reading:
            self._begin_reading(session, now)
            return
        session.phase = Phase.FOLDING
        session.reason = ""
        work, part = attempt.round, attempt.part
        if work is None or part is None:
            return
        batch = part.cut
        self._rounds.keep(session, work, part)
        del session.pending[: len(batch.records)]
        session.cut = None
        self._log.took(session.tag, len(batch.records))
        self._count(batch, part, len(attempt.commit.values), wall_ms)

    def _count(self, batch: Cut, part: Part, states: int, wall_ms: int) -> None:
        m = self._metrics
        erasures = len(batch.items) - int(np.count_nonzero(batch.items))
        for outcome, n in (
            ("folded", len(batch.items) - erasures - part.already_folded),
            ("erased", erasures),
            ("dead_letter", len(batch.rejected)),
            ("already_folded", part.already_folded),
            ("erased_later", batch.erased_later),
        ):
            if n:
                m.records.labels(outcome).inc(n)
        m.unknown_fields.inc(batch.extended)
        m.batch_records.observe(len(batch.records))
        m.batch_states.observe(states)
        oldest = batch.records[0].timestamp
        if oldest >= 0 and wall_ms:
            spent_s = perf_counter() - self._turn_began
            m.event_to_commit.observe(max(0.0, (wall_ms - oldest) / 1000 + spent_s))
        if log.isEnabledFor(logging.DEBUG):
            say(
                log,
                logging.DEBUG,
                "batch",
                partition=batch.partition,
                first=batch.records[0].offset,
                last=batch.records[-1].offset,
                records=len(batch.records),
                states=states,
                dead_letters=len(batch.rejected),
            )

    # What is due by the clock

    def _settle(self, now: float) -> None:
        """Find out what became of commits without an answer; ask the coordinator about partitions that were lost."""
        unsure = [s for s in self._sessions.values() if s.phase is Phase.UNSURE and s.due <= now]
        again = []
        for session, stored in self._stored(unsure, now):
            attempt = session.staged
            if attempt is None:
                raise AssertionError(f"partition {session.partition} is unsure of nothing")
            verdict = judge(stored, session.known, attempt.commit.progress)
            if verdict is Verdict.UNCHANGED and not stored:
                # A claim that somebody may have seen, built upon and lost again: a lineage begins from nothing once.
                self._restart(session, now)
            elif verdict is Verdict.UNCHANGED:
                again.append((session, attempt))
            elif self._obey(session, verdict, now):
                self._log.advise({session.partition: attempt.progress.next_offset})
        self._commit(again, now)
        lost = [s for s in self._sessions.values() if s.phase is Phase.OWNERSHIP_LOST and s.due <= now]
        for session in lost:
            session.due = now + COORDINATOR_INTERVAL_S
            self._log.advise({session.partition: session.folding().next_offset})

    def _read_back(self, now: float) -> None:
        connections = self._store.connections
        reconnected, self._connections = connections != self._connections, connections
        due = [
            s
            for s in self._sessions.values()
            if s.phase in (Phase.FOLDING, Phase.VERIFYING) and s.due <= now and (reconnected or s.read_back_due <= now)
        ]
        for session, stored in self._stored(due, now):
            session.read_back_due = now + self._settings.read_back_interval_s
            verdict = judge(stored, session.known, None)
            if verdict is not Verdict.UNCHANGED:
                self._obey(session, verdict, now)

    def _stored(self, sessions: list[Session], now: float) -> list[tuple[Session, bytes]]:
        if not sessions:
            return []
        try:
            stored = self._store.read_progress([s.partition for s in sessions])
        except StoreUnavailable as error:
            self._store_failed("read_back", error, sessions, now)
            return []
        self._store_answered()
        return [(s, stored[s.partition]) for s in sessions]

    def _ask_ends(self, now: float) -> None:
        if now < self._ask_due:
            return
        self._ask_due = now + self._settings.as_of_interval_s
        reading = {s.partition: s.tag for s in self._sessions.values() if s.phase in READING}
        if reading:
            self._log.describe(reading)

    def _refresh_as_of(self, now: float) -> None:
        """Partitions that are caught up and idle say so in the store."""
        staged = []
        for session in self._sessions.values():
            if (
                session.phase is not Phase.FOLDING
                or session.caught_up_at is None
                or session.pending
                or session.due > now
            ):
                continue
            end, asked_ms = session.caught_up_at
            if session.position < end:
                continue
            progress = session.folding()
            after = replace(
                progress,
                next_offset=max(progress.next_offset, session.position),
                writer=session.writer,
                as_of_ms=max(progress.as_of_ms, asked_ms),
            )
            staged.append((session, Staged(Commit(session.partition, session.known, encode_progress(after)), after)))
        self._commit(staged, now)

    def _publish_status(self, now: float) -> None:
        if now < self._status_due:
            return
        self._status_due = now + STATUS_INTERVAL_S
        sessions = [self._sessions[p] for p in sorted(self._sessions)]
        broken = tuple(f"{s.reason} (partition {s.partition})" for s in sessions if s.phase is Phase.BROKEN)
        reasons = ((self._stopped,) if self._stopped else ()) + broken
        starting = () if self._joined else ("starting: not yet a member of the group",)
        self._status = Status(
            not reasons and self._joined,
            (*reasons, *starting, *self._degraded.values()),
            tuple(s.status() for s in sessions),
        )
        phases = dict.fromkeys(Phase, 0)
        for view in self._status.partitions:
            phases[view.phase] += 1
            if view.lag is not None:
                self._metrics.lag.labels(view.partition).set(view.lag)
            if view.as_of_ms:
                self._metrics.as_of.labels(view.partition).set(view.as_of_ms / 1000)
        for phase, n in phases.items():
            self._metrics.partitions.labels(phase.value).set(n)
        self._metrics.cache_states.set(len(self._cache))
        self._metrics.queued_records.set(sum(len(s.pending) for s in sessions))

    def _forget_gauges(self, partition: int) -> None:
        for gauge in (self._metrics.lag, self._metrics.as_of):
            gauge.labels(partition)  # made if need be, because removing what is not there is an error
            gauge.remove(partition)


def _refuse(session: Session, error: Exception) -> None:
    """Tell the operator, if one is waiting, that it cannot be done."""
    resolution, session.resolution = session.resolution, None
    if resolution is not None and not resolution.outcome.done():
        resolution.outcome.set_exception(error)


def _ranges(partitions: Iterable[int]) -> str:
    """`0-3,7`."""
    runs: list[list[int]] = []
    for p in sorted(partitions):
        if runs and runs[-1][1] == p - 1:
            runs[-1][1] = p
        else:
            runs.append([p, p])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
