"""Every metric of UIC, declared once with its unit and meaning. No label ever holds a user, an item or a key. The
texts, and the comments that are headings, are those of docs/metrics.md.

The metrics are an object, not module globals, so that an import registers nothing and each test has its own registry.
"""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from access import AccessDecision
from process.log_lines import dropped
from process.tally import CountedElsewhere, Tallies
from uic.core.event import Reason

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_DELAY_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30, 120, 600, 3600, 86400)


class Metrics:
    """UIC's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        r = self.registry

        # Process
        ProcessCollector(registry=r)  # process_*: CPU, memory, open files, start time
        CountedElsewhere(
            "uic_log_lines_dropped",
            "Log lines that were not written, because the reader of stderr is too slow or gone.",
            dropped,
            registry=r,
        )
        self.bundle = Info(
            "uic_bundle",
            "The bundle that this process runs: name, version, fingerprint (first 16 hex digits); its namespace in the "
            "store (state_namespace) and prefix there (UIC_REDIS__PREFIX); the topic of events (UIC_KAFKA__TOPIC).",
            registry=r,
        )
        self.ready = Gauge(
            "uic_ready",
            "1 while /readyz answers 200, else 0: while the worker holds no lease, folds no more, "
            "while a partition waits for an operator, and while it drains.",
            registry=r,
        )

        # Records
        self.records = Counter(
            "uic_records",
            "Records absorbed and committed, by outcome: folded, erased, dead_letter, already_folded "
            "(at or below the state's last offset), erased_later (skipped by a replay), ignored (the bundle gives the "
            "event's action weight 0).",
            ["outcome"],
            registry=r,
        )
        # Looked up once: small batches come a thousand times a second.
        self.records_of = {
            outcome: self.records.labels(outcome)
            for outcome in ("folded", "erased", "dead_letter", "already_folded", "erased_later", "ignored")
        }
        self.dead_letters = Counter(
            "uic_dead_letters",
            "Records that could not be folded and that the dead-letter topic has acknowledged, by reason "
            "(docs/runbooks/dead-letters.md explains each).",
            ["reason"],
            registry=r,
        )
        for reason in Reason:
            self.dead_letters.labels(reason.value)
        self.cut_dead_letters = Counter(
            "uic_cut_dead_letters",
            "Dead letters, of those that were acknowledged, that lack a part of their record: it is larger than the "
            "dead-letter topic (max.message.bytes) or UIC_KAFKA__MAX_REQUEST_BYTES allows. None can be replayed.",
            registry=r,
        )
        self.unknown_fields = Counter(
            "uic_events_with_unknown_fields",
            "Committed events with protobuf fields that this version of UIC does not know, and ignores.",
            registry=r,
        )
        self.event_to_commit = Tallies(
            "uic_event_to_commit_seconds",
            "Time from a record's timestamp to the commit of its state, for the oldest record of each batch.",
            buckets=_DELAY_SECONDS,
            registry=r,
        ).labels()

        # Batches
        self.stage = Tallies(
            "uic_stage_seconds",
            "Time that a round (batches of several partitions, handled together) spends in each step of the protocol: "
            "decode (with the delivery of dead letters), load, fold, commit.",
            ["stage"],
            buckets=_SECONDS,
            registry=r,
        )
        self.batch_records = Tallies(
            "uic_batch_records", "Records per committed batch.", buckets=(1, 4, 16, 64, 256, 1024, 4096), registry=r
        ).labels()
        self.batch_states = Tallies(
            "uic_batch_states", "States written per committed batch.", buckets=(1, 4, 16, 64, 128, 256), registry=r
        ).labels()
        self.waves = Counter(
            "uic_waves",
            "The most events that one user has in a round, added up over all rounds. Where the step is not compiled, "
            "this is the number of runs of the step graph. A compiled step folds a round in one call.",
            registry=r,
        )
        self.states_cached = Counter("uic_states_cached", "States that batches found in the cache.", registry=r)
        self.states_loaded = Counter(
            "uic_states_loaded",
            "States that batches did not find in the cache and asked the store for, whether or not it has them.",
            registry=r,
        )
        self.cache_states = Gauge("uic_cache_states", "States in the cache.", registry=r)
        self.queued_records = Gauge("uic_queued_records", "Fetched records that wait to be folded.", registry=r)

        # Protocol
        self.commits = Counter(
            "uic_commits",
            "Commits to the store, by outcome: ok, unknown (no answer), arrived_before (an earlier try was written "
            "after all), ownership_lost (another worker wrote), store_behind (the store lost writes).",
            ["outcome"],
            registry=r,
        )
        self.commits_ok = self.commits.labels("ok")
        self.take_ups = Counter(
            "uic_take_ups",
            "Partitions taken up, by what was found: new (no progress), go_on, gap (the log starts above progress), "
            "continued (an operator accepted the log), rebuilt (an operator had it folded again from the start), "
            "broken (waits for an operator).",
            ["decision"],
            registry=r,
        )
        self.take_ups.labels("new")
        self.rewinds = Counter(
            "uic_rewinds", "Times that the store had lost writes; their records are folded again.", registry=r
        )
        self.gaps = Counter(
            "uic_data_gaps",
            "Ranges of the log that retention removed before they were folded. States that lack their events are "
            "partial.",
            registry=r,
        )
        self.unreadable_states = Counter(
            "uic_unreadable_states",
            "Unreadable stored values that were set aside, by error: corrupt, foreign_layout, foreign_fingerprint, "
            "wrong_user.",
            ["error"],
            registry=r,
        )
        for error in ("corrupt", "foreign_layout", "foreign_fingerprint", "wrong_user"):
            self.unreadable_states.labels(error)
        self.lost_states = Counter(
            "uic_lost_states",
            "States that were gone from the store when an event of their user came: started again, partial.",
            registry=r,
        )
        self.non_finite = Counter(
            "uic_non_finite_steps",
            "Events for which the step gave a non-finite number: the state is kept, the event goes to the dead "
            "letters.",
            registry=r,
        )
        self.offset_commits = Counter(
            "uic_offset_commits",
            "Offset commits for lag tools, by outcome: ok, failed.",
            ["outcome"],
            registry=r,
        )
        self.store_failures = Counter(
            "uic_store_failures",
            "Calls to the store without a usable answer, by operation: start, read_progress, load, commit, read_back, "
            "time.",
            ["operation"],
            registry=r,
        )
        self.sentinels_up = Gauge(
            "uic_sentinels_up",
            "1 if a Sentinel named the store's master when they were last asked, and did not say that they are too few "
            "to replace it; else 0: no failover is followed, or none is made, and if none named one, a process that "
            "starts waits. NaN without Sentinels, and before they were asked.",
            registry=r,
        )
        self.sentinels_up.set(math.nan)
        self.trouble = Gauge(
            "uic_trouble",
            "1 while something is wrong with which this worker goes on to serve, else 0. The cause is the word before "
            "the colon in /readyz: store_unavailable, clock_unavailable, clock_skew, sentinels_unavailable, "
            "store_evicts, log_unavailable, log_compacted, erasures_unavailable, dead_letter_topic_unavailable, "
            "publishing_fails.",
            ["cause"],
            registry=r,
        )

        # Partitions
        self.lag = Gauge(
            "uic_lag_records",
            "Records of the log that are not folded: those behind progress, all that another log has than the one that "
            "was folded, or those behind the place where a log lost its tail. Absent while that place is not known, "
            "while the partition has no leader or its leader does not answer, and while the thread that reads the log "
            "is blocked.",
            ["partition"],
            registry=r,
        )
        self.next_offset = Gauge(
            "uic_next_offset",
            "Offset after the last one that progress covers; 0 while progress is not known.",
            ["partition"],
            registry=r,
        )
        self.as_of = Gauge(
            "uic_as_of_timestamp_seconds",
            "As-of time of the partition's progress: when it was last known to be caught up, by the slower of this "
            "process's clock and the store's.",
            ["partition"],
            registry=r,
        )
        self.clock_skew = Gauge(
            "uic_clock_skew_seconds",
            "This process's clock less the store's, when last compared: above 0 if this clock is ahead.",
            registry=r,
        )
        self.partitions = Gauge(
            "uic_partitions",
            "Partitions assigned to this process, by status: taking_up, claiming, verifying, folding, unsure (a commit "
            "has no answer yet), ownership_lost, broken (waits for an operator).",
            ["status"],
            registry=r,
        )
        self.topic_partitions = Gauge(
            "uic_topic_partitions", "Partitions of the event topic, which all workers share.", registry=r
        )

        # Ports
        self.rpcs = Counter(
            "uic_rpcs", "gRPC calls answered, by method and status code.", ["method", "code"], registry=r
        )
        self.rpc_seconds = Histogram(
            "uic_rpc_seconds", "Time to answer a gRPC call, by method.", ["method"], buckets=_SECONDS, registry=r
        )
        denied = Counter(
            "uic_denied",
            "Rejected gRPC and admin calls (not in uic_rpcs), by reason: no_key, bad_key, wrong_scope.",
            ["reason"],
            registry=r,
        )
        self.denied = {kind: denied.labels(kind.value) for kind in AccessDecision if kind is not AccessDecision.GRANTED}
        self.malformed = Counter(
            "uic_malformed_requests",
            "Calls whose bytes are not the method's message, by port: grpc. They are not logged. Requests that are not "
            "HTTP, and connections that end before a request, are neither counted nor logged.",
            ["port"],
            registry=r,
        )
        self.watches = Gauge(
            "uic_watches",
            "Open streams that follow the health on the gRPC port; at UIC_GRPC__MAX_WATCHES more are refused.",
            registry=r,
        )
        self.certificate_expires = Gauge(
            "uic_tls_certificate_expires_seconds",
            "Unix time at which the certificate of a listener ceases to be valid: grpc, admin. None without TLS.",
            ["listener"],
            registry=r,
        )
        self.client_certificate_expires = Gauge(
            "uic_tls_client_certificate_expires_seconds",
            "Unix time at which the certificate ceases to be valid with which this process connects to a server: "
            "kafka, store. Its file is read again every minute. None without such a certificate.",
            ["server"],
            registry=r,
        )
        self.keys = Gauge("uic_keys", "Keys in effect; 0 if no keys are configured.", registry=r)
        self.keys_refused = Gauge(
            "uic_keys_refused",
            "1 while the key file cannot be used: the earlier keys stay in effect, revoked ones among them.",
            registry=r,
        )
        self.key_reads = Counter(
            "uic_key_reads",
            "Changes of the key file, by result: taken_up, or refused (the earlier keys stay in effect).",
            ["result"],
            registry=r,
        )
        for result in ("taken_up", "refused"):
            self.key_reads.labels(result)
        self.published = Counter("uic_published_events", "Events written to the log through gRPC.", registry=r)
