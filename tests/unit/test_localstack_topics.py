"""What the creation of topics makes of brokers that do not know of them yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from localstack import __main__ as launcher
from localstack import topics
from localstack.__main__ import main
from localstack.ports import free_port
from localstack.topics import Topic, TopicMismatch, create_topics
from localstack.wait import until


class Admin:
    """Of a cluster whose brokers hear of a topic one after the other: descriptions as they are given in turn."""

    def __init__(self, described: list[int]) -> None:
        self._described = described

    def list_topics(self) -> list[str]:
        return []

    def create_topics(self, wanted: dict[str, Any]) -> None:
        assert set(wanted) == {"events"}

    def wait_for_topics(self, names: list[str]) -> None:
        pass

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"name": name, "partitions": [{}] * self._described.pop(0)} for name in names]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("unheard", [0, 1, 3])
def test_a_broker_that_has_not_heard_of_a_topic_is_asked_again(monkeypatch: pytest.MonkeyPatch, unheard: int) -> None:
    monkeypatch.setattr(topics, "KafkaAdminClient", lambda **_: Admin([0] * unheard + [4]))
    assert create_topics("broker:9092", [Topic("events", 4)]) == ["events"]


def test_another_partition_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "KafkaAdminClient", lambda **_: Admin([0, 3]))
    with pytest.raises(TopicMismatch, match="events has 3 partitions, not 4"):
        create_topics("broker:9092", [Topic("events", 4)])


@pytest.mark.parametrize("given", ["127.0.0.1:", "broker", ""])
def test_an_address_that_names_no_broker_is_wrong_usage(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["topics", "--bootstrap-servers", given])
    assert ended.value.code == 2
    assert "--bootstrap-servers" in capsys.readouterr().err


def test_a_broker_that_does_not_answer_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(condition: Callable[[], object], what: str, **told: Any) -> None:
        until(condition, what, **told | {"within_s": 0})

    monkeypatch.setattr(launcher, "until", at_once)
    address = f"127.0.0.1:{free_port()}"
    assert main(["topics", "--bootstrap-servers", address]) == 1
    assert address in capsys.readouterr().err
