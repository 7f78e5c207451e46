"""The worker: from records of the log to states in the store, exactly once and in order, in six steps:

    1 poll     raw records, and the position that the client reports with them   (log.consumer, its own thread)
    2 decode   records to operations; records that are no events to the dead letters, acknowledged before 5
    3 load     states that are not in memory; absent or of another lineage: the initial state
    4 fold     in waves, pooled over partitions, into a round's own rows
    5 commit   one atomic write: if a partition's progress is what we read, its states and its progress
    6 advise   the next offset to the brokers, for lag tools

Results are adopted once they are written; after every other outcome of 5 the partition forgets all, or keeps the batch
until it is known what became of it (`rounds`). How a partition comes to be read is `take_up`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from mimn.state import Progress
from uic.core.log_throttle import Rarely
from uic.core.ports import (
    Advised,
    Described,
    Fetched,
    LeaderAway,
    LogAway,
    LogMessage,
    NoLease,
    NotCounted,
    NotDescribed,
    OutOfRange,
    Owned,
    PartitionCount,
    Skipped,
    Unreadable,
)
from uic.core.records import first_ms
from uic.core.start_position import BrokenReason
from uic.core.status import Action, Phase, Status
from uic.core.topics import miscounted, ranges
from uic.core.trouble import Cause, Trouble
from uic.errors import InvalidField
from uic.fold.as_of import AsOf
from uic.fold.decoding import Decoding
from uic.fold.health import Health
from uic.fold.partition import FoldedBatch, Partition, Partitions, Resolution
from uic.fold.rounds import Rounds
from uic.fold.setup import Setup
from uic.fold.take_up import TakeUp
from uic.logs import say

log = logging.getLogger("uic.fold.worker")


class FoldWorker:
    """One thread calls `turn` and owns all of this; `status` and `resolve` may be called from any."""

    def __init__(self, setup: Setup) -> None:
        """Nothing is called yet."""
        self._setup = setup
        self._metrics = setup.metrics
        setup.metrics.topic_partitions.set(setup.topic.partitions)
        self._partitions = Partitions(setup)
        self._health = Health(setup, self._partitions)
        self._decoding = Decoding(setup, self._partitions)
        self._rounds = Rounds(setup, self._partitions, self._health)
        self._take_up = TakeUp(setup, self._partitions, self._rounds, self._health)
        self._as_of = AsOf(setup, self._partitions, self._rounds, self._health)
        self._resolutions: deque[Resolution] = deque()
        self._failed_commits = Rarely()

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
        clock = self._setup.clock
        began_s = wall_ms / 1000 - clock()
        self._setup.goes_on()
        self._poll(messages, now)
        self._take_up.obey(self._resolutions, now)
        if not self._health.stopped:
            self._rounds.go_on(now)
            self._take_up.go_on(now)
        self._as_of.ask(now, lambda: began_s + clock())  # what is not folded any more falls behind
        if not self._health.stopped:
            for large in (False, True):  # small batches need not wait until the batch of a flooded partition is folded
                self._observe(self._fold(large, now), began_s + clock())
            self._stop_unreadable()
            self._as_of.refresh(now)
        self._health.publish(now)
        return not self._health.stopped and any(p.ready(now) for p in self._partitions.waiting.values())

    def _poll(self, messages: Sequence[LogMessage], now: float) -> None:
        """Step 1: hear what happened to the log."""
        for message in messages:
            self._hear(message, now)
        if any(isinstance(message, Fetched) for message in messages):
            self._setup.done("poll")

    def _fold(self, large: bool, now: float) -> list[tuple[Partition, FoldedBatch]]:
        """Steps 2 to 6, of the partitions that have many records pending (`large`), or few. Returns what is written."""
        began = self._setup.clock()
        if not (batches := self._decoding.batches(large, now)):
            return []
        began = self._done("decode", began)
        if not (parts := self._rounds.load(batches, now)):
            return []
        began = self._done("load", began)
        folded = self._rounds.fold(parts)
        began = self._done("fold", began)
        written = self._rounds.commit(folded, now)
        self._took("commit", began)
        self._rounds.advise(written)
        return written

    def _done(self, step: str, began: float) -> float:
        """Count how long a step took, and return when the next one begins."""
        self._took(step, began)
        self._setup.done(step)
        return self._setup.clock()

    def _took(self, step: str, began: float) -> None:
        self._metrics.stage.labels(step).observe(self._setup.clock() - began)

    def _observe(self, written: Sequence[tuple[Partition, FoldedBatch]], wall_s: float) -> None:
        """How old the oldest events of the batches are, now that their states are stored."""
        for _, attempt in written:
            oldest = first_ms(attempt.part.batch.records)
            if oldest >= 0:
                self._metrics.event_to_commit.observe(max(0.0, wall_s - oldest / 1000))

    def _stop_unreadable(self) -> None:
        """Stop partitions at a batch that cannot be read, once what lies before it is folded."""
        for partition in self._partitions.of(Phase.VERIFYING, Phase.FOLDING):
            if partition.unreadable and partition.unsure is None and not partition.pending:
                partition.stop(BrokenReason.UNREADABLE_BATCH, partition.unreadable)

    def waits(self, reason: str) -> None:
        """Say why no turn is called yet."""
        self._health.waits(reason)

    def drain(self) -> None:
        """Report `draining`. Call no more turns: what is not committed is read again by the next owner."""
        self._health.drain()

    # What happened to the log

    def _hear(self, message: LogMessage, now: float) -> None:
        health, partitions = self._health, self._partitions
        match message:
            case Fetched(number, tag, records):
                if (partition := partitions.tagged(number, tag)) and partition.reads:
                    partition.fetched(message)
                else:
                    self._setup.ports.log.took(tag, len(records))
            case Skipped(number, tag, offset):
                if partition := partitions.tagged(number, tag):
                    partition.skipped(offset)
            case Owned():
                self._owns(message, now)
            case NoLease(detail):
                health.no_lease(detail)
                self._drop_all()
            case Described(number, tag):
                if partition := partitions.tagged(number, tag):
                    self._described(partition, message, now)
            case NotDescribed(tags, detail):
                health.not_described([p for p in partitions if p.tag in tags], detail)
                self._ask_again(tags, now)
            case LeaderAway(tags):
                if away := [p for p in partitions if p.tag in tags]:
                    health.trouble.clear(Cause.LOG)
                    health.leaders_away(away)
                    self._ask_again(tags, now)
            case OutOfRange(number, tag):
                if partition := partitions.tagged(number, tag):
                    say(log, logging.WARNING, "position out of the log's range", partition=number)
                    partition.restart(now)
            case Unreadable(number, tag):
                if (partition := partitions.tagged(number, tag)) and partition.reads:
                    partition.cannot_read(message)
            case Advised():
                self._advised(message, now)
            case PartitionCount(count):
                topic = self._setup.topic
                if wrong := miscounted(count, topic.partitions):
                    health.stop(f"partition_count: topic {topic.name} {wrong}")
                else:
                    self._decoding.counted()
            case NotCounted(detail):
                self._decoding.not_counted(detail, now)
            case LogAway(detail):
                health.trouble.set(Cause.LOG, detail)
                self._drop_all()
            case Trouble():
                health.trouble.hear(message)

    def _owns(self, owned: Owned, now: float) -> None:
        """Take up what is new, and drop what this worker has no more."""
        self._health.holds_lease(owned.workers)
        self._health.trouble.clear(Cause.LOG)
        held = {partition.number for partition in self._partitions}
        if new := sorted(owned.partitions - held):
            say(log, logging.INFO, "assigned", partitions=ranges(new), workers=len(owned.workers))
        if gone := sorted(held - owned.partitions):
            say(log, logging.INFO, "revoked", partitions=ranges(gone), workers=len(owned.workers))
        for number in gone:
            self._partitions.drop(number)
        for number in new:
            self._partitions.add(number, due=now)
        self._rounds.owns(owned, now)

    def _drop_all(self) -> None:
        for partition in self._partitions:
            self._setup.ports.log.park(partition.number)
            self._partitions.drop(partition.number)

    def _ask_again(self, tags: Sequence[int], now: float) -> None:
        for partition in self._partitions:
            if partition.tag in tags:
                partition.ask_again(self._setup.retry_at(now))

    def _described(self, partition: Partition, message: Described, now: float) -> None:
        self._health.trouble.clear(Cause.LOG)
        partition.described(message)
        if self._health.stopped:
            return  # only the lag is of interest
        if partition.phase is Phase.TAKING_UP:
            self._take_up.described(partition, message, now)
        elif partition.reads and partition.bounded(message, now):
            self._as_of.described(partition, message)

    def _advised(self, answer: Advised, now: float) -> None:
        self._metrics.offset_commits.labels("failed" if answer.error else "ok").inc()
        if not answer.error:
            self._health.trouble.clear(Cause.LOG, "commits")
            return
        if (left_out := self._failed_commits.due(now)) is not None:
            fields: dict[str, Any] = {"left_out": left_out} if left_out else {}
            fields |= {"detail": answer.error, "partitions": ranges(answer.partitions)}
            say(log, logging.INFO, "offset commit failed", **fields)
        if answer.refused:
            self._health.trouble.set(Cause.LOG, answer.error, "commits")
