"""The users of the store that the runbook makes may do all that their programs do, on a real server that forbids the
rest."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import RtpProcess
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.state import CorruptState, partition_of
from support.bulk_running import done, run_main
from support.for_test import MakeTopics, RedisForTest
from support.one_node_cluster import OneNodeCluster
from support.rollouts import QUICK, Deployment
from support.world import World
from uic.tools import verify
from uic.tools.doctor import command as doctor

pytestmark = pytest.mark.servers

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "redis-users.md"
PREFIX = "shop"
N = 4
USERS = [f"u{i}" for i in range(30)]
ERASED, LOST, UNREADABLE = USERS[:3]


def acl(more: str = "") -> str:
    """The runbook's ACL for `PREFIX`, with a user who sees everything for the test; the passwords are the names."""
    text = RUNBOOK.read_text()
    (block,) = re.findall(r"```acl\n(.*?)```", text, re.DOTALL)
    lines = re.sub(r">(\w+)_PASSWORD", lambda found: ">" + found[1].lower(), block).replace("uic:", f"{PREFIX}:")
    users = [f"{line} {more}" if " on " in line else line for line in lines.splitlines()]
    return "\n".join([*users, "user judge on nopass ~* &* +@all", ""])


def for_clusters() -> str:
    """What the runbook adds in a cluster."""
    found: str
    (found,) = re.findall(r"In a \*\*cluster\*\* each user also needs `([^`]+)`", RUNBOOK.read_text())
    return found


class Forbidding(Valkey):
    """A server with the runbook's users."""

    def command(self) -> list[str]:
        (self.folder / "users.acl").write_text(acl())
        return [*super().command(), "--aclfile", str((self.folder / "users.acl").resolve())]

    def ready(self) -> bool:
        return bool(judge(self).ping())


def judge(server: Valkey) -> Any:
    return redis.Redis(host=LOOPBACK, port=server.port, username="judge", password="judge", protocol=2)


@pytest.mark.parametrize("mode", ["single", pytest.param("cluster", marks=pytest.mark.full)])
def test_every_program_does_its_work_with_the_rights_of_its_user(
    mode: str, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    with ExitStack() as ending:
        if mode == "single":
            server: Valkey = ending.enter_context(Forbidding(tmp_path / "store", appendfsync="off"))
        else:
            server = ending.enter_context(OneNodeCluster(tmp_path / "store", appendfsync="off"))
            with redis.Redis.from_url(server.address, protocol=2) as client:
                users = [line.split()[1:] for line in acl(for_clusters()).splitlines()]
                for name, *rules in users[1:] + users[:1]:
                    client.execute_command("ACL SETUSER", name, *rules)
        client = ending.enter_context(judge(server))
        client.acl_log_reset()

        def url(user: str) -> str:
            return f"redis://{user}:{user}@{LOOPBACK}:{server.port}/0"

        kind = redis.RedisCluster if mode == "cluster" else redis.Redis
        reader: Any = kind.from_url(url("judge"), protocol=2)
        ending.callback(reader.close)
        topics = make_topics(kafka, N)
        running = Deployment(
            tmp_path, RedisForTest(url("judge"), PREFIX, reader), topics, {"URL": url("uic"), "MODE": mode}
        )
        ending.callback(running.close)
        patient = {f"RTP_{name}": "20000" for name in ("DEADLINE__MAX_MS", "REDIS__CONNECT_TIMEOUT_MS")}
        rtp = dict(running.surroundings.rtp) | {"RTP_REDIS__URL": url("rtp")} | patient
        running.surroundings = replace(running.surroundings, rtp=rtp)
        running.deadline_ms = 9000  # below the client's patience; a request's time is not what is tested
        running.rtp = RtpProcess("rtp", tmp_path / "rtp-1", running.surroundings)
        running.variables["UIC_REDIS__URL"] = url("operator")
        everything_of_a_deployment(running, tmp_path)
        assert [(one["username"], one["reason"], one["object"]) for one in client.acl_log()] == []


def everything_of_a_deployment(running: Deployment, folder: Path) -> None:
    """What the three users' programs do in a deployment's life."""
    old, store, operator, n = running.old, running.redis.client, running.variables, running.topics.partitions

    def state_key(user: str) -> str:
        return old.keys.state(partition_of(user.encode(), n), user)

    def events_of(user: str) -> int:
        try:
            stored = old.state(user)
        except CorruptState:
            return -1
        return 0 if stored is None else stored.header.event_count

    first = old.worker()
    for user in USERS:
        old.send(user)
    old.produce(200, USERS)
    old.wait_folded()
    old.producer.send(running.topics.events, key=ERASED.encode(), value=None)
    old.producer.flush(timeout=60)
    until(lambda: events_of(ERASED) == 0, "the erased user has no state", within_s=60)
    first.stop()  # and what it keeps in memory ends with it
    store.delete(state_key(LOST))
    store.set(state_key(UNREADABLE), b"no state")
    old.worker()
    for user in (LOST, UNREADABLE):
        old.send(user)
    old.producer.flush(timeout=60)
    until(lambda: (events_of(LOST), events_of(UNREADABLE)) == (1, 1), "both begin again", within_s=60)
    assert store.lrange(old.keys.bad(partition_of(UNREADABLE.encode(), n)), 0, -1) == [b"no state"]
    code, said = run_main(verify.main, operator, "--repair")
    assert (code, "0 states lost" in said or "repaired" in said) == (0, True), said

    running.rtp.start()
    with running.traffic(USERS[3:]) as traffic:
        until(lambda: len(traffic.answers) > 100, "requests are answered", within_s=60)
    assert traffic.failed() == []
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}
    until(lambda: len(running.done("list")["rtp"]) == 1, "RTP announces itself", within_s=60)
    plan = running.done("plan", str(running.new_bundle))
    assert plan["bytes_per_user"] > 0
    identity = running.done("start", str(running.new_bundle))["id"]
    running.new.worker()
    running.done("wait", identity, "--timeout", "120s", *QUICK)
    running.done("canary", identity, "--percent", "30", *QUICK)
    running.wait_revision()
    running.done("promote", identity, *QUICK)
    running.done("rollback", identity)
    running.wait_revision()

    code, said = run_main(doctor.main, operator)
    assert "NOPERM" not in said
    assert "a commit was written and deleted again" in said
    for worker in (*old.workers, *running.new.workers):
        worker.stop()
    snapshots, work = str(folder / "snapshots"), ("--work", str(folder / "work"))
    done(operator, "snapshot", "create", "--to", snapshots, "--verify")
    later = [{**operator, "UIC_BUNDLE__GENERATION": str(generation)} for generation in (1, 2)]
    done(later[0], "snapshot", "restore", "--from", snapshots, "--of-namespace", old.keys.namespace)
    done(later[1], "backfill", *work, "--workers", "1")
    done(later[1], "backfill", *work, "--verify")
    loaded = old.keys.namespace.removesuffix("0") + "1"
    assert loaded in done(operator, "namespaces", "--json")
    done(operator, "namespaces", "drop", loaded, "--yes", "--force")
    collected = running.rollout("gc")[1]
    assert "collected" in collected, collected


def test_rtp_can_write_no_state(tmp_path: Path) -> None:
    with (
        Forbidding(tmp_path / "store", appendfsync="off") as server,
        redis.Redis(host=LOOPBACK, port=server.port, username="rtp", password="rtp", protocol=2) as client,
    ):
        state, own = f"{PREFIX}:{{0011223344556677-0.1}}:s:ann", f"{PREFIX}:{{rtp}}:web:1"
        assert client.get(state) is None
        assert client.set(own, b"announced")
        for forbidden in (lambda: client.set(state, b"x"), lambda: client.delete(state), client.flushall):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forbidden()


@pytest.mark.full
def test_a_right_that_is_missing_is_named_and_everything_goes_on_when_it_is_given(
    kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    with Forbidding(tmp_path / "store", appendfsync="off") as server, judge(server) as client:
        url = f"redis://uic:uic@{LOOPBACK}:{server.port}/0"
        world = World(tmp_path, make_topics(kafka, N), url, PREFIX, {}, client=client)
        try:
            worker = world.worker()
            world.produce(100)
            world.wait_folded()
            client.execute_command("ACL SETUSER", "uic", "-smismember")
            world.produce(100, 200)  # new users among them

            def reason() -> str:
                return web().get(f"{worker.admin_url}/readyz", timeout=60).text

            until(lambda: "smismember" in reason(), "what is missing is named", within_s=60)
            assert "store_unavailable" in reason()
            code, said = run_main(doctor.main, worker.environment())
            assert code == 1
            assert "smismember" in said, "the doctor, run as this user, names it too"
            client.execute_command("ACL SETUSER", "uic", "+smismember")
            world.wait_folded()
            until(lambda: "store_unavailable" not in reason(), "and /readyz says that it is well", within_s=60)
            client.execute_command("ACL SETUSER", "uic", "-time")
            until(lambda: "clock_unavailable" in reason(), "the clock is named", within_s=60)
            world.produce(100, 200)
            world.wait_folded()
            assert "clock_unavailable" in reason()
            assert "store_unavailable" not in reason()
            client.execute_command("ACL SETUSER", "uic", "+time")
            until(lambda: "clock_unavailable" not in reason(), "all is well", within_s=60)
            assert "a commit was written and deleted again" in run_main(doctor.main, worker.environment())[1]
        finally:
            world.close()
