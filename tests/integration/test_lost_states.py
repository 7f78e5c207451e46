"""States that are gone from the store alone: noticed, counted, and folded again while UIC goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from localstack.topics import Topic, create_topics
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.state import REMOVAL, Keys, decode_progress, encode_progress, namespace, partition_of
from support.bulk_running import run_main
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.uic_running import BUNDLE, RunningUic, click, delete_and_wait, running_uic
from support.world import World
from uic.tools import verify

pytestmark = pytest.mark.servers

N = 4
USERS = [f"u{i}" for i in range(40)]
LOST, MET, CALM = USERS[0], USERS[1], USERS[2]
PATIENT: dict[str, Any] = {"UIC_GRPC__TIMEOUT_S": "60"}
"""For calls of which none may fail: what became of its events would be unknown."""


def command(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    return run_main(verify.main, environment, *arguments)


def test_lost_states_are_noticed_and_repaired_exactly_once_while_events_flow(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    keys = Keys(namespace(load_bundle(BUNDLE).manifest.fingerprint), valkey.prefix)
    topics = make_topics(kafka, N)
    with running_uic(tmp_path / "before", valkey, topics) as uic:
        uic.wait_folded(uic.publish(*[click(user, item=1 + i) for user in USERS for i in range(3)]))
        whole = {user: uic.state(user) for user in USERS}
    for user in (LOST, MET):
        assert valkey.client.delete(keys.state(partition_of(user.encode(), N), user)) == 1

    with running_uic(tmp_path / "after", valkey, topics, **PATIENT) as uic:
        environment = uic.worker.environment()
        uic.wait_folded(uic.publish(click(MET)))
        until(lambda: lost_states(uic) == 1, "the loss is counted", within_s=60)
        met = uic.state(MET)
        assert met is not None
        assert (met.event_count, met.partial) == (1, True)

        code, said = command(environment)
        assert (code, "1 states lost, 1 incomplete, 0 repaired" in said) == (1, True)
        sent = dict.fromkeys(USERS, 3) | {MET: 4}
        stop = threading.Event()

        def flow() -> None:
            while not stop.wait(0.02):
                uic.publish(*[click(user) for user in (LOST, MET, CALM)], timeout_s=60)
                for user in (LOST, MET, CALM):
                    sent[user] += 1

        events = threading.Thread(target=flow)
        events.start()
        try:
            code, said = command(environment, "--repair")
            assert code == 0, said
        finally:
            stop.set()
            events.join()

        def complete(user: str) -> bool:
            state = uic.state(user)
            return state is not None and (state.event_count, state.partial) == (sent[user], False)

        until(lambda: all(map(complete, USERS)), "every user has all events, each once", within_s=60)
        for user in USERS[3:]:
            assert uic.state(user) == whole[user], "and all others are as they were"
        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        for user in USERS:
            sent[user] += 1
        until(lambda: all(map(complete, USERS)), "and everything goes on", within_s=60)
        assert web().get(f"{uic.worker.admin_url}/readyz", timeout=60).status_code == 200
        code, said = command(environment)
        assert (code, said.splitlines()) == (0, ["40 users, 0 states lost, 0 incomplete, 0 repaired"])

        forgotten = "u-forgotten"  # as after retention: listed, and the log has none of this user's events
        valkey.client.sadd(keys.users(partition_of(forgotten.encode(), N)), forgotten)
        code, said = command(environment, "--repair")
        assert (code, "1 states lost, 0 incomplete, 0 repaired" in said) == (1, True)


def lost_states(uic: RunningUic) -> float:
    text = web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("uic_lost_states_total")))


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    """Folded, and without a worker."""
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, {})
    for user in USERS:
        made.send(user)
    made.produce(160, USERS)
    worker = made.worker()
    made.wait_folded()
    worker.stop()
    yield made
    made.close()


def everything(world: World) -> dict[bytes, bytes]:
    """All keys of the namespace, as the store dumps them."""
    return {key: world.client.dump(key) for key in world.client.scan_iter(match=f"{world.keys.prefix}:*", count=1000)}


def the_settings_name_another_topic(world: World, make_topics: MakeTopics) -> dict[str, str]:
    other = make_topics(world.topics.bootstrap, N)
    return {"UIC_KAFKA__TOPIC": other.events}


def the_topic_is_made_again(world: World, make_topics: MakeTopics) -> dict[str, str]:
    delete_and_wait(world.topics.bootstrap, world.topics.events)
    create_topics(world.topics.bootstrap, [Topic(world.topics.events, N)])
    world.forget_log()
    world.produce(400, USERS)  # so that it is longer than what was folded
    return {}


def another_record_was_folded_last(world: World, make_topics: MakeTopics) -> dict[str, str]:
    for p, record in world.progress_records().items():
        progress = decode_progress(record)
        world.client.set(world.keys.progress(p), encode_progress(progress._replace(witness=progress.witness ^ 1)))
    return {}


@pytest.mark.parametrize(
    ("another", "name"),
    [
        (the_settings_name_another_topic, "UIC_KAFKA__TOPIC"),
        # By its id; by the witness where the broker has no topic ids, as the small one.
        (the_topic_is_made_again, "the log is not the one that was folded"),
        (another_record_was_folded_last, "broken_log: witness"),
    ],
)
def test_a_repair_from_another_log_than_the_one_that_was_folded_is_refused_and_changes_nothing(
    world: World,
    make_topics: MakeTopics,
    capsys: pytest.CaptureFixture[str],
    another: Callable[[World, MakeTopics], dict[str, str]],
    name: str,
) -> None:
    assert world.client.delete(world.keys.state(partition_of(LOST.encode(), N), LOST)) == 1
    told = another(world, make_topics)
    before = everything(world)
    code, said = command(world.environment(**told), "--repair")
    assert (code, name in said + capsys.readouterr().err) == (1, True), said
    assert "no longer has any event" not in said
    assert everything(world) == before


HURT = 2
"""A partition."""


def progress_is_gone(world: World) -> None:
    world.client.delete(world.keys.progress(HURT))


def a_removal_has_begun(world: World) -> None:
    world.client.set(world.keys.progress(HURT), REMOVAL + b"1")


def progress_is_beyond_the_log(world: World) -> None:
    put_progress(world, by=50)


def progress_was_put_back(world: World) -> None:
    put_progress(world, by=-5)


def put_progress(world: World, by: int) -> None:
    there = world.progress(HURT)
    assert there is not None
    moved = there._replace(next_offset=there.next_offset + by, last_offset=there.last_offset + by)
    world.client.set(world.keys.progress(HURT), encode_progress(moved))


@pytest.mark.parametrize(
    ("hurt", "name"),
    [
        (progress_is_gone, "no progress record"),
        (a_removal_has_begun, "`ctr namespaces drop` finishes it"),
        (progress_is_beyond_the_log, "broken_log: truncated"),
        (progress_was_put_back, "states are ahead of progress"),
    ],
)
def test_a_partition_that_is_not_whole_is_named_and_left_as_it_is(
    world: World, hurt: Callable[[World], None], name: str
) -> None:
    its = [user for user in USERS if partition_of(user.encode(), N) == HURT]
    assert command(world.environment()) == (0, "40 users, 0 states lost, 0 incomplete, 0 repaired\n")
    hurt(world)
    before = everything(world)
    for repair in (), ("--repair",):
        code, said = command(world.environment(), *repair)
        assert (code, len(said.splitlines())) == (1, 2), said
        assert said.startswith(f"partition {HURT}: {len(its)} users, 0 states lost")
        assert name in said
        code, said = command(world.environment(), "--json", *repair)
        errors = [json.loads(line)["error"] for line in said.splitlines()]
        assert (code, [name in error for error in errors]) == (1, [p == HURT for p in range(N)])
    assert everything(world) == before


def test_a_list_of_users_that_was_deleted_is_noticed_at_any_time_and_made_whole_again(world: World) -> None:
    its = [user for user in USERS if partition_of(user.encode(), N) == HURT]
    world.client.delete(world.keys.users(HURT))
    worker = world.worker()
    world.send(its[0])  # UIC lists this user again, so that there is a list
    world.producer.flush(timeout=60)
    world.wait_folded()
    assert world.client.smembers(world.keys.users(HURT)) == {its[0].encode()}
    before = world.stored().states
    missing = f"{len(its) - 1} users with a state are missing from the list of users"
    for arguments, status, end in (
        ((), 1, "say --repair to list them again"),
        (("--partition", "0"), 0, ""),
        (("--partition", str(HURT), "--repair"), 0, f"{len(its) - 1} are listed again"),
    ):
        code, said = command(world.environment(), *arguments)
        assert (code, missing in said, end in said) == (status, status == 1 or "again" in end, True), said
        assert "0 states lost" in said
    assert world.client.smembers(world.keys.users(HURT)) == {user.encode() for user in its}
    assert command(world.environment()) == (0, "40 users, 0 states lost, 0 incomplete, 0 repaired\n")
    assert world.stored().states == before

    # A state that is lost after the list was, and before it is whole, is lost without a word; the next one is not.
    world.client.delete(world.keys.state(HURT, its[1]))
    code, said = command(world.environment())
    assert (code, "40 users, 1 states lost" in said) == (1, True)
    worker.stop()


def test_a_meta_or_a_set_of_namespaces_that_was_deleted_is_written_again_while_uic_folds(world: World) -> None:
    world.worker()
    world.wait_folded()
    said = world.client.get(world.keys.meta)
    assert world.client.delete(world.keys.meta, world.keys.namespaces) == 2
    until(lambda: world.client.get(world.keys.meta) == said, "the same meta is there again", within_s=60)
    until(lambda: world.client.smembers(world.keys.namespaces) == {world.keys.namespace.encode()},
          "and the name", within_s=60)  # fmt: skip
    assert command(world.environment())[0] == 0
    world.produce(20, USERS)
    world.wait_folded()


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"UIC_REDIS__PREFIX": "nothing-here"}, "under prefix nothing-here in this store"),
        ({"UIC_BUNDLE__GENERATION": "3"}, "there is no namespace"),
        ({"UIC_KAFKA__PARTITIONS": "8"}, "UIC_KAFKA__PARTITIONS"),
        ({}, "docs/runbooks/store-outage.md"),
    ],
    ids=["prefix", "generation", "more partitions", "emptied"],
)
def test_a_look_where_the_states_are_not_says_so(
    valkey: RedisForTest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    told: dict[str, str],
    name: str,
    closed_port: str,
) -> None:
    topics = TopicsForTest(closed_port, "events", N)
    nowhere = World(tmp_path, topics, valkey.url, valkey.prefix, {})
    if told:
        valkey.client.set(nowhere.keys.meta, json.dumps({"partitions": N, "topic": "events", "store": "f" * 16}))
    code, said = command(nowhere.environment(**told))
    assert (code, said, name in capsys.readouterr().err) == (1, "", True)
    valkey.client.delete(nowhere.keys.meta)
    valkey.client.set(nowhere.keys.progress(0), REMOVAL + b"1")  # the last that a removal leaves
    assert command(nowhere.environment(), "--repair") == (1, "")
    assert "is being removed" in capsys.readouterr().err


def test_states_are_looked_at_while_no_broker_answers_and_what_was_not_compared_is_said(
    world: World, capsys: pytest.CaptureFixture[str], closed_port: str
) -> None:
    away = {"UIC_KAFKA__BOOTSTRAP_SERVERS": closed_port, "UIC_KAFKA__REQUEST_TIMEOUT_MS": "1000"}
    assert command(world.environment(**away)) == (1, "40 users, 0 states lost, 0 incomplete, 0 repaired\n")
    assert "progress was not compared with the log: no broker" in capsys.readouterr().err
    assert command(world.environment(**away), "--repair") == (1, "")


def test_a_worker_that_folds_meanwhile_makes_no_partition_look_broken(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    with running_uic(tmp_path, valkey, topics, **PATIENT) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        stop = threading.Event()

        def flow() -> None:
            while not stop.is_set():
                uic.publish(*[click(user) for user in USERS], timeout_s=60)

        events = threading.Thread(target=flow)
        events.start()
        try:
            for _ in range(5):
                assert command(uic.worker.environment()) == (0, "40 users, 0 states lost, 0 incomplete, 0 repaired\n")
        finally:
            stop.set()
            events.join()
