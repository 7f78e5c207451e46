"""UIC as a process between a real store and a real broker: whatever happens to them, the states are the log's replay.

What is right is computed from the log alone: event count and digest exactly, tensors by the bundle's own step graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
from kafka import KafkaAdminClient, KafkaProducer

from localstack.process import Ended
from localstack.topics import create_topics, topics
from localstack.uic_and_rtp import UicWorker
from localstack.valkey import Valkey
from localstack.wait import until
from mimn.state import partition_of
from support.alert_rules import faults, scenario_of
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.world import BUNDLE, World
from torture.watching import metric, owned, partitions, readiness, samples, wait_well
from torture.wire import Wire
from uic.log.topic_reader import read_to_end

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

PARTITIONS = 8
LISTS = Path(__file__).parents[1] / "fixtures" / "bundle_tiny_dien" / "tiny-dien" / "1"
"""A bundle whose states are lists of events."""


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path, make_topics: MakeTopics) -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(
        bootstrap: str, url: str, prefix: str = "uic", *, own_broker: bool = False, bundle: Path = BUNDLE, **told: str
    ) -> World:
        if own_broker:  # which is gone before its topics could be deleted
            names = TopicsForTest(bootstrap, "behavior-events", PARTITIONS)
            create_topics(bootstrap, topics(names.events, PARTITIONS))
        else:
            names = make_topics(bootstrap, partitions=PARTITIONS)
        told = {"UIC_FOLD__MAX_STATES": "8", **told}
        made.append(World(tmp_path, names, url, prefix, told, bundle=bundle))
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_states_are_the_replay_of_the_log(make_world: MakeWorld, kafka: str, valkey: RedisForTest) -> None:
    world = make_world(kafka, valkey.url, valkey.prefix)
    world.produce(500)
    worker = world.worker(UIC_FOLD__NICE="3")
    world.wait_folded()
    world.produce(500)
    world.wait_folded()
    assert worker.child is not None
    assert psutil.Process(worker.child.pid).nice() == min(19, psutil.Process().nice() + 3)
    session = Path(f"/proc/{worker.child.pid}/autogroup")
    if session.exists():
        assert session.read_text().endswith("nice 3\n"), "between sessions it is the session's niceness that counts"
    assert metric(worker, "uic_records_total") == 1000
    assert metric(worker, "uic_rewinds_total") == 0
    until(
        lambda: all((p := world.progress(i)) is not None and time.time() * 1000 - p.as_of_ms < 7000 for i in range(8)),
        "every partition is known to be caught up",
        within_s=60,
    )
    until(lambda: all(p["phase"] == "folding" for p in partitions(worker)), "the worker says so, too", within_s=60)


def test_installations_with_prefixes_of_their_own_each_fold_the_whole_topic(
    make_world: MakeWorld, kafka: str, valkey: RedisForTest, tmp_path: Path
) -> None:
    world = make_world(kafka, valkey.url, valkey.prefix)
    world.worker()
    other = World(tmp_path / "other", world.topics, valkey.url, f"{valkey.prefix}-other", {})
    try:
        other.worker()
        world.produce(200)
        world.wait_folded()
        other.wait_folded()
    finally:
        other.close()


@pytest.mark.full
def test_lists_of_events_survive_a_crash_and_an_emptied_store(
    make_world: MakeWorld, real_kafka: str, own_valkey: Valkey
) -> None:
    world = make_world(real_kafka, own_valkey.address, bundle=LISTS, UIC_FOLD__MAX_WAVES="2")
    world.produce(600, users=12)
    doomed = world.new_worker(UIC_FAULT__CRASH_AFTER="commit", UIC_FAULT__BATCHES="3")
    with suppress(Ended):  # it may crash before it is seen to be ready
        doomed.start()
    until(lambda: not doomed.alive(), "it has crashed", within_s=60)
    assert world.compare(), "it left something undone"
    world.worker()
    world.wait_folded()
    world.client.flushall()
    world.wait_folded()


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


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.full)], ids=["killed", "frozen"])
def test_a_store_that_goes_away_and_comes_back_costs_no_event(
    make_world: MakeWorld, kafka: str, own_valkey: Valkey, silent: bool
) -> None:
    world = make_world(kafka, own_valkey.address, UIC_REDIS__TIMEOUT_S="0.3")
    worker = world.worker()
    world.produce(300)
    world.wait_folded()
    (own_valkey.freeze if silent else own_valkey.kill)()
    world.produce(300)
    until(lambda: metric(worker, "uic_store_failures_total") > 2, "UIC has noticed", within_s=60)
    until(worker.ready, "it serves all the same: an outage is no reason not to", within_s=60)
    (own_valkey.thaw if silent else own_valkey.start)()
    world.wait_folded()
    world.produce(100)
    world.wait_folded()


@pytest.mark.parametrize("emptied", [True, pytest.param(False, marks=pytest.mark.full)])
def test_a_store_that_was_emptied_while_no_worker_ran_has_an_alert_and_a_restart_has_none(
    make_world: MakeWorld, kafka: str, own_valkey: Valkey, tmp_path: Path, emptied: bool
) -> None:
    world = make_world(kafka, own_valkey.address)
    world.produce(300)
    before = world.worker()
    world.wait_folded()
    wait_well([before], PARTITIONS)
    names = ("uic_take_ups_total", "uic_next_offset", "uic_as_of_timestamp_seconds", "uic_bundle_info")
    earlier = samples(before, *names)
    before.stop()
    if emptied:
        world.client.flushall()
    after = world.worker()
    world.wait_folded()
    wait_well([after], PARTITIONS)
    series = {f'{name[:-1]},instance="uic-0"}}': f"{value}x39" for name, value in earlier.items()}
    series |= {f'{name[:-1]},instance="uic-1"}}': f"_x41 {value}x60" for name, value in samples(after, *names).items()}
    starts = {"uic-0": "0x39", "uic-1": "_x41 1230x60"}
    series |= {f'process_start_time_seconds{{instance="{one}"}}': values for one, values in starts.items()}
    series |= {f'uic_topic_partitions{{instance="{one}"}}': f"{PARTITIONS}x100" for one in starts}
    fires = [("5m", False), ("16m", False), ("21m", emptied), ("30m", emptied), ("32m", False)]
    names_of = {"state_namespace": world.keys.namespace, "prefix": world.keys.prefix, "topic": world.topics.events}
    labels = {"severity": "page", **names_of}
    assert faults(scenario_of(series, fires, "StoreEmptied", labels), tmp_path) == ""


def test_a_planned_failover_behind_a_name_costs_no_event_and_no_restart(
    make_world: MakeWorld, kafka: str, tmp_path: Path
) -> None:
    with (
        Valkey(tmp_path / "a", name="a") as old,
        Valkey(tmp_path / "b", name="b") as new,
        Wire(old.port) as name,
        redis.Redis.from_url(old.address, protocol=2) as former,
        redis.Redis.from_url(new.address, protocol=2) as master,
    ):
        master.replicaof("127.0.0.1", old.port)
        world = make_world(kafka, f"redis://127.0.0.1:{name.port}/0")
        worker = world.worker()
        world.produce(300)
        world.wait_folded()
        until(lambda: master.info("replication")["master_link_status"] == "up", "the replica follows", within_s=60)
        master.replicaof("NO", "ONE")
        former.replicaof("127.0.0.1", new.port)
        name.to_port = new.port
        world.produce(300)
        world.wait_folded(60)
        until(lambda: readiness(worker) == (200, ""), "UIC says that all is well", within_s=60)


def test_workers_share_the_partitions_and_take_each_others_over(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    first = world.worker()
    world.produce(300)
    second = world.worker()
    world.produce(300)
    until(lambda: owned(first) == owned(second) == 4, "each has half", within_s=60)
    world.wait_folded()
    first.kill()
    world.produce(300)
    until(lambda: owned(second) == PARTITIONS, "the second has all", within_s=60)
    world.wait_folded()
    third = world.worker()
    until(lambda: owned(second) == owned(third) == 4, "each has half again", within_s=60)
    second.stop()
    world.produce(300)
    until(lambda: owned(third) == PARTITIONS, "the third has all", within_s=60)
    world.wait_folded()


@pytest.mark.full
def test_a_partition_of_a_quiet_topic_that_goes_to_another_worker_fires_no_alert(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest, tmp_path: Path
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    world.produce(300)
    first = world.worker()
    world.wait_folded()
    wait_well([first], PARTITIONS)
    names = ("uic_next_offset", "uic_as_of_timestamp_seconds", "uic_bundle_info")
    alone = samples(first, *names)
    second = world.worker()
    until(lambda: owned(first) == owned(second) == 4, "each has half", within_s=60)
    wait_well([first, second], PARTITIONS)
    stays, goes = samples(first, *names), samples(second, *names)
    assert len(alone.keys() - stays.keys()) == 8, "two series of each partition that it gave away"
    series = {
        f'{name[:-1]},instance="uic-0"}}': f"{value}x80" if name in stays else f"{value}x39 stale"
        for name, value in alone.items()
    }
    series |= {f'{name[:-1]},instance="uic-1"}}': f"_x41 {value}x40" for name, value in goes.items()}
    fires = [(f"{minutes}m{seconds}s", False) for minutes in range(19, 25) for seconds in (0, 30)]
    assert faults(scenario_of(series, fires, "PartitionsBehind", {}), tmp_path) == ""


def grow(world: World) -> None:
    """Give the topic one more partition."""
    admin = KafkaAdminClient(bootstrap_servers=world.topics.bootstrap)
    admin.create_partitions({world.topics.events: PARTITIONS + 1})
    admin.close()


def until_it_stops(worker: UicWorker) -> None:
    """First the reason: a busy machine is late to answer the question whether it is ready, which counts as a no."""
    until(lambda: "partition_count" in worker.log.read_text(), "UIC says why it stops", within_s=60)
    until(lambda: not worker.ready(), "UIC says NOT_SERVING", within_s=60)


def test_events_that_a_growth_moves_between_old_partitions_are_no_dead_letters(
    make_world: MakeWorld, real_kafka: str, valkey: RedisForTest
) -> None:
    world = make_world(real_kafka, valkey.url, valkey.prefix)
    worker = world.worker()
    world.produce(100)
    world.wait_folded()
    grow(world)
    users = [f"user-{i}".encode() for i in range(40)]
    at = {user: partition_of(user, PARTITIONS + 1) for user in users}
    moved = [user for user in users if at[user] not in (PARTITIONS, partition_of(user, PARTITIONS))]
    assert moved, "UIC reads their new partitions"
    written: dict[bytes, int] = {}
    with KafkaProducer(bootstrap_servers=real_kafka, acks="all") as producer:
        for user in users:
            event = world.event(user.decode()).SerializeToString()
            sent = producer.send(world.topics.events, key=user, value=event, partition=at[user])
            written[user] = sent.get(timeout=60).offset
    until_it_stops(worker)
    worker.stop()
    client = {"bootstrap_servers": real_kafka}
    assert list(read_to_end(client, world.topics.dlq)) == []
    after = {p: world.progress(p) for p in range(PARTITIONS + 1)}
    assert after.pop(PARTITIONS) is None, "the new partition is never taken up"
    ends = {p: some.next_offset for p, some in after.items() if some is not None}
    # Events of users who stay, which lie before them, may be folded.
    assert all(ends[at[user]] <= written[user] for user in moved), "none of them is passed"
