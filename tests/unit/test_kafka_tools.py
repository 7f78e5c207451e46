"""Every command of Kafka's tools that a message prints can be pasted: it names the brokers and ends its line."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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

SOURCES = Path(__file__).parents[2] / "services"
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


class Wrong(Exception):
    """A tool would refuse what was pasted."""


class Tool(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise Wrong(message)


def pasted(line: str) -> argparse.Namespace:
    """A line of a message from its command on, read as the tool would.

    Raises:
        Wrong: it lacks an argument, or has one that the tool does not know.
    """
    name, *words = shlex.split(line[line.index("kafka-") :])
    tool = Tool(prog=name, allow_abbrev=False)
    tool.add_argument("--bootstrap-server", required=True)
    tool.add_argument("--command-config")
    if name == "kafka-topics.sh":
        does = tool.add_mutually_exclusive_group(required=True)
        does.add_argument("--create", action="store_true")
        does.add_argument("--alter", action="store_true")
        tool.add_argument("--topic", required=True)
        tool.add_argument("--partitions", type=int, required=True)
        tool.add_argument("--config", action="append")
    else:
        tool.add_argument("--alter", action="store_true", required=True)
        tool.add_argument("--entity-type", choices=["topics"], required=True)
        tool.add_argument("--entity-name", required=True)
        tool.add_argument("--add-config", required=True)
    found = tool.parse_args(words)
    for config in [*(vars(found).get("config") or []), *(vars(found).get("add_config") or "").split(",")]:
        if config and re.fullmatch(r"[a-z.]+=[a-z0-9-]+", config) is None:
            raise Wrong(config)
    return found


def test_every_command_in_a_message_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list(messages(KafkaTools.of(KAFKA.client_options()), monkeypatch))
    for message in said:
        lines = [line for line in message.splitlines() if "kafka-" in line]
        assert lines, message
        for line in lines:
            command = pasted(line)
            assert command.bootstrap_server == "k1:9092,k2:9092"
            assert command.command_config == "client.properties"
    assert "hidden" not in "".join(said)


def test_brokers_without_tls_or_a_login_need_no_file() -> None:
    tools = KafkaTools.of({"bootstrap_servers": ["h:1"]})
    assert tools.alter("t", "retention.ms=-1") == (
        "kafka-configs.sh --bootstrap-server h:1 --alter --entity-type topics --entity-name t "
        "--add-config retention.ms=-1"
    )


def test_no_other_file_writes_such_a_command_itself() -> None:
    writers = {
        path.name for path in SOURCES.rglob("*.py") if re.search(r"kafka-(configs|topics)\.sh", path.read_text())
    }
    assert writers == {"kafka_tools.py"}


@pytest.mark.parametrize(
    "line",
    [
        "kafka-topics.sh --create --topic t --partitions 4",
        "kafka-configs.sh --bootstrap-server h:1 --alter --entity-type topics --entity-name t --add-config a=b; so",
        "kafka-configs.sh --bootstrap-server h:1 --alter --entity-type topics --entity-name t --add-config a=b: so",
        "kafka-configs.sh --bootstrap-server h:1 --alter --entity-type topics --entity-name t --add-config a=b, or",
    ],
)
def test_a_command_that_cannot_be_pasted_is_found(line: str) -> None:
    with pytest.raises(Wrong):
        pasted(line)
