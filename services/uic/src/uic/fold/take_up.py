"""Taking partitions up: look up what is stored, ask the log for its bounds, decide where to begin
(`core.start_position`), read the erasures if it is a replay or leaves records out, store progress that is new, and
begin to read. An operator's decision about a broken partition is one more way to begin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from mimn.state import REMOVAL
from uic.core.commit import NoAnswer
from uic.core.ports import Described
from uic.core.start_position import (
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
)
from uic.core.start_position import Broken as Stop
from uic.core.status import Phase
from uic.core.trouble import Cause
from uic.errors import InvalidField, LogUnavailable, NamespaceConflict, NoLeader, NotBroken, NotOurs, StoreUnavailable
from uic.fold.health import Health
from uic.fold.partition import Partition, Partitions, Resolution
from uic.fold.rounds import Rounds
from uic.fold.setup import Setup


class TakeUp:
    """From a partition that this worker has to one that is read. Owned by the fold thread."""

    def __init__(self, setup: Setup, partitions: Partitions, rounds: Rounds, health: Health) -> None:
        """Nothing is asked yet."""
        self._setup = setup
        self._store = setup.ports.store
        self._partitions = partitions
        self._rounds = rounds
        self._health = health
        self._look_for_namespace_at = 0.0

    def obey(self, resolutions: deque[Resolution], now: float) -> None:
        """Begin what operators decided; tell them at once what cannot be done."""
        while resolutions:
            resolution = resolutions.popleft()
            number = resolution.partition
            if resolution.outcome.cancelled():
                continue
            partition = self._partitions.get(number)
            if partition is None:
                resolution.refuse(NotOurs(f"partition {number} is not assigned to this process"))
            elif partition.phase is not Phase.BROKEN:
                resolution.refuse(NotBroken(f"partition {number} is not stopped: {_under_way(partition)}"))
            elif partition.cause is BrokenReason.MISROUTED and (
                resolution.action != "continue" or resolution.from_offset is not None
            ):
                resolution.refuse(
                    InvalidField(
                        "the partition stopped because of misrouted records: correct the producers, then continue "
                        "without an offset, and what is misrouted so far goes to the dead letters"
                    )
                )
            else:
                partition.resolve(resolution, now)

    def go_on(self, now: float) -> None:
        """What is due by the clock."""
        self._look_up(now)
        self._claim(now)
        self._keep_namespace(now)

    def described(self, partition: Partition, message: Described, now: float) -> None:
        """The log answered: decide."""
        if not partition.asked:
            return
        begin = self._decide(partition, message.bounds)
        if isinstance(begin, Begin):
            partition.claim(begin, message.bounds, now)
        else:
            partition.unresolved(InvalidField(f"the log is broken ({begin.reason}): decide about that"))
            partition.stop(begin.reason, progress=begin.progress)  # so that an operator sees where the states end

    def _look_up(self, now: float) -> None:
        """Read what is stored of new partitions, and ask the log for their bounds."""
        new = [p for p in self._partitions.of(Phase.TAKING_UP) if not p.asked and p.due <= now]
        if not new or not self._claim_namespace(new, now):
            return
        try:
            said = self._store.read_progress([partition.number for partition in new])
        except StoreUnavailable as error:
            self._health.not_asked(new)
            self._health.store_failed("read_progress", error, new, now)
            return
        for partition in new:
            record = said[partition.number]
            if isinstance(record, NoAnswer):
                self._health.store_failed("read_progress", StoreUnavailable(record.detail), [partition], now)
            elif record.startswith(REMOVAL):
                partition.being_removed(self._setup.retry_at(now))
            else:
                partition.found(record)
        self._health.store_answered(p for p in new if p.removed or p.asked)
        self._health.not_asked(p for p in new if not p.asked)
        self._setup.ports.log.describe({p.number: p.tag for p in new if p.asked})

    def _claim_namespace(self, partitions: Sequence[Partition], now: float) -> bool:
        """Say in the store that there is this namespace, before progress is read for `partitions`, or after they have
        stored the first of a lineage: the namespace may have been removed in between."""
        topic = self._setup.topic
        try:
            self._store.claim_namespace(topic.partitions, topic.name)
        except NamespaceConflict as error:
            self._health.stop(f"namespace: {error.detail}")
            return False
        except StoreUnavailable as error:
            self._health.not_asked(p for p in partitions if p.phase is Phase.TAKING_UP)
            self._health.store_failed("read_progress", error, partitions, now)
            return False
        return True

    def _keep_namespace(self, now: float) -> None:
        """While a partition is folded, write again what the store says of the namespace, if that is gone: without it
        the commands find no namespace. The progress that is asked first is ours only while no removal has begun, for a
        removal puts its mark in place of every progress record before it takes the rest. What another program wrote in
        its place is left to the next take-up, and a store that does not answer to other questions."""
        if now < self._look_for_namespace_at:
            return
        reading = self._partitions.of(Phase.VERIFYING, Phase.FOLDING)
        folded = next((p for p in reading if p.unsure is None and p.due <= now), None)
        if folded is None:
            return
        self._look_for_namespace_at = now + self._setup.settings.read_back_interval_s
        with suppress(StoreUnavailable, NamespaceConflict):
            if self._store.read_progress([folded.number])[folded.number] == folded.known:
                self._store.claim_namespace(self._setup.topic.partitions, self._setup.topic.name)

    def _decide(self, partition: Partition, bounds: LogBounds) -> Begin | Stop:
        topic, stored, resolution = self._setup.topic, partition.known, partition.resolution
        mint = Mint(topic.partitions, topic.start, self._setup.random_id(), partition.writer)
        if resolution is None:
            return start_position(stored, bounds, mint)
        about = resolution.about
        if resolution.outcome.cancelled():
            partition.unresolved()
            return still_broken(stored, bounds, mint, about)
        if about is BrokenReason.MISROUTED:
            return accept_misrouted(stored, bounds, mint)
        if resolution.action == "rebuild":
            begin = new_lineage(bounds, mint)
        else:
            try:
                begin = continue_broken(
                    stored, bounds, mint, resolution.from_offset, about=about, log_end=partition.end
                )
            except CannotContinue as error:
                partition.unresolved(InvalidField(str(error)))
                return still_broken(stored, bounds, mint, about)
        return among_removed(begin, bounds) if about is BrokenReason.REMOVED else begin

    def _claim(self, now: float) -> None:
        """Before the first record: read the erasures, and store progress that is new. With it go the states of users
        whose erasure the partition will not read."""
        claiming = self._partitions.of(Phase.CLAIMING)
        ready = [p for p in claiming if p.unsure is None and p.due <= now]
        read = self._read_erasures([p for p in ready if p.wants_erasures], now)
        if not any(p.wants_erasures for p in claiming):
            self._health.trouble.clear(Cause.ERASURES)
        if not read:
            ready = [p for p in ready if not p.wants_erasures]
        self._rounds.advise(self._rounds.commit([(p, p.claim_attempt()) for p in ready if not p.claimed], now))
        begun = [p for p in ready if p.claimed]
        new = [p for p in begun if p.begins_lineage]
        if new and self._claim_namespace(new, now):
            self._health.store_answered(new)
        elif new:
            begun = [p for p in begun if not p.begins_lineage]
        for partition in begun:
            partition.read(now)
        if begun:  # so that an idle one soon knows it is caught up
            self._setup.ports.log.describe({p.number: p.tag for p in begun})

    def _read_erasures(self, wanting: list[Partition], now: float) -> bool:
        by_log: dict[bytes, list[int]] = {}
        for partition in wanting:
            for topic_id in partition.logs:
                by_log.setdefault(topic_id, []).append(partition.number)
        try:
            erased = {topic_id: self._setup.ports.erasures.read(those, topic_id) for topic_id, those in by_log.items()}
        except LogUnavailable as error:
            self._health.trouble.set(Cause.ERASURES, error.detail)
            away = error.partitions if isinstance(error, NoLeader) else [p.number for p in wanting]
            for partition in (p for p in wanting if p.number in away):  # the others are read in the next turn
                partition.wait(self._setup.retry_at(now), "waiting for the erasures")
            return False
        for partition in wanting:
            partition.erasures_read({topic_id: erased[topic_id][partition.number] for topic_id in partition.logs})
        return True


def _under_way(partition: Partition) -> str:
    """What a partition does that is not stopped, and what an operator's decision about it waits for, if there is one
    that is not carried out yet."""
    does, decided = f"it is {partition.shown_phase}", partition.resolution
    if decided is None:
        return does
    return f"{does}, for an operator's {decided.action}, which is not done yet" + (
        f": {why}" if (why := partition.why_waits) else ""
    )
