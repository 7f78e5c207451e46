"""Every metric of the service, declared once with its unit and meaning. One registry an app, none at import. The texts,
and the comments that are headings, are those of docs/metrics.md.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from access import AccessDecision
from mimn.bundle.request_fields import RequestVector
from mimn.state import CorruptState, ForeignFingerprint, ForeignLayout, Keys, WrongUser
from process.log_lines import dropped
from process.tally import Count, CountedElsewhere, Counts, Tallies, Tally
from rtp.core.fold_progress import Status
from rtp.core.lingering import Lingering
from rtp.errors import DeadlineMissed, Draining, InvalidRequest, Overloaded, ScoringFailed, StateUnavailable

CONTENT_TYPE = CONTENT_TYPE_LATEST
_DIFFERENCE = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_CORRELATION = (-0.5, 0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_UNFORESEEN = "Internal"
_FAILURES = (ScoringFailed, DeadlineMissed, StateUnavailable, Overloaded, Draining, InvalidRequest)
"""What a request that has an arm may end with."""
KEPT_S = 1800.0
"""For how long the series of an arm and bundle that are assigned to no users stay: twice as long as an alert rule looks
back, so that no rule misses the end of what it counts."""
_END = b"# EOF\n"
_LATENCY_S = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class ArmMetrics:
    """The metrics of one arm with one bundle, looked up once."""

    state_of: Mapping[Status, Count]
    head_seconds: Tally
    known_items: Count
    unknown_items: Count
    failed: Mapping[str, Count]

    def count_failure(self, error: Exception) -> None:
        """Count a request that ended with `error` instead of scores."""
        self.failed.get(type(error).__name__, self.failed[_UNFORESEEN]).inc()


@dataclass(frozen=True, slots=True)
class ShadowMetrics:
    """The metrics of one shadow with one bundle."""

    seconds: Histogram
    difference: Histogram
    correlation: Histogram


class Metrics:
    """The metrics of one process. No label ever holds a user's or a caller's data."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        # Requests
        self.answers = Counts(
            "rtp_answers",
            "Answers of /predict and of requests refused before their path was read, by HTTP status and problem code "
            "(empty for 200).",
            ["status", "code"],
            registry=registry,
        )  # fmt: skip
        self.states = Counts(
            "rtp_states",
            "Scored requests by the state that the score rests on: warm, stale (newer events may be missing), cold (no "
            "events yet), unavailable (it could not be read in time).",
            ["status"],
            registry=registry,
        )
        self.partial = Counts(
            "rtp_partial_states", "Scored requests whose state may lack events.", registry=registry
        ).labels()
        self.unreadable = Counter(
            "rtp_unreadable_states",
            "Stored values that could not be used, by error: CorruptState, ForeignLayout, ForeignFingerprint, "
            "WrongUser.",
            ["error"],
            registry=registry,
        )
        for error in (CorruptState, ForeignLayout, ForeignFingerprint, WrongUser):
            self.unreadable.labels(error.__name__)
        self.store_errors = Counter(
            "rtp_store_errors",
            "Reads of a state for a request that failed, by error: StoreAway (not connected, or not asked because it "
            "was away a moment ago), StoreLate (no reply in time), StoreRefused (an error reply).",
            ["error"],
            registry=registry,
        )
        seconds = Tallies(
            "rtp_request_seconds",
            "Time from the first byte of a request to /predict to its answer, by status class: 2xx, 4xx, 5xx. Refusals "
            "that are given before the body is read do not count.",
            ["status"],
            buckets=_LATENCY_S,
            registry=registry,
        )  # fmt: skip
        self.store_seconds = Tallies(
            "rtp_store_seconds",
            "Time that a request waits for its state; failed reads do not count.",
            buckets=_LATENCY_S,
            registry=registry,
        ).labels()
        self.turn_seconds = Tallies(
            "rtp_turn_seconds",
            "Time that a request waits for the head, which scores one request at a time.",
            buckets=_LATENCY_S,
            registry=registry,
        ).labels()
        self.head_seconds = Tallies(
            "rtp_head_seconds",
            "Time to look the candidates up and run the head.",
            buckets=_LATENCY_S,
            registry=registry,
        ).labels()
        self.candidates = Counts("rtp_candidates", "Candidates scored.", registry=registry).labels()
        self.fields = Counts(
            "rtp_request_fields",
            "Scored requests by field: with a value that training did not see (unknown), without one (missing), with a "
            "number that was clipped to what training showed (beyond), or with a value that only another release of "
            "the rollout record reads (ignored).",
            ["field", "value"],
            registry=registry,
        )
        self._field_of: dict[tuple[str, str], Count] = {}
        self.in_flight = Gauge("rtp_in_flight", "Requests between acceptance and answer.", registry=registry)

        # Process
        self.tasks = Gauge(
            "rtp_tasks",
            "Tasks of the event loop: a few of its own, and one for each request in progress.",
            registry=registry,
        )
        CountedElsewhere(
            "rtp_log_lines_dropped",
            "Log lines that were not written, because the reader of stderr is too slow or gone.",
            dropped,
            registry=registry,
        )
        self.out_of_files = Counter(
            "rtp_out_of_files",
            "Seconds in which no open file was left: new connections are closed at once, or wait.",
            registry=registry,
        )

        # Store and progress
        self.store_up = Gauge(
            "rtp_store_up",
            "1 if progress was read from the store when it was last asked, in a cluster from every node; else 0: the "
            "store is away, late or refuses, or does not have the namespace as RTP knows it.",
            registry=registry,
        )
        self.sentinels_up = Gauge(
            "rtp_sentinels_up",
            "1 if a Sentinel named the store's master when they were last asked, and did not say that they are too few "
            "to replace it; else 0: no failover is followed, or none is made. NaN without Sentinels, and before they "
            "were asked.",
            registry=registry,
        )
        self.partition_age = Gauge(
            "rtp_oldest_partition_age_seconds",
            "Age of the as-of time of the partition that lags most; NaN if a partition was never caught up, or its age "
            "is unknown.",
            registry=registry,
        )
        self.partition_age.set(math.nan)
        self.clock_skew = Gauge(
            "rtp_clock_skew_seconds",
            "This process's clock less the store's; NaN until the store has told its time. How old states are is told "
            "by the store's.",
            registry=registry,
        )
        self.clock_skew.set(math.nan)
        self.as_of_ahead = Gauge(
            "rtp_as_of_ahead_seconds",
            "How far the furthest as-of time lies ahead of the store's clock; 0 if none does. One too far ahead is not "
            "believed, and states of its partition are stale.",
            registry=registry,
        )
        self.unreadable_progress = Counter(
            "rtp_unreadable_progress", "Progress records that could not be decoded.", registry=registry
        )

        # Bundles and releases
        self.bundle = Gauge(
            "rtp_bundle",
            "1 for the bundle that is served, with its namespace in the store and prefix there (RTP_REDIS__PREFIX).",
            ["name", "version", "state_namespace", "prefix"],
            registry=registry,
        )
        self.compiled_head = Gauge(
            "rtp_compiled_head",
            "1 for each release whose head is compiled, 0 for one whose head runs on onnxruntime, which costs more.",
            ["bundle"],
            registry=registry,
        )
        self.releases = Gauge(
            "rtp_release",
            "1 for each release that is loaded, by role: the name of its arm, `shadow:` and the name, or `standby` "
            "(loaded, and not asked).",
            ["bundle", "state_namespace", "role"],
            registry=registry,
        )  # fmt: skip
        self.releases_refused = Gauge(
            "rtp_release_refused", "1 for each release of the rollout record that this process could not load.",
            ["bundle"], registry=registry,
        )  # fmt: skip
        self.revision = Gauge(
            "rtp_rollout_revision", "Revision of the rollout record that is followed; 0 without one.", registry=registry
        )
        self.announced = Gauge(
            "rtp_announced",
            "1 if this process has said in the store what it has loaded, so that a rollout waits for it.",
            registry=registry,
        )
        self.record_up = Gauge(
            "rtp_rollout_up",
            "1 if the last look at the rollout record was good: read, or found absent before one was ever seen.",
            registry=registry,
        )

        # Arms and shadows
        self.arm_scored = Counts(
            "rtp_arm_scored", "Scored requests by arm, bundle, and what the score rests on.",
            ["arm", "bundle", "state"], registry=registry,
        )  # fmt: skip
        self.arm_failed = Counts(
            "rtp_arm_failed",
            "Requests that got no scores, by arm, bundle and error: ScoringFailed (the model failed, or gave a score "
            "that is not finite), DeadlineMissed, StateUnavailable, Overloaded, Draining, InvalidRequest, or Internal "
            "(a fault of the program). Without those that were refused before their user was known.",
            ["arm", "bundle", "error"],
            registry=registry,
        )
        self.arm_candidates = Counts(
            "rtp_arm_candidates",
            "Candidates scored by arm, bundle, and whether the bundle knows their item: known, unknown (all of these "
            "get the same vector in its place).",
            ["arm", "bundle", "item"],
            registry=registry,
        )
        self.arm_head_seconds = Tallies(
            "rtp_arm_head_seconds", "As rtp_head_seconds, by arm and bundle.", ["arm", "bundle"], buckets=_LATENCY_S,
            registry=registry,
        )  # fmt: skip
        self.shadow_seconds = Histogram(
            "rtp_shadow_seconds",
            "Time of a run of a shadow's head.",
            ["arm", "bundle"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.shadow_difference = Histogram(
            "rtp_shadow_abs_difference",
            "Mean absolute difference of a shadow's scores from the answer's, over a request's candidates.",
            ["arm", "bundle"],
            buckets=_DIFFERENCE,
            registry=registry,
        )
        self.shadow_correlation = Histogram(
            "rtp_shadow_rank_correlation",
            "Spearman's rank correlation of a shadow's scores with the answer's, over a request's candidates.",
            ["arm", "bundle"],
            buckets=_CORRELATION,
            registry=registry,
        )
        self.shadow_shed = Counts(
            "rtp_shadow_shed",
            "Requests that a shadow did not score, by reason: full (too many wait, RTP_SHADOW__MAX_PENDING), busy (no "
            "time is left, RTP_SHADOW__CPU_SHARE), or the error's name, such as ScoringFailed.",
            ["arm", "bundle", "reason"],
            registry=registry,
        )  # fmt: skip
        self._of_arm: dict[tuple[str, str], ArmMetrics] = {}
        self._of_shadow: dict[tuple[str, str], ShadowMetrics] = {}
        self._arms = Lingering[tuple[str, str]](KEPT_S)
        self._shadows = Lingering[tuple[str, str]](KEPT_S)

        # Reloads
        self.reloads = Counter(
            "rtp_bundle_reloads",
            "Reloads by result: taken_up, forced (without a look at the states), refused, timed_out.",
            ["result"],
            registry=registry,
        )  # fmt: skip
        for result in ("taken_up", "forced", "refused", "timed_out"):
            self.reloads.labels(result)
        self.hanging_loads = Gauge(
            "rtp_hanging_loads",
            "Loads of a bundle that were given up and have not ended; a graph among them that never ends uses a core.",
            registry=registry,
        )

        # Keys and certificates
        denied = Counter(
            "rtp_denied",
            "Requests to either port that were denied (not in rtp_answers), by reason: no_key, bad_key, wrong_scope.",
            ["reason"],
            registry=registry,
        )
        self.denied = {kind: denied.labels(kind.value) for kind in AccessDecision if kind is not AccessDecision.GRANTED}
        self.certificate_expires = Gauge(
            "rtp_tls_certificate_expires_seconds",
            "Unix time at which the certificate of a listener ceases to be valid: http, admin. None without TLS.",
            ["listener"],
            registry=registry,
        )
        self.client_certificate_expires = Gauge(
            "rtp_tls_client_certificate_expires_seconds",
            "Unix time at which the certificate ceases to be valid with which this process connects to a server: "
            "store. Its file is read again every minute. None without such a certificate.",
            ["server"],
            registry=registry,
        )
        self.keys = Gauge("rtp_keys", "Keys in effect; 0 if no authentication is required.", registry=registry)
        self.keys_refused = Gauge(
            "rtp_keys_refused",
            "1 while the file of keys cannot be used: the keys before stay in effect, revoked ones among them.",
            registry=registry,
        )
        self.key_reads = Counter(
            "rtp_key_reads",
            "Changes of the file of keys, by result: taken_up, or refused (the keys before stay in effect).",
            ["result"], registry=registry,
        )  # fmt: skip
        for result in ("taken_up", "refused"):
            self.key_reads.labels(result)
        # Children of the hot path, looked up once.
        self.state_of = {status: self.states.labels(status.value) for status in Status}
        self.ok = self.answers.labels("200", "")
        self.seconds_of = {kind: seconds.labels(f"{kind}xx") for kind in (2, 4, 5)}

    def of_arm(self, arm: str, bundle: str) -> ArmMetrics:
        """The metrics of an arm with a bundle, `<name>/<version>`. Ask for them before there are requests: an increase
        is seen if it begins at 0."""
        if (known := self._of_arm.get((arm, bundle))) is None:
            states = {status: self.arm_scored.labels(arm, bundle, status.value) for status in Status}
            known_items, unknown_items = (
                self.arm_candidates.labels(arm, bundle, item) for item in ("known", "unknown")
            )
            errors = (*(error.__name__ for error in _FAILURES), _UNFORESEEN)
            known = self._of_arm[arm, bundle] = ArmMetrics(
                states,
                self.arm_head_seconds.labels(arm, bundle),
                known_items,
                unknown_items,
                {error: self.arm_failed.labels(arm, bundle, error) for error in errors},
            )
        return known

    def of_shadow(self, arm: str, bundle: str) -> ShadowMetrics:
        """The metrics of a shadow with a bundle, as `of_arm`."""
        if (known := self._of_shadow.get((arm, bundle))) is None:
            self.shadow_shed.labels(arm, bundle, ScoringFailed.__name__)
            families = (self.shadow_seconds, self.shadow_difference, self.shadow_correlation)
            known = self._of_shadow[arm, bundle] = ShadowMetrics(*(one.labels(arm, bundle) for one in families))
        return known

    def count_shed(self, arm: str, bundle: str, reason: str) -> None:
        """Count a request that a shadow did not score."""
        self.of_shadow(arm, bundle)
        self.shadow_shed.labels(arm, bundle, reason).inc()

    def keep(self, arms: Collection[tuple[str, str]], shadows: Collection[tuple[str, str]], now_s: float) -> None:
        """Remove the series of each arm and shadow, with its bundle, that was not among these for `KEPT_S` seconds.
        Call it often: requests in flight count for arms that have ended, whose series begin again then."""
        of_arms = (self.arm_scored, self.arm_failed, self.arm_candidates, self.arm_head_seconds)
        for ended in self._arms.over(self._of_arm, arms, now_s):
            del self._of_arm[ended]
            for family in of_arms:
                family.remove(*ended)
        of_shadows = (self.shadow_seconds, self.shadow_difference, self.shadow_correlation, self.shadow_shed)
        for ended in self._shadows.over(self._of_shadow, shadows, now_s):
            del self._of_shadow[ended]
            for measured in of_shadows:
                measured.remove(*ended)

    def serves(self, name: str, version: str, keys: Keys) -> None:
        """Show that a bundle is served, with `keys` to its states, and no other one."""
        self.bundle.clear()
        self.bundle.labels(name, version, keys.namespace, keys.prefix).set(1)

    def count_fields(self, vector: RequestVector) -> None:
        """Count each field of a scored request whose value is unknown to the model, missing, clipped or ignored."""
        for value, names in (
            ("unknown", vector.unknown),
            ("missing", vector.missing),
            ("beyond", vector.beyond),
            ("ignored", vector.ignored),
        ):
            for name in names:
                child = self._field_of.get((name, value))
                if child is None:
                    child = self._field_of[name, value] = self.fields.labels(name, value)
                child.inc()

    def count_key_read(self, taken_up: bool) -> None:
        """Count a change of the file of keys."""
        self.key_reads.labels("taken_up" if taken_up else "refused").inc()

    async def render(self) -> bytes:
        """All metrics in the OpenMetrics text format. Requests go on between two of them: to write all takes as long as
        many requests."""
        parts = []
        for metric in self.registry.collect():
            text: bytes = generate_latest(_Alone(metric))  # type: ignore[no-untyped-call] # the package has none here
            parts.append(text.removesuffix(_END))
            await asyncio.sleep(0)
        return b"".join((*parts, _END))


@dataclass(frozen=True, slots=True)
class _Alone:
    """One metric as a registry."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric
