"""What the fold says about itself: whether it serves, what is degraded, and the gauges of its partitions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from prometheus_client import Gauge

from uic.core.ports import (
    BrokersSilent,
    DeadLettersAway,
    ErasuresAway,
    LogTrouble,
    PublishingAway,
    ReadRefused,
    TopicAway,
    TopicCompacted,
)
from uic.core.start_position import WRITTEN_AGAIN, BrokenReason
from uic.core.status import STARTING, PartitionStatus, Phase, Status
from uic.core.topics import bring_back, erased_topic, named, ranges
from uic.errors import StoreUnavailable
from uic.fold.session import Broken, Claiming, Lost, Reading, Session, Sessions, TakingUp
from uic.logs import say
from uic.metrics import Metrics

log = logging.getLogger("uic.fold.health")

INTERVAL_S = 0.2
SKEW_MS = 2000
"""By how much our clock and the store's may differ, as the alert `ClockSkew` has it."""
AGREE_MS = 1500
"""Within what they agree again: less, or a difference of about `SKEW_MS` would be logged again and again."""
DEAD_LETTERS_AWAY = "dead_letter_topic_unavailable"
NO_LEADER = "has no leader: bring its replicas back"
"""Why a partition waits that no broker leads."""
REMOVED = "the namespace is being removed; if that was interrupted, `ctr namespaces drop` finishes it"
"""Why partitions wait that have a removal's mark."""
LOG = {"topic", "bounds", "fetches", "log", "brokers", "commits"}
"""What can be degraded of the log."""
ERASURES = {"erased_topic", "erasures"}
"""What can be degraded of the notes of erasures: their topic is looked at now and then, and read when one is needed."""


class Health:
    """Owned by the fold thread, except for `status`, which is replaced whole and may be read from any."""

    def __init__(self, topic: str, sessions: Sessions, metrics: Metrics, retry_interval_s: float) -> None:
        """No lease yet. `topic` is the log's."""
        self._topic = topic
        self._sessions = sessions
        self._metrics = metrics
        self._retry_interval_s = retry_interval_s
        self._degraded: dict[str, str] = {}
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

    def degrade(self, what: str, reason: str) -> None:
        """`what` does not work, which is no reason to stop serving. The status says so at once: what is left of the
        turn may wait for a store that hangs, several times."""
        new = what not in self._degraded
        self._degraded[what] = reason
        if new:
            self._tell()

    def recover(self, what: str) -> bool:
        """`what` works; True if it did not before."""
        return self._degraded.pop(what, None) is not None

    def store_failed(self, operation: str, error: StoreUnavailable, sessions: Iterable[Session], now: float) -> None:
        """The store did not answer: try again later."""
        self._metrics.store_failures.labels(operation).inc()
        if "store" not in self._degraded:
            say(log, logging.WARNING, "store unavailable", operation=operation, detail=error.detail)
        self.degrade("store", f"store_unavailable: {error.detail}")
        for session in sessions:
            session.due = now + self._retry_interval_s
            session.unanswered = True

    def store_answered(self, sessions: Iterable[Session] = ()) -> None:
        """The store was asked, and answered for these. It works, unless a commit has no answer, because a store that
        refuses writes still answers reads, or a partition has none, because a cluster has several servers."""
        if "store" not in self._degraded:
            return
        for session in sessions:
            session.unanswered = False
        for s in self._sessions:
            if s.unanswered or s.unclaimed or (isinstance(s, Claiming | Reading) and s.unsure):
                return
        self.recover("store")
        say(log, logging.INFO, "store available again")

    def clock_failed(self, error: StoreUnavailable, now: float) -> None:
        """The store did not tell its time. If it is there and answers all else, that is a trouble of its own: states
        are stored, and how recent they are cannot be told."""
        if not error.answered:
            self.store_failed("time", error, [], now)
            return
        self._metrics.store_failures.labels("time").inc()
        if "clock" not in self._degraded:
            say(log, logging.WARNING, "clock unavailable", detail=error.detail)
        self.degrade("clock", f"clock_unavailable: {error.detail}")
        self.store_answered()

    def clock_answered(self, ahead_ms: int) -> None:
        """The store told its time. A worker without partitions asks it nothing else. `ahead_ms`: our clock less the
        store's."""
        if self.recover("clock"):
            say(log, logging.INFO, "clock available again")
        self.ahead_ms = ahead_ms
        if abs(ahead_ms) > (AGREE_MS if "skew" in self._degraded else SKEW_MS):
            apart = f"{abs(ahead_ms) / 1000:.0f} s {'ahead of' if ahead_ms > 0 else 'behind'} the store's"
            if "skew" not in self._degraded:
                say(log, logging.WARNING, "clocks disagree", detail=f"this worker's clock is {apart}")
            self.degrade("skew", f"clock_skew: this worker's clock is {apart}: set the one that is wrong")
        elif self.recover("skew"):
            say(log, logging.INFO, "clocks agree again")
        self.store_answered()

    def sentinels_say(self, trouble: str | None) -> None:
        """`trouble` as `StateStore.sentinels`."""
        if trouble:
            if "sentinels" not in self._degraded:
                say(log, logging.WARNING, "the Sentinels ensure no failover", detail=trouble)
            self.degrade("sentinels", f"sentinels_unavailable: {trouble}")
        elif self.recover("sentinels"):
            say(log, logging.INFO, "the Sentinels ensure failovers again")

    def eviction_says(self, trouble: str) -> None:
        """`trouble` as `StateStore.evicts`."""
        if trouble:
            if "eviction" not in self._degraded:
                say(log, logging.WARNING, "the store may evict states", detail=trouble)
            self.degrade("eviction", f"store_evicts: {trouble}")
        elif self.recover("eviction"):
            say(log, logging.INFO, "the store evicts no states again")

    def hear(self, message: LogTrouble) -> None:
        """Something begins or ends to be wrong with the log."""
        match message:
            case TopicAway(""):
                self.log_answered("topic")
            case TopicAway(detail):
                self.log_failed("topic", f"topic {self._topic} {detail}")
            case ErasuresAway(""):
                self.erasures_answered("erased_topic")
            case ErasuresAway(detail):
                self.erasures_failed("erased_topic", f"topic {erased_topic(self._topic)} {detail}")
            case DeadLettersAway(detail):
                self._dead_letters_away(detail)
            case TopicCompacted(policy):
                self._log_compacted(policy)
            case PublishingAway(detail):
                self._publishing_away(detail)
            case ReadRefused(""):
                self.log_answered("fetches")
            case ReadRefused(detail):
                self.log_failed("fetches", detail)
            case BrokersSilent(""):
                self.log_answered("brokers")
            case BrokersSilent(detail):
                self.log_failed("brokers", detail)

    def log_failed(self, what: str, detail: str) -> None:
        """A part of the log does not answer: `what` is the `topic`, the `bounds` of partitions, `fetches` of records,
        `commits` of offsets, all `brokers`, or the whole `log`."""
        parts = LOG if what == "brokers" else {what}  # the silence of all says no more than that of a part did
        if not self._degraded.keys() & parts:
            say(log, logging.WARNING, "log unavailable", what=what, detail=detail)
        self.degrade(what, f"log_unavailable: {detail}")

    def log_answered(self, *what: str) -> None:
        """Each part named in `what` answers again."""
        recovered = {one for one in what if self.recover(one)}
        if recovered and not self._degraded.keys() & LOG:
            say(log, logging.INFO, "log available again")

    def holds_lease(self, workers: Iterable[str]) -> None:
        """This worker holds a lease, as these do, itself included."""
        if self._no_lease:
            self.changed()
        self._no_lease, self._workers = "", tuple(sorted(workers))

    def no_lease(self, detail: str) -> None:
        """This worker has given its lease up."""
        self._no_lease, self._workers = f"no_lease: {detail}, so the others have its partitions", ()
        self.changed()

    def commits_refused(self, detail: str) -> None:
        """The brokers let this user commit no offsets."""
        self.log_failed("commits", detail)

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
            self.log_answered("bounds")
        elif not told and len(untold) == 1:
            self.log_failed("bounds", *untold)
        else:
            self.log_failed("bounds", "; ".join(f"{named(those)}: {detail}" for detail, those in untold.items()))

    def described(self, session: Session) -> None:
        """The log says where the partition begins and ends, so it has a leader, which answers."""
        session.untold = ""
        if session.leaderless:
            session.leaderless = False
            say(log, logging.INFO, "has a leader again", partition=session.partition)

    def erasures_failed(self, what: str, detail: str) -> None:
        """Notes of erasures are away, as far as `what` tells: their topic, or a partition that waits for them."""
        if not self._degraded.keys() & ERASURES:
            say(log, logging.WARNING, "erasures cannot be read", detail=detail)
        self.degrade(what, f"erasures_unavailable: {detail}")

    def erasures_answered(self, what: str) -> None:
        """They are not, as far as `what` tells."""
        if self.recover(what) and not self._degraded.keys() & ERASURES:
            say(log, logging.INFO, "erasures can be read again")

    def _dead_letters_away(self, detail: str) -> None:
        """The dead-letter topic is not there; empty: it is, or is again. The first bad record stalls its partition."""
        if detail:
            say(log, logging.WARNING, "dead letters cannot be written", detail=detail)
            self.degrade("dead_letters", f"{DEAD_LETTERS_AWAY}: {detail}")
        elif self.recover("dead_letters"):
            say(log, logging.INFO, "dead letters can be written again")

    def _publishing_away(self, detail: str) -> None:
        """What is published through gRPC does not reach the log; empty: it does again."""
        self._metrics.publishing_failing.set(bool(detail))
        if not detail:
            if self.recover("publishing"):
                say(log, logging.INFO, "publishing works again")
            return
        if "publishing" not in self._degraded:
            say(log, logging.WARNING, "publishing fails", detail=detail)
        self.degrade("publishing", f"publishing_fails: {detail}")

    def _log_compacted(self, policy: str) -> None:
        """The topic's cleanup.policy removes events from within the log; empty: it does not, or not any more."""
        self._metrics.topic_compacted.set(bool(policy))
        if policy:
            say(log, logging.ERROR, "log compacted", topic=self._topic, cleanup_policy=policy)
            self.degrade(
                "policy",
                f"log_compacted: topic {self._topic} has cleanup.policy {policy}, which removes events before and "
                "after they are folded: set it to delete",
            )
        elif self.recover("policy"):
            say(log, logging.INFO, "log no longer compacted", topic=self._topic)

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

    def _degradations(self) -> list[str]:
        """Why something does not work, each reason once: partitions that wait for the notes of erasures have no other
        one than that their topic is away, where it is."""
        explained = "erasures" if "erased_topic" in self._degraded else None
        return [reason for what, reason in self._degraded.items() if what != explained]

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
        behind = [f"log_unavailable: {bring_back(away)}"] if away else []
        behind += [f"open_transaction: the newest records of partitions {held} wait for it to end"] if held else []
        undelivered = {s.undelivered for s in sessions if isinstance(s, Reading) and s.undelivered}
        behind += [f"{DEAD_LETTERS_AWAY}: {why}" for why in sorted(undelivered)]
        if removed := ranges(s.partition for s in sessions if isinstance(s, TakingUp) and s.removed):
            behind.append(f"namespace_removed: partitions {removed} wait: {REMOVED}")
        views = tuple(map(_view, sessions))
        self.status = Status(
            not reasons and not no_lease,
            tuple(dict.fromkeys((*reasons, *no_lease, *self._degradations(), *behind))),
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
        self._metrics.erasures_unavailable.set(bool(self._degraded.keys() & ERASURES))
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
