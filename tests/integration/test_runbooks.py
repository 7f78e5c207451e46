"""The runbooks of bulk work are scripts, and what they promise holds on real servers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import redis
from kafka import KafkaAdminClient

from localstack.uic_and_rtp import RtpProcess
from localstack.wait import until
from mimn.release import Record, Release, encode_record, record_key
from mimn.state import Keys, namespace, partition_of
from support import skips
from support.archived_log import noted_erasures
from support.bulk_running import done
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.one_node_cluster import ClusterNode, form
from support.runbook import play
from support.world import World
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 4
GONE = b"user-1"
"""Who is erased while the new topic is built."""
PROMOTED = {"ROLLOUT": "r1", "GENERATION": "1"}
"""What `ctr rollout start` prints the first time."""
QUICK = {f"ctr rollout {verb}": "--steady-for 1s --allowed-lag 20s" for verb in ("wait", "promote")}


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, {})
    yield made
    made.close()


def environment(world: World, folder: Path, **more: str) -> dict[str, str]:
    """UIC's settings, and the runbooks' own variables."""
    own = {name.upper(): str(folder / name) for name in ("work", "archive", "snapshots")}
    return world.environment(**(own | more))


def scoring(world: World, folder: Path) -> RtpProcess:
    """An RTP that answers by the world's namespace, until a rollout record says otherwise."""
    told = {"RTP_STATE__REFRESH_EVERY_S": "0.5", "RTP_DEADLINE__MAX_MS": "30000"}
    rtp = RtpProcess("rtp", folder, replace(world.surroundings, rtp=told))
    rtp.start()
    return rtp


def answered(rtp: RtpProcess, user: str) -> tuple[str, int]:
    """Status and events of the state that a user is scored with."""
    body = {"user_id": user, "candidates": [{"item_id": 3, "category_id": 2}]}
    headers = {"X-Request-Deadline-Ms": "30000"}  # its time is not what is tested
    answer = httpx.post(f"{rtp.address}/predict", json=body, headers=headers, timeout=60).raise_for_status().json()
    return answer["state"]["status"], answer["state"]["events"]


def test_warm_up(tmp_path: Path, world: World) -> None:
    rows = [(i % 50, 1 + i % 70, i % 9, 1_700_000_000 + i) for i in range(900)]
    with (tmp_path / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uid", "sku", "cat", "ts"), *rows])
    description = tmp_path / "dataset.toml"
    description.write_text(
        'name = "shop"\n[events]\nfiles = ["history.csv"]\nuser = "uid"\nitem = "sku"\ncategory = "cat"\ntime = "ts"\n'
    )

    def start(told: Mapping[str, str], words: list[str]) -> None:
        world.produce(200, [str(user) for user in range(70)])
        world.worker()

    said = play(
        "warm-up.md", tmp_path, environment(world, tmp_path, DESCRIPTION=str(description)), {"start_workers": start}
    )
    assert "0 wrong" in said
    world.wait_folded()
    assert sum(map(len, world.log().records.values())) == len(rows) + 200


def test_restore(tmp_path: Path, world: World) -> None:
    world.produce(900, 60)
    world.worker()
    world.wait_folded()
    done(environment(world, tmp_path), "snapshot", "create", "--to", str(tmp_path / "snapshots"), "--verify")
    world.produce(100, 80)
    world.wait_folded()
    for key in world.client.scan_iter(match=f"{world.keys.prefix}:*"):
        world.client.delete(key)
    of = world.bundle.manifest
    serving = Release(of.name, of.version, world.bundle.sha256, of.files["head.onnx"], of.fingerprint, 0)
    left = encode_record(Record(revision=1, salt="0" * 16, serving=serving))
    world.client.set(record_key(world.keys.prefix), left)  # it may be what the store has kept
    world.produce(50, 80)
    world.wait_folded()  # UIC has started over

    def stop(told: Mapping[str, str], words: list[str]) -> None:
        world.workers[0].stop()

    def start(told: Mapping[str, str], words: list[str]) -> None:
        assert world.compare(snapshot=True).wrong == [], "what was restored counts before UIC goes on"
        world.worker()

    told = environment(world, tmp_path, NAMESPACE=world.keys.namespace)
    play("restore.md", tmp_path, told, {"stop_workers": stop, "start_workers": start})
    world.wait_folded()


@pytest.mark.full
def test_raise_n(tmp_path: Path, real_kafka: str, valkey: RedisForTest, make_topics: MakeTopics) -> None:
    old = make_topics(real_kafka, N)
    world = World(tmp_path / "world", old, valkey.url, valkey.prefix, {})
    new: list[World] = []
    topic: list[TopicsForTest] = []
    rtp: RtpProcess | None = None
    stopped = [False]
    try:
        world.produce(700, 50)
        world.worker()
        world.wait_folded()
        rtp = scoring(world, tmp_path / "rtp")
        made = make_topics(real_kafka, 2 * N)  # so that it is deleted after the test

        def create(told: Mapping[str, str], words: list[str]) -> None:
            assert words == [made.events, str(2 * N)]
            topic.append(made)

        def stop_producers(told: Mapping[str, str], words: list[str]) -> None:
            world.produce(100, 55)  # what came meanwhile
            stopped[0] = True

        def start_producers(told: Mapping[str, str], words: list[str]) -> None:
            assert stopped == [True]
            new.append(World(tmp_path / "new", topic[0], valkey.url, valkey.prefix, {}))
            new[0].keys = Keys(namespace(world.bundle.manifest.fingerprint, 1), valkey.prefix)
            new[0].produce(60, 60)

        def start(told: Mapping[str, str], words: list[str]) -> None:
            assert told["UIC_KAFKA__PARTITIONS"] == str(2 * N)
            partition = partition_of(GONE, N)  # by the old UIC, which still has the traffic
            world.producer.send(old.events, key=GONE, value=None, partition=partition).get(60)
            new[0].worker(UIC_BUNDLE__GENERATION=told["UIC_BUNDLE__GENERATION"])

        def stop(told: Mapping[str, str], words: list[str]) -> None:
            asked, events = next((user.decode(), len(of)) for user, of in by_user(new[0]).items() if user != GONE)
            until(lambda: answered(rtp, asked) == ("warm", events), "RTP answers by the new topic", within_s=60)
            world.workers[0].stop()

        told = environment(world, tmp_path, OLD=old.events, OLD_N=str(N), NEW=made.events, N=str(2 * N), **PROMOTED)
        tools = {
            "create_topic": create,
            "stop_producers": stop_producers,
            "start_producers": start_producers,
            "start_workers": start,
            "stop_workers": stop,
        }
        assert "0 wrong" in play("raise-n.md", tmp_path, told, tools, QUICK)
        new[0].wait_folded()
        assert {key for key, _ in noted_erasures(made)} == {GONE}
        assert not new[0].client.exists(new[0].keys.state(partition_of(GONE, 2 * N), GONE.decode()))
        before, after = by_user(world), by_user(new[0])
        for user, values in before.items():
            assert after[user][: len(values)] == values, "every event, once, in the user's order"
    finally:
        if rtp is not None:
            rtp.stop()
        for each in (*new, world):
            each.close()


@pytest.mark.full
def test_grown_topic(tmp_path: Path, real_kafka: str, valkey: RedisForTest, make_topics: MakeTopics) -> None:
    grown_to = 3
    old, made = make_topics(real_kafka, 2), make_topics(real_kafka, N)
    world = World(tmp_path / "world", old, valkey.url, valkey.prefix, {})
    new: list[World] = []
    rtp: RtpProcess | None = None
    sent: dict[bytes, list[bytes]] = {}

    def send(count: int, partitions: int, topic: TopicsForTest = old) -> None:
        """What producers do who have heard of `partitions`."""
        for i in range(count):
            user = f"user-{i % 40}"
            key, value = user.encode(), world.event(user).SerializeToString()
            world.producer.send(topic.events, key=key, value=value, partition=partition_of(key, partitions))
            sent.setdefault(key, []).append(value)
        world.producer.flush(timeout=60)

    def stop_producers(told: Mapping[str, str], words: list[str]) -> None:
        send(100, grown_to)  # what came meanwhile

    def start_producers(told: Mapping[str, str], words: list[str]) -> None:
        assert words == [made.events, str(N)]
        send(60, N, made)
        new.append(World(tmp_path / "new", made, valkey.url, valkey.prefix, {}))
        new[0].keys = Keys(namespace(world.bundle.manifest.fingerprint, 1), valkey.prefix)

    def start_workers(told: Mapping[str, str], words: list[str]) -> None:
        new[0].worker(UIC_BUNDLE__GENERATION=told["UIC_BUNDLE__GENERATION"])

    try:
        worker = world.worker()
        send(400, 2)
        world.wait_folded()
        rtp = scoring(world, tmp_path / "rtp")
        admin = KafkaAdminClient(bootstrap_servers=real_kafka)
        admin.create_partitions({old.events: grown_to})
        admin.close()
        world.forget_log()  # and the producer, which does not know the new partitions
        send(200, grown_to)
        # First the reason: a busy machine is late to answer the question whether it is ready, which counts as a no.
        until(lambda: "partition_count" in worker.log.read_text(), "UIC says why it stops", within_s=60)
        until(lambda: not worker.ready(), "UIC stops", within_s=60)
        worker.stop()
        assert list(read_to_end({"bootstrap_servers": real_kafka}, old.dlq)) == []

        tools = {
            "create_topic": lambda told, words: None,  # `made`, so that it is deleted after the test
            "stop_producers": stop_producers,
            "start_producers": start_producers,
            "start_workers": start_workers,
        }
        told = environment(world, tmp_path, NEW=made.events, N=str(N), **PROMOTED)
        said = play("grown-topic.md", tmp_path, told, tools, QUICK)
        assert f"has grown from 2 to {grown_to} partitions" in said
        assert "0 wrong" in said
        new[0].wait_folded()
        assert by_user(new[0]) == sent, "every event, once, in the user's order"
        until(lambda: answered(rtp, "user-1") == ("warm", len(sent[b"user-1"])), "RTP answers by it", within_s=60)
    finally:
        if rtp is not None:
            rtp.stop()
        for each in (*new, world):
            each.close()


def by_user(world: World) -> dict[bytes, list[bytes]]:
    """Values of each user's records, in order; keys lie where they belong."""
    found: dict[bytes, list[bytes]] = {}
    for p, records in world.log().records.items():
        for r in records:
            if r.key is not None and r.value is not None:
                assert partition_of(r.key, world.topics.partitions) == p
                found.setdefault(r.key, []).append(r.value)
    return found


@pytest.mark.full
@pytest.mark.timeout(600)  # slots move one by one
def test_grow_the_cluster(tmp_path: Path, kafka: str, make_topics: MakeTopics) -> None:
    skips.cluster_tool()
    with ExitStack() as ending:
        nodes = [ending.enter_context(ClusterNode(tmp_path / f"node-{i}")) for i in range(4)]
        form(nodes[:3])
        topics = make_topics(kafka, 12)
        told = {"UIC_REDIS__MODE": "cluster"}
        world = World(tmp_path / "world", topics, nodes[0].address, "grown", told)
        ending.callback(world.close)
        world.produce(600, 60)
        world.worker()
        world.wait_folded()
        new, old = (f"127.0.0.1:{node.port}" for node in (nodes[3], nodes[0]))
        said = play("grow-cluster.md", tmp_path, environment(world, tmp_path, ANY=old, MASTER=new, SHARE="0.1"), {})
        assert "All 16384 slots covered" in said
        world.produce(200, 80)
        world.wait_folded()
        with redis.Redis.from_url(nodes[3].address, protocol=2) as client:
            said_of = client.execute_command("CLUSTER NODES")
        [myself] = [node for node in said_of.values() if "myself" in node["flags"]]
        assert myself["slots"], "the new master has slots"
