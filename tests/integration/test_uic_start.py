"""UIC that starts while a server is away says what it waits for, and leaves when it is told to."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import redis

from conftest import MakeTopics, RedisForTest, TopicsForTest
from localstack.dev_broker import DevBroker
from localstack.ports import LOOPBACK
from localstack.topics import create_topics
from localstack.topics import topics as topics_of
from localstack.valkey import Valkey
from localstack.wait import until
from support.uic_running import RunningUic, running_uic
from torture.watching import metric

pytestmark = pytest.mark.servers


def says(uic: RunningUic, text: str) -> bool:
    """Whether /readyz and /partitions give this as the one reason."""
    return text in uic.admin("/readyz").get("detail", "") and any(
        text in reason for reason in uic.admin("/partitions")["reasons"]
    )


@pytest.mark.alone
def test_a_worker_whose_broker_is_nowhere_says_so_and_ends_soon_after_sigterm(
    tmp_path: Path, valkey: RedisForTest, closed_port: str
) -> None:
    nowhere = TopicsForTest(closed_port, "events", 2)
    with running_uic(tmp_path, valkey, nowhere, serving=False) as uic:
        waits = f"waiting for the log: no broker answers at {nowhere.bootstrap}"
        until(lambda: says(uic, waits), "it says what it waits for, and where", within_s=60)
        began = time.monotonic()
        assert uic.worker.stop() == 0
        assert time.monotonic() - began < 5


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
        lines = uic.worker.log.read_text().splitlines()
        waits = [line for line in lines if "waiting for the store" in line]
        assert len(waits) == len({line.partition("detail=")[2] for line in waits}) >= 2
        assert any("the store is there" in line for line in lines)


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
    assert uic.worker.log.read_text().count('event="waiting for the store"') == 1


@contextmanager
def store_whose_tls_fails_in_two_ways() -> Iterator[int]:
    """The port of one that ends every other connection without a word, and speaks no TLS on the others."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def refuse() -> None:
            with suppress(OSError):  # it is closed
                for plain in itertools.cycle([True, False]):
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(4096)
                        if plain:
                            connection.sendall(b"-ERR\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_reasons_of_one_outage_that_differ_at_each_try_are_one_line_and_readyz_has_the_newest(
    tmp_path: Path, closed_port: str
) -> None:
    nowhere = TopicsForTest(closed_port, "events", 2)
    with store_whose_tls_fails_in_two_ways() as port, redis.Redis(port=port) as client:
        store = RedisForTest(f"rediss://{LOOPBACK}:{port}/0", "uic", client)
        with running_uic(tmp_path, store, nowhere, serving=False) as uic:
            for _ in range(2):
                until(lambda: says(uic, "WRONG_VERSION_NUMBER"), "one reason is told", within_s=60)
                until(lambda: says(uic, "each try ends so"), "the other is told", within_s=60)
        assert uic.worker.log.read_text().count('event="waiting for the store"') == 1


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
        began = datetime.now(UTC)
        own_kafka.stop()
        until(lambda: lines('event="log unavailable"'), "it says that the log is away", within_s=60)
        until(lambda: "log_unavailable" in str(uic.admin("/readyz")), "/readyz says so", within_s=10)
        until(lambda: lines("left_out="), "a repeated line is counted", within_s=60)
        until(lambda: process.num_fds() <= files, "connections that failed leave no open file", within_s=10)
        until(lambda: process.num_threads() <= threads, "nor a thread", within_s=10)
        own_kafka.start()
        until(lambda: lines('event="log available again"'), "it says that the log is back", within_s=60)
        until(lambda: uic.admin("/readyz").get("degraded") == [], "all is well", within_s=60)
        ended = datetime.fromisoformat(lines("log available again")[0].split()[0][10:])
        assert len(lines('event="log unavailable"')) <= 2, "of the bounds of partitions, and of the whole log"
        assert len(lines('event="log available again"')) == 1
        assert len(lines("logger=kafka.")) < 2 * (10 + (ended - began).total_seconds())
