"""What `ctr rollout` says of the log's cleanup.policy while brokers do not tell it, or do not answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mimn.release import Gate
from uic.core.deployment import TopicFacts
from uic.errors import LogUnavailable
from uic.rollout.log_policy import LOOK_AGAIN_S, LogPolicy
from uic.settings import KafkaSettings

WHOLE = TopicFacts(name="events", partitions=4, replicas=1, leaderless=(), config={"cleanup.policy": "delete"})
COMPACTED = replace(WHOLE, config={"cleanup.policy": "compact"})


class Brokers:
    """Of the event topic, in place of those that are asked."""

    topic: TopicFacts | None = WHOLE
    away = False
    asked = 0

    def answer(self, settings: KafkaSettings, name: str, bootstrap_ms: int) -> TopicFacts | None:
        self.asked += 1
        if self.away:
            raise LogUnavailable("no broker answers")
        return self.topic


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    made = Brokers()
    monkeypatch.setattr("uic.preflight._topic", made.answer)
    return made


@pytest.mark.parametrize("topic", [WHOLE, None, replace(WHOLE, config=None)], ids=["delete", "no topic", "not told"])
def test_a_policy_that_is_right_or_not_told_closes_nothing(brokers: Brokers, topic: TopicFacts | None) -> None:
    brokers.topic = topic
    assert LogPolicy(KafkaSettings()).closed("events") is None


def test_the_policy_told_last_counts_while_brokers_are_away(brokers: Brokers) -> None:
    now = 0.0
    policy = LogPolicy(KafkaSettings(), lambda: now)
    brokers.away = True
    assert policy.closed("events") is None
    brokers.away, brokers.topic = False, COMPACTED
    assert policy.closed("events") is None
    assert brokers.asked == 1
    for brokers.away in (False, True):
        now += LOOK_AGAIN_S
        found = policy.closed("events")
        assert found is not None
        assert (found.gate, found.passes) == (Gate.LOG, False)
    brokers.away, brokers.topic = False, WHOLE
    now += LOOK_AGAIN_S
    assert policy.closed("events") is None
