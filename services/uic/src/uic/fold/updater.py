"""StateUpdater: from records of the log to states in the store, exactly once and in order. The file is long because one
thread runs all steps of the commit protocol and owns their state:

    1 poll     raw records, and the position that the client reports with them   (log.consumer, its own thread)
    2 decode   records to operations; records that are no events to the dead letters, acknowledged before 5
    3 load     states that the session lacks; absent or of another lineage: the initial state
    4 fold     in waves, pooled over partitions, into a round's own rows
    5 commit   one atomic write: if a partition's progress is what we read, its states and its progress
    6 advise   the next offset to the brokers, for lag tools

`turn` is these six steps. Results are adopted once they are written; every other outcome of 5 ends the session, or
keeps the batch until it is known what became of it (`settlement`). How a partition comes to be read is `take_up`.

One thread calls `turn` and owns all of this; `status` and `resolve` may be called from any.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any

from mimn.state import Progress
from uic.core.cache import StateCache
from uic.core.event import Reason
from uic.core.fold import Part, Round
from uic.core.log_throttle import Rarely
from uic.core.model import Model
from uic.core.ordering import Batch
from uic.core.ports import (
    Advised,
    Described,
    Fetched,
    FoldsMany,
    LeaderAway,
    LogAway,
    LogMessage,
    NoLease,
    NotCounted,
    NotDescribed,
    OutOfRange,
    Owned,
    PartitionCount,
    Ports,
    Skipped,
    Unreadable,
)
from uic.core.records import first_ms
from uic.core.start_position import BrokenReason, contradiction
from uic.core.status import Action, Status
from uic.core.topics import ranges
from uic.core.trouble import Cause, Trouble
from uic.errors import InvalidField, StoreUnavailable
from uic.fold.as_of import AsOf
from uic.fold.decoding import Decoding
from uic.fold.health import Health
from uic.fold.rounds import Rounds
from uic.fold.session import Attempt, FoldedBatch, Reading, Resolution, Sessions, TakingUp
from uic.fold.settlement import Settlement
from uic.fold.take_up import TakeUp, Topic
from uic.logs import say
from uic.metrics import Metrics
from uic.settings import FoldSettings

__all__ = ["StateUpdater", "Topic"]
log = logging.getLogger("uic.fold.updater")


class StateUpdater:
    """Obeys the protocol above for all assigned partitions."""

    def __init__(
        self,
        *,
        topic: Topic,
        model: Model,
        ports: Ports,
        settings: FoldSettings,
        metrics: Metrics,
        goes_on: Callable[[], None] = lambda: None,
        after: Callable[[str], None] = lambda step: None,
        random_id: Callable[[], int] = lambda: secrets.randbits(64) or 1,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Nothing is called yet.

        Args:
            topic: the log that is folded.
            model: what folds its events.
            ports: the log, where states and progress lie, where records go that are no
                events, and which users were erased.
            settings: bounds and intervals.
            metrics: where all of it is counted.
            goes_on: called when a turn begins, and after each step of it.
            after: called after each step of the protocol (crash tests end the process there).
            random_id: makes ids of writers and lineages.
            clock: seconds; measures how long steps take, and decides nothing.
        """
        self._topic = topic
        metrics.topic_partitions.set(topic.partitions)
        self._log = ports.log
        self._metrics = metrics
        self._goes_on = goes_on

        def step_done(step: str) -> None:
            goes_on()
            after(step)

        self._after = step_done
        self._clock = clock
        cache = StateCache(settings.cache_mib << 20)
        self._sessions = Sessions(cache, ports.log, random_id)
        self._health = Health(self._sessions, metrics, settings.retry_interval_s)
        self._rounds = Rounds(model, ports.store, metrics)
        self._settlement = Settlement(
            store=ports.store,
            event_log=ports.log,
            rounds=self._rounds,
            sessions=self._sessions,
            health=self._health,
            settings=settings,
            metrics=metrics,
            after=step_done,
        )
        self._take_up = TakeUp(
            topic=topic,
            store=ports.store,
            event_log=ports.log,
            erasures=ports.erasures,
            sessions=self._sessions,
            settlement=self._settlement,
            health=self._health,
            settings=settings,
            metrics=metrics,
            random_id=random_id,
        )
        self._decoding = Decoding(
            topic=topic,
            actions=model.actions,
            text_ids=model.text_ids,
            compiled=model.compiled,
            in_waves=not isinstance(model.step, FoldsMany),
            dead_letters=ports.dead_letters,
            event_log=ports.log,
            sessions=self._sessions,
            take_up=self._take_up,
            settings=settings,
            metrics=metrics,
        )
        self._resolutions: deque[Resolution] = deque()
        self._failed_commits = Rarely()
        self._as_of = AsOf(
            store=ports.store,
            event_log=ports.log,
            sessions=self._sessions,
            settlement=self._settlement,
            health=self._health,
            interval_s=settings.as_of_interval_s,
            metrics=metrics,
        )

    # From any thread

    @property
    def status(self) -> Status:
        """As of the last turn, or a fraction of a second before."""
        return self._health.status

    def resolve(
        self, partition: int, action: Action, from_offset: int | None = None, *, timeout_s: float = 30.0
    ) -> Progress:
        """Obey an operator about a broken partition, and return the progress that was stored.

        Args:
            partition: must be assigned to this process and broken.
            action: `continue` keeps the states and begins a new era; `rebuild` begins a new lineage from nothing.
            from_offset: where `continue` goes on, if not where `start_position.continue_broken` would.
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
        self._goes_on()
        began = self._clock()
        self._poll(messages, now)
        self._take_up.obey(self._resolutions, now)
        if not self._health.stopped:
            self._settlement.go_on(now)
            self._take_up.go_on(now)
        self._as_of.ask(now, lambda: wall_ms / 1000 + self._clock() - began)  # what is not folded any more falls behind
        if not self._health.stopped:
            for large in (False, True):  # small batches need not wait until the batch of a flooded partition is folded
                batches = self._decode(large, now)
                parts = self._load(batches, now)
                work = self._fold(parts)
                written = self._commit(work, parts, now)
                self._advise(written)
                self._observe(written, wall_ms / 1000 + self._clock() - began)
            self._stop_unreadable()
            self._as_of.refresh(now)
        self._health.publish(now)
        return not self._health.stopped and any(reading.ready(now) for reading in self._sessions.waiting)

    def waits(self, reason: str) -> None:
        """Say why no turn is called yet."""
        self._health.waits(reason)

    def drain(self) -> None:
        """Report `draining`. Call no more turns: what is not committed is read again by the next owner."""
        self._health.drain()

    # 1 poll

    def _poll(self, messages: Sequence[LogMessage], now: float) -> None:
        for message in messages:
            self._hear(message, now)
        if any(isinstance(message, Fetched) for message in messages):
            self._after("poll")

    def _hear(self, message: LogMessage, now: float) -> None:
        match message:
            case Fetched():
                self._fetched(message)
            case Skipped(partition, tag, offset):
                reading = self._sessions.tagged(partition, tag)
                if isinstance(reading, Reading) and reading.verify is not None and reading.verify.read_from == offset:
                    self._take_up.stop(reading, BrokenReason.WITNESS)
            case Owned():
                self._owns(message, now)
            case NoLease(detail):
                self._health.no_lease(detail)
                self._drop_all()
            case Described():
                self._described(message, now)
            case NotDescribed(tags, detail):
                self._health.not_described([session for session in self._sessions if session.tag in tags], detail)
                self._take_up.ask_again(tags, now)
            case LeaderAway(tags):
                away = [session for session in self._sessions if session.tag in tags]
                if away:
                    self._health.trouble.clear(Cause.LOG)
                self._health.leaders_away(away)
                self._take_up.ask_again(tags, now)
            case OutOfRange(partition, tag):
                session = self._sessions.tagged(partition, tag)
                if session is not None:
                    say(log, logging.WARNING, "position out of the log's range", partition=partition)
                    self._sessions.restart(session, now)
            case Unreadable(partition, tag, offset, next_offset, detail):
                session = self._sessions.tagged(partition, tag)
                if isinstance(session, Reading):
                    session.unreadable = f"the batch at offset {offset} cannot be read ({detail}); to leave it out, "
                    session.unreadable += f"continue from offset {max(next_offset, offset + 1)}"
            case Advised(partitions, error, refused):
                self._metrics.offset_commits.labels("failed" if error else "ok").inc()
                if error:
                    if (left_out := self._failed_commits.due(now)) is not None:
                        told: dict[str, Any] = {"left_out": left_out} if left_out else {}
                        told |= {"detail": error, "partitions": ranges(partitions)}
                        say(log, logging.INFO, "offset commit failed", **told)
                    if refused:
                        self._health.trouble.set(Cause.LOG, error, "commits")
                else:
                    self._health.trouble.clear(Cause.LOG, "commits")
            case PartitionCount(count) if count != self._topic.partitions:
                self._wrong_count(str(count))
            case PartitionCount():
                self._decoding.counted()
            case NotCounted(detail):
                self._decoding.not_counted(detail, now)
            case LogAway(detail):
                self._health.trouble.set(Cause.LOG, detail)
                self._drop_all()
            case Trouble():
                self._health.trouble.hear(message)

    def _drop_all(self) -> None:
        for session in self._sessions:
            self._sessions.park(session.partition)
            self._sessions.end(session.partition)

    def _owns(self, owned: Owned, now: float) -> None:
        """Take up what is new, and drop what this worker has no more."""
        self._health.holds_lease(owned.workers)
        self._health.trouble.clear(Cause.LOG)
        held = {session.partition for session in self._sessions}
        if new := sorted(owned.partitions - held):
            say(log, logging.INFO, "assigned", partitions=ranges(new), workers=len(owned.workers))
        if gone := sorted(held - owned.partitions):
            say(log, logging.INFO, "revoked", partitions=ranges(gone), workers=len(owned.workers))
        for p in gone:
            self._sessions.end(p)
        for p in new:
            self._sessions.start(p, due=now)
        self._settlement.owns(owned, now)

    def _wrong_count(self, count: str) -> None:
        self._health.stop(
            f"partition_count: topic {self._topic.name} has {count} partitions, not {self._topic.partitions}"
        )

    def _fetched(self, message: Fetched) -> None:
        reading = self._sessions.tagged(message.partition, message.tag)
        records = message.records
        if not isinstance(reading, Reading):
            self._log.took(message.tag, len(records))
            return
        if reading.verify is not None and not records and message.position > reading.verify.read_from:
            self._take_up.stop(reading, BrokenReason.REMOVED)  # the client has read past it, and got nothing
            return
        if reading.verify is not None and records:
            contradiction = reading.verify.contradicted_by(records[0])
            if contradiction is not None:
                self._take_up.stop(reading, contradiction)
                return
            reading.verify = None
            self._log.took(reading.tag, 1)
            records = records[1:]
        self._sessions.fetched(reading, records)
        reading.position = message.position

    def _described(self, message: Described, now: float) -> None:
        session, bounds = self._sessions.tagged(message.partition, message.tag), message.bounds
        if session is None:
            return
        self._health.trouble.clear(Cause.LOG)
        self._health.described(session)
        session.start, session.end = bounds.start, message.log_end
        if self._health.stopped:
            return  # only the lag is of interest
        if isinstance(session, TakingUp):
            self._take_up.described(session, bounds, now)
        elif isinstance(session, Reading):
            # A client whose position is out of the log's range reports it, but it may read below progress: it verifies
            # the witness first, and the markers of transactions may lie in between. The answer may be older than what
            # was folded since: then progress has moved since the last one.
            reason, folded_to = contradiction(session.progress, bounds), session.progress.next_offset
            moved, session.described_at = session.described_at != folded_to, folded_to
            if reason is BrokenReason.TOPIC_ID or (reason is not None and not moved):
                self._sessions.restart(session, now)  # taking it up finds the log broken
                return
            session.held_at = bounds.end if bounds.end < message.log_end else None
            self._as_of.described(session, message)

    # 2 decode

    def _decode(self, large: bool, now: float) -> list[tuple[Reading, Batch]]:
        """Batches of partitions that have many records pending, or few; their dead letters are acknowledged."""
        began = self._clock()
        batches = self._decoding.batches(large, now)
        if batches:
            self._metrics.stage.labels("decode").observe(self._clock() - began)
            self._after("decode")
        return batches

    # 3 load

    def _load(self, batches: list[tuple[Reading, Batch]], now: float) -> list[tuple[Reading, Part]]:
        """The parts of a round: of those batches for which the store answers."""
        if not batches:
            return []
        began = self._clock()
        try:
            parts, silent = self._rounds.load(batches)
        except StoreUnavailable as error:
            self._health.store_failed("load", error, [reading for reading, _ in batches], now)
            return []
        for reading, why in silent:
            self._health.store_failed("load", StoreUnavailable(why.detail), [reading], now)
        if asked := [reading for reading, part in parts if None in part.cached]:  # of the others all was in memory
            self._health.store_answered(asked)
        self._metrics.stage.labels("load").observe(self._clock() - began)
        self._after("load")
        return parts

    # 4 fold

    def _fold(self, parts: list[tuple[Reading, Part]]) -> Round | None:
        """The round. A batch with a step that was not finite stays in hand, without that operation."""
        if not parts:
            return None
        began = self._clock()
        work = self._rounds.fold([part for _, part in parts])
        for reading, part in parts:
            if part.not_finite and reading.in_hand is not None:
                self._metrics.non_finite.inc(len(part.not_finite))
                reading.in_hand.batch = part.batch.without(part.not_finite, Reason.NON_FINITE)
        self._metrics.stage.labels("fold").observe(self._clock() - began)
        self._after("fold")
        return work

    # 5 commit, 6 advise

    def _commit(
        self, work: Round | None, parts: list[tuple[Reading, Part]], now: float
    ) -> list[tuple[Reading, FoldedBatch]]:
        """What is written of a round."""
        if work is None:
            return []
        began = self._clock()
        written = self._settlement.commit(self._rounds.attempts(work, parts), now)
        self._metrics.stage.labels("commit").observe(self._clock() - began)
        return written

    def _advise(self, written: Sequence[tuple[Reading, Attempt]]) -> None:
        self._settlement.advise(written)

    def _observe(self, written: Sequence[tuple[Reading, FoldedBatch]], wall_s: float) -> None:
        """How old the oldest events of the batches are, now that their states are stored."""
        for _, attempt in written:
            oldest = first_ms(attempt.part.batch.records)
            if oldest >= 0:
                self._metrics.event_to_commit.observe(max(0.0, wall_s - oldest / 1000))

    # Due by the clock

    def _stop_unreadable(self) -> None:
        """Stop partitions at a batch that cannot be read, once what lies before it is folded."""
        for reading in self._sessions.of(Reading):
            if reading.unreadable and reading.unsure is None and not reading.pending:
                self._take_up.stop(reading, BrokenReason.UNREADABLE_BATCH, reading.unreadable)
