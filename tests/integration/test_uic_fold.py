"""UIC as a process between a real store and a real broker: whatever happens to them, the states are the log's replay.

What is right is computed from the log alone: event count and digest exactly, tensors by the bundle's own step graph.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from google.protobuf import json_format
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from conftest import MakeTopics, RedisForTest, TopicsForTest
from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from localstack.process import Ended
from localstack.servers import DevBroker, ScriptedBroker, Valkey
from localstack.services import Surroundings, UicWorker
from localstack.topics import create_topics, topics
from localstack.wait import until
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import StepGraph
from mimn.state import (
    EMPTY_DIGEST,
    Keys,
    Progress,
    UserState,
    decode_progress,
    decode_state,
    extend_digest,
    namespace,
    partition_of,
    user_hash,
)
from one_node_cluster import OneNodeCluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny" / "tiny" / "1"
PARTITIONS = 8
SESSION_MS = 6000


@dataclass
class Told:
    """What one user's log says: the events, and the digest over them."""

    items: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    digest: bytes = EMPTY_DIGEST


class World:
    """One topic, one store, any number of workers, and the truth."""

    def __init__(self, folder: Path, names: TopicsForTest, url: str, prefix: str, **told: str) -> None:
        self.folder = folder
        self.topics = names
        self.bundle: Bundle = load_bundle(BUNDLE)
        self.step = StepGraph(self.bundle)
        self.keys = Keys(namespace(self.bundle.manifest.fingerprint), prefix)
        self.surroundings = Surroundings(
            names.bootstrap,
            url,
            BUNDLE,
            topic=names.events,
            partitions=names.partitions,
            prefix=prefix,
            uic={"UIC_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_MS), "UIC_FOLD__MAX_STATES": "8", **told},
        )
        cluster = told.get("UIC_REDIS__MODE") == "cluster"
        kind = redis.RedisCluster if cluster else redis.Redis
        self.client: Any = kind.from_url(url, protocol=2, socket_timeout=5)
        self.truth: dict[str, Told] = {}
        self.workers: list[UicWorker] = []
        self._random = random.Random(7)

    def worker(self) -> UicWorker:
        """Start one more."""
        worker = UicWorker(f"uic-{len(self.workers)}", self.folder / f"uic-{len(self.workers)}", self.surroundings)
        self.workers.append(worker)
        worker.start()
        return worker

    def produce(self, n: int, users: int = 40) -> None:
        """`n` events of random users, protobuf and JSON, acknowledged."""
        producer = KafkaProducer(bootstrap_servers=self.topics.bootstrap, acks="all", linger_ms=2)
        sent = []
        for _ in range(n):
            user = f"user-{self._random.randrange(users)}"
            event = BehaviorEvent(
                user_id=user,
                item_id=self._random.randint(1, 80),
                category_id=self._random.randint(0, 9),
                event_time=time.time_ns() // 1_000_000,
            )
            as_json = self._random.random() < 0.2
            value = json_format.MessageToJson(event).encode() if as_json else event.SerializeToString()
            headers = [("content-type", b"application/json")] if as_json else []
            future = producer.send(self.topics.events, key=user.encode(), value=value, headers=headers)
            sent.append((user, event, value, future))
        producer.flush()
        for user, event, value, future in sent:
            told = self.truth.setdefault(user, Told())
            told.items.append(event.item_id)
            told.categories.append(event.category_id)
            told.digest = extend_digest(told.digest, future.get(timeout=10).offset, value)
        producer.close()

    def state(self, user: str) -> UserState | None:
        value = self.client.get(self.keys.state(partition_of(user.encode(), PARTITIONS), user))
        if value is None:
            return None
        return decode_state(value, self.bundle.fingerprint, self.bundle.layout, user_hash(user))

    def progress(self, partition: int) -> Progress | None:
        record = self.client.get(self.keys.progress(partition))
        return None if record is None else decode_progress(record)

    def folded(self) -> bool:
        """Whether every user's state has exactly the events of the log, in order."""
        try:
            states = {user: self.state(user) for user in self.truth}
        except redis.RedisError:
            return False
        return all(
            state is not None
            and (state.header.event_count, state.header.digest) == (len(self.truth[u].items), self.truth[u].digest)
            for u, state in states.items()
        )

    def wait_folded(self, within_s: float = 30) -> None:
        until(self.folded, "every event is folded once and in order", within_s=within_s, every_s=0.05)
        for user in self.truth:
            self.check_tensors(user)

    def check_tensors(self, user: str) -> None:
        told, state = self.truth[user], self.state(user)
        assert state is not None
        inputs = self.bundle.vectors(np.array(told.items, np.uint64), np.array(told.categories, np.uint64))
        expected = self.bundle.initial_state[np.newaxis]
        for row in inputs:
            expected = self.step(row[np.newaxis], expected)
        np.testing.assert_allclose(state.tensors, expected[0], rtol=1e-5, atol=1e-5)

    def close(self) -> None:
        for worker in self.workers:
            worker.thaw()
            worker.stop()
        self.client.close()


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path, make_topics: MakeTopics) -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(bootstrap: str, url: str, prefix: str = "uic", *, own_broker: bool = False, **told: str) -> World:
        if own_broker:  # which is gone before its topics could be deleted
            names = TopicsForTest(bootstrap, "behavior-events", PARTITIONS)
            create_topics(bootstrap, topics(names.events, PARTITIONS))
        else:
            names = make_topics(bootstrap, partitions=PARTITIONS)
        made.append(World(tmp_path, names, url, prefix, **told))
        return made[-1]

    yield make
    for world in made:
        world.close()


def metric(worker: UicWorker, name: str) -> float:
    """The sum over a metric's labels."""
    import urllib.request

    with urllib.request.urlopen(f"{worker.admin_url}/metrics", timeout=5) as answer:  # noqa: S310  # our own address
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


def partitions(worker: UicWorker) -> list[dict[str, object]]:
    import urllib.request

    with urllib.request.urlopen(f"{worker.admin_url}/partitions", timeout=5) as answer:  # noqa: S310  # as above
        found: list[dict[str, object]] = json.loads(answer.read())["partitions"]
    return found


def test_states_are_the_replay_of_the_log(make_world: MakeWorld, kafka: str, valkey: RedisForTest) -> None:
    world = make_world(kafka, valkey.url, valkey.prefix)
    world.produce(500)
    worker = world.worker()
    world.wait_folded()
    world.produce(500)
    world.wait_folded()
    assert metric(worker, "uic_records_total") == 1000
    assert metric(worker, "uic_rewinds_total") == 0
    until(
        lambda: all((p := world.progress(i)) is not None and time.time() * 1000 - p.as_of_ms < 7000 for i in range(8)),
        "every partition is known to be caught up",
        within_s=10,
    )
    assert all(p["phase"] == "folding" for p in partitions(worker))


def test_installations_with_prefixes_of_their_own_each_fold_the_whole_topic(
    make_world: MakeWorld, kafka: str, valkey: RedisForTest, tmp_path: Path
) -> None:
    world = make_world(kafka, valkey.url, valkey.prefix)
    world.worker()
    other = World(tmp_path / "other", world.topics, valkey.url, f"{valkey.prefix}-other")
    try:
        other.worker()
        world.produce(200)
        other.truth = world.truth
        world.wait_folded()
        other.wait_folded()
    finally:
        other.close()


def test_an_emptied_store_is_rebuilt_from_the_log(make_world: MakeWorld, kafka: str, own_valkey: Valkey) -> None:
    world = make_world(kafka, own_valkey.address)
    world.produce(400)
    worker = world.worker()
    world.wait_folded()
    before = [world.progress(p) for p in range(PARTITIONS)]
    world.client.flushall()
    world.wait_folded()
    world.produce(200)
    world.wait_folded()
    for p, old in enumerate(before):
        new = world.progress(p)
        assert old is not None
        assert new is not None
        assert new.lineage != old.lineage
    assert metric(worker, "uic_rewinds_total") == PARTITIONS
    assert world.client.get(world.keys.meta) is not None


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "frozen"])
def test_a_store_that_goes_away_and_comes_back_costs_no_event(
    make_world: MakeWorld, kafka: str, own_valkey: Valkey, silent: bool
) -> None:
    world = make_world(kafka, own_valkey.address, UIC_REDIS__TIMEOUT_S="0.3")
    worker = world.worker()
    world.produce(300)
    world.wait_folded()
    (own_valkey.freeze if silent else own_valkey.kill)()
    world.produce(300)
    until(lambda: metric(worker, "uic_store_failures_total") > 2, "UIC has noticed", within_s=20)
    assert worker.ready(), "an outage is no reason not to serve"
    (own_valkey.thaw if silent else own_valkey.start)()
    world.wait_folded()
    world.produce(100)
    world.wait_folded()


def test_a_store_that_comes_back_empty_is_rebuilt(make_world: MakeWorld, kafka: str, tmp_path: Path) -> None:
    with Valkey(tmp_path / "forgetful", appendfsync="off") as store:
        world = make_world(kafka, store.address, UIC_REDIS__TIMEOUT_S="0.3")
        worker = world.worker()
        world.produce(300)
        world.wait_folded()
        store.stop()
        world.produce(100)
        store.start()
        world.wait_folded()
        assert metric(worker, "uic_rewinds_total") >= 1


def test_a_broker_that_restarts_costs_no_event(
    make_world: MakeWorld, own_kafka: DevBroker, valkey: RedisForTest
) -> None:
    world = make_world(own_kafka.address, valkey.url, valkey.prefix, own_broker=True)
    worker = world.worker()
    world.produce(300)
    world.wait_folded()
    own_kafka.stop()
    own_kafka.start()
    world.produce(300)
    world.wait_folded(60)
    until(worker.ready, "UIC serves again", within_s=20)


def test_a_real_broker_that_is_killed_costs_no_event(
    make_world: MakeWorld, own_real_kafka: ScriptedBroker, valkey: RedisForTest
) -> None:
    world = make_world(own_real_kafka.address, valkey.url, valkey.prefix, own_broker=True)
    world.worker()
    world.produce(300)
    world.wait_folded()
    own_real_kafka.kill()
    own_real_kafka.start()
    world.produce(300)
    world.wait_folded(60)


def owned(worker: UicWorker) -> int:
    return sum(p["phase"] == "folding" for p in partitions(worker))


def test_workers_share_the_partitions_and_take_each_others_over(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    first = world.worker()
    world.produce(300)
    second = world.worker()
    world.produce(300)
    until(lambda: owned(first) == owned(second) == 4, "each has half", within_s=30)
    world.wait_folded()
    first.kill()
    world.produce(300)
    until(lambda: owned(second) == PARTITIONS, "the second has all", within_s=15)
    world.wait_folded()
    third = world.worker()
    until(lambda: owned(second) == owned(third) == 4, "each has half again", within_s=30)
    second.stop()
    world.produce(300)
    until(lambda: owned(third) == PARTITIONS, "the third has all, at once", within_s=5)
    world.wait_folded()


def test_a_worker_that_was_frozen_writes_nothing_that_is_not_its_own(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    zombie = world.worker()
    heir = world.worker()
    until(lambda: owned(zombie) == owned(heir) == 4, "each has half", within_s=30)
    world.produce(2000)
    zombie.freeze()
    world.produce(300)
    until(lambda: owned(heir) == PARTITIONS, "the heir has all", within_s=20)
    world.wait_folded()
    world.produce(300)
    zombie.thaw()
    world.wait_folded()
    until(lambda: owned(zombie) == owned(heir) == 4, "each has half again", within_s=30)
    world.produce(300)
    world.wait_folded()


def test_a_worker_told_to_stop_in_mid_backlog_leaves_at_once_and_in_order(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix, UIC_FOLD__MAX_WAVES="2")
    world.produce(4000)
    first = world.worker()
    until(lambda: any(world.progress(p) is not None for p in range(PARTITIONS)), "it folds", within_s=20, every_s=0.01)
    began = time.monotonic()
    status = first.stop()
    assert status == 0
    assert time.monotonic() - began < 10
    assert not world.folded()
    second = world.worker()
    until(lambda: owned(second) == PARTITIONS, "no session timeout has to pass", within_s=5)
    world.wait_folded()


def test_a_topic_that_grows_stops_consumption_by_name(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    worker = world.worker()
    world.produce(100)
    world.wait_folded()
    admin = KafkaAdminClient(bootstrap_servers=real_kafka)
    admin.create_partitions({world.topics.events: PARTITIONS + 1})
    admin.close()
    until(lambda: not worker.ready(), "UIC says NOT_SERVING", within_s=20)
    assert "partition_count" in (world.folder / "uic-0" / "uic-0.log").read_text()
    worker.stop()
    refused = UicWorker("refused", world.folder / "refused", world.surroundings)
    with pytest.raises(Ended, match=f"{PARTITIONS + 1}"):
        refused.start()


def test_what_retention_removed_is_a_gap_and_no_reason_to_stop(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    first = world.worker()
    world.produce(200)
    world.wait_folded()
    first.stop()
    complete = {user: len(told.items) for user, told in world.truth.items()}
    world.produce(200)
    admin = KafkaAdminClient(bootstrap_servers=real_kafka)
    ends = {p: progress.next_offset + 3 for p in range(PARTITIONS) if (progress := world.progress(p)) is not None}
    admin.delete_records({TopicPartition(world.topics.events, p): at for p, at in ends.items()})
    admin.close()
    second = world.worker()
    until(
        lambda: all((p := world.progress(i)) is not None and p.gaps == 1 for i in range(PARTITIONS)),
        "each partition has a gap",
        within_s=20,
    )
    assert second.ready()
    missing = len(complete) and 3 * PARTITIONS
    until(
        lambda: sum(len(t.items) for t in world.truth.values()) - missing == events_in(world),
        "all but the removed events are folded",
        within_s=20,
    )
    assert metric(second, "uic_data_gaps_total") == PARTITIONS
    touched = [s for u in world.truth if (s := world.state(u)) is not None and s.header.event_count != complete.get(u)]
    assert touched
    assert all(state.header.partial for state in touched)


def events_in(world: World) -> int:
    states: Sequence[UserState | None] = [world.state(user) for user in world.truth]
    return sum(state.header.event_count for state in states if state is not None)


def test_a_cluster_as_store(make_world: MakeWorld, kafka: str, tmp_path: Path) -> None:
    with OneNodeCluster(tmp_path / "cluster", appendfsync="off") as server:
        client = redis.Redis.from_url(server.address, protocol=2)
        world = make_world(kafka, server.address, UIC_REDIS__MODE="cluster")
        world.produce(300)
        worker = world.worker()
        world.wait_folded()
        client.flushall()
        world.wait_folded()
        assert metric(worker, "uic_rewinds_total") == PARTITIONS
        worker.stop()
        client.close()
