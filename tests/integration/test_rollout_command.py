"""`ctr rollout` over a real store, without a log and without traffic: what it says, and what it writes."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, redirect_stderr
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.release import (
    SERVING,
    Announcement,
    Checked,
    Finding,
    Gate,
    Loaded,
    NotLoaded,
    Record,
    Release,
    abort,
    announcement_key,
    begin,
    canary,
    decode_record,
    encode_announcement,
    encode_record,
    instances_key,
    observe,
    promote,
    record_key,
)
from mimn.release.announcement import STANDBY
from mimn.state import Keys, Progress, encode_progress
from support.bundles import SKETCH, TINY, with_scaled_head
from support.for_test import RedisForTest
from support.one_node_cluster import three_masters
from support.releases import NOW_MS, SALT
from support.stored import LINEAGE, Stored, now_ms
from uic.bulk.errors import BulkRefused
from uic.bulk.namespaces import Namespaces
from uic.redis_client import open_client
from uic.rollout import main as command
from uic.rollout.comparison import Extent, Seen, compare_users
from uic.rollout.gates import Demands
from uic.rollout.namespaces import Namespace
from uic.rollout.planning import read_release
from uic.rollout.verbs import TimedOut, Verbs
from uic.settings import ClientSettings, KafkaSettings, RedisSettings

pytestmark = pytest.mark.servers
Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Path, Path]:
    """The bundle in service, and one with another head."""
    shutil.copytree(TINY, tmp_path / "tiny/1")
    return tmp_path / "tiny/1", with_scaled_head(tmp_path, tmp_path / "tiny/1", "2", 0.5)


@pytest.fixture
def rollout(valkey: RedisForTest, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `ctr rollout ... --json`; exit status and document."""
    monkeypatch.setenv("UIC_REDIS__URL", valkey.url)
    monkeypatch.setenv("UIC_REDIS__PREFIX", valkey.prefix)
    monkeypatch.setenv("UIC_REDIS__TIMEOUT_S", "20")  # no store of these tests hangs, and the machine may
    monkeypatch.setenv("UIC_BUNDLE__PATH", str(bundles[0]))

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        out = io.StringIO()
        with redirect_stderr(io.StringIO()):
            status = command.main([*arguments, "--json"], out)
        return status, json.loads(out.getvalue())

    return run


def test_the_record_names_a_user_without_a_name_by_number(
    rollout: Command, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pod with runAsUser: no variable names the user, and the system has no name for the number."""

    def no_name(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_name)
    assert rollout("start", str(bundles[1]))[0] == 0
    [entry] = rollout("log")[1]["log"]
    assert entry["by"] == f"uid {os.getuid()}@{socket.gethostname()}"


def test_rollouts_of_heads_that_were_given_up_never_keep_the_next_from_beginning(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    serving, new = (read_release(path, 0)[0] for path in bundles)
    record: Record | None = None
    for _ in range(32):
        record = begin(record, new, serving=serving, origin="log", salt=SALT, now_ms=NOW_MS)
        record = abort(record, f"r{record.begun}", reason="slower", now_ms=NOW_MS)
    assert record is not None
    valkey.client.set(record_key(valkey.prefix), encode_record(record))
    status, said = rollout("start", str(bundles[1]))
    assert (status, "`rollout gc` removes them" in said["error"]) == (1, True)
    status, said = rollout("gc")
    assert (status, len(said["collected"]), said["refused"]) == (0, 32, [])
    status, said = rollout("start", str(bundles[1]))
    assert (status, said["id"]) == (0, "r33")


def test_whether_a_namespace_is_folded_is_told_by_the_stores_clock_and_not_by_the_operators(
    valkey: RedisForTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys("0123456789abcdef-0", valkey.prefix)
    minute_ago = valkey.client.time()[0] * 1000 - 60_000
    left = Progress(partitions=1, next_offset=7, lineage=1, writer=1, base=0, as_of_ms=minute_ago)
    valkey.client.sadd(keys.namespaces, keys.namespace)
    valkey.client.set(keys.meta, b'{"partitions": 1, "topic": "events"}')
    valkey.client.set(keys.progress(0), encode_progress(left))
    behind = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: behind)
    namespaces = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)
    assert not namespaces.look(keys.namespace).folded
    assert namespaces.drop(keys.namespace, force=False, after=lambda step: None) == 1


@pytest.mark.parametrize(("ahead_ms", "folded"), [(3_600_000, False), (3_000, True)])
def test_a_namespace_whose_times_are_far_ahead_of_the_stores_clock_is_not_taken_for_folded(
    valkey: RedisForTest, ahead_ms: int, folded: bool
) -> None:
    """The clock was set back after the last worker ended; a little ahead is what failovers do."""
    keys = Keys("0123456789abcdef-0", valkey.prefix)
    as_of_ms = valkey.client.time()[0] * 1000 + ahead_ms
    left = Progress(partitions=1, next_offset=7, lineage=1, writer=1, base=0, as_of_ms=as_of_ms)
    valkey.client.sadd(keys.namespaces, keys.namespace)
    valkey.client.set(keys.meta, b'{"partitions": 1, "topic": "events"}')
    valkey.client.set(keys.progress(0), encode_progress(left))
    namespaces = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)
    assert namespaces.look(keys.namespace).folded is folded
    if not folded:
        assert namespaces.drop(keys.namespace, force=False, after=lambda step: None) == 1


def test_a_namespace_that_a_running_rtp_reads_is_shown_as_such_and_goes_by_force_alone(valkey: RedisForTest) -> None:
    keys, other = Keys("0123456789abcdef-0", valkey.prefix), Keys("0123456789abcdef-1", valkey.prefix)
    for one in (keys, other):
        valkey.client.sadd(one.namespaces, one.namespace)
        valkey.client.set(one.meta, b'{"partitions": 1, "topic": "events"}')
    for instance in ("web:1", "web:2"):
        told = Announcement(
            instance=instance,
            revision=None,
            loaded=(
                Loaded("tiny/1", "0" * 64, keys.namespace, SERVING),
                Loaded("tiny/2", "1" * 64, other.namespace, STANDBY),
            ),
        )
        valkey.client.sadd(instances_key(valkey.prefix), instance)
        valkey.client.set(announcement_key(valkey.prefix, instance), encode_announcement(told))
    namespaces = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)
    assert namespaces.look(keys.namespace).served_by == ("read by 2 RTP processes",)
    assert namespaces.look(other.namespace).served_by == ()
    with pytest.raises(BulkRefused, match="read by 2 RTP processes"):
        namespaces.drop(keys.namespace, force=False, after=lambda step: None)
    assert valkey.client.exists(keys.meta)

    namespaces.drop(other.namespace, force=False, after=lambda step: None)
    valkey.client.delete(announcement_key(valkey.prefix, "web:1"))  # as when it has ended
    assert namespaces.look(keys.namespace).served_by == ("read by 1 RTP process",)
    namespaces.drop(keys.namespace, force=True, after=lambda step: None)
    assert namespaces.names() == []


def test_a_namespace_that_gc_may_not_remove_yet_is_an_exit_status_for_a_cron_job_and_the_others_go(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serving, new = (read_release(path, 0)[0] for path in bundles)
    record: Record | None = None
    for generation, age_ms in enumerate((1000, 60_000)):  # the first one's workers still run
        one = replace(new, fingerprint="0" * 64, generation=generation)
        record = begin(record, one, serving=serving, origin="log", salt=SALT, now_ms=NOW_MS)
        record = abort(record, f"r{record.begun}", reason="slower", now_ms=NOW_MS)
        keys, as_of_ms = Keys(one.namespace, valkey.prefix), valkey.client.time()[0] * 1000 - age_ms
        progress = Progress(partitions=1, next_offset=7, lineage=1, writer=1, base=0, as_of_ms=as_of_ms)
        valkey.client.sadd(keys.namespaces, one.namespace)
        valkey.client.set(keys.meta, b'{"partitions": 1, "topic": "events"}')
        valkey.client.set(keys.progress(0), encode_progress(progress))
    assert record is not None
    valkey.client.set(record_key(valkey.prefix), encode_record(record))
    assert command.main(["gc"], io.StringIO()) == 1
    assert "r1: a worker has folded namespace" in capsys.readouterr().err
    status, said = rollout("gc")
    assert (status, said["collected"], len(said["refused"])) == (1, [], 1), "the other is gone already"
    valkey.client.set(Keys(f"{'0' * 16}-0", valkey.prefix).progress(0), encode_progress(progress))
    status, said = rollout("gc")
    assert (status, [one["rollout"] for one in said["collected"]], said["refused"]) == (0, ["r1"], [])


def test_the_first_rollout_does_not_begin_while_rtp_serves_another_bundle_than_the_settings_name(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    served = read_release(bundles[1], 0)[0]  # by a reload; UIC, whose settings the command reads, needs no other head
    announce(valkey, served)
    status, said = rollout("start", str(bundles[1]))
    assert (status, [one["gate"] for one in said["gates"]]) == (3, ["conflict"])
    assert "serves tiny/2" in said["gates"][0]["reason"]
    assert valkey.client.get(record_key(valkey.prefix)) is None
    announce(valkey, read_release(bundles[0], 0)[0])
    status, said = rollout("start", str(bundles[1]))
    assert (status, said["replaces"]) == (0, "tiny/1")


def test_an_rtp_that_has_another_bundle_under_the_name_of_the_records_is_not_shown_as_if_it_had_that(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    """As after the bundle in service was written over, and RTP restarted on it."""
    new, old = (read_release(path, 0)[0] for path in bundles)
    announce(valkey, old)
    assert [one["loaded"] for one in rollout("list")[1]["rtp"]] == ["tiny/2 (serving)"], "there is no record"
    valkey.client.set(record_key(valkey.prefix), encode_record(ready(new, old)))
    assert [one["loaded"] for one in rollout("list")[1]["rtp"]] == ["tiny/2 (serving)"]
    announce(valkey, replace(old, manifest="0123456789abcdef" * 4), refused="/bundles/tiny/2 is another bundle")
    [shown] = rollout("list")[1]["rtp"]
    assert shown["loaded"] == "tiny/2 (serving, another bundle than the record's: 0123456789ab…)"
    assert shown["refused"] == "tiny/2: /bundles/tiny/2 is another bundle"


def test_a_rollback_names_each_rtp_that_goes_on_answering_by_the_bad_release(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    old, bad = (read_release(path, 0)[0] for path in bundles)
    record = ready(bad, old)
    record = promote(record, "r1", Checked(record.revision, ()), keep_ms=0, now_ms=NOW_MS)
    valkey.client.set(record_key(valkey.prefix), encode_record(record))
    announce(valkey, bad, revision=record.revision + 1)
    put(valkey.client, Stored(load_bundle(bundles[0]), prefix=valkey.prefix))
    status, said = rollout("rollback")
    assert (status, said["serving"]) == (0, "tiny/1")
    assert said["notes"] == ["host:1 has not loaded tiny/1: not yet; until it has, it goes on answering by tiny/2"]
    announce(valkey, old, revision=said["revision"])
    assert rollout("rollback")[1]["notes"] == []
    announce(valkey, old, revision=record.revision)
    late = f"host:1 follows revision {record.revision} of the record, not {said['revision']}"
    assert rollout("rollback")[1]["notes"] == [f"{late}; until it follows the record, it goes on as before"]


@pytest.mark.full
def test_an_rtp_that_cannot_read_the_record_closes_the_gate(
    own_valkey: Valkey, rollout: Command, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the rights of its user in the store were taken. It announces itself all the same."""
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    monkeypatch.setenv("UIC_REDIS__PREFIX", "uic")
    with redis.Redis.from_url(own_valkey.address, protocol=2) as client:

        def may_read(*, yes: bool) -> None:
            sign = "+" if yes else "-"
            client.execute_command("ACL SETUSER", "rtp", f"{sign}get", f"{sign}mget")

        put(client, Stored(load_bundle(bundles[0])))
        client.execute_command("ACL SETUSER", "rtp", "on", ">secret", "~*", "+@all")
        url = own_valkey.address.replace("redis://", "redis://rtp:secret@")
        with RtpProcess("rtp", tmp_path / "rtp", Surroundings("", url, bundles[0])) as rtp:

            def told() -> dict[str, Any]:
                seen: list[dict[str, Any]] = []

                def announced() -> bool:
                    seen[:] = rollout("list")[1]["rtp"]
                    return len(seen) == 1

                until(announced, "RTP announces itself", within_s=60)  # what it says expires if the machine stalls
                return seen[0]

            def reads(*, yes: bool) -> None:
                may_read(yes=yes)
                until(lambda: (told()["unread"] == "") is yes, "it says so", within_s=60)

            def names_it(note: str) -> None:
                assert note.startswith(f"{told()['instance']} cannot read the rollout record (")

            def serving() -> str:
                arms = web().get(f"{rtp.admin_url}/releases", timeout=60).json()["arms"]
                return " ".join(f"{one['arm']} {one['bundle']}" for one in arms)

            rollout("start", str(bundles[1]))
            assert rollout("wait", "r1", "--timeout", "120s")[0] == 0
            reads(yes=False)
            status, said = rollout("promote", "r1")
            assert (status, [closed["gate"] for closed in said["gates"]]) == (3, ["loaded"]), said
            reads(yes=True)
            assert rollout("promote", "r1")[0] == 0
            until(lambda: serving() == "serving tiny/2", "the new release answers", within_s=60)
            reads(yes=False)
            status, said = rollout("rollback")
            assert status == 0, said
            names_it(said["notes"][0])
            reads(yes=True)
            until(lambda: serving() == "serving tiny/1", "the rollback is followed", within_s=60)
            assert not [note for note in rollout("rollback")[1]["notes"] if "record" in note]


def test_a_bad_release_is_taken_back_and_collected_while_the_store_is_full(
    own_valkey: Valkey, rollout: Command, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    monkeypatch.setenv("UIC_REDIS__PREFIX", "uic")
    old, bad = (read_release(path, 0)[0] for path in bundles)
    record = ready(bad, old)
    served = promote(record, "r1", Checked(record.revision, ()), keep_ms=0, now_ms=NOW_MS)
    tried = canary(record, "r1", Checked(record.revision, ()), percent=50, now_ms=NOW_MS)
    with redis.Redis.from_url(own_valkey.address, protocol=2) as client:

        def full(record: Record) -> None:
            client.config_set("maxmemory", 0)
            client.set(record_key("uic"), encode_record(record))
            client.config_set("maxmemory", 1)
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("uic:another", b"x")

        full(served)
        status, said = rollout("rollback")
        assert (status, said.get("serving")) == (0, "tiny/1"), said
        full(tried)
        assert rollout("canary", "r1", "--percent", "5")[0] == 0
        status, said = rollout("abort", "r1")
        assert (status, said.get("state")) == (0, "aborted"), said
        record = begin(decode_record(client.get(record_key("uic")) or b""), replace(bad, fingerprint="0" * 64),
                       serving=old, origin="log", salt=SALT, now_ms=NOW_MS)  # fmt: skip
        full(abort(record, "r2", reason="slower", now_ms=NOW_MS))
        status, said = rollout("gc")
        assert (status, [one["rollout"] for one in said["collected"]]) == (0, ["r2", "r1"]), "what makes room is first"


def test_a_damaged_record_is_told_with_the_way_on_and_the_next_rollout_begins_after_it_was_deleted(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    assert rollout("start", str(bundles[1]))[0] == 0
    key = record_key(valkey.prefix)
    valkey.client.setrange(key, 100, b"?")
    for verb in (("list",), ("rollback",), ("start", str(bundles[1])), ("gc",)):
        status, said = rollout(*verb)
        assert (status, "checksum" in said["error"], f"`DEL {key}`" in said["error"]) == (1, True, True), verb
    valkey.client.delete(key)
    status, said = rollout("start", str(bundles[1]))
    assert (status, said["id"], said["replaces"]) == (0, "r1", "tiny/1")


@contextmanager
def folding(client: Any, stored: Stored) -> Iterator[None]:
    """A worker with nothing to fold: within the body it says of every partition that it is caught up."""
    ended, told_once = Event(), Event()

    def tell() -> None:
        while True:
            for partition in range(stored.partitions):
                stored.progress(partition)
            put(client, stored)
            told_once.set()
            if ended.wait(0.2):
                return

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(tell)
        try:
            assert told_once.wait(60)
            yield
        finally:
            ended.set()
            told.result()


def to_roll_back(bundles: tuple[Path, Path]) -> tuple[Release, Record]:
    """A release that was replaced, and the record that says so."""
    old, bad = read_release(bundles[0], 0)[0], read_release(SKETCH, 0)[0]
    record = ready(bad, old)
    return old, promote(record, "r1", Checked(record.revision, ()), keep_ms=0, now_ms=NOW_MS)


def test_a_rollback_to_a_release_whose_workers_were_stopped_says_that_its_states_grow_old(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    old, record = to_roll_back(bundles)
    valkey.client.set(record_key(valkey.prefix), encode_record(record))
    stored = Stored(load_bundle(bundles[0]), partitions=2, prefix=valkey.prefix)
    stored.progress(1, as_of_ms=now_ms() - 3_600_000)
    put(valkey.client, stored)
    status, said = rollout("rollback")
    [note] = said["notes"]
    assert (status, "partition 1 was last caught up 36" in note, old.namespace in note) == (0, True, True), note
    stored.progress(1)
    put(valkey.client, stored)
    [note] = rollout("rollback")[1]["notes"]
    assert "2 of 2 partitions were not written within 10 s" in note, "they were stopped a moment ago"
    with folding(valkey.client, stored):
        assert rollout("rollback")[1]["notes"] == []
    valkey.client.delete(stored.keys.meta)
    assert "does not have its namespace" in rollout("rollback")[1]["notes"][0]


def test_a_rollback_to_a_namespace_that_has_lost_partitions_is_refused_unless_it_is_wanted_all_the_same(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    """As after `gc` has removed it, and the store came back with the record of before."""
    _, record = to_roll_back(bundles)
    before = encode_record(record)
    valkey.client.set(record_key(valkey.prefix), before)
    stored = Stored(load_bundle(bundles[0]), partitions=2, prefix=valkey.prefix)
    put(valkey.client, stored)
    for lost, why in (
        (stored.keys.progress(1), "1 of 2 partitions have no progress record"),
        (stored.keys.meta, "the store does not have its namespace"),
    ):
        valkey.client.delete(lost)
        for named in ((), ("r1",)):
            status, said = rollout("rollback", *named)
            assert (status, why in said["error"], "--force" in said["error"]) == (1, True, True), said
        assert valkey.client.get(record_key(valkey.prefix)) == before
    status, said = rollout("rollback", "--force")
    assert (status, said["serving"], why in said["notes"][0]) == (0, "tiny/1", True), said
    assert rollout("log")[1]["log"][-1]["by"].endswith(" --force")
    assert rollout("rollback")[0] == 0, "what is done already is not refused"


@pytest.mark.full
def test_a_rollback_is_carried_out_while_a_part_of_the_store_that_has_states_is_away(
    rollout: Command, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = to_roll_back(bundles)
    with three_masters(tmp_path, each_alone=True) as nodes:
        client: Any = redis.RedisCluster.from_url(nodes[0].address, protocol=2, socket_timeout=10)
        for prefix in map("shop{}".format, range(100)):
            stored = Stored(load_bundle(bundles[0]), prefix=prefix)
            needed = {client.get_node_from_key(key).port for key in (record_key(prefix), instances_key(prefix))}
            away = [node for node in nodes[1:] if node.port not in needed]
            held = {client.get_node_from_key(stored.keys.progress(p)).port for p in range(stored.partitions)}
            if held & {node.port for node in away[:1]}:
                break
        for key, value in stored.values.items():
            client.set(key, value)
        client.set(record_key(prefix), encode_record(record))
        monkeypatch.setenv("UIC_REDIS__URL", nodes[0].address)
        monkeypatch.setenv("UIC_REDIS__MODE", "cluster")
        monkeypatch.setenv("UIC_REDIS__NODES", ",".join(f"127.0.0.1:{node.port}" for node in nodes))
        monkeypatch.setenv("UIC_REDIS__PREFIX", prefix)
        away[0].kill()
        status, said = rollout("rollback")
        assert (status, said.get("serving")) == (0, "tiny/1"), said
        assert "could not be read" in said["notes"][-1]
        client.close()


def test_what_no_wait_has_made_ready_is_refused_at_once_with_the_command_that_does(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path]
) -> None:
    rollout("start", str(bundles[1]))
    announce(valkey, read_release(bundles[0], 0)[0])
    away = ("--rtp", "http://127.0.0.1:1")  # would be waited for
    status, said = rollout("promote", "r1", *away)
    assert (status, [one["gate"] for one in said["gates"]]) == (3, ["loaded"])
    [gate] = said["gates"]
    assert "r1 is planned (begun): run `ctr rollout wait r1` first" in gate["reason"]
    assert gate["time_may_open_it"] is False
    [shown] = rollout("describe", "r1")[1]["gates"]
    assert shown == gate


def test_a_migration_that_is_not_ready_is_refused_without_a_comparison_of_users(
    valkey: RedisForTest, rollout: Command, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = read_release(SKETCH, 0)[0]
    record = begin(None, new, serving=read_release(bundles[0], 0)[0], origin="log", salt=SALT, now_ms=NOW_MS)
    valkey.client.set(record_key(valkey.prefix), encode_record(record))
    for path in (bundles[0], SKETCH):
        put(valkey.client, Stored(load_bundle(path), prefix=valkey.prefix))
    monkeypatch.setattr("uic.rollout.gates.compare_users", pytest.fail)
    monkeypatch.setenv("UIC_KAFKA__REQUEST_TIMEOUT_MS", "1000")
    status, said = rollout("promote", "r1", "--steady-for", "0")
    assert (status, [one["gate"] for one in said["gates"]]) == (3, ["digest", "loaded"]), said


def test_a_wait_outlives_an_outage_of_the_store_and_tells_its_begin_and_its_end(
    own_valkey: Valkey, bundles: tuple[Path, Path]
) -> None:
    began: list[Callable[[], object]] = [own_valkey.kill, nothing, own_valkey.start, own_valkey.kill]
    told, verbs = waiting(own_valkey, bundles, began)
    with pytest.raises(TimedOut, match=r"^the store does not answer \(ConnectionError"):
        verbs.wait("r1", timeout_s=10)
    assert [line.partition(" (")[0] for line in told] == [
        "the store does not answer", "the store answers again", "the store does not answer",
    ]  # fmt: skip
    assert told[0].endswith("looking again until --timeout is over")


def test_a_wait_ends_when_its_time_is_over_though_users_are_being_compared(
    valkey: RedisForTest, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = Finding(Gate.ERASURES, "the notes of erasures cannot be read", passes=True)
    monkeypatch.setattr("uic.rollout.gates.Gates._erased", lambda *_: ({}, [unread]))
    old, new = read_release(bundles[0], 0)[0], read_release(SKETCH, 0)[0]
    record = begin(None, new, serving=old, origin="log", salt=SALT, now_ms=NOW_MS)
    valkey.client.set(record_key(valkey.prefix), encode_record(record))
    for path in (bundles[0], SKETCH):
        put(valkey.client, Stored(load_bundle(path), prefix=valkey.prefix))
    settings = ClientSettings(
        redis=RedisSettings(url=valkey.url, prefix=valkey.prefix, timeout_s=20),
        kafka=KafkaSettings(request_timeout_ms=1000),
    )
    now = 0.0

    def clock() -> float:
        """Each look at it takes a second."""
        nonlocal now
        now += 1
        return now

    demands = Demands(steady_ms=0, extent=Extent(whole=0, sample=0))
    with closing(open_client(settings.redis)) as client:
        verbs = Verbs(client, settings, demands, sleep=lambda seconds: None, clock=clock)
        with pytest.raises(TimedOut) as late:
            verbs.wait("r1", timeout_s=3)
    assert "still being compared" in str(late.value)
    assert valkey.client.get(record_key(valkey.prefix)) == encode_record(record)


@pytest.mark.parametrize("refused", [True, False], ids=["this user is refused", "never answered"])
def test_a_wait_ends_where_no_outage_is_what_keeps_the_store_from_answering(
    own_valkey: Valkey, bundles: tuple[Path, Path], refused: bool
) -> None:
    def refuse() -> None:
        with redis.Redis.from_url(own_valkey.address, protocol=2) as client:
            client.execute_command("ACL", "SETUSER", "default", "-get")

    told, verbs = waiting(own_valkey, bundles, [refuse])
    if not refused:
        own_valkey.kill()
    with pytest.raises(redis.exceptions.NoPermissionError if refused else redis.exceptions.ConnectionError):
        verbs.wait("r1", timeout_s=10)
    assert told == []


def nothing() -> None:
    pass


def waiting(
    server: Valkey, bundles: tuple[Path, Path], pauses: Sequence[Callable[[], object]]
) -> tuple[list[str], Verbs]:
    """The subcommands over a store in which a migration `r1` has begun that nothing builds. In each pause between two
    looks, which takes a second by their clock, the next of `pauses` happens. And what they tell."""
    old, new = read_release(bundles[0], 0)[0], read_release(SKETCH, 0)[0]
    record = begin(None, new, serving=old, origin="log", salt=SALT, now_ms=NOW_MS)
    with redis.Redis.from_url(server.address, protocol=2) as client:
        client.set(record_key("uic"), encode_record(record))
        put(client, Stored(load_bundle(bundles[0])))
    happening, told, now = iter(pauses), list[str](), [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        next(happening, nothing)()

    settings = ClientSettings(
        redis=RedisSettings(url=server.address, timeout_s=20), kafka=KafkaSettings(request_timeout_ms=1000)
    )
    verbs = Verbs(open_client(settings.redis), settings, Demands(), tell=told.append, sleep=sleep, clock=lambda: now[0])
    return told, verbs


def test_an_rtp_that_does_not_answer_is_waited_for_and_an_address_that_is_none_is_not(
    rollout: Command, bundles: tuple[Path, Path]
) -> None:
    rollout("start", str(bundles[1]))
    for address, expected, passes in (("http://127.0.0.1:1", 5, None), ("127.0.0.1:1", 3, [False])):
        status, said = rollout("wait", "r1", "--timeout", "1s", "--rtp", address)
        assert status == expected, said
        assert passes is None or [one["time_may_open_it"] for one in said["gates"]] == passes


def test_states_of_another_lineage_than_the_partitions_are_no_states(valkey: RedisForTest) -> None:
    """As of a namespace that was half deleted, or started again by a worker that began at the end of the log. UIC
    counts them as absent, so at their next event these users would begin from nothing."""
    old, new = (Stored(load_bundle(path), partitions=1, prefix=valkey.prefix) for path in (TINY, SKETCH))
    for stored in (old, new):
        for user in ("ada", "bea"):
            stored.state(user)
        valkey.client.sadd(stored.keys.users(0), "ada", "bea")
    before, after = (
        Namespace(valkey.client, valkey.prefix, read_release(path, 0)[0], clustered=False) for path in (TINY, SKETCH)
    )

    def seen() -> Seen:
        valkey.client.mset({**old.values, **new.values})
        return compare_users(before, after, 1, Extent(), {}, seed="r1", sleep=lambda seconds: None)

    assert list(seen().findings()) == []
    new.progress(0, lineage=LINEAGE + 1, base=100)
    valkey.client.delete(new.keys.users(0))  # a lineage begins without users
    assert [one.gate for one in seen().findings()] == [Gate.COVERAGE]
    assert seen().missing == {0: 2}


@pytest.mark.full
def test_what_was_promoted_is_promoted_again_after_the_store_came_back_with_an_older_record(
    own_valkey: Valkey, rollout: Command, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    monkeypatch.setenv("UIC_REDIS__PREFIX", "uic")
    stored = Stored(load_bundle(bundles[0]))
    stored.state("ada")
    with redis.Redis.from_url(own_valkey.address, protocol=2) as client:
        put(client, stored)
    data, copy = own_valkey.folder / "appendonlydir", tmp_path / "copy"
    with RtpProcess("rtp", tmp_path / "rtp", Surroundings("", own_valkey.address, bundles[0])) as rtp:

        def releases() -> dict[str, Any]:
            told: dict[str, Any] = web().get(f"{rtp.admin_url}/releases", timeout=60).json()
            return told

        def serving() -> str:
            return str(releases()["arms"][0]["bundle"])

        rollout("start", str(bundles[1]))
        assert rollout("wait", "r1", "--timeout", "120s")[0] == 0
        shutil.copytree(data, copy)
        assert rollout("promote", "r1", "--keep-for", "1h")[0] == 0
        until(lambda: serving() == "tiny/2", "the new release answers", within_s=60)
        own_valkey.kill()
        shutil.rmtree(data)
        shutil.move(copy, data)
        own_valkey.start()
        until(lambda: "which is older than" in (releases()["trouble"] or ""), "RTP sees the older record", within_s=60)
        with redis.Redis.from_url(own_valkey.address, protocol=2) as client:
            until(lambda: client.exists(instances_key("uic")), "RTP announces itself", within_s=60)
        assert serving() == "tiny/2"
        status, said = rollout("promote", "r1", "--keep-for", "1h")
        assert (status, said.get("state")) == (0, "serving"), said
        until(lambda: releases()["trouble"] is None, "RTP follows it again", within_s=60)
        assert (serving(), releases()["revision"]) == ("tiny/2", said["revision"])


def put(client: Any, stored: Stored) -> None:
    client.mset(stored.values)


def ready(new: Release, old: Release) -> Record:
    """A rollout r1 of `new` whose gates were looked at and are open; `old` serves."""
    record = begin(None, new, serving=old, origin="log", salt=SALT, now_ms=NOW_MS)
    return observe(record, "r1", Checked(record.revision, ()), now_ms=NOW_MS)[0]


def announce(valkey: RedisForTest, serving: Release, refused: str = "", revision: int | None = None) -> None:
    """Say in the store what RTP says of itself; `refused`: why it could not load the record's bundle of this name."""
    loaded = Loaded(serving.bundle, serving.manifest, serving.namespace, SERVING)
    why = (NotLoaded(serving.bundle, refused),) if refused else ()
    told = Announcement(instance="host:1", revision=revision, loaded=(loaded,), refused=why)
    valkey.client.sadd(instances_key(valkey.prefix), told.instance)
    valkey.client.set(announcement_key(valkey.prefix, told.instance), encode_announcement(told))
