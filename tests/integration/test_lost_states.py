"""States that are gone from the store alone: noticed, counted, and folded again while UIC goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from conftest import MakeTopics, RedisForTest
from localstack.topics import Topic, create_topics
from localstack.wait import until
from mimn.bundle import load_bundle
from mimn.state import Keys, decode_progress, encode_progress, namespace, partition_of
from support.bulk_running import run_main
from support.uic_running import BUNDLE, RunningUic, click, delete_and_wait, running_uic
from support.world import World
from uic.tools import verify

pytestmark = pytest.mark.servers

N = 4
USERS = [f"u{i}" for i in range(40)]
LOST, MET, CALM = USERS[0], USERS[1], USERS[2]


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

    with running_uic(tmp_path / "after", valkey, topics) as uic:
        environment = uic.worker.environment()
        uic.wait_folded(uic.publish(click(MET)))
        until(lambda: lost_states(uic) == 1, "the loss is counted", within_s=30)
        met = uic.state(MET)
        assert met is not None
        assert (met.event_count, met.partial) == (1, True)

        code, said = command(environment)
        assert (code, said.splitlines()[-1]) == (1, "40 users, 1 states lost, 0 repaired")
        sent = dict.fromkeys(USERS, 3) | {MET: 4}
        stop = threading.Event()

        def flow() -> None:
            while not stop.wait(0.02):
                uic.publish(*[click(user) for user in (LOST, MET, CALM)])
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
        assert httpx.get(f"{uic.worker.admin_url}/readyz", timeout=5).status_code == 200
        code, said = command(environment)
        assert (code, said.splitlines()) == (0, ["40 users, 0 states lost, 0 repaired"])

        forgotten = "u-forgotten"  # as after retention: listed, and the log has none of this user's events
        valkey.client.sadd(keys.users(partition_of(forgotten.encode(), N)), forgotten)
        code, said = command(environment, "--repair")
        assert (code, said.splitlines()[-2:]) == (
            1,
            [
                "41 users, 1 states lost, 0 repaired",
                "1 states are still lost: the log no longer has any event of these users",
            ],
        )


def lost_states(uic: RunningUic) -> float:
    text = httpx.get(f"{uic.worker.admin_url}/metrics", timeout=5).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("uic_lost_states_total")))


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    """Folded, and without a worker."""
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, {})
    made.produce(200, USERS)
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


def the_settings_have_another_n(world: World, make_topics: MakeTopics) -> dict[str, str]:
    return {"UIC_KAFKA__PARTITIONS": "2"}


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
        (the_settings_name_another_topic, "correct UIC_KAFKA__TOPIC and UIC_KAFKA__PARTITIONS"),
        (the_settings_have_another_n, "correct UIC_KAFKA__TOPIC and UIC_KAFKA__PARTITIONS"),
        (the_topic_is_made_again, "broken_log: topic_id"),
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
