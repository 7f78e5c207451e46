"""`uic doctor`: looks at a deployment with the settings that UIC would run with, and says what to mend.

Gathers facts and prints what `findings` makes of them. It only reads: nothing is written to the store or to the
log, and no consumer group is joined. Exit status 1 when a check failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any, Final, TextIO

import redis
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError
from redis.exceptions import RedisClusterException

from mimn.bundle import BundleError, GoldenMismatch, load_bundle
from mimn.state import Keys, namespace
from uic.errors import UicError
from uic.log.topic_reader import read_to_end
from uic.settings import KafkaSettings, RedisSettings, UicSettings, read_settings
from uic.store import open_client
from uic.tools import findings as checks
from uic.tools.findings import Finding, Library, Sample, StoreFacts, TopicFacts, Verdict

SAMPLED_RECORDS: Final = 50
"""Of each partition, the newest."""
MARKS: Final = {Verdict.OK: "ok  ", Verdict.WARN: "WARN", Verdict.FAIL: "FAIL"}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([A-Za-z0-9,_-]+)\])?(?:[^;]*?>=([0-9][^,;\s]*))?")


@dataclass(frozen=True, kw_only=True)
class Store:
    """What was learned of the store; `error` is why the rest is empty."""

    error: str | None = None
    nodes: tuple[StoreFacts, ...] = ()
    """Its masters: one, but for a cluster."""
    meta: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Log:
    """What was learned of the log; `error` is why the rest is empty."""

    error: str | None = None
    version: tuple[int, ...] | None = None
    topics: Mapping[str, TopicFacts]
    samples: tuple[Sample, ...] = ()
    sample_error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was learned of the bundle; `error` is why the rest is empty."""

    error: str | None = None
    name: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the checks judge."""

    now_ms: int
    store: Store
    log: Log
    model: Model
    libraries: tuple[Library, ...]


def diagnose(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    """All findings, in the order in which one would mend them. Pure."""
    yield from (checks.library(library) for library in facts.libraries)
    yield checks.bundle_loads(str(settings.bundle.path), facts.model.name, facts.model.error)
    yield from _of_store(facts, settings)
    yield from _of_log(facts, settings)


def _of_store(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    store = facts.store
    yield checks.store_reachable(without_secrets(settings.redis.url), store.error)
    if store.error is not None:
        return
    for i, node in enumerate(store.nodes):
        findings = [
            checks.store_version(node),
            checks.store_writable(node),
            checks.store_policy(node),
            checks.store_memory(node),
            checks.store_persistence(node),
            checks.clock("the store", node.clock_ahead_s),
        ]
        suffix = f" (master {i + 1})" if len(store.nodes) > 1 else ""
        yield from (replace(finding, check=finding.check + suffix) for finding in findings)
    if store.nodes:
        yield checks.store_mode(store.nodes[0], settings.redis.mode)
    if facts.model.fingerprint is not None:
        expected = {"partitions": str(settings.kafka.partitions), "topic": settings.kafka.topic}
        yield checks.namespace_meta(
            store.meta, expected, namespace(facts.model.fingerprint, settings.bundle.generation)
        )


def _of_log(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    log, kafka = facts.log, settings.kafka
    yield checks.broker_reachable(kafka.bootstrap_servers, log.error, log.version)
    if log.error is not None:
        return
    events, dead, erased = (log.topics.get(n) for n in (kafka.topic, kafka.dead_letter_topic, kafka.erased_topic))
    yield checks.topic_exists(kafka.topic, events, creation(kafka.topic, kafka.partitions, "delete"))
    if events is not None:
        yield checks.partition_count(events, kafka.partitions)
        yield checks.partitions_for_masters(events, max(1, len(facts.store.nodes)))
        yield checks.log_cleanup(events)
        yield checks.log_retention(events)
        yield checks.durability(events)
        yield checks.record_size(events, kafka.max_request_bytes)
        yield checks.partitioner(log.samples, kafka.partitions, log.sample_error)
        yield checks.newest_event(log.samples, facts.now_ms)
    yield checks.topic_exists(kafka.dead_letter_topic, dead, creation(kafka.dead_letter_topic, 4, "delete"))
    if dead is not None and events is not None:
        yield checks.dead_letter_policy(dead, events)
    yield checks.topic_exists(kafka.erased_topic, erased, creation(kafka.erased_topic, kafka.partitions, "compact"))
    if erased is not None:
        yield checks.erased_policy(erased, kafka.partitions)
        yield checks.durability(erased)


def creation(topic: str, partitions: int, policy: str) -> str:
    """The command that creates a topic as UIC wants it."""
    forever = " --config retention.ms=-1" if policy == "delete" else ""
    return (
        f"kafka-topics.sh --create --topic {topic} --partitions {partitions} --config cleanup.policy={policy}{forever}"
    )


def without_secrets(url: str) -> str:
    """`url` without user and password."""
    return re.sub("//.*@", "//", url)


def gather(settings: UicSettings, timeout_s: float) -> Facts:
    """Ask the store, the brokers, the bundle and the installation; each may fail alone."""
    model = gather_model(settings)
    keys = None
    if model.fingerprint is not None:
        keys = Keys(namespace(model.fingerprint, settings.bundle.generation), settings.redis.prefix)
    return Facts(
        now_ms=time.time_ns() // 1_000_000,
        store=gather_store(settings.redis, keys, timeout_s),
        log=gather_log(settings.kafka, timeout_s),
        model=model,
        libraries=gather_libraries("uic"),
    )


def gather_model(settings: UicSettings) -> Model:
    """Load the bundle and fold and score its golden cases."""
    from mimn.bundle.graph import open_head, open_step

    try:
        bundle = load_bundle(settings.bundle.path)
        bundle.golden.verify_step(open_step(bundle), bundle.events, bundle.initial_state, bundle.sketch)
        bundle.golden.verify_head(open_head(bundle), bundle.vectors, bundle.initial_state, bundle.sketch)
    except (BundleError, GoldenMismatch) as error:
        return Model(error=str(error))
    return Model(name=bundle.name, fingerprint=bundle.manifest.fingerprint)


def gather_store(settings: RedisSettings, keys: Keys | None, timeout_s: float) -> Store:
    """Ask each master what it is, and the namespace what it belongs to."""
    try:
        client, masters = _connect(settings, timeout_s)
        try:
            nodes = tuple(_store_facts(master) for master in masters)
            stored = None if keys is None else client.get(keys.meta)
        finally:
            client.close()
    except (redis.RedisError, RedisClusterException, OSError) as error:
        return Store(error=f"{type(error).__name__}: {error}")
    return Store(nodes=nodes, meta=None if stored is None else _meta(stored))


def _meta(stored: bytes) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in dict(json.loads(stored)).items()}
    except (ValueError, TypeError):
        return {"unreadable": repr(stored[:100])}


def _connect(settings: RedisSettings, timeout_s: float) -> tuple[Any, list[Any]]:
    """A client for keys, and one for each master."""
    client = open_client(settings.model_copy(update={"timeout_s": timeout_s}))
    if settings.mode == "cluster":
        return client, [client.get_redis_connection(node) for node in client.get_primaries()]
    return client, [client]


def _store_facts(client: Any) -> StoreFacts:
    asked = time.time()
    seconds, microseconds = client.time()
    ahead_s = seconds + microseconds / 1e6 - (asked + time.time()) / 2
    said: dict[str, Any] = client.info()
    try:
        snapshots = client.config_get("save").get("save")
    except redis.ResponseError:
        snapshots = None  # hosted servers forbid CONFIG
    valkey = said.get("valkey_version")
    return StoreFacts(
        server="valkey" if valkey else "redis",
        version=str(valkey or said.get("redis_version", "unknown")),
        policy=said.get("maxmemory_policy"),
        max_bytes=int(said.get("maxmemory", 0)),
        used_bytes=int(said.get("used_memory", 0)),
        append_only=None if "aof_enabled" not in said else bool(said["aof_enabled"]),
        snapshots=snapshots,
        clustered=bool(said.get("cluster_enabled", 0)),
        role=str(said.get("role", "unknown")),
        clock_ahead_s=ahead_s,
    )


def gather_log(settings: KafkaSettings, timeout_s: float) -> Log:
    """Ask the brokers for the topics, their settings and the newest records."""
    timeout_ms = int(timeout_s * 1000)
    client = settings.client_options()
    try:
        admin = KafkaAdminClient(**client | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms})
    except KafkaError as error:
        return Log(error=type(error).__name__, topics={})
    names = [settings.topic, settings.dead_letter_topic, settings.erased_topic]
    try:
        described = [t for t in admin.describe_topics(names) if t["error_code"] == 0]
        topics = topic_facts(admin, described)
        leaders = [p["leader_id"] for t in described for p in t["partitions"] if p["leader_id"] >= 0]
        version = tuple(admin.get_broker_version_data(leaders[0]).broker_version) if leaders else None
    except KafkaError as error:
        return Log(error=f"{type(error).__name__}: {error}", topics={})
    finally:
        admin.close()
    samples: tuple[Sample, ...] = ()
    sample_error = None
    if settings.topic in topics:
        try:
            samples = _samples(client, settings.topic, timeout_s)
        except UicError as error:
            sample_error = error.detail
    return Log(version=version, topics=topics, samples=samples, sample_error=sample_error)


def topic_facts(admin: Any, described: Sequence[Mapping[str, Any]]) -> dict[str, TopicFacts]:
    """The facts of topics that `describe_topics` of a kafka-python admin client has described, by name."""
    if not described:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in described]
    try:
        configs = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except KafkaError:
        configs = {}  # forbidden, or a broker that does not know the call
    facts = {}
    for topic in described:
        name, partitions = topic["name"], topic["partitions"]
        given = {k: str(v["value"]) for k, v in configs.get(name, {}).items() if v["value"] is not None}
        facts[name] = TopicFacts(
            name=name,
            partitions=len(partitions),
            replicas=min(len(p["replica_nodes"]) for p in partitions),
            leaderless=sum(p["leader_id"] < 0 for p in partitions),
            config=given or None,
        )
    return facts


def _samples(client: Mapping[str, Any], topic: str, timeout_s: float) -> tuple[Sample, ...]:
    keys: dict[int, list[bytes | None]] = {}
    newest: dict[int, int] = {}
    for record in read_to_end(client, topic, last=SAMPLED_RECORDS, idle_s=timeout_s):
        keys.setdefault(record.partition, []).append(record.key)
        newest[record.partition] = max(record.timestamp_ms, newest.get(record.partition, record.timestamp_ms))
    return tuple(Sample(partition=p, keys=tuple(found), newest_ms=newest[p]) for p, found in sorted(keys.items()))


def gather_libraries(distribution: str) -> tuple[Library, ...]:
    """What `distribution` says it requires, with the extras it asks for, and what is installed."""
    found: dict[str, Library] = {}
    for requirement in metadata.requires(distribution) or []:
        name, extras, oldest = _parsed(requirement)
        if "extra ==" in requirement:
            continue
        found[name] = Library(name, oldest, _installed(name))
        for inner in (metadata.requires(name) or []) if found[name].installed and extras else []:
            if any(f'extra == "{extra}"' in inner or f"extra == '{extra}'" in inner for extra in extras):
                inner_name, _, inner_oldest = _parsed(inner)
                found.setdefault(inner_name, Library(inner_name, inner_oldest, _installed(inner_name)))
    return tuple(found.values())


def _parsed(requirement: str) -> tuple[str, list[str], str]:
    """Name, extras and lower bound of a requirement such as `redis[hiredis]>=6.0`."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        return requirement, [], "0"
    return match[1], (match[2] or "").split(",") if match[2] else [], match[3] or "0"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def report(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings as lines for people."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        yield f"{MARKS[finding.verdict]}  {finding.check:<{width}}  {finding.seen}"
        if finding.fix:
            yield f"      {'':<{width}}  → {finding.fix}"
    counts = {verdict: sum(f.verdict is verdict for f in findings) for verdict in Verdict}
    yield f"{counts[Verdict.OK]} ok, {counts[Verdict.WARN]} to consider, {counts[Verdict.FAIL]} to mend"


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: no check failed; 1: one did; 2: called wrongly."""
    parser = argparse.ArgumentParser(prog="uic doctor", description="Check a deployment and say what to mend.")
    parser.add_argument("--json", action="store_true", help="one JSON object: verdict and findings")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help="for each server (default %(default)s)")
    options = parser.parse_args(arguments)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters of its retries is in the report
    settings = read_settings()
    findings = list(diagnose(gather(settings, options.timeout), settings))
    verdict = checks.worst(findings)
    if options.json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(f) for f in findings]}, indent=2), file=out)
    else:
        for line in report(findings):
            print(line, file=out)
    return 1 if verdict is Verdict.FAIL else 0
