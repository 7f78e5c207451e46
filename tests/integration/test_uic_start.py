"""UIC that starts while a server is away says what it waits for, and leaves when it is told to."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import redis

from localstack.dev_broker import DevBroker
from localstack.topics import create_topics
from localstack.topics import topics as topics_of
from localstack.valkey import Valkey
from localstack.wait import until
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.uic_running import RunningUic, running_uic
from torture.watching import metric

pytestmark = pytest.mark.servers


def says(uic: RunningUic, text: str) -> bool:
    """Whether /readyz and /partitions give this as the one reason."""
    return text in uic.admin("/readyz").get("detail", "") and any(
        text in reason for reason in uic.admin("/partitions")["reasons"]
    )


def test_a_worker_whose_broker_is_nowhere_says_so_and_ends_soon_after_sigterm(
    tmp_path: Path, valkey: RedisForTest, closed_port: str
) -> None:
    nowhere = TopicsForTest(closed_port, "events", 2)
    with running_uic(tmp_path, valkey, nowhere, serving=False) as uic:
        waits = f"waiting for the log: no broker answers at {nowhere.bootstrap}"
        until(lambda: says(uic, waits), "it says what it waits for, and where", within_s=60)
        assert uic.worker.stop(30) == 0


def test_a_worker_that_waits_for_the_store_says_why_whenever_that_changes(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, own_valkey: Valkey
) -> None:
    with redis.Redis.from_url(own_valkey.address) as client:
        client.config_set("maxmemory", 1)
        topics = make_topics(kafka, 2)
        store = RedisForTest(own_valkey.address, "uic", client)
        with running_uic(tmp_path, store, topics, serving=False) as uic:
            until(lambda: says(uic, "waiting for the store: cannot claim the namespace: OutOf"), "OOM", within_s=60)
            assert metric(uic.worker, "uic_ready") == 0
            own_valkey.kill()
            until(lambda: says(uic, "ConnectionError"), "the store is gone", within_s=60)
            seen = metric(uic.worker, "uic_store_failures_total")
            until(lambda: metric(uic.worker, "uic_store_failures_total") > seen + 1, "tries are counted", within_s=60)
            own_valkey.start()
            uic.worker.wait_ready()
            assert metric(uic.worker, "uic_ready") == 1


def test_a_worker_that_waits_for_the_store_because_no_sentinel_answers_shows_that(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, valkey: RedisForTest, closed_port: str
) -> None:
    with running_uic(
        tmp_path,
        valkey,
        make_topics(kafka, 2),
        serving=False,
        UIC_REDIS__MODE="sentinel",
        UIC_REDIS__SENTINELS=closed_port,
    ) as uic:
        until(lambda: says(uic, "no Sentinel of UIC_REDIS__SENTINELS answers"), "it says so", within_s=60)
        assert metric(uic.worker, "uic_sentinels_up") == 0


@pytest.mark.full
def test_an_outage_of_the_broker_is_a_line_when_it_begins_and_one_when_it_ends(
    tmp_path: Path, valkey: RedisForTest, own_kafka: DevBroker
) -> None:
    names = TopicsForTest(own_kafka.address, "events", 2)
    create_topics(own_kafka.address, topics_of(names.events, 2))
    with running_uic(tmp_path, valkey, names) as uic:
        until(lambda: len(uic.admin("/partitions")["partitions"]) == 2, "it has its partitions", within_s=60)

        def lines(text: str) -> list[str]:
            return [line for line in uic.worker.log.read_text().splitlines() if text in line]

        assert uic.worker.child is not None
        process = psutil.Process(uic.worker.child.pid)
        files, threads = process.num_fds(), process.num_threads()
        own_kafka.stop()
        until(lambda: lines("event=log_unavailable"), "it says that the log is away", within_s=60)
        until(lambda: "log_unavailable" in str(uic.admin("/readyz")), "/readyz says so", within_s=10)
        until(lambda: process.num_fds() <= files, "connections that failed leave no open file", within_s=10)
        until(lambda: process.num_threads() <= threads, "nor a thread", within_s=10)
        own_kafka.start()
        until(lambda: lines('event="log_unavailable is over"'), "it says that the log is back", within_s=60)
        until(lambda: uic.admin("/readyz").get("degraded") == [], "all is well", within_s=60)
        assert len(lines("event=log_unavailable")) <= 2, "of the bounds of partitions, and of the whole log"
