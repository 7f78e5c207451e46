"""Partitions that no broker leads, and a leader that comes back, on a real Kafka of two nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer

from localstack.uic_and_rtp import Surroundings, UicWorker
from localstack.wait import until
from mimn.state import partition_of
from support.for_test import RedisForTest, TopicsForTest
from support.hand_model import users_of
from support.two_brokers import TwoBrokers, two_brokers
from support.uic_running import BUNDLE, RunningUic, click, running_uic
from torture.watching import metric

pytestmark = pytest.mark.servers

LED = {0: 1, 1: 2, 2: 1, 3: 2}
AWAY = {0: 1, 1: -1, 2: 1, 3: -1}
REASON = "partitions 1,3 have no leader: bring their replicas back"
SETTLES_S = 60


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoBrokers]:
    with two_brokers(tmp_path_factory.mktemp("brokers")) as running:
        yield running


def append(brokers: TwoBrokers, named: TopicsForTest, *partitions: int) -> None:
    """An event of a user of each partition."""
    with closing(KafkaProducer(bootstrap_servers=brokers.first.address, acks="all")) as producer:
        for p in partitions:
            [user] = users_of(p, named.partitions, 1)
            key = user.encode()
            assert partition_of(key, named.partitions) == p
            value = click(user).SerializeToString()
            producer.send(named.events, key=key, value=value, partition=p).get(timeout=60)


def counts(uic: RunningUic) -> list[int]:
    """The events in the state of a user of each partition."""
    states = [uic.state(user) for p in range(4) for user in users_of(p, 4, 1)]
    return [state.event_count if state else 0 for state in states]


def degraded(uic: RunningUic) -> list[str]:
    return list(uic.admin("/readyz").get("degraded", []))


def phases(uic: RunningUic) -> dict[int, tuple[str, str]]:
    return {p["partition"]: (p["phase"], p["reason"]) for p in uic.admin("/partitions")["partitions"]}


def command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "uic", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_partitions_without_a_leader_are_named_others_are_folded_and_all_goes_on_when_it_is_back(
    brokers: TwoBrokers, valkey: RedisForTest, tmp_path: Path
) -> None:
    named = brokers.create("events", LED)
    with running_uic(tmp_path / "one", valkey, named) as uic:
        append(brokers, named, 0, 1, 2, 3)
        until(lambda: counts(uic) == [1, 1, 1, 1], "events are folded", within_s=SETTLES_S)
        brokers.second.kill()
        brokers.wait_leaders(named.events, AWAY)
        until(lambda: degraded(uic) == [f"log_unavailable: {REASON}"], "/readyz says so", within_s=SETTLES_S)
        append(brokers, named, 0, 2)
        until(lambda: counts(uic) == [2, 1, 2, 1], "what has a leader is folded", within_s=SETTLES_S)
        waits = "has no leader: bring its replicas back"
        stand = {0: ("folding", ""), 1: ("folding", waits), 2: ("folding", ""), 3: ("folding", waits)}
        until(lambda: phases(uic) == stand, "each partition says where it stands", within_s=SETTLES_S)
        log = uic.worker.log.read_text()
        assert REASON in log
        assert "revoked" not in log
    with running_uic(tmp_path / "two", valkey, named) as uic:  # a worker that knows no other time
        until(lambda: degraded(uic) == [f"log_unavailable: {REASON}"], "/readyz says so", within_s=SETTLES_S)
        append(brokers, named, 0, 2)
        until(lambda: counts(uic) == [3, 1, 3, 1], "what has a leader is taken up and folded", within_s=SETTLES_S)
        stand = {0: ("folding", ""), 1: ("taking_up", waits), 2: ("folding", ""), 3: ("taking_up", waits)}
        until(lambda: phases(uic) == stand, "each partition says where it stands", within_s=SETTLES_S)
        until(lambda: metric(uic.worker, 'uic_lag_records{partition="2"}') == 0, "none waits", within_s=SETTLES_S)

        surroundings = Surroundings(named.bootstrap, valkey.url, BUNDLE, named.events, 4, valkey.prefix)
        environment = dict(UicWorker("uic", tmp_path, surroundings).environment())
        for arguments in (("archive", "--to", str(tmp_path / "archive")), ("verify",)):
            done = command(environment, *arguments)
            assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stdout + done.stderr
            assert f"topic {named.events}: {REASON}" in done.stdout + done.stderr
        done = command(environment, "doctor", "--timeout", "10")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert "partitions 1,3 have no leader" in done.stdout

        brokers.second.start()
        brokers.wait_leaders(named.events, LED)
        until(lambda: degraded(uic) == [], "it goes on by itself", within_s=SETTLES_S)
        append(brokers, named, 1, 3)
        until(lambda: counts(uic) == [3, 2, 3, 2], "all are folded, each event once", within_s=SETTLES_S)
