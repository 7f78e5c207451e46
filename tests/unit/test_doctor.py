"""The doctor's checks, each for each verdict that it can give, and the report that they make."""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.bundle import load_bundle
from mimn.state import Progress, partition_of
from support.bundles import FIXTURES
from support.releases import begun, release
from uic.core import deployment
from uic.core.deployment import Finding, Severity, TopicFacts
from uic.core.kafka_tools import KafkaTools
from uic.core.start_position import BrokenReason
from uic.log.topic_reader import LogRecord
from uic.settings import BundleSettings, FoldSettings, KafkaSettings, RedisSettings, UicSettings
from uic.tools.doctor import clocks, installation, log_checks, namespace_checks, store_checks, traffic, versions
from uic.tools.doctor import command as doctor
from uic.tools.doctor.command import report
from uic.tools.doctor.diagnosis import Facts, diagnose
from uic.tools.doctor.installation import Library, Model, gather_libraries, gather_model
from uic.tools.doctor.log_facts import Log, newest_of
from uic.tools.doctor.samples import Sample
from uic.tools.doctor.store_checks import StoreFacts
from uic.tools.doctor.store_facts import Store, meta_of
from uic.tools.doctor.traffic import Newest, Written
from uic.tools.in_service import Answering, InService

OK, WARN, FAIL = Severity.OK, Severity.WARN, Severity.FAIL
N = 64
NOW_MS = 1_700_000_000_000
TOOLS = KafkaTools("h:9092")
STORE = StoreFacts(
    server="valkey", version="9.1.2", policy="noeviction", max_bytes=0, used_bytes=1 << 20, append_only=True,
    snapshots="", clustered=False, role="master", clock_ahead_s=0.001,
)  # fmt: skip
RIGHTS = frozenset({"DESCRIBE", "READ", "WRITE"})
EVENTS = TopicFacts(
    name="behavior-events",
    partitions=N,
    replicas=3,
    leaderless=(),
    rights=RIGHTS,
    config={
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "min.insync.replicas": "2",
        "max.message.bytes": "1048588",
    },
)
DEAD = TopicFacts(
    name="behavior-events.dlq",
    partitions=4,
    replicas=3,
    leaderless=(),
    rights=RIGHTS,
    config={"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": "2097152"},
)
ERASED = TopicFacts(
    name="behavior-events.erased",
    partitions=N,
    replicas=3,
    leaderless=(),
    rights=RIGHTS,
    config={"cleanup.policy": "compact", "min.insync.replicas": "2"},
)


def store(**changes: Any) -> StoreFacts:
    return replace(STORE, **changes)


def topic(base: TopicFacts = EVENTS, *, config: dict[str, str] | None = None, **changes: Any) -> TopicFacts:
    return replace(base, config=dict(base.config or {}) | (config or {}), **changes)


def silent(base: TopicFacts) -> TopicFacts:
    return replace(base, config=None)


def rights_finding(
    events: Set[str] | None = RIGHTS, dead: Set[str] | None = RIGHTS, erased: Set[str] | None = RIGHTS
) -> Finding:
    def having(base: TopicFacts, rights: Set[str] | None) -> TopicFacts:
        return replace(base, rights=None if rights is None else frozenset(rights))

    return log_checks.topic_rights(
        [
            (having(EVENTS, events), log_checks.EVENTS_USES),
            (having(DEAD, dead), log_checks.DEAD_LETTERS_USES),
            (having(ERASED, erased), log_checks.ERASED_USES),
        ]
    )


def sample(right: int, wrong: int = 0, keyless: int = 0) -> list[Sample]:
    key = b"user"
    here = partition_of(key, N)
    return [
        Sample(partition=here, keys=(key,) * right + (None, b"", b"\xff", b"k" * 129) * keyless),
        Sample(partition=(here + 1) % N, keys=(key,) * wrong),
    ]


def written(recent: int, retained: int = 0) -> Written:
    return Written(recent=recent, retained=max(recent, retained))


def as_of(age_s: int) -> Progress:
    """Progress up to offset 10."""
    ms = NOW_MS - age_s * 1000
    return Progress(partitions=64, next_offset=10, lineage=1, writer=1, base=0, as_of_ms=ms)


RECORD = begun(release("bazaar"))
META = {"partitions": "64", "topic": "behavior-events"}

CASES: list[tuple[Finding, Severity, str]] = [
    (store_checks.store_reachable("redis://h", None), OK, "answers"),
    (store_checks.store_reachable("redis://h", "refused"), FAIL, "UIC_REDIS__URL"),
    (store_checks.store_version(store(version="7.2.4", server="redis")), OK, "redis 7.2.4"),
    (store_checks.store_version(store(version="7.0.15")), FAIL, "upgrade"),
    (store_checks.store_version(store(version="unknown")), WARN, "7.2 or newer"),
    (store_checks.store_writable(store(), "single"), OK, "master"),
    (store_checks.store_writable(store(role="slave"), "single"), FAIL, "point UIC_REDIS__URL at the master"),
    (store_checks.store_writable(store(role="slave"), "sentinel"), FAIL, "the Sentinels name its master"),
    (store_checks.store_writes({}), OK, "written and deleted"),
    (store_checks.store_writes({"127.0.0.1:7000": "OutOfMemoryError: OOM"}), FAIL, "127.0.0.1:7000"),
    (deployment.store_policy("noeviction"), OK, "noeviction"),
    (deployment.store_policy("volatile-lru"), OK, "volatile-lru"),
    (deployment.store_policy("allkeys-lru"), FAIL, "noeviction"),
    (deployment.store_policy(None), WARN, "by hand"),
    (store_checks.store_memory(store()), OK, "no limit"),
    (store_checks.store_memory(store(max_bytes=100 << 20, used_bytes=79 << 20)), OK, "79%"),
    (store_checks.store_memory(store(max_bytes=100 << 20, used_bytes=80 << 20)), WARN, "maxmemory"),
    (store_checks.store_memory(store(max_bytes=100 << 20, used_bytes=98 << 20)), FAIL, "maxmemory"),
    (store_checks.store_persistence(store()), OK, "append-only"),
    (store_checks.store_persistence(store(append_only=False, snapshots="3600 1")), WARN, "appendonly yes"),
    (store_checks.store_persistence(store(append_only=False, snapshots="")), WARN, "whole log"),
    (store_checks.store_persistence(store(append_only=None, snapshots=None)), WARN, "by hand"),
    (store_checks.store_mode(store(), "single"), OK, "single"),
    (store_checks.store_mode(store(clustered=True), "cluster"), OK, "cluster"),
    (store_checks.store_mode(store(clustered=True), "single"), FAIL, "UIC_REDIS__MODE=cluster"),
    (store_checks.store_mode(store(), "cluster"), FAIL, "UIC_REDIS__MODE=single"),
    (clocks.clock("the store", 0.5), OK, "ahead of ours"),
    (clocks.clock("the store", -2.5), WARN, "chrony"),
    (clocks.clock("the store", 61), FAIL, "chrony"),
    (log_checks.broker_reachable("h:1", None, (4, 3)), OK, "Kafka 4.3"),
    (log_checks.broker_reachable("h:1", "KafkaTimeoutError", None), FAIL, "UIC_KAFKA__BOOTSTRAP_SERVERS"),
    (deployment.topic_exists("t", EVENTS, "create it"), OK, "64 partitions"),
    (deployment.topic_exists("t", None, "create it"), FAIL, "create it"),
    (deployment.topic_exists("t", None, "create it", "is refused"), FAIL, "whether it exists is not known"),
    (deployment.topic_exists("t", topic(leaderless=(1, 2)), "create it"), FAIL, "partitions 1-2 have no leader"),
    (deployment.partition_count(EVENTS, 64), OK, "64"),
    (deployment.partition_count(EVENTS, 32), FAIL, "UIC_KAFKA__PARTITIONS"),
    (log_checks.partitions_for_masters(EVENTS, 2), OK, "2 masters"),
    (log_checks.partitions_for_masters(EVENTS, 3), WARN, "fixed"),
    (deployment.log_cleanup(EVENTS, TOOLS), OK, "delete"),
    (deployment.log_cleanup(topic(config={"cleanup.policy": "compact"}), TOOLS), FAIL, "cleanup.policy=delete"),
    (deployment.log_cleanup(topic(config={"cleanup.policy": "compact,delete"}), TOOLS), FAIL, "cleanup.policy=delete"),
    (deployment.log_cleanup(silent(EVENTS), TOOLS), WARN, "by hand"),
    (deployment.log_retention(EVENTS, TOOLS), OK, "unlimited"),
    (deployment.log_retention(topic(config={"retention.ms": "604800000"}), TOOLS), WARN, "7.0 days"),
    (deployment.log_retention(topic(config={"retention.bytes": "1000"}), TOOLS), WARN, "1000 bytes"),
    (deployment.log_retention(silent(EVENTS), TOOLS), WARN, "by hand"),
    (log_checks.durability(EVENTS), OK, "3 replicas"),
    (log_checks.durability(topic(replicas=1)), WARN, "3 replicas"),
    (log_checks.durability(topic(config={"min.insync.replicas": "1"})), WARN, "min.insync.replicas=2"),
    (log_checks.durability(topic(config={"min.insync.replicas": "3"})), WARN, "stops all writes"),
    (log_checks.durability(silent(EVENTS)), WARN, "unknown"),
    (log_checks.in_sync(EVENTS), OK, "all in sync"),
    (log_checks.in_sync(topic(lagging={0: (2,), 5: (2,)})), WARN, "2 of 64 partitions"),
    (log_checks.in_sync(topic(lagging={0: (2,), 5: (1, 2)})), WARN, "brokers 1-2: 1 left"),
    (log_checks.erased_policy(ERASED, 64, TOOLS), OK, "compact"),
    (log_checks.erased_policy(ERASED, 32, TOOLS), FAIL, "--partitions 32"),
    (log_checks.erased_policy(topic(ERASED, config={"cleanup.policy": "delete"}), 64, TOOLS), FAIL, "compact"),
    (log_checks.erased_policy(silent(ERASED), 64, TOOLS), WARN, "by hand"),
    (log_checks.dead_letter_policy(DEAD, EVENTS, TOOLS), OK, "long enough"),
    (log_checks.dead_letter_policy(topic(DEAD, config={"cleanup.policy": "compact"}), EVENTS, TOOLS), FAIL, "delete"),
    (log_checks.dead_letter_policy(topic(DEAD, config={"retention.ms": "86400000"}), EVENTS, TOOLS), WARN, "1.0 days"),
    (log_checks.dead_letter_policy(topic(DEAD, config={"max.message.bytes": "1048588"}), EVENTS, TOOLS), WARN, "cut"),
    (log_checks.dead_letter_policy(silent(DEAD), EVENTS, TOOLS), WARN, "by hand"),
    (rights_finding(), OK, ""),
    (rights_finding(events={"READ"}), WARN, "no WRITE on behavior-events:"),
    (rights_finding(events={"WRITE"}), FAIL, "no READ on behavior-events:"),
    (rights_finding(dead={"WRITE"}), WARN, "no READ on behavior-events.dlq"),
    (rights_finding(dead={"READ"}), FAIL, "no WRITE on behavior-events.dlq"),
    (rights_finding(erased={"READ"}), WARN, "no WRITE on behavior-events.erased"),
    (rights_finding(erased={"WRITE"}), FAIL, "kafka-users.md"),
    (rights_finding(dead=None), WARN, ""),
    (log_checks.record_size(EVENTS, 1 << 20, TOOLS), OK, "1048588"),
    (log_checks.record_size(topic(config={"max.message.bytes": "1000"}), 1 << 20, TOOLS), WARN, "1048576"),
    (log_checks.record_size(silent(EVENTS), 1 << 20, TOOLS), WARN, "by hand"),
    (log_checks.partitioner([], N, 0.01), OK, "no record"),
    (log_checks.partitioner(sample(200), N, 0.01), OK, "all lie"),
    (log_checks.partitioner(sample(198, wrong=2), N, 0.01), WARN, "murmur2_random"),
    (log_checks.partitioner(sample(197, wrong=3), N, 0.01), FAIL, "murmur2_random"),
    (log_checks.partitioner(sample(99, keyless=2), N, 0.01), OK, "the newest 99 records with a key"),
    (log_checks.partitioner(sample(98, wrong=2, keyless=100), N, 0.01), FAIL, "2 of the newest 100 records with a key"),
    (log_checks.partitioner([], N, 0.01, "no answer"), WARN, "cannot be read"),
    (clocks.newest_event([], NOW_MS), OK, "future"),
    (clocks.newest_event([Sample(partition=0, keys=(), newest_ms=NOW_MS + 500)], NOW_MS), OK, "0.5 s"),
    (clocks.newest_event([Sample(partition=0, keys=(), newest_ms=NOW_MS + 5000)], NOW_MS), WARN, "chrony"),
    (clocks.newest_event([Sample(partition=0, keys=(), newest_ms=NOW_MS + 100_000)], NOW_MS), FAIL, "chrony"),
    (installation.bundle_loads("/b", "tiny/1", None), OK, "golden"),
    (installation.bundle_loads("/b", None, "sha256 differs"), FAIL, "UIC_BUNDLE__PATH"),
    (namespace_checks.namespace_meta(None, META, "ns"), OK, "first start"),
    (namespace_checks.namespace_meta(None, META, "ns", folded=8), FAIL, "8 partitions have progress"),
    (namespace_checks.namespace_meta(META, META, "ns"), OK, "partitions 64"),
    (namespace_checks.namespace_meta(META | {"partitions": "32"}, META, "ns"), FAIL, "generation"),
    (namespace_checks.namespace_meta(meta_of(b'{"partitions": 64, "topic": "behavior-events"}'), META, "ns"), OK, "64"),
    (namespace_checks.namespace_meta(meta_of(b"not JSON"), META, "ns"), FAIL, "generation"),
    (namespace_checks.namespace_meta(meta_of(b"[" * 100_000), META, "ns"), FAIL, "generation"),
    (namespace_checks.rollout_record(None, None, "ns", ""), OK, "RTP serves the bundle of its settings"),
    (namespace_checks.rollout_record(None, "version 2", "ns", ""), FAIL, "version 2"),
    (namespace_checks.rollout_record(RECORD, None, RECORD.serving.namespace, "V=1"), OK, "revision 1: shop/1 serves"),
    (namespace_checks.rollout_record(RECORD, None, "ns", "V=1"), WARN, "the settings name ns"),
    (namespace_checks.folded(RECORD.serving, None, "V=1"), OK, "shop/1"),
    (namespace_checks.folded(RECORD.serving, "8 of 8 partitions lag", "V=1"), FAIL, "8 of 8"),
    (namespace_checks.folded(RECORD.serving, None, "V=1", "t is not the log"), FAIL, "t is not the log"),
    (namespace_checks.same_log("ns", "t", {}), OK, "t"),
    (namespace_checks.same_log("ns", "t", dict.fromkeys(range(8), BrokenReason.TOPIC_ID)), FAIL, "8 by topic_id"),
    (namespace_checks.same_log("ns", "t", {0: BrokenReason.TRUNCATED}), FAIL, "docs/runbooks/broken-log.md"),
    (installation.library(Library("redis", ">=6.0", "8.1.0")), OK, "8.1.0"),
    (traffic.newest_records(Newest()), OK, "newest 0 records"),
    (traffic.newest_records(Newest(records=400, reasons={"item_zero": 4})), WARN, "4 item_zero"),
    (traffic.newest_records(Newest(records=400, reasons={"item_zero": 5})), FAIL, "dead-letters.md"),
    (traffic.unknown_items(Newest()), OK, "(0%)"),
    (traffic.unknown_items(Newest(events=100, unknown_items=10)), OK, "(10%)"),
    (traffic.unknown_items(Newest(events=100, unknown_items=11)), WARN, "recent data"),
    (traffic.unknown_items(Newest(events=100, unknown_items=51)), FAIL, "another catalog"),
    (traffic.dead_letters(None, None), WARN, "allow this user to read"),
    (traffic.dead_letters(None, None, "kafka-2:9092 (no answer for 9 s)"), WARN, ""),
    (traffic.dead_letters(written(0), written(0)), OK, "0 in the last 24 hours"),
    (traffic.dead_letters(written(1000), written(1)), OK, "(0.1%)"),
    (traffic.dead_letters(written(1000), written(10)), WARN, "(1.0%)"),
    (traffic.dead_letters(written(1000), written(190)), FAIL, "dead-letters list"),
    (traffic.dead_letters(written(0, 10_000), written(5)), OK, "for 10000 records"),
    (traffic.dead_letters(written(0, 0), written(5)), FAIL, "(100.0%)"),
    (clocks.worker_clocks(None, NOW_MS), OK, "future"),
    (clocks.worker_clocks(NOW_MS + 5000, NOW_MS), WARN, "chrony"),
    (clocks.worker_clocks(NOW_MS + 100_000, NOW_MS), FAIL, "chrony"),
    (traffic.as_of_times({}, {}, NOW_MS), OK, "0 partitions"),
    (traffic.as_of_times({0: as_of(59)}, {0: 10}, NOW_MS), OK, "1 partitions"),
    (traffic.as_of_times({0: as_of(7200)}, {0: 11}, NOW_MS), OK, "0 partitions"),
    (traffic.as_of_times({0: as_of(7200), 1: as_of(1), 2: as_of(90)}, {0: 10, 1: 10, 2: 9}, NOW_MS), WARN, "2 of 3"),
    (traffic.as_of_times({0: as_of(7200)}, {0: 10}, NOW_MS), WARN, "clocks.md"),
    (installation.library(Library("redis", ">=6.0", "5.9.9")), FAIL, "pip install 'redis>=6.0'"),
    (installation.library(Library("redis", ">=6.0", None)), FAIL, "pip install"),
    (installation.library(Library("kafka-python", "==3.0.12", "3.0.13")), FAIL, "pip install 'kafka-python==3.0.12'"),
]


@pytest.mark.parametrize(
    ("finding", "verdict", "says"),
    CASES,
    ids=[f"{i}-{f.check}-{v}".replace(" ", "_") for i, (f, v, _) in enumerate(CASES)],
)
def test_verdict(finding: Finding, verdict: Severity, says: str) -> None:
    assert finding.verdict is verdict
    assert says in f"{finding.seen} {finding.fix}"
    assert (finding.fix == "") == (verdict is OK)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("7.2.4", (7, 2, 4)), ("2.9.post0", (2, 9)), ("1.0rc1", (1, 0)), ("x", ())],
)
def test_version_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert versions.version_numbers(text) == numbers


SETTINGS = UicSettings(
    kafka=KafkaSettings(),
    redis=RedisSettings(url="redis://someone:secret@127.0.0.1:6379/0"),
    bundle=BundleSettings(path=Path("/bundle")),
)
HEALTHY = Facts(
    now_ms=NOW_MS,
    store=Store(nodes=(STORE,), meta=META),
    log=Log(
        version=(4, 3),
        topics={t.name: t for t in (EVENTS, DEAD, ERASED)},
        samples=tuple(sample(200)),
        newest=Newest(records=200, events=200),
        written={"behavior-events": written(5000), "behavior-events.dlq": written(0)},
    ),
    model=Model(name="tiny/1", fingerprint="ab" * 32),
    libraries=(Library("redis", ">=6.0", "8.1.0"),),
)


def test_a_healthy_deployment_is_ok_throughout() -> None:
    found = list(diagnose(HEALTHY, SETTINGS))
    assert [f for f in found if f.verdict is not OK] == []
    assert doctor.worst(found) is OK
    assert len(found) > 20


def test_what_cannot_be_reached_is_one_failure_and_the_rest_is_still_judged() -> None:
    facts = replace(HEALTHY, store=Store(error="refused"), log=Log(error="KafkaTimeoutError", topics={}))
    found = list(diagnose(facts, SETTINGS))
    assert [f.check for f in found if f.verdict is FAIL] == ["store", "broker"]
    assert any(f.check == "bundle" and f.verdict is OK for f in found)


def test_masters_that_could_not_be_asked_are_not_counted() -> None:
    check = "partitions per store master"
    assert check in [f.check for f in diagnose(HEALTHY, SETTINGS)]
    assert check not in [f.check for f in diagnose(replace(HEALTHY, store=Store(error="refused")), SETTINGS)]


def test_missing_topics_come_with_the_command_that_creates_them() -> None:
    facts = replace(HEALTHY, log=Log(version=(4, 3), topics={}))
    failed = {f.check: f.fix for f in diagnose(facts, SETTINGS) if f.verdict is FAIL}
    assert failed.keys() == {f"topic behavior-events{end}" for end in ("", ".dlq", ".erased")}
    assert "--partitions 64 --config cleanup.policy=delete" in failed["topic behavior-events"]
    assert "--partitions 64 --config cleanup.policy=compact" in failed["topic behavior-events.erased"]


def test_a_fifth_of_the_records_in_the_dead_letters_is_a_failure() -> None:
    log = replace(HEALTHY.log, written={"behavior-events": written(100), "behavior-events.dlq": written(19)})
    assert [f.check for f in diagnose(replace(HEALTHY, log=log), SETTINGS) if f.verdict is FAIL] == ["dead letters"]


@pytest.mark.parametrize(("share", "verdict"), [(0.01, FAIL), (0.5, WARN), (1.0, WARN)])
def test_misrouted_records_fail_above_the_share_at_which_uic_stops(share: float, verdict: Severity) -> None:
    facts = replace(HEALTHY, log=replace(HEALTHY.log, samples=tuple(sample(100, wrong=100))))
    settings = SETTINGS.model_copy(update={"fold": FoldSettings(misrouted_share=share)})
    [found] = [f for f in diagnose(facts, settings) if f.check == "partitioner of the producers"]
    assert found.verdict is verdict


@pytest.mark.parametrize(
    ("topic_id", "end", "reason"),
    [
        (b"a" * 16, 100, None),
        (bytes(16), 100, None),
        (b"b" * 16, 100, "topic_id"),
        (b"a" * 16, 99, "truncated"),
        (b"a" * 16, None, None),
    ],
)
def test_a_topic_that_is_not_the_log_that_was_folded_is_named(
    topic_id: bytes, end: int | None, reason: str | None
) -> None:
    progress = {
        p: Progress(partitions=N, next_offset=100, lineage=1, writer=1, base=0, as_of_ms=NOW_MS, topic_id=b"a" * 16)
        for p in range(N)
    }
    answering = Answering(RECORD.serving, None, EVENTS.name, progress)
    elsewhere = Answering(RECORD.serving, None, "another-topic", progress)
    facts = replace(
        HEALTHY,
        store=Store(
            nodes=(STORE,), meta=META, progress=progress, in_service=InService(RECORD, answering=(answering, elsewhere))
        ),
        log=replace(
            HEALTHY.log,
            topics=dict(HEALTHY.log.topics) | {EVENTS.name: replace(EVENTS, topic_id=topic_id)},
            ends={} if end is None else dict.fromkeys(range(N), end),
        ),
    )
    found = list(diagnose(facts, SETTINGS))
    folded, of_another, of_log = (f for f in found if f.check.startswith(("workers of ", "log of ")))
    assert of_another.verdict is OK
    for finding in (of_log, folded):
        assert finding.verdict is (OK if reason is None else FAIL)
        assert reason is None or f"{N} by {reason}" in finding.seen


def test_producers_of_a_topic_that_has_grown_are_judged_by_what_they_see() -> None:
    key = b"user"
    samples = (Sample(partition=partition_of(key, 3 * N), keys=(key,) * 100),)
    assert partition_of(key, 3 * N) != partition_of(key, N)
    topics = dict(HEALTHY.log.topics) | {EVENTS.name: replace(EVENTS, partitions=3 * N)}
    facts = replace(HEALTHY, log=replace(HEALTHY.log, topics=topics, samples=samples))
    failed = {f.check: f.fix for f in diagnose(facts, SETTINGS) if f.verdict is FAIL}
    assert "partitioner of the producers" not in failed
    assert "grown-topic.md" in failed[f"partitions of {EVENTS.name}"]


def test_newest_records_are_decoded_as_uic_would() -> None:
    def record(value: bytes | None, key: bytes | None = b"ann") -> LogRecord:
        return LogRecord("behavior-events", 0, 0, NOW_MS, key, value, ())

    def click(item: int) -> bytes:
        return BehaviorEvent(user_id="ann", item_id=item, event_time=NOW_MS).SerializeToString()

    bundle = load_bundle(Path(__file__).parents[1] / "fixtures" / "bundle_tiny" / "tiny" / "1")
    known = int(bundle.items.ids[0])
    values = [click(known), click(known + 1), click(0), b"\xff", None]
    keyless = [record(click(known), None), record(click(known), b""), record(None, None)]
    records = [*map(record, values), *keyless, record(click(known), b"\xff"), record(None, b"k" * 129)]
    assert newest_of(records, bundle) == Newest(
        records=9,
        reasons={"item_zero": 1, "malformed_protobuf": 1, "missing_key": 3, "bad_key": 2},
        events=2,
        unknown_items=1,
    )


def test_each_master_of_a_cluster_is_judged() -> None:
    nodes = (store(clustered=True, address="a:1"), store(clustered=True, address="b:2", policy="allkeys-lru"))
    settings = SETTINGS.model_copy(update={"redis": RedisSettings(mode="cluster")})
    found = list(diagnose(replace(HEALTHY, store=Store(nodes=nodes, meta=META)), settings))
    assert [f.check for f in found if f.verdict is FAIL] == ["maxmemory-policy (b:2)"]


def test_the_report_marks_verdicts_gives_fixes_and_counts() -> None:
    facts = replace(HEALTHY, store=Store(nodes=(store(policy="allkeys-lru", append_only=False),), meta=META))
    lines = list(report(list(diagnose(facts, SETTINGS))))
    [at] = [i for i, line in enumerate(lines) if line.startswith("FAIL  maxmemory-policy")]
    assert "CONFIG SET maxmemory-policy noeviction" in lines[at + 1]
    assert lines[-1].endswith("ok, 1 to consider, 1 to fix")
    assert not any("secret" in line for line in lines)


def test_the_libraries_are_those_that_the_distribution_requires() -> None:
    found = {library.name: library for library in gather_libraries()}
    assert {"kafka-python", "redis", "hiredis", "onnxruntime", "grpcio", "mimn"} <= set(found)
    assert found["kafka-python"].wanted == "==3.0.12"
    assert "torch" not in found
    assert all(library.installed for library in found.values())


@pytest.mark.parametrize(("policy", "status"), [("noeviction", 0), ("allkeys-lru", 1)])
def test_the_exit_status_is_1_only_for_a_failure(
    policy: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "read_settings", lambda: SETTINGS)
    facts = replace(HEALTHY, store=Store(nodes=(store(policy=policy),), meta=META))
    monkeypatch.setattr(doctor, "gather", lambda settings, timeout_s: facts)
    assert doctor.main(["--json"]) == status
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == ("FAIL" if status else "OK")
    assert {"check", "verdict", "seen", "fix"} == set(printed["findings"][0])


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("bundle_*/*/*")), ids=lambda path: path.parent.name)
def test_a_bundle_of_every_kind_is_folded_and_scored(path: Path) -> None:
    model = gather_model(SETTINGS.model_copy(update={"bundle": BundleSettings(path=path)}))
    assert (model.name, model.error) == ("/".join(path.parts[-2:]), None)
