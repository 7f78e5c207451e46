"""Rollouts on real servers: two UIC fleets over one log, RTP under requests, and the command that moves the traffic."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from localstack.uic_and_rtp import RtpProcess
from localstack.wait import until
from localstack.web import web
from mimn.release import (
    BUCKETS,
    Record,
    State,
    announcement_key,
    bucket_of,
    instances_key,
    record_key,
)
from mimn.state import partition_of
from rtp.rollout_follower import ARMS_WITHIN_S
from support import rollouts
from support.bulk_running import cut_log, done, run_main
from support.bundles import SKETCH, TINY
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.one_node_cluster import replicated
from support.rollouts import QUICK, Deployment
from uic.errors import UnsuitableTopic
from uic.preflight import check_topic
from uic.rollout.desk import Desk
from uic.settings import KafkaSettings
from uic.tools import erase

ROOT = Path(__file__).parents[2]
RUNBOOKS, SHIPPED = ROOT / "docs/runbooks", ROOT / "models/bundles"
pytestmark = pytest.mark.servers
USERS = [f"user-{i}" for i in range(60)]
QUIET = USERS[:30]
"""Users without events while the traffic moves: what their scores must be is known."""
BUSY = USERS[30:]
deployed = partial(rollouts.deployed, patient=True)


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisForTest]:
    """A cluster of three masters, each with a replica of its own."""
    with replicated(tmp_path) as nodes:
        client = redis.RedisCluster.from_url(nodes[0].address, protocol=2, socket_timeout=10)
        yield RedisForTest(nodes[0].address, "shop", client)  # type: ignore[arg-type] # the cluster's client
        client.close()


def test_another_head_is_in_service_within_seconds_and_out_again(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 8)
    with deployed(tmp_path, valkey, topics, USERS, new=False) as running, running.traffic(QUIET) as traffic:
        plan = running.done("plan", str(running.other_head))
        assert (plan["what"], plan["changes"]) == ("head only, nothing to migrate", [])
        assert valkey.client.get(f"{valkey.prefix}:rollout") is None
        began = time.monotonic()
        identity = running.done("start", str(running.other_head))["id"]
        running.done("wait", identity)  # RTP announces what it has loaded
        until(lambda: len(running.done("list")["rtp"]) == 1, "RTP announces itself", within_s=60)
        [told] = running.done("list")["rtp"]
        assert (told["loaded"], told["refused"]) == ("tiny/1 (serving), tiny/1-scaled (standby)", "")
        running.done("promote", identity)
        until(lambda: traffic.answers[-1].model == "tiny/1-scaled", "the new head answers", within_s=60)
        assert time.monotonic() - began < 30
        running.done("rollback", identity)
        until(lambda: traffic.answers[-1].model == "tiny/1", "the old head answers", within_s=60)
    assert traffic.failed() == []
    for one in traffic.answers:
        path = running.old_bundle if one.model == "tiny/1" else running.other_head
        assert running.gave(path, one, atol=1e-6)
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}


@pytest.mark.full
def test_who_has_ended_is_not_waited_for_and_who_is_not_understood_is(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False) as running:
        store, names = valkey.client, instances_key(valkey.prefix)
        until(lambda: len(running.done("list")["rtp"]) == 1, "RTP announces itself", within_s=60)
        identity = running.done("start", str(running.other_head))["id"]
        running.done("wait", identity)
        store.sadd(names, "later:1")
        store.set(announcement_key(valkey.prefix, "later:1"), b"of another version", ex=60)
        assert running.closed("promote", identity) == {"loaded"}
        store.delete(announcement_key(valkey.prefix, "later:1"))
        running.rtp.kill()
        until(lambda: running.done("list")["rtp"] == [], "what it said has expired", within_s=60)
        running.done("promote", identity)
        assert store.scard(names) == 0


@pytest.mark.parametrize(
    "bundles",
    [
        (TINY, SKETCH),
        pytest.param((SHIPPED / "online-retail-ledger/1", SHIPPED / "online-retail-ledger/2"), marks=pytest.mark.full),
    ],
    ids=["small", "from the former default to today's"],
)
def test_a_migration_under_traffic_fails_no_request_mixes_nothing_and_turns_nobody_cold(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path, bundles: tuple[Path, Path]
) -> None:
    topics = make_topics(kafka, 8)
    before, after = (f"{path.parent.name}/{path.name}" for path in bundles)
    with (
        deployed(tmp_path, valkey, topics, USERS, new=False, bundles=bundles) as running,
        running.traffic(USERS, 80) as traffic,
        running.events(BUSY),
    ):
        plan = running.done("plan", str(running.new_bundle))
        assert plan["what"].startswith(f"a migration of {len(USERS)} users")
        assert plan["bytes"] > len(USERS) * plan["bytes_per_user"] > 0
        identity = running.done("start", str(running.new_bundle))["id"]
        assert running.rollout("wait", identity, "--timeout", "1s", *QUICK)[0] == 5
        assert running.record().rollouts[0].state is State.BUILDING
        running.new.worker()
        running.done("wait", identity, "--timeout", "120s", *QUICK)
        running.wait_loaded(after)
        running.done("canary", identity, "--percent", "30", *QUICK)
        running.wait_revision()
        at = time.monotonic()
        until(lambda: len(traffic.since(at)) > 2 * len(USERS), "all were asked twice", within_s=60)
        tried = traffic.since(at)
        salt = running.record().salt.encode()
        arms = {True: ("canary", after), False: ("serving", before)}
        for one in tried:
            expected = arms[bucket_of(salt, one.user) < 0.3 * BUCKETS]
            assert (one.arm, one.model) == expected
        assert {one.arm for one in tried} == {"serving", "canary"}
        running.done("promote", identity, *QUICK, "--rtp", running.rtp.admin_url)
        running.wait_revision()
        at = time.monotonic()
        until(lambda: len(traffic.since(at)) > len(USERS), "all were asked again", within_s=60)
        assert {one.model for one in traffic.since(at)} == {after}
        running.done("rollback", identity)
        commanded = looked = time.monotonic()
        stalled_s = 0.0

        def asked_once_more() -> bool:
            nonlocal looked, stalled_s
            looked, late_s = time.monotonic(), time.monotonic() - looked
            stalled_s += late_s if late_s > 0.2 else 0.0  # while the machine stands still, so does RTP
            return len(traffic.since(commanded + 2 + stalled_s)) > len(USERS)

        until(asked_once_more, "all were asked once more", within_s=60)
        assert {one.model for one in traffic.since(commanded + 2 + stalled_s)} == {before}
    assert traffic.failed() == []
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}
    checked = Counter[str]()
    for one in traffic.answers:
        if one.user in QUIET:
            path = running.old_bundle if one.model == before else running.new_bundle
            assert running.gave(path, one, atol=1e-3), one
            checked[one.model] += 1
    assert len(checked) == 2
    states = [entry.state for entry in running.record().log]
    assert states[0] is State.PLANNED
    assert states[-4:] == [State.READY, State.CANARY, State.SERVING, State.ROLLED_BACK]


def test_each_way_in_which_a_migration_is_wrong_is_stopped_by_its_gate_and_named(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, rtp=False) as running:
        identity = running.ready()
        promote = ("promote", identity, "--steady-for", "0", "--allowed-lag", "60s", "--whole", "4")
        assert running.done(*promote, "--dry-run")["compared"] == len(USERS)
        store, keys = valkey.client, running.new.keys
        state = running.new.stored().states

        # One state is missing, in a partition that is not compared whole.
        (partition, user), value = next(iter(state.items()))
        key = keys.state(partition, user)
        store.delete(key)
        assert running.closed(*promote[:-1], "0", "--sample", "0") == {"coverage"}

        # It is missing, and both lists of users lack the user, who is then looked for in neither namespace.
        lists = [namespace.keys.users(partition) for namespace in (running.old, running.new)]
        for name in lists:
            store.srem(name, user)
        _, view = running.rollout(*promote)
        assert [(one["gate"], "missing from the list of users" in one["reason"]) for one in view["gates"]] == [
            ("coverage", True)
        ]
        for name in lists:
            store.sadd(name, user)
        store.set(key, value)

        # One digest is another.
        store.set(key, value[:72] + bytes(8) + value[80:])
        assert running.closed(*promote) == {"digest"}
        store.set(key, value)

        # One event is missing in the new namespace.
        store.set(key, value[:48] + (0).to_bytes(8, "little") + value[56:])
        assert running.closed(*promote) == {"digest"}
        store.set(key, value)

        # A state lacks events where the one in service does not.
        store.set(key, value[:7] + b"\x01" + value[8:])
        assert running.closed(*promote) == {"partial"}
        running.done(*promote, "--accept-partial", "--dry-run")
        store.set(key, value)

        # One user was erased from the old namespace, and is still in the new one.
        old_key = running.old.keys.state(partition, user)
        old_value = store.get(old_key)
        assert isinstance(old_value, bytes)
        store.delete(old_key)
        store.srem(running.old.keys.users(partition), user)
        assert running.closed(*promote) == {"erasures"}
        store.set(old_key, old_value)
        store.sadd(running.old.keys.users(partition), user)
        running.done(*promote, "--dry-run")

        # Another RTP follows no record at all.
        status, view = running.rollout(*promote, "--rtp", "http://127.0.0.1:9")
        assert (status, [one["gate"] for one in view["gates"]]) == (3, ["loaded"])

        # The workers of the new namespace stop: its partitions fall behind, and the lag must be small for long again.
        for worker in running.new.workers:
            worker.stop()
        late = ("promote", identity, "--steady-for", "0", "--allowed-lag", "3s")
        until(lambda: running.rollout(*late, "--dry-run")[0] == 3, "the lag is noticed", within_s=60)
        assert running.closed(*late) == {"lag"}
        assert running.record().serving.bundle == "tiny/1"


@pytest.mark.full
def test_of_two_promotes_at_once_one_wins_and_the_other_is_told(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(kafka, 4)
    replace = Desk.replace
    with deployed(tmp_path, valkey, topics, USERS, rtp=False) as running:
        promote = ("promote", running.ready(), *QUICK, "--steady-for", "0")

        def replace_after_the_other(desk: Desk, before: Record | None, after: Record) -> Record:
            """Both have read the record and looked at the gates: another process is first to replace it."""
            monkeypatch.undo()
            assert running.spawn(*promote).wait(120) == 0
            return replace(desk, before, after)

        monkeypatch.setattr(Desk, "replace", replace_after_the_other)
        assert running.rollout(*promote)[0] == 4
        assert [entry.state for entry in running.record().log].count(State.SERVING) == 1
        assert running.record().log[-1].state is State.SERVING


def test_an_aborted_rollout_begins_again_in_another_namespace(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, rtp=False) as running:
        identity = running.ready()
        running.done("abort", identity, "--reason", "its states are poisoned")
        assert running.rollout("promote", identity, *QUICK)[0] == 1
        again = running.done("start", str(running.new_bundle))
        assert again["namespace"].endswith("-1")
        assert "UIC_BUNDLE__GENERATION=1" in " ".join(again["notes"])
        # The namespace of the aborted one is whole and caught up, and counts for nothing.
        status, view = running.rollout("wait", again["id"], "--timeout", "1s", *QUICK)
        assert (status, "built" in view["error"]) == (5, True)
        assert running.closed("promote", again["id"], *QUICK) >= {"built"}


@pytest.mark.full
def test_a_topic_that_is_compacted_closes_the_gate_of_the_log_before_workers_refuse_it(
    valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(real_kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False, rtp=False) as running:

        def gates(*arguments: str) -> list[tuple[str, str, bool]]:
            status, view = running.rollout(*arguments)
            assert status == (0 if arguments[0] == "describe" else 3), view
            return [(one["gate"], one["reason"], one["time_may_open_it"]) for one in view["gates"]]

        configure(topics, "compact")
        kafka = KafkaSettings(bootstrap_servers=real_kafka, topic=topics.events, partitions=4)
        with pytest.raises(UnsuitableTopic) as start:
            check_topic(kafka)
        refused = [("log", start.value.detail.splitlines()[0], False)]
        for origin in ("log", "backfill"):
            for verb in ("plan", "start"):
                assert gates(verb, str(running.new_bundle), "--from", origin) == refused
        assert valkey.client.get(record_key(valkey.prefix)) is None

        configure(topics, "delete")
        identity = running.done("start", str(running.new_bundle))["id"]
        assert "built" in running.rollout("wait", identity, "--timeout", "1s", *QUICK)[1]["error"]
        with running.spawn("wait", identity, "--timeout", "10m", *QUICK) as waits:
            configure(topics, "compact")
            assert waits.wait(120) == 3
        assert running.record().rollouts[0].state is State.FAILING
        assert refused[0] in gates("wait", identity, "--timeout", "1s", *QUICK)
        assert refused[0] in gates("describe", identity)
        configure(topics, "delete")
        running.new.worker()
        running.done("wait", identity, "--timeout", "120s", *QUICK)


@pytest.mark.full
def test_brokers_that_do_not_answer_are_waited_for(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, rtp=False) as running:
        identity = running.done("start", str(running.new_bundle))["id"]
        known = running.variables | {"UIC_KAFKA__REQUEST_TIMEOUT_MS": "1000"}
        running.variables = known | {"UIC_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}

        seen: list[tuple[int, dict[str, Any]]] = []

        def compares() -> bool:
            """The workers may have to be steady first."""
            seen[:] = [running.rollout("wait", identity, "--timeout", "15s", *QUICK)]
            return seen[0][0] != 5 or running.record().rollouts[0].state is State.VERIFYING

        until(compares, "users are compared", within_s=60)
        [(status, view)] = seen
        assert (status, "the notes of erasures cannot be read (no broker answers at" in view["error"]) == (5, True), (
            view
        )
        assert running.record().rollouts[0].state is State.VERIFYING
        running.variables = known
        running.done("wait", identity, "--timeout", "120s", *QUICK)


def configure(topics: TopicsForTest, policy: str) -> None:
    """Give the event topic a cleanup.policy, and wait until the broker tells it, which may be after its answer."""
    admin = KafkaAdminClient(bootstrap_servers=topics.bootstrap)
    name = "cleanup.policy"
    asked = ConfigResource(ConfigResourceType.TOPIC, topics.events, configs=[name])

    def told() -> bool:
        return bool(admin.describe_configs([asked])["topic"][topics.events][name]["value"] == policy)

    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topics.events, configs={name: policy})
        admin.alter_configs([resource])
        until(told, "the broker tells the policy", within_s=60)
    finally:
        admin.close()


def test_what_cannot_be_rolled_out_is_refused_before_anything_is_written(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False, rtp=False) as running:
        assert "serves already" in running.rollout("start", str(running.old_bundle))[1]["error"]
        assert "no bundle at" in running.rollout("start", str(tmp_path / "nowhere"))[1]["error"]
        broken = running.folder / "bundles/tiny/1-scaled"
        head = broken / "head.onnx"
        whole = head.read_bytes()
        head.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "sha256 differs" in running.rollout("start", str(broken))[1]["error"]
        head.write_bytes(whole)
        used = int(valkey.client.info("memory")["used_memory"])
        valkey.client.config_set("maxmemory", used + 1000)
        try:
            assert running.closed("start", str(running.new_bundle)) == {"memory"}
        finally:
            valkey.client.config_set("maxmemory", 0)
        valkey.client.set(running.new.keys.meta, b'{"partitions": 5, "topic": "another", "store": "0123456789abcdef"}')
        assert running.closed("start", str(running.new_bundle)) == {"log"}
        valkey.client.delete(running.new.keys.meta)
        # Another prefix has no namespace in service.
        kept = running.variables["UIC_REDIS__PREFIX"]
        running.variables["UIC_REDIS__PREFIX"] = "elsewhere"
        assert running.closed("start", str(running.new_bundle)) == {"log"}
        running.variables["UIC_REDIS__PREFIX"] = kept
        assert not valkey.client.exists(f"{valkey.prefix}:rollout")
        assert running.done("list") == {"serving": None, "rollouts": [], "rtp": [], "notes": []}


@pytest.mark.full
def test_rtp_refuses_a_release_that_is_not_on_its_disk_and_takes_it_up_when_it_is(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False) as running, running.traffic(QUIET, 50) as traffic:
        moved = running.folder / "elsewhere"
        identity = running.done("start", str(running.other_head))["id"]
        running.other_head.rename(moved)
        assert running.closed("wait", identity) == {"loaded"}
        admin = running.rtp.admin_url
        until(
            lambda: "tiny/1-scaled" in web().get(f"{admin}/readyz", timeout=60).json().get("detail", ""),
            "it is refused",
            within_s=60,
        )
        assert web().get(f"{admin}/readyz", timeout=60).status_code == 200
        assert 'rtp_release_refused{bundle="tiny/1-scaled"} 1.0' in web().get(f"{admin}/metrics", timeout=60).text
        status, view = running.rollout("promote", identity, "--rtp", admin)
        assert (status, view["gates"][0]["gate"]) == (3, "loaded")
        refused = web().post(f"{admin}/bundle/reload", timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (409, "reload_refused")
        moved.rename(running.other_head)
        assert web().post(f"{admin}/releases/look", timeout=60).json()["refused"] == []
        running.done("promote", identity, "--rtp", admin)
        until(lambda: traffic.answers[-1].model == "tiny/1-scaled", "the new head answers", within_s=60)
    assert traffic.failed() == []


_HELD = """
import sys
from pathlib import Path
from rtp import rollout_follower, runtime
from rtp.__main__ import main
rollout_follower.ARMS_WITHIN_S = float(sys.argv.pop(3))
load = runtime.load_model
def held(path):
    if path.name == sys.argv[1]:
        Path(sys.argv[2]).read_bytes()
    return load(path)
runtime.load_model = held
sys.exit(main(sys.argv[3:]))
"""
"""RTP whose load of the bundle of a version waits until a FIFO was opened for writing and closed, and which waits for
that load longer than a test takes."""
HELD_ARMS_WITHIN_S = 200.0


class HeldRtp(RtpProcess):
    """An RTP process whose load of the other head waits for `release`."""

    def __init__(self, running: Deployment) -> None:
        super().__init__("held-rtp", running.folder / "held-rtp", running.surroundings)
        self._version = running.other_head.name
        self.folder.mkdir()
        self._gate = self.folder / "gate"
        os.mkfifo(self._gate)
        self._held: int | None = None

    def command(self) -> list[str]:
        return [sys.executable, "-c", _HELD, self._version, str(self._gate), str(HELD_ARMS_WITHIN_S)]

    def loads(self) -> bool:
        """Whether the load has begun, and waits from now on."""
        if self._held is None:
            with suppress(OSError):  # nothing reads it yet
                self._held = os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK)
        return self._held is not None

    def release(self) -> None:
        """Let the load go on."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def begin_canary(running: Deployment, percent: int) -> str:
    """The id of a rollout of the other head, which answers so many users."""
    identity: str = running.done("start", str(running.other_head))["id"]
    running.done("wait", identity)
    running.done("canary", identity, "--percent", str(percent))
    return identity


@contextmanager
def held_rtp(running: Deployment) -> Iterator[HeldRtp]:
    """One that was started during the canary of the other head, and is loading it."""
    held = HeldRtp(running)
    try:
        held.spawn()
        until(held.loads, "the other head is being loaded", within_s=60)
        until(lambda: "tiny/1-scaled is being loaded" in held.says(), "it says why it is not ready", within_s=60)
        assert not held.ready()
        yield held
    finally:
        held.release()
        held.stop()


def test_an_rtp_that_is_started_during_a_canary_answers_nobody_before_it_has_loaded_the_canarys_release(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False) as running:
        begin_canary(running, 50)
        salt = running.record().salt.encode()
        canary = {user for user in QUIET if bucket_of(salt, user) < BUCKETS // 2}
        assert 0 < len(canary) < len(QUIET)
        with held_rtp(running) as held:
            held.release()
            held.wait_ready()
            connection = HTTPConnection("127.0.0.1", held.ports["http"], timeout=60)
            answers = [running.predict(user, connection) for user in QUIET]
            connection.close()
        assert {one.status for one in answers} == {200}
        assert {one.user for one in answers if one.arm == "canary"} == canary


@pytest.mark.full
def test_an_rtp_that_is_started_during_a_canary_obeys_an_abort_while_it_loads_the_canarys_release(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False) as running:
        identity = begin_canary(running, 100)
        with held_rtp(running) as held:
            until(lambda: len(running.done("list")["rtp"]) == 2, "the one that starts announces itself", within_s=60)
            began = time.monotonic()
            running.done("abort", identity)
            held.wait_ready()  # its load waits still, and so it would, if it did not obey
            took_s = time.monotonic() - began
            connection = HTTPConnection("127.0.0.1", held.ports["http"], timeout=60)
            assert {running.predict(user, connection).arm for user in QUIET} == {"serving"}
            connection.close()
            told = web().get(f"{held.admin_url}/releases", timeout=60).json()
        assert told["revision"] == running.record().revision
        assert took_s < ARMS_WITHIN_S


@pytest.mark.full
def test_a_rollback_to_workers_that_were_stopped_a_moment_ago_names_the_erasures_that_they_lack(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS) as running:
        identity = running.ready()
        running.wait_loaded("tiny-sketch/1")
        running.done("promote", identity, *QUICK, "--rtp", running.rtp.admin_url)
        for worker in running.old.workers:
            worker.stop()
        asked = ("--yes", "--grpc", running.new.workers[0].address)
        assert run_main(erase.main, running.new.workers[0].environment(), USERS[0], *asked)[0] == 0
        [note] = running.done("rollback", identity)["notes"]
        assert "4 of 4 partitions were not written within 10 s" in note
        assert "users who were erased since, and whom it may still have: 1" in note
        assert f"see that UIC workers of namespace {running.old.keys.namespace} run" in note
        running.old.worker(UIC_FOLD__AS_OF_INTERVAL_S="0.5")  # which is seen to write within 10 s
        running.old.wait_folded()
        assert running.done("rollback", identity)["notes"] == []


@pytest.mark.full
def test_an_erasure_names_the_workers_of_a_canary_that_were_stopped_and_is_done_once_they_run(
    own_cluster: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, own_cluster, topics, USERS, rtp=False, MODE="cluster") as running:
        running.done("canary", running.ready(), "--percent", "50", *QUICK)
        for worker in running.new.workers:
            worker.stop()

        def erased(user: str) -> str:
            asked = (user, "--yes", "--grpc", running.old.workers[0].address)
            assert run_main(erase.main, running.old.workers[0].environment(), *asked)[0] == 0
            return capsys.readouterr().err

        def states() -> list[bool]:
            at = partition_of(USERS[0].encode(), 4)
            return [bool(own_cluster.client.exists(of.keys.state(at, USERS[0]))) for of in (running.old, running.new)]

        said = erased(USERS[0])
        assert f"namespace {running.new.keys.namespace} (tiny-sketch/1), by which a canary answers users" in said
        assert said.endswith("start UIC workers with UIC_BUNDLE__PATH=FOLDER/tiny-sketch/1 UIC_BUNDLE__GENERATION=0\n")
        assert states() == [False, True]
        running.new.worker()
        running.new.wait_folded()
        assert states() == [False, False]
        assert erased(USERS[1]) == ""


@pytest.mark.full
def test_a_migration_in_a_cluster(
    own_cluster: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with (
        deployed(tmp_path, own_cluster, topics, USERS, MODE="cluster") as running,
        running.traffic(QUIET, 50) as traffic,
    ):
        identity = running.ready()
        running.wait_loaded("tiny-sketch/1")
        running.done("promote", identity, *QUICK, "--rtp", running.rtp.admin_url, "--keep-for", "0")
        until(lambda: traffic.answers[-1].model == "tiny-sketch/1", "the new release answers", within_s=60)
        running.done("rollback", identity)
        until(lambda: traffic.answers[-1].model == "tiny/1", "the old release answers", within_s=60)
        for worker in running.new.workers:
            worker.stop()
        until(lambda: running.rollout("gc")[0] == 0, "the namespace has been quiet", within_s=120)
        assert not list(own_cluster.client.scan_iter(match=f"*{running.new.keys.namespace}*"))
    assert traffic.failed() == []
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}


@pytest.mark.full
def test_a_bundle_that_was_rolled_back_begins_again_in_its_namespace_though_the_log_was_cut(
    valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    """Its workers still run, so nothing that retention has removed is missing there."""
    topics = make_topics(real_kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, rtp=False) as running:
        identity, bundle = running.ready(), str(running.new_bundle)
        running.done("promote", identity, *QUICK)
        running.done("rollback", "--reason", "worse")
        known = [running.new.progress(p) for p in range(4)]
        cut_log(real_kafka, topics.events, {p: one.next_offset for p, one in enumerate(known) if one is not None})

        plan = running.done("plan", bundle)
        assert (plan["users"], plan["records"], plan["bytes"], plan["against"]) == (len(USERS), 0, 0, [])
        again = running.done("start", bundle)
        assert again["namespace"] == running.new.keys.namespace
        running.done("wait", again["id"], "--timeout", "120s", *QUICK)
        running.done("abort", again["id"])
        assert running.closed("plan", bundle) == {"log"}, "another namespace would be built from the beginning"

        for worker in running.new.workers:
            worker.stop()
        valkey.client.delete(record_key(valkey.prefix))  # no rollout was aborted
        running.old.produce(100, USERS)
        running.old.wait_folded()
        plan = running.done("plan", bundle)
        assert (plan["records"], plan["bytes"]) == (100, 0)
        known = [running.old.progress(p) for p in range(4)]
        cut_log(real_kafka, topics.events, {p: one.next_offset for p, one in enumerate(known) if one is not None})
        assert running.closed("plan", bundle) == {"log"}, "it stopped before where the log begins now"


def test_the_runbooks_of_a_migration_and_of_a_rollback_do_what_they_say(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False) as running, running.traffic(QUIET, 50) as traffic:

        def play(runbook: str, verbs: set[str]) -> None:
            for line in re.findall(r"^ctr rollout (.+)$", (RUNBOOKS / runbook).read_text(), re.MULTILINE):
                verb, *more = shlex.split(line.replace("BUNDLE", str(running.new_bundle)))
                if verb in verbs:
                    running.done(verb, *more, *(QUICK if verb in ("wait", "canary", "promote") else ()))
                if verb == "start":
                    running.new.worker()
                if verb == "wait":
                    running.wait_loaded("tiny-sketch/1")

        play("migrate.md", {"plan", "start", "wait", "canary", "promote", "list"})
        until(lambda: traffic.answers[-1].model == "tiny-sketch/1", "the new release answers", within_s=60)
        play("roll-back.md", {"rollback"})
        until(lambda: traffic.answers[-1].model == "tiny/1", "the old release answers", within_s=60)
        for worker in running.new.workers:
            worker.stop()
        until(lambda: running.rollout("gc")[0] == 0, "the namespace has been quiet", within_s=120)
    assert traffic.failed() == []
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}


@pytest.mark.parametrize(
    "again", [pytest.param(False, marks=pytest.mark.full), True], ids=["a_model_of_before", "states_of_before"]
)
def test_a_release_begins_from_a_snapshot_and_passes_the_same_gates(
    again: bool, valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    """Back to a model whose namespace is gone, or to states of the model in service that are not spoiled yet."""
    topics = make_topics(kafka, 4)
    saved = ("--json", "--to", str(tmp_path / "snapshots"))
    with deployed(tmp_path, valkey, topics, USERS) as running, running.traffic(QUIET, 50) as traffic:
        bundle, generation = (running.old_bundle, "1") if again else (running.new_bundle, "0")
        told = dict(running.variables) | {"UIC_BUNDLE__PATH": str(bundle)}
        snapshot = json.loads(done(told, "snapshot", "create", *saved))["id"]
        for worker in running.new.workers:
            worker.stop()
        done(told, "namespaces", "drop", running.new.keys.namespace, "--yes", "--force")
        running.old.produce(80, BUSY)

        started = running.done("start", str(bundle), "--from", f"snapshot:{snapshot}", "--generation", generation)
        note = next(one for one in started["notes"] if "snapshot restore" in one)
        variables, _, command = note.partition(": ")
        told |= dict(one.split("=", 1) for one in variables.removeprefix("with ").split())
        words = shlex.split(command.partition(",")[0].replace("FOLDER", str(tmp_path / "snapshots")))
        assert words[:3] == ["ctr", "snapshot", "restore"]
        done(told, *words[1:])
        worker = (running.old if again else running.new).worker(UIC_BUNDLE__GENERATION=generation)
        running.done("wait", started["id"], "--timeout", "120s", *QUICK)
        promoted = running.done("promote", started["id"], *QUICK, "--whole", "4")
        assert (promoted["from"], promoted["compared"]) == (f"snapshot:{snapshot}", len(USERS))
        running.wait_revision()
        at = time.monotonic()
        until(lambda: len(traffic.since(at)) > len(QUIET), "all were asked again", within_s=60)
        assert {one.model for one in traffic.since(at)} == {started["bundle"]}
        worker.stop()
    assert traffic.failed() == []
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}


@pytest.mark.full
def test_a_migration_by_a_backfill_passes_the_same_gates(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, 4)
    with deployed(tmp_path, valkey, topics, USERS, new=False, rtp=False) as running:
        started = running.done("start", str(running.new_bundle), "--from", "backfill")
        assert "ctr backfill" in " ".join(started["notes"])
        told = {**os.environ, **running.variables, "UIC_BUNDLE__PATH": str(running.new_bundle)}
        backfill = [sys.executable, "-m", "uic", "backfill", "--work", str(tmp_path / "job"), "--workers", "1"]
        subprocess.run(backfill, env=told, check=True, timeout=240, capture_output=True)
        running.old.produce(40, BUSY)
        running.new.worker()
        running.done("wait", started["id"], "--timeout", "120s", *QUICK)
        promoted = running.done("promote", started["id"], *QUICK, "--whole", "4")
        assert (promoted["from"], promoted["compared"]) == ("backfill", len(USERS))
        running.done("rollback", started["id"])
        again = running.done("start", str(running.new_bundle), "--from", "backfill")
        assert again["namespace"] == started["namespace"].removesuffix("0") + "1", (
            "a backfill loads no folded namespace"
        )
