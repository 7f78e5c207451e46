"""Every command of Kafka's tools that a message prints names the brokers and how to log in."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from kafka.errors import UnknownTopicOrPartitionError
from pydantic import SecretStr

from support.fake_event_log import FakeEventLog
from uic import preflight
from uic.core import deployment
from uic.core.deployment import TopicFacts
from uic.core.kafka_tools import KafkaTools
from uic.doors.publisher import Publisher
from uic.errors import UnsuitableTopic
from uic.log.dead_letter_topic import why_away
from uic.log.topic_answers import ABSENT
from uic.settings import KafkaSettings
from uic.tools.doctor import log_checks

KAFKA = KafkaSettings(
    bootstrap_servers="k1:9092, k2:9092",
    partitions=4,
    security_protocol="SASL_SSL",
    sasl_mechanism="SCRAM-SHA-512",
    sasl_username="uic",
    sasl_password=SecretStr("hidden"),
)
LOG = TopicFacts(
    name="behavior-events",
    partitions=4,
    replicas=3,
    leaderless=(),
    config={"max.message.bytes": "1", "retention.ms": "1"},
)
COMPACTED, DELETED = {"cleanup.policy": "compact,delete"}, {"cleanup.policy": "delete"}


def topic(**config: str) -> TopicFacts:
    return replace(LOG, config={**(LOG.config or {}), **config})


def messages(tools: KafkaTools, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the doctor, a refused start, an erasure and a stalled partition say."""
    yield deployment.topic_exists("t", None, tools.create("t", 4, "delete")).fix
    yield deployment.log_cleanup(topic(**COMPACTED), tools).fix
    yield deployment.log_retention(LOG, tools).fix
    yield log_checks.erased_policy(topic(**DELETED), 4, tools).fix
    yield log_checks.dead_letter_policy(topic(**COMPACTED), LOG, tools).fix
    yield log_checks.dead_letter_policy(LOG, LOG, tools).fix
    yield log_checks.dead_letter_policy(topic(**{"retention.ms": "-1"}), LOG, tools).fix
    yield log_checks.record_size(LOG, 1 << 20, tools).fix
    yield why_away("t.dlq", ABSENT, tools)
    with pytest.raises(UnsuitableTopic) as refused:
        Publisher(FakeEventLog({"events": 4}), "events", 4, tools).erase("user", timeout_s=1.0)
    yield refused.value.detail
    yield tools.recount_erased("t.erased", 1, 4)
    yield tools.recount_erased("t.erased", 8, 4)
    yield start_refused(monkeypatch, topic(**COMPACTED))
    yield start_refused(monkeypatch)
    yield start_refused(monkeypatch, topic(**COMPACTED), check=whole)


def start_refused(
    monkeypatch: pytest.MonkeyPatch,
    *found: TopicFacts,
    check: Callable[[KafkaSettings], None] = preflight.check_topic,
) -> str:
    """Why a start, or what else `check` is of, with `KAFKA` is refused on these topics."""
    describe(monkeypatch, *found)
    with pytest.raises(UnsuitableTopic) as refused:
        check(KAFKA)
    return refused.value.detail


def describe(monkeypatch: pytest.MonkeyPatch, *found: TopicFacts) -> None:
    """Have the brokers tell of these topics."""
    error = 0 if found else UnknownTopicOrPartitionError.errno
    described = {"name": KAFKA.topic, "error_code": error}
    client = SimpleNamespace(describe_topics=lambda names: [described], close=lambda: None)
    monkeypatch.setattr(preflight, "KafkaAdminClient", lambda **options: client)
    monkeypatch.setattr(preflight, "topic_facts", lambda *_: {one.name: one for one in found})


def whole(settings: KafkaSettings) -> None:
    """The check of what reads the log as a whole."""
    preflight.check_log_is_whole(settings, pytest.fail)


def test_what_reads_a_compacted_log_as_a_whole_is_refused_as_a_start_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compacted = topic(**COMPACTED)
    start = start_refused(monkeypatch, compacted)
    assert start_refused(monkeypatch, compacted, check=whole) in start.splitlines()
    describe(monkeypatch, topic(**{"cleanup.policy": "delete"}))
    whole(KAFKA)


def test_a_start_while_partitions_have_no_leader_goes_on_with_the_others_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe(monkeypatch, replace(topic(**DELETED), leaderless=(1, 3)))
    said: list[str] = []
    monkeypatch.setattr(preflight, "say", lambda log, level, event, **fields: said.append(f"{event} {fields}"))
    preflight.check_topic(KAFKA)
    assert "partitions 1,3 have no leader: bring their replicas back" in said[0]


def test_a_policy_that_is_not_told_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    describe(monkeypatch, replace(LOG, config=None))
    preflight.check_log_is_whole(KAFKA, warnings.append)
    assert len(warnings) == 1
    assert "the broker does not report it" in warnings[0]


def test_commands_in_messages_name_the_brokers_and_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list(messages(KafkaTools.of(KAFKA.client_options()), monkeypatch))
    for message in said:
        lines = [line for line in message.splitlines() if "kafka-" in line]
        assert lines, message
        for line in lines:
            words = shlex.split(line[line.index("kafka-") :])
            assert words[words.index("--bootstrap-server") + 1] == "k1:9092,k2:9092"
            assert words[words.index("--command-config") + 1] == "client.properties"
            assert "--create" in words or "--alter" in words
    assert "hidden" not in "".join(said)
