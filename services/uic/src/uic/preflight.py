"""What is looked at before the first record: a deployment that would write wrong states is refused, and a server that
does not answer yet is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from uic.core import deployment
from uic.core.deployment import Finding, Severity, TopicFacts
from uic.core.kafka_tools import KafkaTools
from uic.core.ports import StateStore
from uic.core.topics import bring_back
from uic.errors import UnsuitableTopic
from uic.log.clients import explained, open_kafka_client
from uic.log.topic_answers import check_shown
from uic.log.topic_facts import topic_facts
from uic.log.unreachable import unreachable
from uic.logs import say
from uic.settings import KafkaSettings

log = logging.getLogger("uic.preflight")

BOOTSTRAP_MS = 2000
"""How long a check looks for a broker. It is repeated until there is one, and SIGTERM is heard in between."""


def check_topic(settings: KafkaSettings) -> None:
    """Refuse a topic that is missing, compacted or of another partition count; warn of a short retention, and of
    partitions without a leader: the others are folded.

    Raises:
        UnsuitableTopic: the message says how to fix it.
        TopicRefused: the user may not see the topic.
        LogUnavailable: no broker answers.
    """
    topic = _topic(settings, settings.topic, min(BOOTSTRAP_MS, settings.request_timeout_ms))
    tools = KafkaTools.of(settings.client_options())
    if topic is None:
        create = tools.create(settings.topic, settings.partitions, "delete")
        _judge([deployment.topic_exists(settings.topic, topic, create)])
        return
    if topic.leaderless:
        say(log, logging.WARNING, "has no leader", topic=topic.name, detail=bring_back(topic.leaderless))
    _judge(
        [
            deployment.partition_count(topic, settings.partitions),
            deployment.log_cleanup(topic, tools),
            deployment.log_retention(topic, tools),
        ]
    )


def check_log_is_whole(settings: KafkaSettings, warn: Callable[[str], None]) -> None:
    """Refuse a topic from which compaction removes events, as the start of a worker does: nothing in what is read of it
    tells that they are missing. A topic that does not exist passes.

    Args:
        settings: of the topic.
        warn: told that the policy cannot be read.

    Raises:
        UnsuitableTopic, TopicRefused, LogUnavailable: as `check_topic`.
    """
    finding = cleanup_of(settings, settings.topic)
    if finding is None:
        return
    if finding.verdict is Severity.WARN:
        warn(finding.line)
    else:
        _judge([finding])


def cleanup_of(settings: KafkaSettings, name: str) -> Finding | None:
    """What the brokers say of an event topic's cleanup.policy: no worker starts on a topic where this is a failure.
    None if there is no such topic.

    Raises:
        UnsuitableTopic, TopicRefused, LogUnavailable: the brokers do not show the topic, or do not answer.
    """
    topic = _topic(settings, name, settings.request_timeout_ms)
    return None if topic is None else deployment.log_cleanup(topic, KafkaTools.of(settings.client_options()))


def _topic(settings: KafkaSettings, name: str, bootstrap_ms: int) -> TopicFacts | None:
    """An event topic; None if it does not exist."""
    timeouts = {"bootstrap_timeout_ms": bootstrap_ms}
    try:
        admin = open_kafka_client(KafkaAdminClient, **settings.client_options() | timeouts)
        try:
            with explained(admin):
                [found] = admin.describe_topics([name])
                check_shown(settings.client_options(), found)
                topics = topic_facts(admin, [] if found["error_code"] else [found])
        finally:
            admin.close()
    except KafkaError as error:
        raise unreachable(settings.client_options(), error) from error
    return topics.get(name)


def check_store(store: StateStore, settings: KafkaSettings) -> str:
    """The store's identity. Refuses a store that may evict, and a namespace that belongs to another topic.

    Raises:
        EvictingStore, NamespaceConflict: as the names say.
        StoreUnavailable: no answer.
    """
    store.check()
    return store.claim_namespace(settings.partitions, settings.topic)


def _judge(findings: list[Finding]) -> None:
    for finding in findings:
        if finding.verdict is Severity.WARN:
            say(log, logging.WARNING, finding.check, seen=finding.seen, fix=finding.fix)
    failed = [f.line for f in findings if f.verdict is Severity.FAIL]
    if failed:
        raise UnsuitableTopic("\n".join(failed))  # a command ends its line
