"""States that are gone from the store alone: noticed, counted, and folded again while UIC goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from conftest import MakeTopics, RedisForTest
from localstack.wait import until
from mimn.bundle import load_bundle
from mimn.state import Keys, namespace, partition_of
from support.bulk_running import run_main
from support.uic_running import BUNDLE, RunningUic, click, running_uic
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
