"""Step 2 of the protocol: which records are folded next, as batches of operations. Records that are no events go to the
dead letters, and a batch stays in hand until all of its own are acknowledged.

Misrouted records may mean that the topic was given more partitions: then they lie where they belong, and are no dead
letters. So before any of them is sent, a broker is asked how many partitions there are (decision 189).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from mimn.state import partition_of
from uic.core.ordering import LARGE, Bounds, Front, OutOfOrder, decode, take, take_together
from uic.core.ports import FoldsMany
from uic.core.routing import PRODUCERS, MisroutedWindow
from uic.core.start_position import BrokenReason
from uic.core.status import Phase
from uic.fold.partition import InHand, Partition, Partitions
from uic.fold.setup import Setup
from uic.logs import say

log = logging.getLogger("uic.fold.decoding")

SHORT_WAVES = 64
"""Waves of a large batch while other partitions are nearly caught up: their events wait until it is folded, and a user
who floods can make it a run of waves that carry an event each. A backlog in every partition is folded as fast as
possible: batches this short take a sixth longer."""
SHORT_RECORDS = 1024
"""Records of such a batch where the step is compiled. It folds one user after another, without waves, so the time of a
batch depends on how many events it has, and not on how many users they are of."""


class Decoding:
    """Owned by the fold thread."""

    def __init__(self, setup: Setup, partitions: Partitions) -> None:
        """Nothing is asked yet."""
        self._setup = setup
        self._partitions = partitions
        settings, compiled = setup.settings, setup.model.compiled
        self._partition_of = partition_of if compiled is None else compiled.partition_of
        self._bounds = Bounds(settings.max_states, settings.max_waves, settings.max_states * settings.max_waves)
        self._short_bounds = (
            replace(self._bounds, max_records=min(self._bounds.max_records, SHORT_RECORDS))
            if isinstance(setup.model.step, FoldsMany)
            else replace(self._bounds, max_waves=min(self._bounds.max_waves, SHORT_WAVES))
        )
        self._misrouted = MisroutedWindow(settings.misrouted_share)
        self._asked_for: list[tuple[Partition, InHand]] = []
        """Those for which the question of the topic's count is on its way."""
        self._to_ask_for: list[tuple[Partition, InHand]] = []
        """Those read since, which that answer says nothing about."""

    def batches(self, large: bool, now: float) -> list[tuple[Partition, InHand]]:
        """Batches to fold now, of partitions in turn that have many records pending (`large`), or few."""
        ready = [p for p in self._partitions.waiting.values() if (len(p.pending) >= LARGE) is large and p.ready(now)]
        if not ready:
            return []
        shared = large and any(len(p.pending) < LARGE and p.folds for p in self._partitions.of(Phase.FOLDING))
        bounds = self._short_bounds if shared else self._bounds
        chosen: list[Partition] = []
        new: list[tuple[Partition, Front]] = []
        records = 0
        for several in self._at_once(ready, large):
            fronts = self._take([p for p in several if p.in_hand is None], bounds, now)
            for partition in several:
                if partition.in_hand is not None:
                    records += len(partition.in_hand.batch.records)
                elif (front := fronts.get(partition.number)) is not None:
                    new.append((partition, front))
                    records += len(front.records)
                else:
                    continue
                chosen.append(partition)
                partition.had_turn()
            if records >= self._setup.settings.max_records:
                break
        if new:
            self._decode(new)
        in_hand = [(partition, partition.in_hand) for partition in chosen]
        ready_to_fold = [
            (partition, held)
            for partition, held in in_hand
            if held is not None and self._routed(partition, held) and partition.delivered(held, now)
        ]
        self._ask()
        return ready_to_fold

    def counted(self) -> None:
        """The topic has N partitions: what is misrouted by that is misrouted. A partition stops whose producers put too
        many records where they do not belong, except for records that an operator has accepted."""
        asked_for, self._asked_for = self._asked_for, []
        for partition, held in asked_for:
            misrouted = partition.counted(held)
            if misrouted is None:
                continue
            if self._misrouted.exceeded_by(misrouted):
                share = f"{self._setup.settings.misrouted_share:.0%}"
                partition.stop(
                    BrokenReason.MISROUTED,
                    f"more than {share} of the last records do not lie in their key's partition; producers must "
                    f"partition by murmur2 ({PRODUCERS})",
                )
                continue
            self._misrouted.add(len(held.batch.records), misrouted)
            partition.routed(held)
        self._ask()

    def not_counted(self, detail: str, now: float) -> None:
        """No broker said how many partitions the topic has: ask again later."""
        asked_for, self._asked_for = self._asked_for, []
        for partition, held in asked_for:
            partition.not_counted(held, detail, now)
        self._ask()

    def _routed(self, partition: Partition, held: InHand) -> bool:
        """Whether the batch's misrouted records may become dead letters."""
        if not held.routed:
            partition.await_count(held)
            self._to_ask_for.append((partition, held))
        return held.routed

    def _ask(self) -> None:
        """One question at a time, for all batches that wait for an answer."""
        if self._to_ask_for and not self._asked_for:
            self._asked_for, self._to_ask_for = self._to_ask_for, []
            self._setup.ports.log.count_partitions()

    def _at_once(self, ready: list[Partition], large: bool) -> Iterator[list[Partition]]:
        """Those whose fronts are taken together: only for small partitions is a batch's length known in advance."""
        several: list[Partition] = []
        records = 0
        for partition in ready:
            several.append(partition)
            records += len(partition.pending)
            if large or records >= self._setup.settings.max_records:
                yield several
                several, records = [], 0
        if several:
            yield several

    def _take(self, partitions: list[Partition], bounds: Bounds, now: float) -> dict[int, Front]:
        """The next records of each, by partition; nothing of those whose records are out of order."""
        waiting = [partition.front(bounds.max_records) for partition in partitions]
        count = self._setup.topic.partitions
        found = take_together(waiting, count, bounds, self._setup.model.compiled)
        fronts: dict[int, Front] = {}
        for partition, each, front in zip(partitions, waiting, found, strict=True):
            try:
                fronts[partition.number] = front or take(
                    each.pending,
                    floor=each.floor,
                    partition=each.partition,
                    partitions=count,
                    known=partition.shelf.values,
                    erased=each.erased,
                    bounds=bounds,
                    partition_of=self._partition_of,
                )
            except OutOfOrder as error:
                say(log, logging.ERROR, "records out of order", partition=partition.number, detail=str(error))
                partition.restart(now, delay_s=self._setup.settings.retry_interval_s)
        return fronts

    def _decode(self, fronts: list[tuple[Partition, Front]]) -> None:
        """Take batches in hand."""
        model = self._setup.model
        batches = decode([front for _, front in fronts], model.actions, model.compiled, text_ids=model.text_ids)
        for (partition, _), batch in zip(fronts, batches, strict=True):
            if partition.take_in_hand(batch):
                self._misrouted.add(len(batch.records), 0)
