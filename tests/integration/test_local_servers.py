"""The servers that every other test relies on: they start, answer, keep what they stored, and go away by pid."""

from __future__ import annotations

import pytest
from kafka import KafkaAdminClient

from support.for_test import MakeTopics

pytestmark = pytest.mark.servers


def test_topics_have_the_partitions_and_settings_of_the_design(kafka: str, make_topics: MakeTopics) -> None:
    names = make_topics(kafka)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    described = {
        t["name"]: len(t["partitions"]) for t in admin.describe_topics([names.events, names.dlq, names.erased])
    }
    admin.close()
    assert described == {names.events: 64, names.dlq: 4, names.erased: 64}


def test_topics_of_a_real_kafka_keep_history_for_ever(real_kafka: str, make_topics: MakeTopics) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    names = make_topics(real_kafka, partitions=8)
    admin = KafkaAdminClient(bootstrap_servers=real_kafka)
    found = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in (names.events, names.dlq, names.erased)],
        config_filter="all",
    )["topic"]
    admin.close()
    assert found[names.events]["cleanup.policy"]["value"] == "delete"
    assert found[names.events]["retention.ms"]["value"] == "-1"
    assert found[names.erased]["cleanup.policy"]["value"] == "compact"
