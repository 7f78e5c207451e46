"""Asks the brokers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
)

from mimn.bundle import Bundle
from process.tls_causes import BadTlsFiles
from uic.core.deployment import TopicFacts
from uic.core.event import ERASE_ITEM, Reason, check_key, decode
from uic.core.topics import erased_topic, import_run, replay_run
from uic.errors import NoLeader, UicError
from uic.log.clients import broker_version, explained, open_kafka_client
from uic.log.topic_answers import ABSENT, trouble_of
from uic.log.topic_facts import check_led, extents, topic_facts
from uic.log.topic_reader import LogRecord, read_to_end
from uic.log.unreachable import described, seen_and_fix
from uic.settings import KafkaSettings
from uic.tools.doctor.samples import Sample
from uic.tools.doctor.traffic import RECENT_MS, Newest, Written

SAMPLED_RECORDS: Final = 50
"""The newest of each partition."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """What was learned about the log; `error` is why the rest is empty."""

    error: str | None = None
    fix: str = ""
    """What to do about that, if the error says it."""
    version: tuple[int, ...] | None = None
    topics: Mapping[str, TopicFacts]
    unusable_runs: frozenset[str] = frozenset()
    """Transactional ids of commands that our user may not use."""
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
            runs = (import_run(settings.topic), replay_run(settings.topic))
            unusable = frozenset(name for name in runs if not _may_use(admin, name))
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
        unusable_runs=unusable,
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


def _may_use(admin: KafkaAdminClient, transactional_id: str) -> bool:
    """Whether the brokers let our user describe a transactional id, which WRITE includes. Brokers before Kafka 3.0 do
    not tell, nor do those that have no coordinator for it yet.

    Raises:
        KafkaError: no answer.
    """
    try:
        admin.describe_transactions([transactional_id])
    except TransactionalIdAuthorizationFailedError:
        return False
    except BrokerResponseError:  # as of one that was never used
        pass
    return True


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
    text_ids = bundle is None or bundle.text_ids
    for record in records:
        wrong = check_key(record.key)
        if record.key is None or wrong is not None:
            reasons[(wrong or Reason.MISSING_KEY).value] += 1
            continue
        if record.value is None:
            continue
        event = decode(record.value, record.headers, record.key.decode(), record.timestamp_ms, text_ids=text_ids)
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
    since_ms = time.time_ns() // 1_000_000 - RECENT_MS
    written: dict[str, Written] = {}
    first_ends: dict[int, int] = {}
    try:
        admin = open_kafka_client(
            KafkaAdminClient, **dict(client) | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
        )
    except KafkaError as error:
        return {}, {}, described(error, client)
    try:
        with explained(admin):
            for topic in topics:
                [found] = admin.describe_topics([topic])
                there = [one["partition_index"] for one in found["partitions"]]
                check_led(found, there)
                told = extents(admin, [TopicPartition(topic, p) for p in there])
                first_ends = first_ends or {at.partition: one.log_end for at, one in told.items()}
                since = admin.list_partition_offsets(dict.fromkeys(told, since_ms))
                recent = sum(told[at].log_end - first.offset for at, first in since.items() if first.offset >= 0)
                retained = sum(one.log_end - one.start for one in told.values())
                written[topic] = Written(recent=recent, retained=retained)
    except NoLeader as error:
        return written, first_ends, error.detail
    except TopicAuthorizationFailedError:
        return written, first_ends, ""
    except KafkaError as error:
        return written, first_ends, described(error, client)
    finally:
        admin.close()
    return written, first_ends, ""
