"""All checks, in the order in which to fix what they find. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mimn.state import Progress, namespace
from uic.core import deployment
from uic.core.deployment import Finding
from uic.core.kafka_tools import KafkaTools
from uic.core.start_position import BrokenReason, LogBounds, contradiction
from uic.core.topics import erased_topic, import_run, replay_run
from uic.settings import UicSettings
from uic.tools.doctor import clocks, log_checks, namespace_checks, store_checks, traffic
from uic.tools.doctor.installation import Library, Model, bundle_loads, library
from uic.tools.doctor.log_facts import Log
from uic.tools.doctor.store_facts import Store
from uic.tools.in_service import variables


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
    yield from (library(one) for one in facts.libraries)
    yield bundle_loads(str(settings.bundle.path), facts.model.name, facts.model.error)
    yield from _of_store(facts, settings)
    yield from _of_log(facts, settings)


def _of_store(facts: Facts, settings: UicSettings) -> Iterator[Finding]:
    store = facts.store
    yield store_checks.store_reachable(store.name or without_secrets(settings.redis.url), store.error, store.fix)
    if store.error is not None:
        return
    for node in store.nodes:
        found = [
            store_checks.store_version(node),
            store_checks.store_writable(node, settings.redis.mode),
            deployment.store_policy(node.policy),
            store_checks.store_memory(node),
            store_checks.store_persistence(node),
            clocks.clock("the store", node.clock_ahead_s),
        ]
        suffix = f" ({node.address})" if len(store.nodes) > 1 else ""
        yield from (replace(finding, check=finding.check + suffix) for finding in found)
    yield store_checks.store_writes(store.refused_writes)
    if store.nodes:
        yield store_checks.store_mode(store.nodes[0], settings.redis.mode)
        if settings.redis.mode == "sentinel":
            yield store_checks.sentinels_quorum(store.too_few_sentinels, store.quorum_untold)
        newest_as_of_ms = max((one.as_of_ms for one in store.progress.values()), default=None)
        stores_ms = facts.now_ms + store.nodes[0].clock_ahead_s * 1000
        yield clocks.worker_clocks(newest_as_of_ms, stores_ms)
        yield traffic.as_of_times(store.progress, facts.log.ends, stores_ms)
    if facts.model.fingerprint is not None:
        expected = {"partitions": str(settings.kafka.partitions), "topic": settings.kafka.topic}
        yield namespace_checks.namespace_meta(
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
    yield namespace_checks.rollout_record(found.record, found.error, configured, serving)
    for one in found.answering:
        broken = broken_by(facts.log, topic, one.progress) if one.topic == topic else {}
        another = namespace_checks.another_log(topic, broken) if broken else ""
        yield namespace_checks.folded(one.release, one.unfolded, variables(one.release), another)


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
    yield log_checks.broker_reachable(kafka.bootstrap_servers, log.error, log.version, log.fix)
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
            yield namespace_checks.same_log(name, kafka.topic, broken_by(log, kafka.topic, facts.store.progress))
        if facts.store.nodes:
            yield log_checks.partitions_for_masters(events, len(facts.store.nodes))
        yield deployment.log_cleanup(events, tools)
        yield deployment.log_retention(events, tools)
        yield log_checks.durability(events)
        yield log_checks.in_sync(events)
        yield log_checks.record_size(events, kafka.max_request_bytes, tools)
        yield log_checks.partitioner(log.samples, events.partitions, settings.fold.misrouted_share, log.sample_error)
        yield clocks.newest_event(log.samples, facts.now_ms)
        yield traffic.newest_records(log.newest)
        if facts.model.bundle is not None:
            yield traffic.unknown_items(log.newest)
    create = tools.create_dead_letters(kafka.dead_letter_topic)
    yield deployment.topic_exists(kafka.dead_letter_topic, dead, create, why.get(kafka.dead_letter_topic, ""))
    if dead is not None and events is not None:
        yield log_checks.dead_letter_policy(dead, events, tools)
        yield log_checks.in_sync(dead)
        of_log, dead_ones = log.written.get(kafka.topic), log.written.get(kafka.dead_letter_topic)
        yield traffic.dead_letters(of_log, dead_ones, log.offsets_error)
    notes = erased_topic(kafka.topic)
    create = tools.create(notes, kafka.partitions, "compact")
    yield deployment.topic_exists(notes, erased, create, why.get(notes, ""))
    if erased is not None:
        yield log_checks.erased_policy(erased, kafka.partitions, tools)
        yield log_checks.durability(erased)
        yield log_checks.in_sync(erased)
    of_topics = (
        (events, log_checks.EVENTS_USES),
        (dead, log_checks.DEAD_LETTERS_USES),
        (erased, log_checks.ERASED_USES),
    )
    if known := [(topic, uses) for topic, uses in of_topics if topic is not None]:
        yield log_checks.topic_rights(known)
    commands = {import_run(kafka.topic): "ctr import", replay_run(kafka.topic): "ctr dead-letters replay"}
    yield log_checks.run_rights(log.unusable_runs, commands)


def without_secrets(url: str) -> str:
    """`url` without user and password."""
    return re.sub("//.*@", "//", url)
