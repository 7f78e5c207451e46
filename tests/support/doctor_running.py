"""The doctor in this process, for tests."""

from __future__ import annotations

import pytest

from support.for_test import RedisForTest, TopicsForTest
from support.uic_running import BUNDLE


def set_doctors_environment(monkeypatch: pytest.MonkeyPatch, topics: TopicsForTest, valkey: RedisForTest) -> None:
    """The environment that a UIC on these servers would have."""
    for name, value in {
        "KAFKA__BOOTSTRAP_SERVERS": topics.bootstrap,
        "KAFKA__TOPIC": topics.events,
        "KAFKA__PARTITIONS": str(topics.partitions),
        "REDIS__URL": valkey.url,
        "REDIS__PREFIX": valkey.prefix,
        "BUNDLE__PATH": str(BUNDLE),
    }.items():
        monkeypatch.setenv(f"UIC_{name}", value)
