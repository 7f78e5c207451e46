"""A backfill stores what a live UIC stores, hands over exactly, and refuses what it cannot do right."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from localstack.valkey import Valkey
from localstack.wait import until
from mimn.release import abort, begin, encode_record, record_key
from mimn.state import Keys, decode_progress, decode_state, encode_state, user_hash
from support import bulk_running, skips
from support.bulk_running import (
    KILLED,
    done,
    held_backfill,
    in_process,
    killed,
    killed_task,
    run,
    run_main,
)
from support.for_test import MakeTopics, RedisForTest
from support.releases import NOW_MS, SALT
from support.small_disk import ctr_on_disk
from support.world import BUNDLE, World
from uic.bulk.backfill_job import STATES
from uic.bulk.commands import backfill
from uic.bulk.folder import UNFINISHED
from uic.rollout.planning import read_release

pytestmark = pytest.mark.servers

N = 4
TOLD = {"UIC_REDIS__TIMEOUT_S": "5"}


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, TOLD)
    yield made
    made.close()


def fill(world: World, events: int = 1500) -> None:
    """Events of all kinds, some users erased, some records malformed."""
    world.produce(events // 2, 60)
    for user in ("user-3", "user-5", "user-59"):
        world.erase(user)
    world.produce(events // 2, 60)
    bad = world.producer.send(world.topics.events, key=b"user-1", value=b"\xff").get(timeout=60)
    world.dead.add((bad.partition, bad.offset))
    world.produce(20, 10)


def states(world: World, prefix: str) -> dict[tuple[int, str], bytes]:
    """All stored states under a prefix."""
    kept, world.keys = world.keys, Keys(world.keys.namespace, prefix)
    try:
        return world.stored().states
    finally:
        world.keys = kept


def lineages(world: World, prefix: str) -> list[int]:
    """The lineages that a live UIC chose, by partition."""
    keys = Keys(world.keys.namespace, prefix)
    return [decode_progress(world.client.get(keys.progress(p))).lineage for p in range(N)]


@pytest.mark.parametrize("engine", ["pool", pytest.param("shards", marks=pytest.mark.full), "spark"])
def test_the_bytes_are_those_of_a_live_uic_for_all_users_and_partitions(
    tmp_path: Path, world: World, engine: str
) -> None:
    if engine == "spark":
        skips.spark()
    fill(world)
    worker = world.worker()
    world.wait_folded()
    worker.stop()
    live = world.keys.prefix
    options = {
        "pool": ("--workers", "2"),
        "shards": ("--workers", "1", "--memory-mib", "0.01"),
        "spark": ("--engine", "spark"),
    }[engine]
    bulk = f"{live}b"
    code, said = run_main(
        partial(backfill.main, lineages=lineages(world, live)),
        world.environment(UIC_REDIS__PREFIX=bulk),
        *("--work", str(tmp_path / "work"), *options),
    )
    assert code == 0, said
    assert states(world, bulk) == states(world, live) != {}
    for p in range(N):
        ours, theirs = (
            decode_progress(world.client.get(Keys(world.keys.namespace, prefix).progress(p))) for prefix in (bulk, live)
        )
        for name in ("next_offset", "last_offset", "witness", "topic_id", "lineage", "base", "gap_end", "partitions"):
            assert getattr(ours, name) == getattr(theirs, name), name
        users = [world.client.smembers(Keys(world.keys.namespace, prefix).users(p)) for prefix in (bulk, live)]
        assert users[0] == users[1]
    said = json.loads(
        done(
            world.environment(UIC_REDIS__PREFIX=bulk),
            "backfill",
            *("--work", str(tmp_path / "work"), "--verify", "--json"),
        )
    )
    assert (said["wrong"], said["moved_on"]) == (0, 0)
    assert said["same_bits"] == said["users"] == len(states(world, live))


def test_uic_goes_on_exactly_once_where_the_backfill_ended(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world)
    done(world.environment(), "backfill", "--work", str(tmp_path))
    handed_over = [decode_progress(world.client.get(world.keys.progress(p))).lineage for p in range(N)]
    world.produce(300, 70)
    world.worker()
    world.wait_folded()
    now = [decode_progress(world.client.get(world.keys.progress(p))).lineage for p in range(N)]
    assert now == handed_over, "and it began no lineage of its own"
    capsys.readouterr()
    said = json.loads(done(world.environment(), "backfill", "--work", str(tmp_path), "--verify", "--json"))
    assert (said["wrong"], said["moved_on"] > 0) == (0, True)
    told = capsys.readouterr().err
    assert re.search(r"^read ([\d,]+) of \1 records, ", told, re.MULTILINE), told


def test_a_wrong_state_is_found_by_verify(tmp_path: Path, world: World) -> None:
    fill(world, 600)
    done(world.environment(), "backfill", "--work", str(tmp_path))
    (first, second, third, *_) = sorted(states(world, world.keys.prefix).items())
    bundle = world.bundle

    def put(place: tuple[int, str], value: bytes) -> None:
        world.client.set(world.keys.state(*place), value)

    world.client.delete(world.keys.state(*first[0]))
    for (place, value), change in ((second, {"digest": bytes(8)}), (third, {"event_count": 1})):
        state = decode_state(value, bundle.fingerprint, bundle.layout, user_hash(place[1]))
        changed = replace(state, header=replace(state.header, **change))
        put(place, encode_state(changed, bundle.fingerprint, bundle.layout))
    code, said = run(world.environment(), "backfill", "--work", str(tmp_path), "--verify", "--json")
    found = json.loads(said)
    assert code == 1
    assert (found["missing"], found["digest"], found["count"]) == (1, 1, 1)


def refused(capsys: pytest.CaptureFixture[str], told: dict[str, str], *arguments: str) -> str:
    """The reason of a refused backfill."""
    code, _ = run(told, "backfill", *arguments)
    assert code == 1
    return capsys.readouterr().err


def test_what_cannot_be_done_right_is_refused_before_anything_is_written(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world, 600)
    archive = tmp_path / "archive"
    done(world.environment(), "archive", "--to", str(archive))
    work = ("--work", str(tmp_path / "work"), "--from", f"archive:{archive}")

    def nothing_written() -> bool:
        return not list(world.client.scan_iter(match=f"{world.keys.prefix}:*"))

    said = refused(capsys, world.environment(UIC_KAFKA__PARTITIONS="8"), *work)
    assert "has 4 partitions, the settings say 8" in said
    said = refused(capsys, world.environment(UIC_KAFKA__TOPIC="another"), *work)
    assert "does not exist" in said

    hole = tmp_path / "hole"
    shutil.copytree(archive, hole)
    next(hole.glob("*/2/*.parquet")).unlink()
    said = refused(
        capsys, world.environment(), "--work", str(tmp_path / "w2"), "--from", f"archive:{hole}", "--workers", "1"
    )
    assert "has a hole" in said
    assert nothing_written()

    world.client.config_set("maxmemory", int(world.client.info("memory")["used_memory"]) + 4096)
    world.client.config_set("maxmemory-policy", "noeviction")
    try:
        said = refused(capsys, world.environment(), *work)
        assert "too little memory" in said
        assert "--memory-share" in said
        assert nothing_written()
    finally:
        world.client.config_set("maxmemory", "0")

    other = tmp_path / "work" / "job.json"
    assert json.loads(other.read_text())["prefix"] == world.keys.prefix
    said = refused(capsys, world.environment(UIC_REDIS__PREFIX="elsewhere"), *work)
    assert "choose another --work" in said

    done(world.environment(), "backfill", *work)
    again = ("--work", str(tmp_path / "again"), "--from", f"archive:{archive}")
    said = refused(capsys, world.environment(), *again)
    assert "has progress already" in said
    said = refused(capsys, world.environment(), "--work", str(tmp_path / "from the log"))
    assert "has progress already" in said
    assert not (tmp_path / "from the log").exists(), "before hours are spent on an archive"
    said = refused(capsys, world.environment(UIC_BUNDLE__GENERATION="1", UIC_KAFKA__PARTITIONS="8"), *again)
    assert "partitions" in said


@pytest.mark.full
def test_a_load_goes_on_after_its_store_died(
    tmp_path: Path, world: World, own_valkey: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world, 400)
    told = world.environment(UIC_REDIS__URL=own_valkey.address)
    work = ("--work", str(tmp_path / "work"), "--workers", "1")

    def kill_after(step: str) -> Callable[[str], None]:
        return lambda now: own_valkey.kill() if now == step else None

    for step in ("seal", "claim"):
        code, _ = run(told, "backfill", *work, after=kill_after(step))
        assert (code, capsys.readouterr().err.splitlines()[-1].startswith("ctr backfill: cannot ")) == (1, True)
        own_valkey.start()
    done(told, "backfill", *work)
    create = ("snapshot", "create", "--to", str(tmp_path / "s"))
    assert run(told, *create, after=kill_after("partition"))[0] == 1
    assert "ctr snapshot: cannot read " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["archive", "backfill"])
def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path, world: World, verb: str) -> None:
    fill(world, 1500)
    disk = tmp_path / "disk"
    arguments = {"archive": ("--to", str(disk / "a")), "backfill": ("--work", str(disk / "w"), "--workers", "1")}[verb]
    ended = ctr_on_disk(disk, "16k", verb, *arguments, environment=world.environment())
    assert ended.status == 1
    [*_, last] = ended.err.splitlines()
    assert last.startswith(f"ctr {verb}: {disk}")
    assert last.endswith("No space left on device. Free space there, and run this again: it goes on")


def to_load(world: World, verb: str, folder: str) -> tuple[str, ...]:
    """The arguments of a command that loads 400 events' states into the empty store."""
    fill(world, 400)
    if verb == "backfill":
        return ("--work", folder, "--workers", "1")
    worker = world.worker()
    world.wait_folded()
    done(world.environment(), "snapshot", "create", "--to", folder)
    worker.stop()
    world.empty_store()
    return ("restore", "--from", folder)


@pytest.mark.parametrize("verb", ["backfill", pytest.param("snapshot", marks=pytest.mark.full)])
def test_a_load_whose_rollout_is_aborted_meanwhile_says_so_and_does_not_begin_again(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    load = to_load(world, verb, str(tmp_path / "folder"))
    new = read_release(BUNDLE, 0)[0]
    old = replace(new, fingerprint="0" * 64)
    record = begin(None, new, serving=old, origin="backfill", salt=SALT, now_ms=NOW_MS)
    world.client.set(record_key(world.keys.prefix), encode_record(record))
    steps: list[str] = []

    def aborted(step: str) -> None:
        steps.append(step)
        if step == "hand_over" and steps.count(step) == 1:
            given_up = abort(record, "r1", reason="slower", now_ms=NOW_MS)
            world.client.set(record_key(world.keys.prefix), encode_record(given_up))

    command = import_module(f"uic.bulk.commands.{verb}").main
    why = f"rollout r1 was aborted, and no rollout uses its namespace {new.namespace} again"
    code, said = run_main(partial(command, after=aborted), world.environment(), *load)
    assert (code, said, steps.count("hand_over")) == (1, "", 1)
    assert why in (told := capsys.readouterr().err)
    assert "`ctr rollout gc`" in told
    code, said = run_main(command, world.environment(), *load)
    assert (code, said, why in capsys.readouterr().err) == (1, "", True)


@pytest.mark.parametrize("verb", ["backfill", pytest.param("snapshot", marks=pytest.mark.full)])
@pytest.mark.parametrize("partitions", [pytest.param(1, marks=pytest.mark.full), N])
def test_a_store_that_is_emptied_after_some_partitions_were_handed_over_is_not_reported_as_loaded(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str], verb: str, partitions: int
) -> None:
    load = to_load(world, verb, str(tmp_path / "folder"))
    steps: list[str] = []

    def emptied(step: str) -> None:
        steps.append(step)
        if step == "hand_over" and steps.count(step) == partitions:
            world.empty_store()

    command = import_module(f"uic.bulk.commands.{verb}").main
    code, said = run_main(partial(command, after=emptied), world.environment(), *load)
    lost = ", ".join(map(str, range(partitions)))
    assert (code, said) == (1, "")
    assert f"the store has lost partitions {lost} since they were loaded: run it again" in capsys.readouterr().err
    done(world.environment(), verb, *load)
    assert not world.compare()
    meta = json.loads(world.client.get(world.keys.meta))
    assert (meta["partitions"], meta["topic"]) == (N, world.topics.events)
    world.produce(50, 20)
    world.worker()
    world.wait_folded()


def test_a_process_that_is_killed_for_memory_is_told_and_the_next_run_goes_on(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world, 100)
    command = ("--work", str(tmp_path / "work"), "--workers", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uic.bulk.pool.fold_task", killed_task)
        assert "lower --workers or --memory-mib" in refused(capsys, world.environment(), *command)
    done(world.environment(), "backfill", *command)


@pytest.mark.full
def test_a_process_of_spark_that_is_killed_is_told_and_the_next_run_goes_on(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    skips.spark()
    fill(world, 100)
    # Spark's processes cannot import modules of tests.
    import_module("pyspark.cloudpickle").register_pickle_by_value(bulk_running)
    command = ("--work", str(tmp_path / "work"), "--engine", "spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uic.bulk.spark.fold_task", killed_task)
        said = refused(capsys, world.environment(), *command)
    assert "a process of Spark that folded was killed" in said
    assert "Traceback" not in said.partition("ctr backfill: a process")[2]
    done(world.environment(), "backfill", *command)
    assert not world.compare()


@pytest.mark.full
def test_spark_without_java_is_told_in_a_line(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    skips.spark()
    fill(world, 100)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    code, said = in_process(world.environment(), "backfill", "--work", str(tmp_path / "work"), "--engine", "spark")
    assert code == 1
    assert said.splitlines()[-1].startswith("ctr backfill: Spark did not start, because Java did not: set JAVA_HOME")
    assert "Traceback" not in said


def test_a_signal_to_the_command_alone_ends_its_processes_and_the_next_run_goes_on(
    tmp_path: Path, world: World
) -> None:
    fill(world, 100)
    command = ("--work", str(tmp_path / "work"), "--workers", "2")
    half = (tmp_path / "work" / STATES).glob
    with held_backfill(world.environment(), *command) as folding:
        until(lambda: len(list(half(f"*{UNFINISHED}"))) == 2, "two processes fold", within_s=60)
        started = psutil.Process(folding.pid).children(recursive=True)
        folding.send_signal(signal.SIGTERM)
        _, said = folding.communicate(timeout=60)
        assert folding.returncode == 128 + signal.SIGTERM, said
        assert psutil.wait_procs(started, timeout=60)[1] == []
    assert said.splitlines()[-1].startswith("ctr backfill: interrupted")
    assert "Traceback" not in said
    done(world.environment(), "backfill", *command)
    assert not list(half(f"*{UNFINISHED}"))
    assert not world.compare()


def test_a_second_run_on_one_folder_of_work_is_refused_while_the_first_folds_and_loads(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world, 100)
    work = ("--work", str(tmp_path / "work"), "--workers", "1")
    refusals: list[str] = []

    def second(step: str) -> None:
        if step in ("job", "fold", "claim"):
            refusals.append(refused(capsys, world.environment(), *work).splitlines()[-1])

    assert run(world.environment(), "backfill", *work, after=second)[0] == 0
    assert len(refusals) >= 3
    assert all(f"another run writes {tmp_path / 'work'}" in told for told in refusals)
    assert not world.compare()
    done(world.environment(), "backfill", *work)


def killed_at(step: str, folder: Path, world: World) -> tuple[tuple[str, ...], Path]:
    """A run that was killed after a step: the options that go on with it, and where its folded states are."""
    fill(world, 100)
    work = ("--work", str(folder), "--workers", "1")
    assert killed(world.environment(), "backfill", step, 0, *work) == KILLED
    return work, folder / STATES


def test_a_damaged_file_of_folded_states_is_refused_with_what_to_do_which_helps(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    work, states = killed_at("seal", tmp_path, world)
    (states / "0.parquet").write_bytes(b"another one")
    said = refused(capsys, world.environment(), *work)
    assert f"{states}/0.parquet" in said
    assert not list(world.client.scan_iter(match=f"{world.keys.prefix}:*"))
    shutil.rmtree(states)
    done(world.environment(), "backfill", *work)
    assert not world.compare()


def test_two_loads_do_not_mix(tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world, 600)
    one, two = (("--work", str(tmp_path / name), "--workers", "1") for name in ("one", "two"))
    assert killed(world.environment(), "backfill", "states", 0, *one) == KILLED
    assert "another job" in refused(capsys, world.environment(), *two)
    done(world.environment(), "backfill", *two, "--take-over")
    assert not world.compare()
    assert "has progress already" in refused(capsys, world.environment(), *one)
    assert not world.compare()


def test_a_worker_that_begins_during_a_load_wins_and_nothing_is_mixed(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world, 600)
    work = ("--work", str(tmp_path), "--workers", "1")
    assert killed(world.environment(), "backfill", "states", 0, *work) == KILLED
    world.worker()
    world.wait_folded()
    assert "has progress already" in refused(capsys, world.environment(), *work)
    world.produce(50)
    world.wait_folded()


def test_a_log_of_which_every_record_is_rejected_is_refused_with_the_reasons_before_anything_is_loaded(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of events with an action that the bundle does not name: there is nothing to hand over."""
    for user in ("u1", "u2", "u3"):
        world.producer.send(world.topics.events, key=user.encode(), value=b"\xff")
    world.producer.send(world.topics.events, key=b"u4", value=BehaviorEvent(user_id="u4").SerializeToString())
    world.producer.flush(timeout=60)
    command = ("--work", str(tmp_path / "work"), "--workers", "1")
    said = refused(capsys, world.environment(), *command)
    assert "3 malformed_protobuf" in said
    assert "1 item_zero" in said
    assert not list(world.client.scan_iter(match=f"{world.keys.prefix}:*"))
    world.produce(20, 5)
    said = done(world.environment(), "backfill", "--work", str(tmp_path / "again"), "--workers", "1")
    assert "24 records: 20 folded, 4 rejected (" in said
    assert "3 malformed_protobuf" in said


def test_an_empty_log_is_handed_over(tmp_path: Path, world: World) -> None:
    said = done(world.environment(), "backfill", "--work", str(tmp_path / "work"), "--workers", "1")
    assert said.endswith(" 0 records\n")


def test_a_dry_run_says_hours_and_bytes_and_writes_nothing(tmp_path: Path, world: World) -> None:
    fill(world, 600)
    for source in ("log", "archive"):
        if source == "archive":
            done(world.environment(), "archive", "--to", str(tmp_path / "archive"))
        given: tuple[str, ...] = ("--from", f"archive:{tmp_path / 'archive'}") if source == "archive" else ()
        said: dict[str, Any] = json.loads(
            done(world.environment(), "backfill", "--work", str(tmp_path / "work"), "--dry-run", "--json", *given)
        )
        assert 40 <= said["users"] <= 90
        assert said["fold_hours"] > 0 < said["load_hours"]
        assert not (tmp_path / "work").exists()
    assert not list(world.client.scan_iter(match=f"{world.keys.prefix}:*"))
