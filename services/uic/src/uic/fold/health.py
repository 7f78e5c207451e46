"""What the fold says about itself: whether it serves, what is degraded, and the gauges of its partitions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from prometheus_client import Gauge

from uic.core.status import STARTING, Phase, Status
from uic.core.topics import bring_back, named, ranges
from uic.core.trouble import TOPIC, Cause, Trouble
from uic.errors import StoreUnavailable
from uic.fold.partition import REMOVED, Partition, Partitions
from uic.fold.setup import Setup
from uic.logs import say

log = logging.getLogger("uic.fold.health")

INTERVAL_S = 0.2
SKEW_MS = 2000
"""By how much our clock and the store's may differ, as the alert `ClockSkew` has it."""
AGREE_MS = 1500
"""Within what they agree again: less, or a difference of about `SKEW_MS` would be logged again and again."""


class Troubles:
    """What is wrong now: one table, which `/readyz`, the metric `uic_trouble` and the log read. One thread writes."""

    def __init__(self, gauge: Gauge, begun: Callable[[], None]) -> None:
        """Nothing is wrong.

        Args:
            gauge: 1 for each cause that is set, else 0.
            begun: called when a part of a cause is set that was not.
        """
        self._gauge = gauge
        self._begun = begun
        self._details: dict[tuple[Cause, str], str] = {}
        for cause in Cause:  # an alert sees each before it happens
            gauge.labels(cause.value).set(0)

    def set(self, cause: Cause, detail: str, part: str = "") -> None:
        """This is wrong, or still is. The log has a line when the first part of a cause begins."""
        first, new = cause not in self, (cause, part) not in self._details
        self._details[cause, part] = detail
        if first:
            self._gauge.labels(cause.value).set(1)
            say(log, logging.WARNING, cause.value, detail=detail)
        if new:
            self._begun()

    def clear(self, cause: Cause, part: str = "") -> None:
        """This is not wrong, or not any more. The log has a line when the last part of a cause ends."""
        if self._details.pop((cause, part), None) is not None and cause not in self:
            self._gauge.labels(cause.value).set(0)
            say(log, logging.INFO, f"{cause.value} is over")

    def hear(self, trouble: Trouble) -> None:
        """`set` or `clear`."""
        if trouble.detail:
            self.set(trouble.cause, trouble.detail, trouble.part)
        else:
            self.clear(trouble.cause, trouble.part)

    def __contains__(self, cause: Cause) -> bool:
        """Whether any part of the cause is wrong."""
        return any(one is cause for one, _ in self._details)

    def reasons(self) -> list[str]:
        """What `/readyz` shows: cause and detail. A topic that is away is the whole reason of its cause."""
        return [
            f"{cause.value}: {detail}"
            for (cause, part), detail in self._details.items()
            if part == TOPIC or (cause, TOPIC) not in self._details or cause is not Cause.ERASURES
        ]


class Health:
    """Owned by the fold thread, except for `status`, which is replaced whole and may be read from any."""

    def __init__(self, setup: Setup, partitions: Partitions) -> None:
        """No lease yet."""
        self._setup = setup
        self._partitions = partitions
        self._metrics = setup.metrics
        self.trouble = Troubles(setup.metrics.trouble, self._tell)
        """What does not work, which is no reason to stop serving. The status has it at once: the rest of the turn may
        wait for a store that hangs, several times."""
        self._due = 0.0
        self._changes = 0
        """`Partitions.changes` when the status was last renewed."""
        self._shown: dict[Gauge, set[int]] = {}
        """Of which partitions a gauge shows something."""
        self.stopped = ""
        """Why nothing is folded any more; empty while all is well. Only a restart of the process ends it."""
        self._no_lease = "starting: no lease yet"
        """Why this process has no partitions; empty while it holds a lease."""
        self._workers: tuple[str, ...] = ()
        self.ahead_ms = 0
        """Our clock less the store's, as last measured."""
        self.status = STARTING
        for phase in Phase:  # a worker without a lease has none, which an alert is to see
            setup.metrics.partitions.labels(phase.value).set(0)

    def store_failed(
        self, operation: str, error: StoreUnavailable, partitions: Iterable[Partition], now: float
    ) -> None:
        """The store did not answer: try again later."""
        self._metrics.store_failures.labels(operation).inc()
        self.trouble.set(Cause.STORE, error.detail)
        for partition in partitions:
            partition.store_silent(self._setup.retry_at(now))

    def store_answered(self, partitions: Iterable[Partition] = ()) -> None:
        """The store was asked, and answered for these. It works, unless a commit has no answer, because a store that
        refuses writes still answers reads, or a partition has none, because a cluster has several servers."""
        if Cause.STORE not in self.trouble:
            return
        for partition in partitions:
            partition.store_answered()
        if not any(p.unanswered or p.unclaimed or p.unsure for p in self._partitions):
            self.trouble.clear(Cause.STORE)

    def clock_failed(self, error: StoreUnavailable, now: float) -> None:
        """The store did not tell its time. If it is there and answers all else, that is a trouble of its own: states
        are stored, and how recent they are cannot be told."""
        if not error.answered:
            self.store_failed("time", error, [], now)
            return
        self._metrics.store_failures.labels("time").inc()
        self.trouble.set(Cause.CLOCK, error.detail)
        self.store_answered()

    def clock_answered(self, ahead_ms: int) -> None:
        """The store told its time. A worker without partitions asks it nothing else. `ahead_ms`: our clock less the
        store's."""
        self.trouble.clear(Cause.CLOCK)
        self.ahead_ms = ahead_ms
        if abs(ahead_ms) > (AGREE_MS if Cause.SKEW in self.trouble else SKEW_MS):
            apart = f"{abs(ahead_ms) / 1000:.0f} s {'ahead of' if ahead_ms > 0 else 'behind'} the store's"
            self.trouble.set(Cause.SKEW, f"this worker's clock is {apart}: set the one that is wrong")
        else:
            self.trouble.clear(Cause.SKEW)
        self.store_answered()

    def holds_lease(self, workers: Iterable[str]) -> None:
        """This worker holds a lease, as these do, itself included."""
        if self._no_lease:
            self._due = 0.0
        self._no_lease, self._workers = "", tuple(sorted(workers))

    def no_lease(self, detail: str) -> None:
        """This worker has given its lease up."""
        self._no_lease, self._workers = f"no_lease: {detail}, so the others have its partitions", ()
        self._due = 0.0

    def leaders_away(self, partitions: Iterable[Partition]) -> None:
        """No broker leads these partitions. The brokers answer, so this is told of each and not of the log."""
        new = [partition for partition in partitions if not partition.leaderless]
        for partition in new:
            partition.leader_away()
        if new:
            say(log, logging.WARNING, "has no leader", detail=bring_back([partition.number for partition in new]))
            self._due = 0.0

    def not_described(self, partitions: Iterable[Partition], detail: str) -> None:
        """The log does not say where these partitions begin and end: their leader refuses us, or no broker answers."""
        for partition in partitions:
            partition.not_described(detail)
        self._look_at_bounds()

    def not_asked(self, partitions: Iterable[Partition]) -> None:
        """The log is not asked about these for now, so its trouble of before may be over."""
        for partition in partitions:
            partition.not_described("")

    def _look_at_bounds(self) -> None:
        """Say of which partitions the log does not tell the bounds, and why; of no partition in particular if it tells
        none of them, each for the same reason."""
        untold: dict[str, list[int]] = {}
        for partition in self._partitions:
            untold.setdefault(partition.untold, []).append(partition.number)
        told = untold.pop("", [])
        if not untold:
            self.trouble.clear(Cause.LOG, "bounds")
        elif not told and len(untold) == 1:
            [detail] = untold
            self.trouble.set(Cause.LOG, detail, "bounds")
        else:
            each = "; ".join(f"{named(those)}: {detail}" for detail, those in untold.items())
            self.trouble.set(Cause.LOG, each, "bounds")

    def stop(self, reason: str) -> None:
        """Stop folding, and report why; the events wait in the log. Only a restart ends it."""
        if not self.stopped:
            self.stopped = reason
            say(log, logging.ERROR, "consumption stopped", reason=reason)
            for partition in self._partitions:
                partition.halt(reason)
        self._due = 0.0

    def waits(self, reason: str) -> None:
        """Say why nothing is published yet."""
        self.status = Status(False, (reason,), ())

    def drain(self) -> None:
        """Report `draining`."""
        self.status = replace(self.status, serving=False, reasons=("draining",))

    def publish(self, now: float) -> None:
        """Renew the status and the gauges, a few times a second, and whenever a partition is in another phase."""
        if now < self._due and self._changes == self._partitions.changes:
            return
        self._due, self._changes = now + INTERVAL_S, self._partitions.changes
        self._look_at_bounds()
        self._tell()

    def _tell(self) -> None:
        partitions = sorted(self._partitions, key=lambda partition: partition.number)
        broken = [f"{p.reason} (partition {p.number})" for p in partitions if p.phase is Phase.BROKEN]
        reasons = [*([self.stopped] if self.stopped else []), *broken]
        no_lease = [self._no_lease] if self._no_lease else []
        held = ranges(p.number for p in partitions if p.held)
        away = [p.number for p in partitions if p.leaderless]
        behind = [f"{Cause.LOG}: {bring_back(away)}"] if away else []
        behind += [f"open_transaction: the newest records of partitions {held} wait for it to end"] if held else []
        behind += [f"{Cause.DEAD_LETTERS}: {why}" for why in sorted({p.undelivered for p in partitions} - {""})]
        if removed := ranges(p.number for p in partitions if p.removed):
            behind.append(f"namespace_removed: partitions {removed} wait: {REMOVED}")
        views = tuple(partition.status for partition in partitions)
        self.status = Status(
            not reasons and not no_lease,
            tuple(dict.fromkeys((*reasons, *no_lease, *self.trouble.reasons(), *behind))),
            views,
            self.ahead_ms,
            self._workers,
        )
        metrics = self._metrics
        phases = [view.phase for view in views]
        for phase in Phase:
            metrics.partitions.labels(phase.value).set(phases.count(phase))
        self._show(metrics.lag, {v.partition: v.lag for v in views if v.lag is not None})
        self._show(metrics.next_offset, {v.partition: v.next_offset or 0 for v in views})
        # Prometheus compares it with a clock of its own: by the slower of ours and the store's, none hides that a
        # partition stands still.
        as_of = {v.partition: (v.as_of_ms + min(0, self.ahead_ms)) / 1000 for v in views if v.as_of_ms}
        self._show(metrics.as_of, as_of)
        metrics.cache_states.set(len(self._partitions.cache))
        metrics.queued_records.set(sum(len(partition.pending) for partition in partitions))

    def _show(self, gauge: Gauge, values: Mapping[int, float]) -> None:
        """Set a gauge by partition, and remove what it showed of others."""
        for partition, value in values.items():
            gauge.labels(partition).set(value)
        for partition in self._shown.get(gauge, set()) - values.keys():
            gauge.remove(partition)
        self._shown[gauge] = set(values)
