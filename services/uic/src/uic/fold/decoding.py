"""Step 2 of the protocol: which records are folded next, as batches of operations. Records that are no events go to the
dead letters, and a batch stays in hand until all of its own are acknowledged.

Misrouted records may mean that the topic was given more partitions: then they lie where they belong, and are no dead
letters. So before any of them is sent, a broker is asked how many partitions there are (decision 189).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from mimn.state import Actions, partition_of
from uic.core.letters import Letter
from uic.core.ordering import LARGE, Batch, Bounds, Front, OutOfOrder, Waiting, decode, take, take_together
from uic.core.ports import Compiled, DeadLetters, Log
from uic.core.routing import PRODUCERS, MisroutedWindow
from uic.core.start_position import BrokenReason
from uic.fold.session import InHand, Reading, Sending, Sessions
from uic.fold.take_up import TakeUp, Topic
from uic.logs import say
from uic.metrics import Metrics
from uic.settings import FoldSettings

log = logging.getLogger("uic.fold.decoding")

SHORT_WAVES = 64
"""Waves of a large batch while other partitions are nearly caught up: their events wait until it is folded, and a user
who floods can make it a run of waves that carry an event each. A backlog in every partition is folded as fast as
possible: batches this short take a sixth longer."""
SHORT_RECORDS = 1024
"""Records of such a batch where the step is compiled. It folds one user after another, without waves, so the time of a
batch depends on how many events it has, and not on how many users they are of."""


class Decoding:
    """Chooses records, decodes them and delivers dead letters. Owned by the fold thread."""

    def __init__(
        self,
        *,
        topic: Topic,
        actions: Actions | None,
        text_ids: bool,
        compiled: Compiled | None,
        in_waves: bool,
        dead_letters: DeadLetters,
        event_log: Log,
        sessions: Sessions,
        take_up: TakeUp,
        settings: FoldSettings,
        metrics: Metrics,
    ) -> None:
        """`actions` and `text_ids` are the bundle's; `compiled` does what it can of them; `in_waves`: the step folds an
        event of each user at a time; `settings` bound the batches."""
        self._topic = topic
        self._actions = actions
        self._text_ids = text_ids
        self._compiled = compiled
        self._partition_of = partition_of if compiled is None else compiled.partition_of
        self._dead_letters = dead_letters
        self._log = event_log
        self._sessions = sessions
        self._take_up = take_up
        self._settings = settings
        self._metrics = metrics
        self._bounds = Bounds(settings.max_states, settings.max_waves, settings.max_states * settings.max_waves)
        self._short_bounds = (
            replace(self._bounds, max_waves=min(self._bounds.max_waves, SHORT_WAVES))
            if in_waves
            else replace(self._bounds, max_records=min(self._bounds.max_records, SHORT_RECORDS))
        )
        self._misrouted = MisroutedWindow(settings.misrouted_share)
        self._asked_for: list[tuple[Reading, InHand]] = []
        """Those for which the question of the topic's count is on its way."""
        self._to_ask_for: list[tuple[Reading, InHand]] = []
        """Those read since, which that answer says nothing about."""

    def batches(self, large: bool, now: float) -> list[tuple[Reading, Batch]]:
        """Batches to fold now, of partitions in turn that have many records pending (`large`), or few."""
        ready = [r for r in self._sessions.waiting if (len(r.pending) >= LARGE) is large and r.ready(now)]
        if not ready:
            return []
        shared = large and any(len(r.pending) < LARGE and r.folds for r in self._sessions.of(Reading))
        bounds = self._short_bounds if shared else self._bounds
        chosen: list[Reading] = []
        new: list[tuple[Reading, Front]] = []
        records = 0
        for several in self._at_once(ready, large):
            fronts = self._take([reading for reading in several if reading.in_hand is None], bounds, now)
            for reading in several:
                if reading.in_hand is not None:
                    records += len(reading.in_hand.batch.records)
                elif (front := fronts.get(reading.partition)) is not None:
                    new.append((reading, front))
                    records += len(front.records)
                else:
                    continue
                chosen.append(reading)
                self._sessions.had_turn(reading)
            if records >= self._settings.max_records:
                break
        if new:
            self._decode(new)
        in_hand = [(reading, reading.in_hand) for reading in chosen]
        ready_to_fold = [
            (reading, held.batch)
            for reading, held in in_hand
            if held is not None and self._routed(reading, held) and self._delivered(reading, held, now)
        ]
        self._ask()
        return ready_to_fold

    def counted(self) -> None:
        """The topic has N partitions: what is misrouted by that is misrouted. A partition stops whose producers put too
        many records where they do not belong, except for records that an operator has accepted."""
        asked_for, self._asked_for = self._asked_for, []
        for reading, held in asked_for:
            held.counting = False
            if self._sessions.get(reading.partition) is not reading or reading.in_hand is not held:
                continue
            reading.reason = ""
            misrouted = held.batch.misrouted_from(reading.progress.misrouted_to)
            if self._misrouted.exceeded_by(misrouted):
                share = f"{self._settings.misrouted_share:.0%}"
                self._take_up.stop(
                    reading,
                    BrokenReason.MISROUTED,
                    f"more than {share} of the last records do not lie in their key's partition; producers must "
                    f"partition by murmur2 ({PRODUCERS})",
                )
                continue
            self._misrouted.add(len(held.batch.records), misrouted)
            held.routed = True
        self._ask()

    def not_counted(self, detail: str, now: float) -> None:
        """No broker said how many partitions the topic has: ask again later."""
        asked_for, self._asked_for = self._asked_for, []
        for reading, held in asked_for:
            held.counting = False
            reading.reason = f"the log does not answer: {detail}"
            reading.due = now + self._settings.retry_interval_s
        self._ask()

    def _routed(self, reading: Reading, held: InHand) -> bool:
        """Whether the batch's misrouted records may become dead letters."""
        if not held.routed:
            held.counting = True
            self._to_ask_for.append((reading, held))
        return held.routed

    def _ask(self) -> None:
        """One question at a time, for all batches that wait for an answer."""
        if self._to_ask_for and not self._asked_for:
            self._asked_for, self._to_ask_for = self._to_ask_for, []
            self._log.count_partitions()

    def _at_once(self, ready: list[Reading], large: bool) -> Iterator[list[Reading]]:
        """Those whose fronts are taken together: only for small partitions is a batch's length known in advance."""
        several: list[Reading] = []
        records = 0
        for reading in ready:
            several.append(reading)
            records += len(reading.pending)
            if large or records >= self._settings.max_records:
                yield several
                several, records = [], 0
        if several:
            yield several

    def _take(self, readings: list[Reading], bounds: Bounds, now: float) -> dict[int, Front]:
        """The next records of each, by partition; nothing of those whose records are out of order."""
        waiting = [
            Waiting(r.partition, r.pending.front(bounds.max_records), r.progress.next_offset, r.erased)
            for r in readings
        ]
        found = take_together(waiting, self._topic.partitions, bounds, self._compiled)
        fronts: dict[int, Front] = {}
        for reading, each, front in zip(readings, waiting, found, strict=True):
            try:
                fronts[reading.partition] = front or take(
                    each.pending,
                    floor=each.floor,
                    partition=each.partition,
                    partitions=self._topic.partitions,
                    known=reading.hold.shelf.values,
                    erased=each.erased,
                    bounds=bounds,
                    partition_of=self._partition_of,
                )
            except OutOfOrder as error:
                say(log, logging.ERROR, "records out of order", partition=reading.partition, detail=str(error))
                self._sessions.restart(reading, now, delay_s=self._settings.retry_interval_s)
        return fronts

    def _decode(self, fronts: list[tuple[Reading, Front]]) -> None:
        """Take batches in hand."""
        batches = decode([front for _, front in fronts], self._actions, self._compiled, text_ids=self._text_ids)
        for (reading, _), batch in zip(fronts, batches, strict=True):
            routed = not batch.misrouted_from(0)
            if routed:
                self._misrouted.add(len(batch.records), 0)
            reading.in_hand = InHand(batch, routed=routed)

    def _delivered(self, reading: Reading, held: InHand, now: float) -> bool:
        """Whether all of the batch's dead letters are acknowledged; sends those that were not sent yet."""
        rejected, records = held.batch.rejected, held.batch.records
        sending, held.sending = held.sending, None
        if sending is not None:
            error = sending.delivery.error
            if error is not None:
                reading.reason, reading.undelivered = f"dead_letters: {error}", str(error)
                reading.due = now + self._settings.retry_interval_s
                say(log, logging.WARNING, "dead letters unavailable", partition=reading.partition, detail=error)
                return False
            for _, reason in rejected[held.acknowledged : sending.upto]:
                self._metrics.dead_letters.labels(reason.value).inc()
            self._metrics.cut_dead_letters.inc(sending.delivery.cut)
            held.acknowledged = sending.upto
            reading.reason = reading.undelivered = ""
        if held.acknowledged == len(rejected):
            return True
        letters = [
            Letter.of(records[at], reason, self._topic.name, reading.partition)
            for at, reason in rejected[held.acknowledged :]
        ]
        held.sending = Sending(self._dead_letters.send(letters), len(rejected))
        return False
