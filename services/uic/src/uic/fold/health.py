"""What the fold says about itself: whether it serves, what is degraded, and the gauges of its partitions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from prometheus_client import Gauge

from uic.core.start_position import WRITTEN_AGAIN, BrokenReason
from uic.core.status import STARTING, PartitionStatus, Phase, Status
from uic.core.topics import bring_back, named, ranges
from uic.core.trouble import Cause
from uic.errors import StoreUnavailable
from uic.fold.session import Broken, Claiming, Lost, Reading, Session, Sessions, TakingUp
from uic.fold.troubles import Troubles
from uic.logs import say
from uic.metrics import Metrics

log = logging.getLogger("uic.fold.health")

INTERVAL_S = 0.2
SKEW_MS = 2000
"""By how much our clock and the store's may differ, as the alert `ClockSkew` has it."""
AGREE_MS = 1500
"""Within what they agree again: less, or a difference of about `SKEW_MS` would be logged again and again."""
NO_LEADER = "has no leader: bring its replicas back"
"""Why a partition waits that no broker leads."""
REMOVED = "the namespace is being removed; if that was interrupted, `ctr namespaces drop` finishes it"
"""Why partitions wait that have a removal's mark."""


class Health:
    """Owned by the fold thread, except for `status`, which is replaced whole and may be read from any."""

    def __init__(self, sessions: Sessions, metrics: Metrics, retry_interval_s: float) -> None:
        """No lease yet."""
        self._sessions = sessions
        self._metrics = metrics
        self._retry_interval_s = retry_interval_s
        self.trouble = Troubles(metrics.trouble, self._tell)
        """What does not work, which is no reason to stop serving. The status has it at once: the rest of the turn may
        wait for a store that hangs, several times."""
        self._due = 0.0
        self._lag: set[int] = set()
        self._next_offset: set[int] = set()
        self._as_of: set[int] = set()
        self.stopped = ""
        """Why nothing is folded any more; empty while all is well. Only a restart of the process ends it."""
        self._no_lease = "starting: no lease yet"
        """Why this process has no partitions; empty while it holds a lease."""
        self._workers: tuple[str, ...] = ()
        self.ahead_ms = 0
        """Our clock less the store's, as last measured."""
        self.status = STARTING
        for phase in Phase:  # a worker without a lease has none, which an alert is to see
            metrics.partitions.labels(phase.value).set(0)

    def store_failed(self, operation: str, error: StoreUnavailable, sessions: Iterable[Session], now: float) -> None:
        """The store did not answer: try again later."""
        self._metrics.store_failures.labels(operation).inc()
        self.trouble.set(Cause.STORE, error.detail)
        for session in sessions:
            session.due = now + self._retry_interval_s
            session.unanswered = True

    def store_answered(self, sessions: Iterable[Session] = ()) -> None:
        """The store was asked, and answered for these. It works, unless a commit has no answer, because a store that
        refuses writes still answers reads, or a partition has none, because a cluster has several servers."""
        if Cause.STORE not in self.trouble:
            return
        for session in sessions:
            session.unanswered = False
        for s in self._sessions:
            if s.unanswered or s.unclaimed or (isinstance(s, Claiming | Reading) and s.unsure):
                return
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
            self.changed()
        self._no_lease, self._workers = "", tuple(sorted(workers))

    def no_lease(self, detail: str) -> None:
        """This worker has given its lease up."""
        self._no_lease, self._workers = f"no_lease: {detail}, so the others have its partitions", ()
        self.changed()

    def leaders_away(self, sessions: Iterable[Session]) -> None:
        """No broker leads these partitions. The brokers answer, so this is told of each and not of the log."""
        new = [session for session in sessions if not session.leaderless]
        for session in new:
            session.leaderless, session.untold = True, ""
        if new:
            say(log, logging.WARNING, "has no leader", detail=bring_back([session.partition for session in new]))
            self.changed()

    def not_described(self, sessions: Iterable[Session], detail: str) -> None:
        """The log does not say where these partitions begin and end: their leader refuses us, or no broker answers."""
        for session in sessions:
            session.leaderless, session.untold = False, detail
        self._look_at_bounds()

    def not_asked(self, sessions: Iterable[Session]) -> None:
        """The log is not asked about these for now, so its trouble of before may be over."""
        for session in sessions:
            session.untold = ""

    def _look_at_bounds(self) -> None:
        """Say of which partitions the log does not tell the bounds, and why; of no partition in particular if it tells
        none of them, each for the same reason."""
        untold: dict[str, list[int]] = {}
        for session in self._sessions:
            untold.setdefault(session.untold, []).append(session.partition)
        told = untold.pop("", [])
        if not untold:
            self.trouble.clear(Cause.LOG, "bounds")
        elif not told and len(untold) == 1:
            [detail] = untold
            self.trouble.set(Cause.LOG, detail, "bounds")
        else:
            each = "; ".join(f"{named(those)}: {detail}" for detail, those in untold.items())
            self.trouble.set(Cause.LOG, each, "bounds")

    def described(self, session: Session) -> None:
        """The log says where the partition begins and ends, so it has a leader, which answers."""
        session.untold = ""
        if session.leaderless:
            session.leaderless = False
            say(log, logging.INFO, "has a leader again", partition=session.partition)

    def stop(self, reason: str) -> None:
        """Stop folding, and report why; the events wait in the log. Only a restart ends it."""
        if not self.stopped:
            self.stopped = reason
            say(log, logging.ERROR, "consumption stopped", reason=reason)
            for session in self._sessions:
                self._sessions.park(session.partition)
                session.reason = reason
            self.not_asked(self._sessions)
        self.changed()

    def changed(self) -> None:
        """Publish at the end of this turn."""
        self._due = 0.0

    def waits(self, reason: str) -> None:
        """Say why nothing is published yet."""
        self.status = Status(False, (reason,), ())

    def drain(self) -> None:
        """Report `draining`."""
        self.status = replace(self.status, serving=False, reasons=("draining",))

    def publish(self, now: float) -> None:
        """Renew the status and the gauges, a few times a second."""
        if now < self._due:
            return
        self._due = now + INTERVAL_S
        self._look_at_bounds()
        self._tell()

    def _tell(self) -> None:
        sessions = sorted(self._sessions, key=lambda session: session.partition)
        broken = [f"{s.reason} (partition {s.partition})" for s in sessions if isinstance(s, Broken)]
        reasons = [*([self.stopped] if self.stopped else []), *broken]
        no_lease = [self._no_lease] if self._no_lease else []
        held = ranges(s.partition for s in sessions if isinstance(s, Reading) and s.held)
        away = [s.partition for s in sessions if s.leaderless]
        behind = [f"{Cause.LOG}: {bring_back(away)}"] if away else []
        behind += [f"open_transaction: the newest records of partitions {held} wait for it to end"] if held else []
        undelivered = {s.undelivered for s in sessions if isinstance(s, Reading) and s.undelivered}
        behind += [f"{Cause.DEAD_LETTERS}: {why}" for why in sorted(undelivered)]
        if removed := ranges(s.partition for s in sessions if isinstance(s, TakingUp) and s.removed):
            behind.append(f"namespace_removed: partitions {removed} wait: {REMOVED}")
        views = tuple(map(_view, sessions))
        self.status = Status(
            not reasons and not no_lease,
            tuple(dict.fromkeys((*reasons, *no_lease, *self.trouble.reasons(), *behind))),
            views,
            self.ahead_ms,
            self._workers,
        )
        phases = dict.fromkeys(Phase, 0)
        for view in views:
            phases[view.phase] += 1
        for phase, n in phases.items():
            self._metrics.partitions.labels(phase.value).set(n)
        self._lag = _show(self._metrics.lag, {v.partition: v.lag for v in views if v.lag is not None}, self._lag)
        offsets = {v.partition: v.next_offset or 0 for v in views}
        self._next_offset = _show(self._metrics.next_offset, offsets, self._next_offset)
        # Prometheus compares it with a clock of its own: by the slower of ours and the store's, none hides that a
        # partition stands still.
        as_of = {v.partition: (v.as_of_ms + min(0, self.ahead_ms)) / 1000 for v in views if v.as_of_ms}
        self._as_of = _show(self._metrics.as_of, as_of, self._as_of)
        self._metrics.cache_states.set(len(self._sessions.cache))
        self._metrics.queued_records.set(sum(len(s.pending) for s in sessions if isinstance(s, Reading)))


def phase_of(session: Session) -> Phase:
    """As operators see it."""
    match session:
        case TakingUp():
            return Phase.TAKING_UP
        case Claiming() | Reading() if session.unsure is not None:
            return Phase.UNSURE
        case Claiming():
            return Phase.CLAIMING
        case Reading():
            return Phase.FOLDING if session.verify is None else Phase.VERIFYING
        case Lost():
            return Phase.OWNERSHIP_LOST
        case _:
            return Phase.BROKEN


def why_waits(session: Session) -> str:
    """Why a partition is not folded, its newest records are not, or where its log ends is not known; else empty."""
    if session.reason:
        return session.reason
    if session.leaderless:
        return NO_LEADER
    if session.untold:
        silent = "the log does not say where it ends" if isinstance(session, Reading) else "the log does not answer"
        return f"{silent}: {session.untold}"
    held = isinstance(session, Reading) and session.held
    return "the newest records wait for an open transaction to end" if held else ""


def _view(session: Session) -> PartitionStatus:
    p = session.progress
    is_told = not (session.leaderless or session.untold)
    return PartitionStatus(
        partition=session.partition,
        phase=phase_of(session),
        reason=why_waits(session),
        next_offset=None if p is None else p.next_offset,
        end_offset=session.end if is_told else None,
        as_of_ms=None if p is None else p.as_of_ms,
        lineage=None if p is None else p.lineage,
        era=None if p is None else p.era,
        base=None if p is None else p.base,
        gaps=None if p is None else p.gaps,
        unfolded_from=_unfolded_from(session),
    )


def _unfolded_from(session: Session) -> int | None:
    p = session.progress
    if isinstance(session, Broken) and session.cause is BrokenReason.TOPIC_ID:
        return session.start
    if isinstance(session, Broken) and session.cause in WRITTEN_AGAIN and p is not None:
        return None
    return None if p is None else p.next_offset


def _show(gauge: Gauge, values: Mapping[int, float], shown: set[int]) -> set[int]:
    """Set a gauge by partition, and remove what it showed of others; the partitions that it shows now."""
    for partition, value in values.items():
        gauge.labels(partition).set(value)
    for partition in shown - values.keys():
        gauge.remove(partition)
    return set(values)
