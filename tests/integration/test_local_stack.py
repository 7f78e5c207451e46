"""The whole system through its launcher: ready when it says so, members die and come back, data outlives a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localstack.__main__ import main as localstack
from localstack.replay import States, expect, replay, wait_folded
from localstack.shoppers import DATA, Shopper, read_events
from localstack.stack import BUNDLE, Options, Stack, addresses_of, living, spawned
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


@pytest.mark.full
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


def test_servers_that_already_run_are_used_and_left_alone(
    options: Options, events: Events, valkey_url: str, kafka: str
) -> None:
    name = f"stack-{options.folder.parent.name}"
    with Stack(replace(options, redis_url=valkey_url, bootstrap=kafka, topic=name, prefix=name)) as stack:
        assert stack.valkey is None
        assert stack.broker is None
        assert list(living(options.folder)) == ["rtp-1", "uic-1"]
        fold(stack, events, some(events, first=9000, users=3, length=10))
