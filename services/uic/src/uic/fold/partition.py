"""A partition as this worker has it: one object, from the lease until another worker has it. Its methods are all that
can happen to it, and nothing else writes its fields. The fold thread owns it.

    TAKING_UP       progress is read, and the log's bounds          claim > CLAIMING              stop > BROKEN
    CLAIMING        progress that is new is stored                  read > VERIFYING, FOLDING     lose > OWNERSHIP_LOST
    VERIFYING       the record with the witness is awaited          fetched > FOLDING             stop > BROKEN
    FOLDING         batches are taken in hand, folded, committed    lose > OWNERSHIP_LOST         stop > BROKEN
    BROKEN          an operator decides                             resolve > TAKING_UP
    OWNERSHIP_LOST  another process wrote its progress              restart > TAKING_UP

After a commit without an answer (`unconfirmed`) it is unsure, until `adopt`, `restart` or `lose`. Whenever anything
about a partition is in doubt, `restart` makes it forget all that it had, the states in memory included.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from mimn.state import Progress, encode_progress
from uic.core.advance import CaughtUp, advance
from uic.core.cache import Shelf, StateCache
from uic.core.commit import ABSENT, Commit, StatesLost, Verdict, judge
from uic.core.event import Reason, Record
from uic.core.fold import ERASED_ROW, Part
from uic.core.letters import Letter
from uic.core.ordering import Batch, Waiting
from uic.core.ports import Delivery, Described, Fetched, Unreadable
from uic.core.records import Pending
from uic.core.staged_values import StagedValues, States
from uic.core.start_position import WRITTEN_AGAIN, Begin, BrokenReason, LogBounds, contradiction, where_it_parts
from uic.core.status import Action, PartitionStatus, Phase
from uic.core.unfolded_erasures import below, logs_of, users_to_forget
from uic.errors import NotOurs
from uic.fold.setup import Setup
from uic.logs import say

log = logging.getLogger("uic.fold.partition")

REPLAY_RECORDS = 10_000
"""A partition this far behind is replaying, and reads the erasures first; nearer ones reach them soon enough, if they
leave no record out."""
NO_LEADER = "has no leader: bring its replicas back"
"""Why a partition waits that no broker leads."""
REMOVED = "the namespace is being removed; if that was interrupted, `ctr namespaces drop` finishes it"
"""Why partitions wait that have a removal's mark."""

T = TypeVar("T")


@dataclass(slots=True)
class Resolution:
    """An operator's decision about a broken partition, and where the answer goes."""

    partition: int
    action: Action
    from_offset: int | None
    outcome: Future[Progress]
    about: BrokenReason | None = None
    """Why the partition had stopped."""

    def refuse(self, error: Exception) -> None:
        """Tell the operator, if they still wait, that it cannot be done."""
        with suppress(InvalidStateError):  # they gave up, on their own thread
            self.outcome.set_exception(error)

    def fulfil(self, progress: Progress) -> None:
        """Tell the operator, if they still wait, what was stored."""
        with suppress(InvalidStateError):
            self.outcome.set_result(progress)


@dataclass(slots=True)
class Attempt:
    """A commit on its way, and the progress that holds once the store has it. (Not frozen, because making a frozen
    one costs three times as much, and there is one a partition and round.)"""

    commit: Commit
    progress: Progress


@dataclass(slots=True)
class FoldedBatch(Attempt):
    """The attempt that writes the batch in hand."""

    part: Part
    states: States
    """Of the whole round; the rows of `part` are theirs."""


@dataclass(slots=True)
class InHand:
    """The batch that is folded next, or again: kept until it is written."""

    batch: Batch
    routed: bool = True
    """Whether its misrouted records, if it has any, may become dead letters."""
    counting: bool = False
    """Whether it waits to hear how many partitions the topic has."""
    delivery: Delivery | None = None
    """Dead letters on their way."""
    sent: int = 0
    """How many of its rejected records are dead letters that were sent."""
    acknowledged: int = 0
    """How many the dead-letter topic has."""
    lost: set[str] = field(default_factory=set)
    """Users whose states the store has lost: folded again from the initial state, `partial`."""
    aside: set[str] = field(default_factory=set)
    """Users whose unreadable values are set aside already: a batch may be loaded several times."""

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer from Kafka."""
        return self.counting or (self.delivery is not None and not self.delivery.done)


class Partition:
    """One partition of the log."""

    def __init__(self, number: int, among: Partitions, due: float) -> None:
        """Begins to be taken up at `due`."""
        self.number = number
        self._among = among
        self._setup = among.setup
        self._log = among.setup.ports.log
        self._begin(due)

    def _begin(self, due: float, resolution: Resolution | None = None, *, unclaimed: bool = False) -> None:
        """Know nothing."""
        self.tag = self._among.new_tag()
        """Unique in the process: tells the records that are asked for from now on from earlier ones."""
        self.writer = self._setup.random_id()
        self.shelf: Shelf = self._among.cache.open()
        """The states in memory, exactly as they are stored under `progress`."""
        self.due = due
        """Nothing is tried before this time (monotonic, s)."""
        self.reason = ""
        """Why it does not fold; empty while it does."""
        self.unanswered = False
        """Whether the store did not answer for it when last asked."""
        self.leaderless = False
        """Whether no broker led the partition when the log was last asked."""
        self.untold = ""
        """Why the log did not say where the partition begins and ends when it was last asked; empty if it did, or said
        that no broker leads it."""
        self.start: int | None = None
        """Start of the log when the broker was last asked."""
        self.end: int | None = None
        """End of the log (high watermark) when the broker was last asked."""

        self.resolution = resolution
        """What an operator decided, until it is carried out."""
        self.removed = False
        """Whether the namespace is being removed, so that it waits until that has ended."""
        self.asked = False
        """Whether the stored record was read, and the log asked for its bounds."""
        self.known = ABSENT
        """The progress record that the store has, as it was read or acknowledged."""
        self.progress: Progress | None = None
        """The same decoded, or what is to be stored; None before it is known."""
        self.unclaimed = unclaimed
        """Whether the store had no answer to its claim and has none of it, so that it is taken up once more."""
        self.begin: Begin | None = None
        """Where it begins, from the claim on."""
        self._bounds: LogBounds | None = None
        """Of the log, when that was decided."""
        self.claimed = False
        """Whether the store has the progress that the claim asks for."""
        self.wants_erasures = False
        self._forgets: Sequence[str] = ()
        """Users whose states go with the claim: they were erased, and the erasure will not be read."""
        self._erased: Mapping[bytes, int] = {}
        """Key → offset up to which the user's events are left out."""

        self.unsure: Attempt | None = None
        """A commit without an answer: progress is read until it is known what became of it."""
        self.position = 0
        """Where the client reads on."""
        self.pending = Pending()
        """Fetched records that are not committed, those of the batch in hand included."""
        self.in_hand: InHand | None = None
        self.unreadable = ""
        """Why the batch behind `pending` cannot be read."""
        self.undelivered = ""
        """Why the dead letters of the batch in hand are not acknowledged."""
        self.caught_up: CaughtUp | None = None
        self.read_back_due = 0.0
        self._held_at: int | None = None
        """Where an open transaction begins that records below `end` wait for."""
        self._described_at = -1
        """The next offset of progress when the log was last described."""

        self.lost_at = 0.0
        """When another process wrote its progress (monotonic, s)."""
        self.cause: BrokenReason | None = None
        """Why it is broken."""
        self.phase = Phase.TAKING_UP
        """All but `UNSURE`."""
        self._among.entered(self)

    def _enter(self, phase: Phase) -> None:
        self._among.left(self)
        self.phase = phase
        self._among.entered(self)

    def _forget(self, due: float, resolution: Resolution | None = None, *, unclaimed: bool = False) -> None:
        """Read no more, and drop all that is held."""
        self._log.park(self.number)
        self._among.left(self)
        self._among.cache.close(self.shelf)
        self._begin(due, resolution, unclaimed=unclaimed)

    # What it is

    @property
    def reads(self) -> bool:
        """Whether its records are read."""
        return self.phase is Phase.FOLDING or self.phase is Phase.VERIFYING

    @property
    def folds(self) -> bool:
        """Whether batches may be folded now."""
        return self.phase is Phase.FOLDING and self.unsure is None

    @property
    def held(self) -> bool:
        """Whether everything that can be read is read, and an open transaction keeps the rest."""
        return self.folds and self._held_at is not None and self.position >= self._held_at

    def ready(self, now: float) -> bool:
        """Whether there is something to do for the next round."""
        if not self.pending or self.due > now or not self.folds:
            return False
        return self.in_hand is None or not self.in_hand.waits

    @property
    def shown_phase(self) -> Phase:
        """As operators see it."""
        return self.phase if self.unsure is None else Phase.UNSURE

    @property
    def why_waits(self) -> str:
        """Why it is not folded, its newest records are not, or where its log ends is not known; else empty."""
        if self.reason:
            return self.reason
        if self.leaderless:
            return NO_LEADER
        if self.untold:
            return f"the log does not {'say where it ends' if self.reads else 'answer'}: {self.untold}"
        return "the newest records wait for an open transaction to end" if self.held else ""

    @property
    def status(self) -> PartitionStatus:
        """As operators see it."""
        p = self.progress
        unfolded_from = None if p is None or self.cause in WRITTEN_AGAIN else p.next_offset
        return PartitionStatus(
            partition=self.number,
            phase=self.shown_phase,
            reason=self.why_waits,
            next_offset=None if p is None else p.next_offset,
            end_offset=None if self.leaderless or self.untold else self.end,
            as_of_ms=None if p is None else p.as_of_ms,
            lineage=None if p is None else p.lineage,
            era=None if p is None else p.era,
            base=None if p is None else p.base,
            gaps=None if p is None else p.gaps,
            unfolded_from=self.start if self.cause is BrokenReason.TOPIC_ID else unfolded_from,
        )

    # In any phase

    def restart(self, now: float, *, delay_s: float = 0.0, unclaimed: bool = False) -> None:
        """Forget everything, and take it up again from what is stored."""
        self._forget(now + delay_s, self.resolution, unclaimed=unclaimed)

    def wait(self, due: float, reason: str | None = None) -> None:
        """Try nothing before `due`."""
        self.due = due
        if reason is not None:
            self.reason = reason

    def store_silent(self, due: float) -> None:
        """The store did not answer for it."""
        self.due, self.unanswered = due, True

    def store_answered(self) -> None:
        """The store answered for it."""
        self.unanswered = False

    def described(self, message: Described) -> None:
        """The log says where it begins and ends, so it has a leader, which answers."""
        self.untold, self.start, self.end = "", message.bounds.start, message.log_end
        if self.leaderless:
            self.leaderless = False
            say(log, logging.INFO, "has a leader again", partition=self.number)

    def not_described(self, detail: str) -> None:
        """The log does not say it: the leader refuses us, or no broker answers. Empty: it is not asked for now."""
        self.leaderless, self.untold = self.leaderless and not detail, detail

    def leader_away(self) -> None:
        """No broker leads it."""
        self.leaderless, self.untold = True, ""

    def ask_again(self, due: float) -> None:
        """The log did not answer: if it is being taken up, ask again later."""
        if self.phase is Phase.TAKING_UP:
            self.asked, self.due = False, due

    def halt(self, reason: str) -> None:
        """Nothing is folded any more."""
        self._log.park(self.number)
        self.reason, self.untold = reason, ""

    def stop(self, cause: BrokenReason, detail: str = "", progress: Progress | None = None) -> None:
        """Broken: read no more until an operator has decided. `progress` is what is stored, if it was not known yet."""
        start, end, progress = self.start, self.end, progress or self.progress
        if cause in WRITTEN_AGAIN and progress is not None:
            detail = where_it_parts(progress)
        self._forget(0.0)
        self.start, self.end, self.progress, self.cause = start, end, progress, cause
        named = cause.value if cause is BrokenReason.MISROUTED else f"broken_log: {cause}"
        self.reason = f"{named}: {detail}" if detail else named
        self._enter(Phase.BROKEN)
        self._setup.metrics.take_ups.labels("broken").inc()
        say(log, logging.ERROR, "broken log", partition=self.number, reason=cause.value, detail=detail)

    def end_of_lease(self) -> None:
        """Another worker has it: drop all that it holds."""
        self._among.left(self)
        self._among.cache.close(self.shelf)
        self.in_hand = None
        self.unresolved(NotOurs(f"partition {self.number} was taken away in the meantime"))

    # Taking up, and claiming

    def resolve(self, resolution: Resolution, now: float) -> None:
        """Take a broken partition up as an operator decided."""
        say(log, logging.WARNING, "operator", partition=self.number, action=resolution.action)
        resolution.about = self.cause
        self._forget(now, resolution)

    def unresolved(self, error: Exception | None = None) -> None:
        """What the operator decided cannot be done, or is not wanted any more."""
        if self.resolution is not None and error is not None:
            self.resolution.refuse(error)
        self.resolution = None

    def being_removed(self, due: float) -> None:
        """The namespace is being removed: look again later."""
        if not self.removed:
            say(log, logging.WARNING, "namespace is being removed", partition=self.number)
        self.removed, self.reason, self.due = True, REMOVED, due

    def found(self, record: bytes) -> None:
        """This progress record is stored. The log is asked for its bounds."""
        self.removed, self.reason = False, ""
        self.asked, self.known = True, record

    def claim(self, begin: Begin, bounds: LogBounds, now: float) -> None:
        """It is decided where to begin. Before the first record, new progress is stored, and the erasures are read if
        it is a replay or leaves records out."""
        progress = begin.progress
        if not self.unclaimed:  # else it was said, twice a second while the store refuses claims
            self._say_taken_up(begin, bounds)
        self.progress, self.begin, self._bounds, self.due = progress, begin, bounds, now
        self.claimed = not begin.store_first
        untouched = progress.next_offset == progress.base
        self.wants_erasures = begin.store_first or untouched or bounds.end - progress.next_offset > REPLAY_RECORDS
        self._enter(Phase.CLAIMING)

    def _say_taken_up(self, begin: Begin, bounds: LogBounds) -> None:
        progress = begin.progress
        decision = "rebuilt" if begin.kind == "new" and self.resolution is not None else begin.kind
        self._setup.metrics.take_ups.labels(decision).inc()
        say(
            log,
            logging.WARNING if begin.kind in ("gap", "continued") else logging.INFO,
            "taken up",
            partition=self.number,
            kind=decision,
            next_offset=progress.next_offset,
            end=bounds.end,
            lineage=f"{progress.lineage:016x}",
            era=progress.era,
        )
        if begin.lost_from is not None:
            self._setup.metrics.gaps.inc()
            say(
                log,
                logging.ERROR,
                "data gap",
                partition=self.number,
                lost_from=begin.lost_from,
                complete_from=progress.complete_from,
            )

    @property
    def begins_lineage(self) -> bool:
        """Whether the claim begins a lineage."""
        return self.begin is not None and self.begin.kind == "new"

    @property
    def logs(self) -> set[bytes]:
        """The topic ids of the logs whose erasures the claim must know."""
        return logs_of(self.known, _present(self.progress))

    def erasures_read(self, notes: Mapping[bytes, Mapping[bytes, int]]) -> None:
        """These are the erasures, by topic id. Where a log lost its tail, notes at or above the place where it goes on
        with other records may be of records that are lost."""
        progress, begin, bounds = _present(self.progress), _present(self.begin), _present(self._bounds)
        end = bounds.end if begin.others_from is None else begin.others_from
        self._erased = below(end, notes[progress.topic_id])
        if not self.claimed:
            self._forgets = users_to_forget(self.known, progress, notes)
        self.wants_erasures = False

    def claim_attempt(self) -> Attempt:
        """The commit of the claim."""
        progress = _present(self.progress)
        commit = Commit(
            self.number,
            self.known,
            encode_progress(progress),
            tuple((user, None) for user in self._forgets),
            begins_lineage=self.begins_lineage,
            erases=bool(self._forgets),
        )
        return Attempt(commit, progress)

    def read(self, now: float) -> None:
        """Begin to read."""
        progress, begin, bounds = _present(self.progress), _present(self.begin), _present(self._bounds)
        self.reason, self.unanswered, self.unclaimed = "", False, False
        self.position = progress.next_offset
        self.read_back(now)
        if self.resolution is not None:
            self.resolution.fulfil(progress)
            self.resolution = None
        self._enter(Phase.FOLDING if begin.witness is None else Phase.VERIFYING)
        self._log.read(self.number, self.tag, begin.read_from, bounds.topic_id)

    # Reading

    def fetched(self, message: Fetched) -> None:
        """Records wait to be folded. The first must carry the witness, if there is one."""
        records, begin = message.records, _present(self.begin)
        if self.phase is Phase.VERIFYING and (records or message.position > begin.read_from):
            # Without records, the client has read past it, and got nothing.
            found = begin.contradicted_by(records[0]) if records else BrokenReason.REMOVED
            if found is not None:
                self.stop(found)
                return
            self._enter(Phase.FOLDING)
            self._log.took(self.tag, 1)
            records = records[1:]
        if records:
            self.pending.append(records)
            self._among.waiting.setdefault(self.number, self)
        self.position = message.position

    def skipped(self, offset: int) -> None:
        """No event lies there: if the witness should, the log was written again."""
        if self.phase is Phase.VERIFYING and offset == _present(self.begin).read_from:
            self.stop(BrokenReason.WITNESS)

    def cannot_read(self, message: Unreadable) -> None:
        """The batch that comes next cannot be read. What lies before it is folded first."""
        self.unreadable = f"the batch at offset {message.offset} cannot be read ({message.detail}); to leave it out, "
        self.unreadable += f"continue from offset {max(message.next_offset, message.offset + 1)}"

    def bounded(self, message: Described, now: float) -> bool:
        """Whether the log can still be the one that is read.

        A client whose position is out of the log's range reports it, but it may read below progress: it verifies the
        witness first, and the markers of transactions may lie in between. The answer may be older than what was folded
        since: then progress has moved since the last one.
        """
        progress, bounds = _present(self.progress), message.bounds
        reason = contradiction(progress, bounds)
        moved, self._described_at = self._described_at != progress.next_offset, progress.next_offset
        if reason is BrokenReason.TOPIC_ID or (reason is not None and not moved):
            self.restart(now)  # taking it up finds the log broken
            return False
        self._held_at = bounds.end if bounds.end < message.log_end else None
        return True

    def will_be_caught_up(self, at: CaughtUp) -> None:
        """Once it is folded up to there."""
        self.caught_up = at

    # The batch in hand

    def front(self, most: int) -> Waiting:
        """The first `most` records that wait."""
        return Waiting(self.number, self.pending.front(most), _present(self.progress).next_offset, self._erased)

    def take_in_hand(self, batch: Batch) -> bool:
        """Fold this batch next. Returns whether it may be: no record of it is misrouted."""
        self.in_hand = InHand(batch, routed=not batch.misrouted_from(0))
        return self.in_hand.routed

    def had_turn(self) -> None:
        """It goes behind the others that wait."""
        self._among.waiting[self.number] = self._among.waiting.pop(self.number)

    def await_count(self, held: InHand) -> None:
        """The batch waits to hear how many partitions the topic has."""
        held.counting = True

    def counted(self, held: InHand) -> int | None:
        """The topic has as many partitions as it should. Returns how many records are misrouted, besides those that an
        operator has accepted; None if that batch is not in hand any more."""
        held.counting = False
        if self.in_hand is not held:
            return None
        self.reason = ""
        return held.batch.misrouted_from(_present(self.progress).misrouted_to)

    def routed(self, held: InHand) -> None:
        """What is misrouted of the batch goes to the dead letters."""
        held.routed = True

    def not_counted(self, held: InHand, detail: str, now: float) -> None:
        """No broker said how many partitions the topic has: ask again later."""
        held.counting = False
        if self.in_hand is held:
            self.wait(self._setup.retry_at(now), f"the log does not answer: {detail}")

    def delivered(self, held: InHand, now: float) -> bool:
        """Whether all of the batch's dead letters are acknowledged; sends those that were not sent yet."""
        rejected, metrics = held.batch.rejected, self._setup.metrics
        delivery, held.delivery = held.delivery, None
        if delivery is not None:
            if (error := delivery.error) is not None:
                self.wait(self._setup.retry_at(now), f"dead_letters: {error}")
                self.undelivered = str(error)
                say(log, logging.WARNING, "dead letters unavailable", partition=self.number, detail=error)
                return False
            for _, reason in rejected[held.acknowledged : held.sent]:
                metrics.dead_letters.labels(reason.value).inc()
            metrics.cut_dead_letters.inc(delivery.cut)
            held.acknowledged = held.sent
            self.reason = self.undelivered = ""
        if held.acknowledged == len(rejected):
            return True
        letters = [
            Letter.of(held.batch.records[at], reason, self._setup.topic.name, self.number)
            for at, reason in rejected[held.acknowledged :]
        ]
        held.delivery, held.sent = self._setup.ports.dead_letters.send(letters), len(rejected)
        return False

    def part(self, held: InHand) -> Part:
        """The batch's share of a round, with the states that are in memory."""
        batch, lost = held.batch, held.lost
        suspect = {i for i, user in enumerate(batch.users) if user in lost} if lost else set[int]()
        return Part(batch, _present(self.progress), self.shelf.find(batch.keys), suspect=suspect)

    def set_aside(self, held: InHand, users: Collection[str]) -> None:
        """The unreadable values of these users are set aside."""
        held.aside.update(users)

    def reject(self, operations: Sequence[int]) -> None:
        """Leave operations whose step was not finite out of the batch in hand."""
        if operations and self.in_hand is not None:
            self._setup.metrics.non_finite.inc(len(operations))
            self.in_hand.batch = self.in_hand.batch.without(operations, Reason.NON_FINITE)

    # Committing

    def batch_attempt(self, part: Part, states: States, values: tuple[StagedValues, int, int]) -> FoldedBatch:
        """The commit of a folded batch."""
        records = part.batch.records
        after = self._advanced(records[-1], self.position if len(records) == len(self.pending) else None)
        commit = Commit(self.number, self.known, encode_progress(after), *values, erases=part.batch.erases)
        return FoldedBatch(commit, after, part, states)

    def idle_attempt(self, now: float) -> Attempt | None:
        """The commit of a partition that is caught up and idle; None if it is not."""
        if self.caught_up is None or self.position < self.caught_up.end:
            return None
        if not self.folds or self.pending or self.due > now:
            return None
        after = self._advanced(None, self.position)
        return Attempt(Commit(self.number, self.known, encode_progress(after)), after)

    def _advanced(self, last: Record | None, position: int | None) -> Progress:
        progress = _present(self.progress)
        return advance(progress, writer=self.writer, last=last, position=position, caught_up=self.caught_up)

    def adopt(self, attempt: Attempt) -> None:
        """The store has it."""
        self.unsure, self.reason, self.known = None, "", attempt.commit.progress
        if self.phase is Phase.CLAIMING:
            self.claimed, self.unclaimed = True, False
            return
        self.progress = attempt.progress
        if self.caught_up is not None and attempt.progress.next_offset >= self.caught_up.end:
            self.caught_up = None
        if isinstance(attempt, FoldedBatch):
            records = len(attempt.part.batch.records)
            self.in_hand = None
            self.pending.drop(records)
            if not self.pending:
                self._among.waiting.pop(self.number, None)
            self._log.took(self.tag, records)
            self._keep(attempt)

    def _keep(self, batch: FoldedBatch) -> None:
        """Keep the states of a written batch in memory. The unreadable ones are gone from the store only now, so they
        are counted here: until a batch is written, it may be loaded several times."""
        for error in batch.part.unreadable:
            self._setup.metrics.unreadable_states.labels(error).inc()
            say(log, logging.ERROR, "unreadable state", partition=self.number, error=error)
        keys, rows = batch.part.batch.keys, batch.part.row_of
        if min(rows, default=0) < 0:
            for key, row in zip(keys, rows, strict=True):
                if row == ERASED_ROW:
                    self.shelf.drop(key)
            keys = [key for key, row in zip(keys, rows, strict=True) if row >= 0]
            rows = [row for row in rows if row >= 0]
        encoded = batch.states.encoded
        self.shelf.put(keys, [encoded[row] for row in rows])

    def unconfirmed(self, attempt: Attempt, detail: str) -> None:
        """The store did not say what became of a commit."""
        self.unsure, self.reason = attempt, f"the store did not confirm a commit: {detail}"

    def states_lost(self, answer: StatesLost) -> None:
        """The batch stays in hand; what is folded again of these users is marked as incomplete."""
        say(log, logging.ERROR, "states lost", partition=self.number, users=len(answer.users))
        self.unsure = None
        if self.in_hand is not None:
            self.in_hand.lost |= set(answer.users)

    def read_back(self, now: float) -> None:
        """Its stored progress was read: once an interval is enough."""
        self.read_back_due = now + self._setup.settings.read_back_interval_s

    def judge(self, stored: bytes, attempt: Attempt | None = None) -> Verdict:
        """What the stored progress record means for it."""
        return judge(stored, self.known, None if attempt is None else attempt.commit.progress)

    def lose(self, now: float) -> None:
        """Another process wrote its progress: wait for leases that are newer."""
        progress = self.progress
        self.unresolved(NotOurs(f"another process has written partition {self.number}"))
        self._forget(now)
        self.progress, self.lost_at, self.reason = progress, now, "another process wrote this partition's progress"
        self._enter(Phase.OWNERSHIP_LOST)


class Partitions:
    """All partitions that this worker has."""

    def __init__(self, setup: Setup) -> None:
        """None yet."""
        self.setup = setup
        self.cache = StateCache(setup.settings.cache_mib << 20)
        self.waiting: dict[int, Partition] = {}
        """Those with pending records, the one that waited longest for its turn first."""
        self.changes = 0
        """How often one entered a phase, or went."""
        self._last_tag = 0
        self._of: dict[int, Partition] = {}
        self._in: dict[Phase, dict[int, Partition]] = {phase: {} for phase in Phase}
        """The same by phase: a turn asks for those of a phase several times, and nearly all are `FOLDING`."""

    def __iter__(self) -> Iterator[Partition]:
        return iter(list(self._of.values()))

    def __getitem__(self, number: int) -> Partition:
        return self._of[number]

    def get(self, number: int) -> Partition | None:
        """A partition, None if this worker does not have it."""
        return self._of.get(number)

    def of(self, *phases: Phase) -> list[Partition]:
        """Those in these phases, unsure ones among them."""
        return [partition for phase in phases for partition in self._in[phase].values()]

    def tagged(self, number: int, tag: int) -> Partition | None:
        """The partition that a message is for, None if it was dropped or taken up again since."""
        partition = self._of.get(number)
        return partition if partition is not None and partition.tag == tag else None

    def add(self, number: int, due: float) -> None:
        """This worker has it."""
        self._of[number] = Partition(number, self, due)

    def drop(self, number: int) -> None:
        """This worker has it no more."""
        self._of.pop(number).end_of_lease()

    # For `Partition` only

    def new_tag(self) -> int:
        """A tag that none had before."""
        self._last_tag += 1
        return self._last_tag

    def entered(self, partition: Partition) -> None:
        """It is in a phase now."""
        self._in[partition.phase][partition.number] = partition
        self.changes += 1

    def left(self, partition: Partition) -> None:
        """It is in that phase no more."""
        del self._in[partition.phase][partition.number]
        self.waiting.pop(partition.number, None)
        self.changes += 1


def _present(value: T | None) -> T:
    """What the partition's phase has."""
    if value is None:
        raise RuntimeError("a partition was asked for what its phase does not have")
    return value
