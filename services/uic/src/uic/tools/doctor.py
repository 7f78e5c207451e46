"""`ctr doctor`: checks a deployment with the settings that UIC would run with, and says what to fix.

Gathers facts, and prints what `findings` and `traffic` conclude from them: one function for each server or file that is
asked, which makes the file long. It writes nothing to the log, joins no consumer group, and writes one thing to the
store, which it deletes: a commit that tries whether commits are taken. Exit status 1 when a check failed.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, Final, TextIO

import numpy as np
import redis
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, TopicAuthorizationFailedError
from redis.exceptions import AuthenticationError, ResponseError
from redis.sentinel import MasterNotFoundError

from mimn.bundle import Bundle, BundleError, GoldenMismatch, load_bundle
from mimn.options import positive
from mimn.state import REMOVAL, Keys, Progress, namespace
from process.tls_causes import BadTlsFiles
from uic.core import deployment
from uic.core.deployment import Finding, Severity, TopicFacts
from uic.core.event import ERASE_ITEM, Reason, check_key, decode
from uic.core.kafka_tools import KafkaTools
from uic.core.start_position import BrokenReason, LogBounds, contradiction
from uic.core.topics import erased_topic
from uic.errors import StartRefused, UicError, UnsuitableClient
from uic.log.kafka_repairs.clients import broker_version, explained, open_kafka_client
from uic.log.topic_answers import ABSENT, trouble_of
from uic.log.topic_facts import topic_facts
from uic.log.topic_reader import LogRecord, read_to_end
from uic.log.unreachable import described, seen_and_fix
from uic.redis_client import FAILURES, open_client
from uic.sentinels import Sentinels
from uic.settings import KafkaSettings, RedisSettings, UicSettings, read_settings
from uic.store import read_meta
from uic.store_failures import fix_of, words_of
from uic.tools import findings, traffic
from uic.tools.findings import SEE_OUTAGE, Library, Sample, StoreFacts
from uic.tools.in_service import InService, progress_of, read_in_service, variables
from uic.tools.table import table
from uic.tools.traffic import Newest, Written
from uic.tools.write_probe import refused_writes

SAMPLED_RECORDS: Final = 50
"""The newest of each partition."""
MARKS: Final = {Severity.OK: "ok  ", Severity.WARN: "WARN", Severity.FAIL: "FAIL"}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([A-Za-z0-9,_-]+)\])?(?:[^;]*?>=([0-9][^,;\s]*))?")


@dataclass(frozen=True, kw_only=True)
class Store:
    """What was learned about the store; `error` is why the rest is empty."""

    error: str | None = None
    fix: str = ""
    """What to do about that, if the error says it."""
    name: str = ""
    """The master and its address as Sentinels name them; empty without Sentinels."""
    too_few_sentinels: str = ""
    """That they are too few to replace it; empty if they are not."""
    quorum_untold: str = ""
    """Why they did not say whether they are; empty if they did."""
    nodes: tuple[StoreFacts, ...] = ()
    """Its masters: one, except in a cluster."""
    refused_writes: Mapping[str, str] = field(default_factory=dict)
    """Each master that takes no commit, and what it says."""
    meta: Mapping[str, str] | None = None
    removed: bool = False
    """Whether a removal of the namespace has begun."""
    progress: Mapping[int, Progress] = field(default_factory=dict)
    """By partition, the namespace's progress records that can be read."""
    in_service: InService = field(default_factory=InService)
    """What the rollout record says."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """What was learned about the log; `error` is why the rest is empty."""

    error: str | None = None
    fix: str = ""
    """What to do about that, if the error says it."""
    version: tuple[int, ...] | None = None
    topics: Mapping[str, TopicFacts]
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Why the brokers do not show a topic that may exist, by its name."""
    samples: tuple[Sample, ...] = ()
    sample_error: str | None = None
    newest: Newest = field(default_factory=Newest)
    written: Mapping[str, Written] = field(default_factory=dict)
    """By topic."""
    offsets_error: str = ""
    """Why the brokers did not answer when they were asked for that."""
    ends: Mapping[int, int] = field(default_factory=dict)
    """Where the partitions of the event topic end, records of open transactions included, as far as known."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was learned about the bundle; `error` is why the rest is empty."""

    error: str | None = None
    name: str | None = None
    fingerprint: str | None = None
    bundle: Bundle | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that the checks look at."""

    now_ms: int
    store: Store
    log: Log
    model: Model
    libraries: tuple[Library, ...]


def diagnose(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    """All findings, in the order in which to fix them. Pure."""
    yield from (findings.library(library) for library in facts.libraries)
    yield findings.bundle_loads(str(settings.bundle.path), facts.model.name, facts.model.error)
    yield from _of_store(facts, settings)
    yield from _of_log(facts, settings)


def _of_store(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    store = facts.store
    yield findings.store_reachable(store.name or without_secrets(settings.redis.url), store.error, store.fix)
    if store.error is not None:
        return
    for node in store.nodes:
        found = [
            findings.store_version(node),
            findings.store_writable(node, settings.redis.mode),
            deployment.store_policy(node.policy),
            findings.store_memory(node),
            findings.store_persistence(node),
            findings.clock("the store", node.clock_ahead_s),
        ]
        suffix = f" ({node.address})" if len(store.nodes) > 1 else ""
        yield from (replace(finding, check=finding.check + suffix) for finding in found)
    yield findings.store_writes(store.refused_writes)
    if store.nodes:
        yield findings.store_mode(store.nodes[0], settings.redis.mode)
        if settings.redis.mode == "sentinel":
            yield findings.sentinels_quorum(store.too_few_sentinels, store.quorum_untold)
        newest_as_of_ms = max((one.as_of_ms for one in store.progress.values()), default=None)
        stores_ms = facts.now_ms + store.nodes[0].clock_ahead_s * 1000
        yield traffic.worker_clocks(newest_as_of_ms, stores_ms)
        yield traffic.as_of_times(store.progress, facts.log.ends, stores_ms)
    if facts.model.fingerprint is not None:
        expected = {"partitions": str(settings.kafka.partitions), "topic": settings.kafka.topic}
        yield findings.namespace_meta(
            store.meta,
            expected,
            namespace(facts.model.fingerprint, settings.bundle.generation),
            removed=store.removed,
            folded=len(store.progress),
        )
    yield from _of_rollout(facts, settings)


def _of_rollout(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    found, model, topic = facts.store.in_service, facts.model, settings.kafka.topic
    configured = None if model.fingerprint is None else namespace(model.fingerprint, settings.bundle.generation)
    serving = "" if found.record is None else variables(found.record.serving)
    yield findings.rollout_record(found.record, found.error, configured, serving)
    for one in found.answering:
        broken = broken_by(facts.log, topic, one.progress) if one.topic == topic else {}
        another = findings.another_log(topic, broken) if broken else ""
        yield findings.folded(one.release, one.unfolded, variables(one.release), another)


def broken_by(log: Log, topic: str, progress: Mapping[int, Progress]) -> dict[int, BrokenReason]:
    """By partition, why the topic cannot be the log that was folded, as far as its ids and ends are known."""
    facts = log.topics.get(topic)
    if facts is None:
        return {}
    bounds = {p: LogBounds(0, log.ends.get(p, one.next_offset), facts.topic_id) for p, one in progress.items()}
    found = {p: contradiction(one, bounds[p]) for p, one in progress.items()}
    return {p: reason for p, reason in found.items() if reason is not None}


def _of_log(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    log, kafka = facts.log, settings.kafka
    yield findings.broker_reachable(kafka.bootstrap_servers, log.error, log.version, log.fix)
    if log.error is not None:
        return
    events, dead, erased = (
        log.topics.get(n) for n in (kafka.topic, kafka.dead_letter_topic, erased_topic(kafka.topic))
    )
    tools = KafkaTools.of(kafka.client_options())
    why = log.troubles
    create = tools.create(kafka.topic, kafka.partitions, "delete")
    yield deployment.topic_exists(kafka.topic, events, create, why.get(kafka.topic, ""))
    if events is not None:
        yield deployment.partition_count(events, kafka.partitions)
        if facts.model.fingerprint is not None and (facts.store.meta or {}).get("topic") == kafka.topic:
            name = namespace(facts.model.fingerprint, settings.bundle.generation)
            yield findings.same_log(name, kafka.topic, broken_by(log, kafka.topic, facts.store.progress))
        if facts.store.nodes:
            yield findings.partitions_for_masters(events, len(facts.store.nodes))
        yield deployment.log_cleanup(events, tools)
        yield deployment.log_retention(events, tools)
        yield findings.durability(events)
        yield findings.in_sync(events)
        yield findings.record_size(events, kafka.max_request_bytes, tools)
        yield findings.partitioner(log.samples, events.partitions, settings.fold.misrouted_share, log.sample_error)
        yield findings.newest_event(log.samples, facts.now_ms)
        yield traffic.newest_records(log.newest)
        if facts.model.bundle is not None:
            yield traffic.unknown_items(log.newest)
    create = tools.create_dead_letters(kafka.dead_letter_topic)
    yield deployment.topic_exists(kafka.dead_letter_topic, dead, create, why.get(kafka.dead_letter_topic, ""))
    if dead is not None and events is not None:
        yield findings.dead_letter_policy(dead, events, tools)
        yield findings.in_sync(dead)
        of_log, dead_ones = log.written.get(kafka.topic), log.written.get(kafka.dead_letter_topic)
        yield traffic.dead_letters(of_log, dead_ones, log.offsets_error)
    notes = erased_topic(kafka.topic)
    create = tools.create(notes, kafka.partitions, "compact")
    yield deployment.topic_exists(notes, erased, create, why.get(notes, ""))
    if erased is not None:
        yield findings.erased_policy(erased, kafka.partitions, tools)
        yield findings.durability(erased)
        yield findings.in_sync(erased)
    of_topics = (
        (events, findings.EVENTS_USES),
        (dead, findings.DEAD_LETTERS_USES),
        (erased, findings.ERASED_USES),
    )
    if known := [(topic, uses) for topic, uses in of_topics if topic is not None]:
        yield findings.topic_rights(known)


def without_secrets(url: str) -> str:
    """`url` without user and password."""
    return re.sub("//.*@", "//", url)


def gather(settings: UicSettings, timeout_s: float) -> Facts:
    """Ask the store, the brokers, the bundle and the installation; each may fail by itself."""
    model = gather_model(settings)
    keys = None
    if model.fingerprint is not None:
        keys = Keys(namespace(model.fingerprint, settings.bundle.generation), settings.redis.prefix)
    store = gather_store(settings.redis, keys, settings.kafka.partitions, timeout_s)
    log = gather_log(settings.kafka, model.bundle, timeout_s)
    return Facts(
        now_ms=time.time_ns() // 1_000_000,  # not before the records are read, or they would be from the future
        store=store,
        log=log,
        model=model,
        libraries=gather_libraries("uic"),
    )


def gather_model(settings: UicSettings) -> Model:
    """Load the bundle and fold, encode and score its golden cases, as UIC and RTP do."""
    from mimn.bundle.graph import proven_head, proven_step

    try:
        bundle = load_bundle(settings.bundle.path)
        proven_step(bundle)
        proven_head(bundle)
    except (BundleError, GoldenMismatch) as error:
        return Model(error=str(error))
    return Model(name=bundle.name, fingerprint=bundle.manifest.fingerprint, bundle=bundle)


def gather_store(settings: RedisSettings, keys: Keys | None, partitions: int, timeout_s: float) -> Store:
    """Ask each master for its version and settings and whether it takes a commit, and the namespace for its topic and
    progress, and the rollout record."""
    name = _named_by_sentinels(settings)
    try:
        client, masters = _connect(settings, timeout_s)
        try:
            nodes = []
            for address, master in masters:
                try:
                    nodes.append(_store_facts(master, address))
                except FAILURES as error:
                    if not address:
                        raise
                    return Store(error=f"master {address}: {words_of(error)}", fix=fix_of(error) or SEE_OUTAGE)
            stored = None if keys is None else client.get(keys.meta)
            records = [] if keys is None else [client.get(keys.progress(p)) or b"" for p in range(partitions)]
            in_service = read_in_service(client, settings.prefix)
            asked: Sentinels | None = client.connection_pool.sentinel_manager if settings.mode == "sentinel" else None
        finally:
            name = _named_by_sentinels(settings, client)
            client.close()
        refused = refused_writes(settings.model_copy(update={"timeout_s": timeout_s}))
    except StartRefused as error:
        return Store(error=error.detail, fix="correct the setting, or install what it names", name=name)
    except FAILURES as error:
        return Store(error=words_of(error), fix=fix_of(error) or _other_fix(error, settings.mode), name=name)
    meta = None if stored is None else meta_of(stored)
    return Store(
        name=name,
        too_few_sentinels="" if asked is None else asked.trouble or "",
        quorum_untold="" if asked is None else asked.quorum_untold,
        nodes=tuple(nodes),
        refused_writes=refused,
        meta=meta,
        removed=any(record.startswith(REMOVAL) for record in records),
        progress={p: one for p, record in enumerate(records) if (one := progress_of(record)) is not None},
        in_service=in_service,
    )


def _named_by_sentinels(settings: RedisSettings, client: Any = None) -> str:
    """The master, and its address if `client` was told one; empty without Sentinels."""
    if settings.mode != "sentinel":
        return ""
    asked: Sentinels | None = client and client.connection_pool.sentinel_manager
    at = "" if asked is None or asked.named is None else f" at {':'.join(map(str, asked.named))}"
    return f"master {settings.sentinel_service!r}{at}"


def _other_fix(error: Exception, mode: str) -> str:
    """What to do about an error with no known cause; empty if the store at its URL may only be away."""
    if isinstance(error, MasterNotFoundError):
        return findings.CORRECT_SENTINELS
    if isinstance(error, ResponseError | AuthenticationError):
        return SEE_OUTAGE
    return findings.START_MASTER if mode == "sentinel" else ""


def meta_of(stored: bytes) -> dict[str, str]:
    """What a namespace's meta says, as text."""
    said = read_meta(stored)
    if not isinstance(said, dict):
        return {"unreadable": repr(stored[:100])}
    return {str(name): str(value) for name, value in said.items()}


def _connect(settings: RedisSettings, timeout_s: float) -> tuple[Any, list[tuple[str, Any]]]:
    """A client for keys, and one for each master, with its address in a cluster."""
    client = open_client(settings.model_copy(update={"timeout_s": timeout_s}))
    if settings.mode == "cluster":
        return client, [(node.name, client.get_redis_connection(node)) for node in client.get_primaries()]
    return client, [("", client)]


def _store_facts(client: Any, address: str) -> StoreFacts:
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
        address=address,
    )


def gather_log(settings: KafkaSettings, bundle: Bundle | None, timeout_s: float) -> Log:
    """Ask the brokers for the topics, their settings, their offsets and the newest records."""
    timeout_ms = int(timeout_s * 1000)
    client = settings.client_options()
    try:
        settings.check_files()
        admin = open_kafka_client(
            KafkaAdminClient, **client | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
        )
    except BadTlsFiles as error:
        return Log(error=str(error), fix="correct the setting, or put that file there", topics={})
    except UnsuitableClient as error:
        return Log(error=error.detail, fix="install what it names", topics={})
    except KafkaError as error:
        return _unreached(error, client)
    names = [settings.topic, settings.dead_letter_topic, erased_topic(settings.topic)]
    try:
        with explained(admin):
            answers = admin.describe_topics(names)
            shown = [t for t in answers if t["error_code"] == 0]
            troubles = {t["name"]: told for t in answers if (told := trouble_of(client, t)) not in ("", ABSENT)}
            topics = topic_facts(admin, shown)
            version = broker_version(admin)
    except KafkaError as error:
        return _unreached(error, client)
    finally:
        admin.close()
    records: list[LogRecord] = []
    sample_error = None
    if settings.topic in topics:
        try:
            records = list(
                read_to_end(
                    client,
                    settings.topic,
                    last=SAMPLED_RECORDS,
                    idle_s=timeout_s,
                    most_bytes=settings.max_batch_bytes,
                )
            )
        except UicError as error:
            sample_error = error.detail
    written, ends, offsets_error = _written(client, [name for name in names[:2] if name in topics], timeout_s)
    return Log(
        version=version,
        topics=topics,
        troubles=troubles,
        samples=_samples(records),
        sample_error=sample_error,
        newest=newest_of(records, bundle),
        written=written,
        offsets_error=offsets_error,
        ends=ends if settings.topic in topics else {},
    )


def _unreached(error: KafkaError, client: Mapping[str, Any]) -> Log:
    seen, fix = seen_and_fix(error, client)
    return Log(error=seen, fix=fix, topics={})


def _samples(records: Sequence[LogRecord]) -> tuple[Sample, ...]:
    keys: dict[int, list[bytes | None]] = {}
    newest: dict[int, int] = {}
    for record in records:
        keys.setdefault(record.partition, []).append(record.key)
        newest[record.partition] = max(record.timestamp_ms, newest.get(record.partition, record.timestamp_ms))
    return tuple(Sample(partition=p, keys=tuple(found), newest_ms=newest[p]) for p, found in sorted(keys.items()))


def newest_of(records: Sequence[LogRecord], bundle: Bundle | None) -> Newest:
    """The records, judged as UIC would; erasures are left out."""
    reasons: Counter[str] = Counter()
    items = []
    named = None if bundle is None else bundle.actions
    for record in records:
        wrong = check_key(record.key)
        if record.key is None or wrong is not None:
            reasons[(wrong or Reason.MISSING_KEY).value] += 1
            continue
        if record.value is None:
            continue
        event = decode(record.value, record.headers, record.key.decode(), record.timestamp_ms)
        if isinstance(event, Reason):
            reasons[event.value] += 1
        elif event[3] == ERASE_ITEM:
            continue
        elif named is not None and not named.named[event[3]]:
            reasons[Reason.UNKNOWN_ACTION.value] += 1
        else:
            items.append(event[0])
    unknown = 0 if bundle is None else int((bundle.items.rows(np.array(items, np.uint64)) == 0).sum())
    return Newest(records=len(items) + reasons.total(), reasons=dict(reasons), events=len(items), unknown_items=unknown)


def _written(
    client: Mapping[str, Any], topics: Sequence[str], timeout_s: float
) -> tuple[dict[str, Written], dict[int, int], str]:
    """How many records each topic has, and where the partitions of the first one end; nothing of those that the broker
    does not tell. And why it did not, unless it refused."""
    timeout_ms = int(timeout_s * 1000)
    since_ms = time.time_ns() // 1_000_000 - traffic.RECENT_MS
    written: dict[str, Written] = {}
    first_ends: dict[int, int] = {}
    try:
        consumer = open_kafka_client(
            KafkaConsumer, **dict(client) | {"group_id": None, "bootstrap_timeout_ms": timeout_ms}
        )
    except KafkaError as error:
        return {}, {}, described(error, client)
    try:
        with explained(consumer):
            for topic in topics:
                places = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
                begins = consumer.beginning_offsets(places, timeout_ms=timeout_ms)
                ends = consumer.end_offsets(places, timeout_ms=timeout_ms)
                first_ends = first_ends or {at.partition: int(end) for at, end in ends.items()}
                since = consumer.offsets_for_times(dict.fromkeys(places, since_ms), timeout_ms=timeout_ms)
                recent = sum(ends[at] - first.offset for at, first in since.items() if first is not None)
                written[topic] = Written(recent=recent, retained=sum(ends[at] - begins[at] for at in places))
    except TopicAuthorizationFailedError:
        return written, first_ends, ""
    except KafkaError as error:
        return written, first_ends, described(error, client)
    finally:
        consumer.close()
    return written, first_ends, ""


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


def report(found: Sequence[Finding]) -> Iterator[str]:
    """The findings as lines for people."""
    rows = []
    for finding in found:
        rows.append((MARKS[finding.verdict], finding.check, finding.seen))
        if finding.fix:
            rows.append(("", "", f"→ {finding.fix}"))
    yield from table(("", "", ""), rows)
    counts = {verdict: sum(f.verdict is verdict for f in found) for verdict in Severity}
    yield f"{counts[Severity.OK]} ok, {counts[Severity.WARN]} to consider, {counts[Severity.FAIL]} to fix"


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: no check failed; 1: one did; 2: called wrongly."""
    parser = argparse.ArgumentParser(prog="ctr doctor", description="Check a deployment and say what to fix.")
    parser.add_argument("--json", action="store_true", help="one JSON object: verdict and findings")
    parser.add_argument(
        "--timeout", type=positive, default=5.0, metavar="S", help="for each server (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    settings = read_settings()
    found = list(diagnose(gather(settings, options.timeout), settings))
    verdict = findings.worst(found)
    if options.json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(f) for f in found]}, indent=2), file=out)
    else:
        for line in report(found):
            print(line, file=out)
    return 1 if verdict is Severity.FAIL else 0
