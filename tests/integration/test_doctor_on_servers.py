"""The doctor before real servers: a sound deployment passes, and each thing that is set up wrongly is named."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from localstack.ports import free_port
from localstack.topics import Topic, create_topics
from localstack.valkey import Valkey
from localstack.wait import until
from mimn.bundle import load_bundle
from mimn.state import REMOVAL, Keys, namespace, partition_of
from support.doctor_running import set_doctors_environment
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.sentinel_node import SentinelNode
from support.stored import Stored, now_ms
from support.uic_running import BUNDLE, delete_and_wait
from uic.tools.doctor import store_facts
from uic.tools.doctor.command import main

pytestmark = pytest.mark.servers

N = 8
Examine = Callable[..., tuple[int, dict[str, dict[str, str]]]]


@pytest.fixture
def topics(kafka: str, make_topics: MakeTopics) -> TopicsForTest:
    return make_topics(kafka, N)


@pytest.fixture
def examine(topics: TopicsForTest, valkey: RedisForTest, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Run the doctor with the environment that UIC would have: exit status, and found by check."""
    set_doctors_environment(monkeypatch, topics, valkey)

    def run(timeout_s: float = 60) -> tuple[int, dict[str, dict[str, str]]]:
        out = io.StringIO()
        status = main(["--json", "--timeout", str(timeout_s)], out)
        return status, {finding["check"]: finding for finding in json.loads(out.getvalue())["findings"]}

    return run


def of(found: dict[str, dict[str, str]], verdict: str) -> set[str]:
    return {check for check, finding in found.items() if finding["verdict"] == verdict}


def produce(topics: TopicsForTest, records: list[dict[str, Any]]) -> None:
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap)
    for record in records:
        valid = BehaviorEvent(user_id=record["key"].decode(), item_id=3, event_time=time.time_ns() // 1_000_000)
        producer.send(topics.events, **{"value": valid.SerializeToString()} | record)
    producer.flush(60)
    producer.close()


def test_a_sound_deployment_has_nothing_to_fix(examine: Examine, topics: TopicsForTest) -> None:
    produce(topics, [{"key": b"u%d" % i} for i in range(100)])
    status, found = examine()
    assert status == 0
    assert of(found, "FAIL") == set()
    assert found["partitioner of the producers"]["seen"].startswith("the newest 100 records with a key all lie")
    assert found["bundle"]["verdict"] == "OK"
    assert "not in the store yet" in found[f"namespace {_namespace()}"]["seen"]


def test_records_that_cannot_be_folded_and_items_that_the_bundle_lacks_are_named(
    examine: Examine, topics: TopicsForTest
) -> None:
    def click(item: int) -> bytes:
        return BehaviorEvent(user_id="u", item_id=item, event_time=time.time_ns() // 1_000_000).SerializeToString()

    produce(topics, [{"key": b"u", "value": click(item)} for item in (0, 3, 4, 5, 6)])
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {"newest records", "items of the events"}
    assert found["newest records"]["seen"] == "of the newest 5 records 1 cannot be folded: 1 item_zero"
    assert found["items of the events"]["seen"].startswith("3 of the newest 4 events (75%)")


def test_a_worker_with_a_clock_ahead_is_named(examine: Examine, valkey: RedisForTest, topics: TopicsForTest) -> None:
    stored = Stored(load_bundle(BUNDLE), partitions=N, prefix=valkey.prefix)
    stored.values[stored.keys.meta] = json.dumps({"partitions": N, "topic": topics.events}).encode()
    for ahead_s, verdict in ((-5, "OK"), (30, "WARN"), (600, "FAIL")):
        stored.progress(1, as_of_ms=now_ms() + ahead_s * 1000)
        for key, value in stored.values.items():
            valkey.client.set(key, value)
        assert examine()[1]["clock of the workers"]["verdict"] == verdict


def test_an_evicting_store_is_named(
    tmp_path: Path, examine: Examine, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    client = redis.Redis.from_url(own_valkey.address, protocol=2)
    client.config_set("maxmemory-policy", "allkeys-lru")
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {"maxmemory-policy"}
    assert found["store persistence"]["verdict"] == "OK"
    client.config_set("maxmemory-policy", "volatile-lru")
    assert examine()[0] == 0
    client.close()


@pytest.mark.parametrize("right", ["watch", "smismember", "mset", "srem"])
def test_a_user_who_may_not_write_a_commit_is_named_and_nothing_is_left(
    right: str, examine: Examine, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address.replace("//", "//someone:secret@"))
    with redis.Redis.from_url(own_valkey.address) as client:
        client.execute_command("ACL SETUSER", "someone", "on", ">secret", "~*", "+@all", f"-{right}")
        status, found = examine()
        assert status == 1
        assert of(found, "FAIL") == {"store writes"}
        assert "no permissions" in found["store writes"]["seen"]
        assert right in found["store writes"]["seen"]
        assert client.keys("*") == []
        client.execute_command("ACL SETUSER", "someone", f"+{right}")
        assert examine()[0] == 0
        assert client.keys("*") == []


@pytest.mark.parametrize("answer", ["NOREPLICAS", "OutOfMemory"])
def test_a_store_that_refuses_every_write_is_named_with_what_it_answers(
    answer: str, examine: Examine, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    with redis.Redis.from_url(own_valkey.address) as client:
        client.config_set("min-replicas-to-write" if answer == "NOREPLICAS" else "maxmemory", 1)
        status, found = examine()
        assert status == 1
        assert of(found, "FAIL") - {"store memory"} == {"store writes"}
        assert answer in found["store writes"]["seen"]
        assert "store-outage.md" in found["store writes"]["fix"]


class ClusteredValkey(Valkey):
    """A cluster of one node that has all slots."""

    def command(self) -> list[str]:
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-port", str(free_port())]


def test_a_cluster_is_judged_as_one_and_named_when_the_setting_says_single(
    tmp_path: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ClusteredValkey(tmp_path / "cluster") as server:
        client: Any = redis.Redis.from_url(server.address, protocol=2)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster is up", within_s=60)
        monkeypatch.setenv("UIC_REDIS__URL", server.address)
        status, found = examine()
        assert status == 1
        assert of(found, "FAIL") == {"store mode"}
        monkeypatch.setenv("UIC_REDIS__MODE", "cluster")
        status, found = examine()
        assert status == 0
        assert found["store mode"]["seen"] == "cluster"
        client.config_set("maxmemory-policy", "allkeys-lfu")
        assert of(examine()[1], "FAIL") == {"maxmemory-policy"}
        client.close()


def test_a_foreign_partitioner_is_named(examine: Examine, topics: TopicsForTest) -> None:
    produce(topics, [{"key": b"u%d" % i, "partition": i % N} for i in range(100)])
    here = sum(partition_of(b"u%d" % i, N) == i % N for i in range(100))
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {"partitioner of the producers"}
    assert found["partitioner of the producers"]["seen"].startswith(f"{100 - here} of the newest 100 records")


def test_a_producer_with_a_clock_ahead_is_named(examine: Examine, topics: TopicsForTest) -> None:
    produce(topics, [{"key": b"u1", "timestamp_ms": time.time_ns() // 1_000_000 + 600_000}])
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {"clock of the producers"}


def test_settings_of_topics_are_judged(examine: Examine, topics: TopicsForTest) -> None:
    _configure(topics.events, topics, {"cleanup.policy": "compact", "retention.ms": "86400000"})
    _configure(topics.dlq, topics, {"retention.ms": "3600000"})
    _configure(topics.erased, topics, {"cleanup.policy": "delete"})
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {f"cleanup.policy of {topics.events}", f"policy of {topics.erased}"}
    warned = of(found, "WARN")
    assert f"retention of {topics.events}" in warned
    assert f"policy of {topics.dlq}" in warned


def test_topics_that_are_missing_come_with_the_command_that_creates_them(
    examine: Examine, topics: TopicsForTest
) -> None:
    delete_and_wait(topics.bootstrap, topics.dlq, topics.erased)
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {f"topic {topics.dlq}", f"topic {topics.erased}"}
    assert "--config cleanup.policy=compact" in found[f"topic {topics.erased}"]["fix"]
    create_topics(topics.bootstrap, [Topic(topics.erased, 4, {"cleanup.policy": "compact"})])
    assert of(examine()[1], "FAIL") == {f"topic {topics.dlq}", f"policy of {topics.erased}"}


def test_a_namespace_of_another_topic_is_named(examine: Examine, valkey: RedisForTest, topics: TopicsForTest) -> None:
    meta = Keys(_namespace(), valkey.prefix).meta
    valkey.client.set(meta, json.dumps({"partitions": N, "topic": topics.events}))
    assert examine()[0] == 0
    for other in (json.dumps({"partitions": N, "topic": "another"}), "no JSON"):
        valkey.client.set(meta, other)
        status, found = examine()
        assert status == 1
        assert of(found, "FAIL") == {f"namespace {_namespace()}"}


def test_a_namespace_whose_removal_has_begun_is_named(
    examine: Examine, valkey: RedisForTest, topics: TopicsForTest
) -> None:
    keys = Keys(_namespace(), valkey.prefix)
    valkey.client.set(keys.meta, json.dumps({"partitions": N, "topic": topics.events}))
    valkey.client.set(keys.progress(0), REMOVAL + b"1")
    for _ in ("in its midst", "at its end"):
        status, found = examine()
        named = found[f"namespace {_namespace()}"]
        assert (status, named["verdict"], "is being removed" in named["seen"]) == (1, "FAIL", True)
        assert f"ctr namespaces drop {_namespace()} finishes it" in named["fix"]
        valkey.client.delete(keys.meta)


def test_what_is_away_is_named_and_the_rest_is_still_judged(
    examine: Examine, closed_port: str, monkeypatch: pytest.MonkeyPatch, topics: TopicsForTest
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", f"redis://someone:secret@{closed_port}/0")
    status, found = examine()
    assert status == 1
    assert of(found, "FAIL") == {"store"}
    assert found["store"]["seen"].startswith(f"redis://{closed_port}/0: ConnectionError")
    monkeypatch.setenv("UIC_KAFKA__BOOTSTRAP_SERVERS", closed_port)
    monkeypatch.setenv("UIC_BUNDLE__PATH", "/no/such/bundle")
    assert of(examine(5)[1], "FAIL") == {"store", "broker", "bundle"}


def _namespace() -> str:
    return namespace(load_bundle(BUNDLE).manifest.fingerprint)


def _configure(topic: str, topics: TopicsForTest, config: dict[str, str]) -> None:
    admin = KafkaAdminClient(bootstrap_servers=topics.bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(config))])
    admin.close()


def test_behind_sentinels_the_master_that_they_name_is_examined_and_what_is_to_correct_is_theirs(
    examine: Examine, own_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SentinelNode(tmp_path / "sentinel", own_valkey) as watcher:
        for name, value in {
            "URL": "redis://127.0.0.1:1/0",  # its host is not used
            "MODE": "sentinel",
            "SENTINELS": f"127.0.0.1:{watcher.port}",
            "SENTINEL_SERVICE": "states",
        }.items():
            monkeypatch.setenv(f"UIC_REDIS__{name}", value)

        def store() -> tuple[str, str, str]:
            finding = examine()[1]["store"]
            return finding["verdict"], finding["seen"], finding["fix"]

        master = f"master 'states' at 127.0.0.1:{own_valkey.port}"
        assert store() == ("OK", f"{master} answers", "")
        own_valkey.kill()
        verdict, seen, fix = store()
        assert (verdict, fix) == ("FAIL", store_facts.START_MASTER)
        assert seen.startswith(f"{master}: ConnectionError: ")
        monkeypatch.setenv("UIC_REDIS__SENTINEL_SERVICE", "nope")
        said = "the Sentinels watch no master 'nope', the name in UIC_REDIS__SENTINEL_SERVICE"
        assert store() == ("FAIL", f"master 'nope': {said}", store_facts.CORRECT_SENTINELS)
        watcher.kill()
        verdict, seen, fix = store()
        assert (verdict, fix) == ("FAIL", store_facts.CORRECT_SENTINELS)
        assert seen.startswith("master 'nope': no Sentinel of UIC_REDIS__SENTINELS answers: ")
