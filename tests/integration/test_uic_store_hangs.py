"""The store hangs: it takes connections and commands, and answers nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from localstack.valkey import Valkey
from localstack.wait import until
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import click, running_uic
from torture.watching import metric

pytestmark = pytest.mark.servers
TIMEOUT_S = 12.0
"""Of a call to the store: /readyz is looked at within half of it, before the next call can fail."""


@pytest.mark.full
def test_readyz_says_it_with_the_first_call_that_fails_and_the_log_says_once_that_it_is_over(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, own_valkey: Valkey
) -> None:
    with redis.Redis.from_url(own_valkey.address) as client:
        store = RedisForTest(own_valkey.address, "uic", client)
        topics = make_topics(kafka, 2)
        with running_uic(tmp_path, store, topics, UIC_REDIS__TIMEOUT_S=str(TIMEOUT_S)) as uic:
            uic.wait_folded(uic.publish(click("u1"), click("u2"), click("u3")))
            until(lambda: uic.admin("/readyz") == {"status": "ready", "degraded": []}, "all is well", within_s=60)
            own_valkey.freeze()
            waiting = uic.publish(click("u1"), click("u2"), click("u3"))
            until(lambda: metric(uic.worker, "uic_store_failures_total") > 0, "a call has failed", within_s=60)
            until(lambda: "store_unavailable" in str(uic.admin("/readyz")), "/readyz says it", within_s=TIMEOUT_S / 2)
            seen = metric(uic.worker, "uic_store_failures_total")
            until(lambda: metric(uic.worker, "uic_store_failures_total") > seen, "it is asked again", within_s=60)
            assert "store_unavailable" in str(uic.admin("/readyz"))
            assert said(uic.worker.log, "event=store_unavailable", 'event="store_unavailable is over"') == [1, 0]
            own_valkey.thaw()
            uic.wait_folded(waiting)
            until(lambda: uic.admin("/readyz").get("degraded") == [], "all is well again", within_s=60)
            assert said(uic.worker.log, "event=store_unavailable", 'event="store_unavailable is over"') == [1, 1]


def said(log: Path, *events: str) -> list[int]:
    """How often a log has each line."""
    text = log.read_text()
    return [text.count(event) for event in events]
