"""The whole system through its launcher: ready when it says so, members die and come back, data outlives a restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from localstack.__main__ import main as localstack
from localstack.process import Ended
from localstack.replay import States, expect, replay, wait_folded
from localstack.shoppers import DATA, Shopper, read_events
from localstack.stack import BUNDLE, Options, Stack, addresses_of, living, spawned, take_down
from localstack.wait import until
from localstack.web import web
from mimn.data.events import Events

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
PARTITIONS = 8
PATIENT_MS = "30000"
PATIENT = {"X-Request-Deadline-Ms": PATIENT_MS}
"""For requests whose time is not what is tested: other programs share the machine."""
WAITS = {"RTP_DEADLINE__MAX_MS": PATIENT_MS, "RTP_REDIS__CONNECT_TIMEOUT_MS": PATIENT_MS}


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(ROOT / DATA)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(folder=tmp_path / "stack", bundle=ROOT / BUNDLE, partitions=PARTITIONS, rtp=WAITS)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two RTP processes on one socket."""
    folder = tmp_path_factory.mktemp("wide") / "stack"
    options = Options(folder=folder, bundle=ROOT / BUNDLE, partitions=PARTITIONS, rtp_processes=2, rtp=WAITS)
    with Stack(options) as stack:
        yield stack


def some(events: Events, first: int, users: int, length: int) -> list[Shopper]:
    """`users` made-up users whose histories are `length` rows of the data each, beginning at row `first`."""
    starts = [first + i * length for i in range(users)]
    return [Shopper(f"stack-{start}", range(start, start + length), 1, 1, ()) for start in starts]


def fold(stack: Stack, events: Events, shoppers: list[Shopper], within_s: float = 120) -> None:
    at, options = stack.addresses, stack.options
    states = States(at.redis_url, options.bundle, prefix=at.prefix, partitions=options.partitions)
    try:
        records = replay(at.bootstrap, at.topic, events, shoppers)
        wait_folded(states, {user: expect(sent) for user, sent in records.items()}, within_s=within_s)
    finally:
        states.close()


def predict(url: str, user: str) -> dict[str, object]:
    body = {"user_id": user, "candidates": [{"item_id": 1, "category_id": 1}]}
    response = web().post(f"{url}/predict", json=body, timeout=60, headers=PATIENT)
    assert response.status_code == 200, response.text
    return dict(response.json()["state"])


def test_members_are_ready_once_the_stack_has_started(wide: Stack) -> None:
    at = wide.addresses
    assert list(living(wide.options.folder)) == ["rtp-1", "rtp-2", "uic-1", "broker", "valkey"]
    assert addresses_of(wide.options.folder) == at
    assert predict(at.predict, "nobody")["status"] == "cold"
    assert web().get(f"{at.predict}/readyz", timeout=60).status_code == 200
    assert len({*at.rtp_admin, *at.uic_admin, *at.uic}) == 4
    for url in (*at.rtp_admin, *at.uic_admin):
        assert web().get(f"{url}/metrics", timeout=60).status_code == 200


def test_events_become_states_that_predict_reads(wide: Stack, events: Events) -> None:
    shoppers = some(events, first=0, users=20, length=15)
    fold(wide, events, shoppers)
    for shopper in shoppers:
        assert predict(wide.addresses.predict, shopper.user_id)["events"] == 15


def test_processes_on_one_socket_restart_in_turn_without_a_failed_request(wide: Stack) -> None:
    stop, answered, failures = threading.Event(), [0], []

    def ask() -> None:
        while not stop.is_set():
            try:
                predict(wide.addresses.predict, "nobody")
                answered[0] += 1
            except (httpx.HTTPError, AssertionError) as failure:
                failures.append(failure)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for process in wide.rtp:
            process.restart()
            enough = answered[0] + 20
            until(partial(lambda n: answered[0] > n, enough), "requests are answered", within_s=60)
    finally:
        stop.set()
        asking.join()
    assert not failures


def test_a_killed_process_leaves_its_socket_to_the_other_one(wide: Stack) -> None:
    wide.rtp[0].kill()
    try:
        assert "rtp-1" not in living(wide.options.folder)
        for _ in range(20):
            predict(wide.addresses.predict, "nobody")
    finally:
        wide.rtp[0].start()
    assert "rtp-1" in living(wide.options.folder)


def test_status_names_members_that_were_killed_although_the_others_answer(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    """One RTP of two answers for both on their socket, and both services go on without the store."""
    folder = options.folder

    def status(*more: str) -> tuple[int, str, str]:
        code = localstack(["--folder", str(folder), "status", *more])
        said = capsys.readouterr()
        return code, said.out, said.err

    with Stack(replace(options, rtp_processes=2)) as stack:
        code, out, err = status()
        assert (code, "rtp-2: runs, pid" in out, err) == (0, True, ""), out
        assert json.loads(status("--json")[1])["ended"] == []
        for member, ended in ((stack.rtp[1], ["rtp-2"]), (stack.valkey, ["rtp-2", "valkey"])):
            assert member is not None
            assert member.child is not None
            member.child.kill()
            code, out, err = status()
            assert code == 1
            for name in ended:
                assert f"{name}: has ended\n" in out
            assert f": {', '.join(ended)}. The logs are in {folder / 'logs'}; " in err
            code, out, _ = status("--json")
            view = json.loads(out)
            assert (code, view["ended"], set(view["running"]) & set(ended)) == (1, ended, set())


def test_members_of_a_start_before_are_none_of_the_next_one(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a crash of the machine, which leaves the pid files."""
    wide = Stack(replace(options, rtp_processes=2))
    wide.start()
    for member in wide.members():
        assert member.child is not None
        member.child.kill()
    assert list(spawned(options.folder)) == ["rtp-1", "rtp-2", "uic-1", "broker", "valkey"]
    with Stack(options):
        assert localstack(["--folder", str(options.folder), "status"]) == 0
        assert "rtp-2" not in capsys.readouterr().out


def test_a_worker_dies_and_comes_back_and_nothing_is_folded_twice(
    options: Options, events: Events, real_kafka: str
) -> None:
    """On a real Kafka: the small broker never gives a dead member's partitions to the others."""
    name = f"stack-{options.folder.parent.name}"
    soon = {"UIC_KAFKA__SESSION_TIMEOUT_MS": "6000"}  # the least that a broker grants by default
    with Stack(replace(options, bootstrap=real_kafka, topic=name, uic_workers=2, uic=soon)) as stack:
        fold(stack, events, some(events, first=0, users=20, length=10))
        stack.uic[0].kill()
        fold(stack, events, some(events, first=1000, users=20, length=10))
        stack.uic[0].start()
        fold(stack, events, some(events, first=2000, users=20, length=10))


def test_a_stack_that_starts_again_goes_on_with_its_data(options: Options, events: Events) -> None:
    shoppers = some(events, first=5000, users=5, length=12)
    with Stack(options) as first:
        assert first.created_topics
        fold(first, events, shoppers)
    assert living(options.folder) == {}
    with Stack(options) as second:
        assert not second.created_topics
        assert predict(second.addresses.predict, shoppers[0].user_id)["events"] == 12
        fold(second, events, some(events, first=7000, users=5, length=12))


def test_members_that_their_launcher_forgot_are_taken_down_by_pid(options: Options) -> None:
    stack = Stack(options)
    stack.start()
    try:
        running = living(options.folder)
        lines: list[str] = []
        assert take_down(options.folder, say=lines.append) == len(running) == 4
        assert not any("SIGKILL" in line for line in lines), lines
        assert not any(identity.alive() for identity in running.values())
    finally:
        stack.stop()


def test_a_member_that_cannot_start_takes_the_others_with_it_and_shows_its_log(options: Options) -> None:
    broken = Stack(replace(options, uic={"UIC_KAFKA__TOPICC": "a typo"}))
    with pytest.raises(Ended, match=r"(?si)uic-1 ended with status.*topicc"):
        broken.start()
    assert not any(member.alive() for member in broken.members())
    assert living(options.folder) == {}


def test_servers_that_already_run_are_used_and_left_alone(
    options: Options, events: Events, valkey_url: str, kafka: str
) -> None:
    name = f"stack-{options.folder.parent.name}"
    with Stack(replace(options, redis_url=valkey_url, bootstrap=kafka, topic=name, prefix=name)) as stack:
        assert stack.valkey is None
        assert stack.broker is None
        assert list(living(options.folder)) == ["rtp-1", "uic-1"]
        fold(stack, events, some(events, first=9000, users=3, length=10))
