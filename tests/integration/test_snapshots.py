"""A snapshot that was taken while UIC folded brings a lost store back exactly; a namespace that nothing needs goes."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace as dataclass_replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition
from msgspec.structs import replace

from localstack.wait import until
from mimn.release import Record, Release, encode_record, record_key
from mimn.state import Keys, Progress, decode_progress, encode_progress, namespace
from support.bulk_running import KILLED, done, killed, run, run_main
from support.for_test import MakeTopics, RedisForTest
from support.one_node_cluster import OneNodeCluster
from support.small_disk import OnDisk, on_disk
from support.uic_running import RunningUic
from support.world import World
from uic.bulk.errors import BulkRefused, FolderUnavailable
from uic.bulk.folder import Folder
from uic.bulk.namespaces import Namespaces
from uic.bulk.saved_states import SavedPartition, SavedStates, states_of
from uic.bulk.snapshots import Listed, Source, believed, choose, create, doubts, expired, listed, newest
from uic.settings import RedisSettings
from uic.store import RedisStore
from uic.tools import verify

pytestmark = pytest.mark.servers

N = 4
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, {})
    yield made
    made.close()


def snapshot_while_folding(world: World, to: Path, *more: str) -> str:
    """Take a snapshot while events and erasures flow; its id."""
    stop = threading.Event()

    def flow() -> None:
        while not stop.is_set():
            world.produce(20, 60)
            world.erase(f"user-{world.random.randint(0, 59)}")

    events = threading.Thread(target=flow)
    events.start()
    try:
        said = json.loads(done(world.environment(), "snapshot", "create", "--to", str(to), "--json", *more))
    finally:
        stop.set()
        events.join()
    return str(said["id"])


def test_a_snapshot_holds_also_the_states_of_users_who_are_missing_from_the_list(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(600, 60)
    worker = world.worker()
    world.wait_folded()
    stored = world.stored().states
    world.client.delete(world.keys.users(2))
    create = ("snapshot", "create", "--to", str(tmp_path / "s"), "--verify", "--json")
    assert json.loads(done(world.environment(), *create))["users"] == len(stored)
    assert "are missing from the list of users of partition 2; they are saved all the same" in capsys.readouterr().err
    worker.stop()
    world.empty_store()
    done(world.environment(), "snapshot", "restore", "--from", str(tmp_path / "s"))
    assert world.stored().states == stored
    world.worker()
    world.wait_folded()
    assert run_main(verify.main, world.environment())[0] == 0, "and the list is whole"


def test_a_snapshot_is_refused_if_the_list_of_users_is_deleted_while_it_is_taken(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(600, 60)
    world.worker()
    world.wait_folded()

    def delete(step: str) -> None:
        if step == "partition":
            world.client.delete(world.keys.users(2))

    create = ("create", "--to", str(tmp_path / "s"), "--verify", "--expire")
    code, said = run(world.environment(), "snapshot", *create, after=delete)
    assert (code, said) == (1, "")
    told = capsys.readouterr().err
    assert "are missing from the list of users of partition 2; `ctr verify --repair` lists them again" in told
    assert listed(Folder(str(tmp_path / "s")), world.keys.namespace) == []
    assert run_main(verify.main, world.environment(), "--repair")[0] == 0
    capsys.readouterr()
    assert run(world.environment(), "snapshot", *create)[0] == 0
    assert "warning" not in capsys.readouterr().err


def test_a_lost_store_is_restored_from_a_snapshot_that_was_taken_under_load(tmp_path: Path, world: World) -> None:
    world.produce(1500, 60)
    worker = world.worker()
    world.wait_folded()
    identity = snapshot_while_folding(world, tmp_path / "snapshots", "--verify")
    world.produce(200, 80)
    world.wait_folded()
    before = {p: decode_progress(r).lineage for p, r in world.progress_records().items()}
    worker.stop()
    world.empty_store()

    said = json.loads(done(world.environment(), "snapshot", "restore", "--from", str(tmp_path / "snapshots"), "--json"))
    assert (said["partitions"], said["already_there"], said["states"] > 0) == (N, 0, True)
    assert (said["id"], 0 <= said["age_s"] < 600) == (identity, True)
    world.worker()
    world.wait_folded()
    assert {p: decode_progress(r).lineage for p, r in world.progress_records().items()} == before
    again = done(world.environment(), "snapshot", "restore", "--from", str(tmp_path / "snapshots"))
    assert f"are restored into {world.keys.namespace}" in again
    assert f"{N} partitions were left as they are" in again


def test_a_restore_is_complete_although_the_log_was_cut_below_the_snapshot(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    world = World(tmp_path / "world", topics, valkey.url, valkey.prefix, {})
    try:
        world.produce(800, 60)
        worker = world.worker()
        world.wait_folded()
        world.log()  # the judge remembers what is cut
        done(world.environment(), "snapshot", "create", "--to", str(tmp_path / "s"))
        upto = {p: decode_progress(r).next_offset for p, r in world.progress_records().items()}
        admin = KafkaAdminClient(bootstrap_servers=real_kafka)
        admin.delete_records({TopicPartition(topics.events, p): offset for p, offset in upto.items()})
        admin.close()
        world.produce(200, 80)
        world.wait_folded()
        worker.stop()
        world.empty_store()
        done(world.environment(), "snapshot", "restore", "--from", str(tmp_path / "s"))
        world.worker()
        world.wait_folded()  # the judge finds a state that is `partial` wrong
    finally:
        world.close()


def test_a_store_that_loses_writes_while_it_is_saved_and_has_them_again_is_read_again(
    tmp_path: Path, valkey: RedisForTest
) -> None:
    """Progress is read before the store restarts and loses a commit, and the state before UIC has folded it again. Such
    a state lacks an event that the saved progress counts."""
    keys = Keys("0123456789abcdef-0", valkey.prefix)
    before, after = (
        encode_progress(Progress(partitions=1, next_offset=offset, lineage=1, writer=1, base=0, as_of_ms=0))
        for offset in (9, 10)
    )
    ada = keys.state(0, "ada")

    def stored(progress: bytes, state: bytes) -> None:
        valkey.client.mset({keys.progress(0): progress, ada: state})

    class RestartedStore(RedisStore):
        restarts = 1

        def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
            if not self.restarts:
                return super().stored_values(partition, users)
            self.restarts -= 1
            valkey.client.client_kill_filter(_type="normal", skipme=True)
            stored(before, b"without the last event")
            values = super().stored_values(partition, users)
            stored(after, b"with the last event")
            return values

    stored(after, b"with the last event")
    valkey.client.sadd(keys.users(0), "ada")
    store = RestartedStore(RedisSettings(url=valkey.url, prefix=valkey.prefix), keys)
    source = Source(keys.namespace, "0" * 32, valkey.prefix, "events", 1)
    identity = create(store, source, Folder(str(tmp_path)), now=datetime.now(UTC))
    store.close()
    folder, manifest = choose(Folder(str(tmp_path)), keys.namespace, identity, NOW)
    [(_, values)] = states_of(folder, manifest.partitions[0])
    assert (manifest.partitions[0].decoded.next_offset, values) == (10, [b"with the last event"])


def test_two_snapshots_that_begin_in_the_same_second_are_two(tmp_path: Path, valkey: RedisForTest) -> None:
    keys = Keys("0123456789abcdef-0", valkey.prefix)
    progress = Progress(partitions=1, next_offset=9, lineage=1, writer=1, base=0, as_of_ms=0)
    valkey.client.set(keys.progress(0), encode_progress(progress))
    store = RedisStore(RedisSettings(url=valkey.url, prefix=valkey.prefix), keys)
    source, root, now = Source(keys.namespace, "0" * 32, valkey.prefix, "events", 1), Folder(str(tmp_path)), NEW_YEAR
    second: list[str] = []

    def another(_: str) -> None:
        if not second:
            second.append(create(store, source, root, now=now))

    first = create(store, source, root, now=now, after=another)
    store.close()
    assert (first, second) == ("20270101T000000Z", ["20270101T000001Z"])
    assert all(one.manifest is not None for one in listed(root, keys.namespace))


@pytest.mark.full
def test_a_wrong_clock_of_this_machine_neither_names_a_snapshot_nor_removes_any(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Ahead:
            return cls.fromtimestamp((datetime.now(UTC) + timedelta(days=400)).timestamp(), tz)

    world.produce(100, 10)
    world.worker()
    world.wait_folded()
    create = ("snapshot", "create", "--to", str(tmp_path), "--json")
    first, here = json.loads(done(world.environment(), *create))["id"], tmp_path / world.keys.namespace
    stores = datetime.fromtimestamp(world.client.time()[0], UTC)
    days = [(stores - timedelta(days=days)).strftime("%Y%m%dT%H%M%SZ") for days in (5, 3, 1)]
    for identity in days:
        shutil.copytree(here / first, here / identity)
    monkeypatch.setattr("uic.bulk.commands.snapshot.datetime", Ahead)
    named = json.loads(done(world.environment(), *create, "--verify", "--expire"))["id"]
    assert abs(datetime.strptime(named, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - stores) < timedelta(minutes=5)
    capsys.readouterr()
    assert run(world.environment(), "snapshot", "expire", "--from", str(tmp_path), "--json")[0] == 1
    assert "9600.0 hours behind this machine's" in capsys.readouterr().err
    assert {*days, named} <= {one.name for one in here.iterdir()}


def test_users_who_were_erased_since_do_not_come_back(tmp_path: Path, world: World) -> None:
    world.produce(400, 20)
    world.worker()
    world.wait_folded()
    done(world.environment(), "snapshot", "create", "--to", str(tmp_path))
    uic = RunningUic(world.workers[0])
    gone = uic.erase("user-3")
    uic.channel.close()
    world.wait_folded()
    world.workers[0].stop()
    world.empty_store()
    said = json.loads(done(world.environment(), "snapshot", "restore", "--from", str(tmp_path), "--json"))
    assert said["erased"] == 1
    assert world.client.get(world.keys.state(gone.partition, "user-3")) is None
    assert not world.client.sismember(world.keys.users(gone.partition), "user-3")
    world.worker()
    world.wait_folded()


def test_a_flipped_byte_another_bundle_and_another_topic_are_refused_before_anything_is_written(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(400, 30)
    worker = world.worker()
    world.wait_folded()
    done(world.environment(), "snapshot", "create", "--to", str(tmp_path / "s"))
    worker.stop()
    world.empty_store()

    def refused(told: dict[str, str], *more: str) -> str:
        code, _ = run(told, "snapshot", "restore", "--from", str(tmp_path / "s"), *more)
        assert code == 1
        assert not list(world.client.scan_iter(match=f"{world.keys.prefix}*"))
        return capsys.readouterr().err

    ours = world.environment()
    sketch = Path(__file__).parents[1] / "fixtures" / "bundle_tiny_sketch" / "tiny-sketch" / "1"
    other = ours | {"UIC_BUNDLE__PATH": str(sketch)}
    assert "of fingerprint" in refused(other, "--of-namespace", world.keys.namespace)
    assert "of partitions 4" in refused(ours | {"UIC_KAFKA__PARTITIONS": "8"})
    assert "of topic" in refused(ours | {"UIC_KAFKA__TOPIC": "another"})
    assert "--other-prefix" in refused(ours | {"UIC_REDIS__PREFIX": f"{world.keys.prefix}x"})
    [file] = (tmp_path / "s").glob("*/*/2.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert "sha256 differs" in refused(ours)
    code, _ = run(ours, "snapshot", "verify", "--from", str(tmp_path / "s"))
    assert code == 1


def test_a_snapshot_that_would_name_another_log_is_not_begun(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(100, 10)
    worker = world.worker()
    world.wait_folded()

    def refused(**wrong: str) -> str:
        assert run(world.environment(**wrong), "snapshot", "create", "--to", str(tmp_path / "s"), "--verify") == (1, "")
        assert not (tmp_path / "s").exists()
        return capsys.readouterr().err

    assert "correct UIC_KAFKA__TOPIC and UIC_KAFKA__PARTITIONS" in refused(UIC_KAFKA__TOPIC="another")
    for n in ("2", "8"):
        assert "correct UIC_KAFKA__TOPIC and UIC_KAFKA__PARTITIONS" in refused(UIC_KAFKA__PARTITIONS=n)
    assert "there is no namespace" in refused(UIC_BUNDLE__GENERATION="1")
    worker.stop()
    world.client.delete(world.keys.meta)
    assert "if its meta was deleted, start its workers" in refused()


@pytest.mark.full
def test_a_snapshot_is_verified_where_nothing_can_be_written_and_with_its_own_bundle_only(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.produce(100, 10)
    world.worker()
    world.wait_folded()
    done(world.environment(), "snapshot", "create", "--to", str(tmp_path))
    verify = ("snapshot", "verify", "--from", str(tmp_path), "--of-namespace", world.keys.namespace)
    sketch = Path(__file__).parents[1] / "fixtures" / "bundle_tiny_sketch" / "tiny-sketch" / "1"
    assert run(world.environment(UIC_BUNDLE__PATH=str(sketch)), *verify) == (1, "")
    assert "choose the bundle that the snapshot was made with" in capsys.readouterr().err

    def read_only(self: Folder, name: str, data: bytes) -> None:
        raise FolderUnavailable(f"{self.url} cannot be read or written: Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", read_only)
        assert "every hash and checksum is right" in done(world.environment(), *verify)
    assert "warning: that it was verified is not noted" in capsys.readouterr().err
    assert [one.verified for one in listed(Folder(str(tmp_path)), world.keys.namespace)] == [None]
    done(world.environment(), *verify)
    assert all(one.verified for one in listed(Folder(str(tmp_path)), world.keys.namespace))


def test_a_snapshot_goes_into_another_generation_for_a_way_back(tmp_path: Path, world: World) -> None:
    world.produce(400, 30)
    world.worker()
    world.wait_folded()
    done(world.environment(), "snapshot", "create", "--to", str(tmp_path))
    restored = world.environment(UIC_BUNDLE__GENERATION="1")
    done(restored, "snapshot", "restore", "--from", str(tmp_path), "--of-namespace", world.keys.namespace)
    world.keys = Keys(namespace(world.bundle.manifest.fingerprint, 1), world.keys.prefix)
    world.produce(100, 30)
    world.worker(UIC_BUNDLE__GENERATION="1")
    world.wait_folded()


NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAYS = range(12, 0, -1)
ANY = SavedStates(namespace="", fingerprint="", prefix="", topic="", topic_id="", n=0, created_ms=0, partitions=())


def aged(world: World, to: Path, *days: float) -> list[str]:
    """Ids of copies of one snapshot that were taken so long ago, below `to`, oldest first."""
    world.produce(400, 60)
    worker = world.worker()
    world.wait_folded()
    worker.stop()
    first = json.loads(done(world.environment(), "snapshot", "create", "--to", str(to), "--verify", "--json"))["id"]
    here = to / world.keys.namespace
    stores = datetime.fromtimestamp(world.client.time()[0], UTC)
    ids = [(stores - timedelta(days=some)).strftime("%Y%m%dT%H%M%SZ") for some in days]
    for identity in ids:
        shutil.copytree(here / first, here / identity)
    shutil.rmtree(here / first)
    return ids


def create_on_disk(world: World, disk: Path, before: Path, snapshots: float) -> tuple[OnDisk, list[str]]:
    """`ctr snapshot create --verify --expire` into a disk that has room for so many snapshots, and those of `before`;
    how it ended, and the ids there then."""
    there = before / world.keys.namespace
    one = sum(-(-file.stat().st_size // PAGE) * PAGE for file in next(there.iterdir()).iterdir())
    command = f"cp -r '{before}'/. '{disk}' && exec '{sys.executable}' -m uic snapshot create --to '{disk}' "
    size = str(int(one * snapshots) // PAGE * PAGE)
    ended = on_disk(disk, size, ["sh", "-c", f"{command} --verify --expire"], world.environment())
    return ended, [path.rpartition("/")[2] for path in ended.left if path.count("/") == 2]


PAGE = 4096
"""Bytes of which a file on such a disk takes whole ones."""


@pytest.mark.full
def test_a_full_disk_gets_room_for_the_daily_snapshot_by_what_has_expired(tmp_path: Path, world: World) -> None:
    _, newest = aged(world, tmp_path / "before", 31, 1)  # of a day of its own, at whatever hour this runs
    ended, there = create_on_disk(world, tmp_path / "disk", tmp_path / "before", 2.5)
    assert ended.status == 0, ended.err
    assert len(there) == 2
    assert there[0] == newest
    assert there[1] > newest


def test_a_snapshot_without_room_leaves_nothing_of_it_and_names_the_way_out(tmp_path: Path, world: World) -> None:
    kept = aged(world, tmp_path / "before", 2.5, 1.5, 0.5)
    ended, there = create_on_disk(world, tmp_path / "disk", tmp_path / "before", 3.5)
    assert (ended.status, there) == (1, kept)
    assert "No space left on device" in ended.err
    assert f"ctr snapshot expire --from {tmp_path / 'disk'}" in ended.err


def test_nothing_expires_before_a_snapshot_that_cannot_be_taken(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = aged(world, tmp_path, 31, 20, 0.5)
    world.client.delete(world.keys.progress(1))
    assert run(world.environment(), "snapshot", "create", "--to", str(tmp_path), "--expire")[0] == 1
    assert "partition 1 has no progress yet" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / world.keys.namespace).iterdir()) == kept


def at(days: float, *, verified: bool = False, complete: bool = True) -> Listed:
    moment = NOW - timedelta(days=days)
    return Listed(moment.strftime("%Y%m%dT%H%M%SZ"), ANY if complete else None, "yes" if verified else None)


def test_seven_daily_ones_stay_and_one_verified_always() -> None:
    daily = [at(days, verified=days < 3) for days in range(12, -1, -1)]
    assert expired(daily, NOW, 7) == [one.id for one in daily[:6]]
    twice = [at(1.2), at(1.1), at(0.1)]
    assert expired(twice, NOW, 7) == [twice[0].id], "the newest of each day"
    old = [at(30, verified=True), at(20), at(0)]
    assert expired(old, NOW, 7) == [old[1].id], "no newer one is verified"
    assert expired([at(40), at(30)], NOW, 7) == [at(40).id], "the newest one"
    unfinished = [at(3, complete=False), at(0.1, complete=False), at(0)]
    assert expired(unfinished, NOW, 7) == [unfinished[0].id]


def of_lineages(*bases: int, lineage: int) -> SavedStates:
    """A manifest of partitions that were folded from these offsets on."""
    progress = Progress(partitions=len(bases), next_offset=99, lineage=lineage, writer=1, base=0, as_of_ms=0)
    saved = tuple(
        SavedPartition(
            partition=p,
            progress=encode_progress(progress._replace(base=base)).hex(),
            users=0,
            value_bytes=0,
            bytes=0,
            sha256="",
        )
        for p, base in enumerate(bases)
    )
    return replace(ANY, n=len(bases), partitions=saved)


def test_the_good_snapshot_outlives_those_of_a_namespace_that_started_over() -> None:
    good, over = of_lineages(0, 0, lineage=1), of_lineages(9, 0, lineage=2)
    of = {lineage: of_lineages(9, lineage=lineage) for lineage in (3, 4)}
    same_day = [
        dataclass_replace(at(0.2, verified=True), manifest=good),
        dataclass_replace(at(0.1, verified=True), manifest=over),
    ]
    assert expired(same_day, NOW, 7) == []
    month = [
        dataclass_replace(one, manifest=good) for one in (at(29.5, verified=True), at(29.4), at(29.3, verified=True))
    ]
    assert expired([*month, *same_day[1:]], NOW, 7) == [one.id for one in month[:2]], "the newest verified one of each"
    more = [dataclass_replace(at(days, verified=True), manifest=of[lineage]) for lineage, days in ((3, 20), (4, 19))]
    assert expired([*month, *more, *same_day[1:]], NOW, 7) == [one.id for one in month], "of three"
    later = NOW + timedelta(days=1)
    assert expired([*month, *same_day[1:]], later, 7) == [one.id for one in month], "and for a month"


def taken(days: float, next_offset: int, lineage: int = 1) -> Listed:
    """A verified snapshot of that name, of one partition that is folded up to the offset."""
    manifest = of_lineages(0, lineage=lineage)
    [saved] = manifest.partitions
    progress = decode_progress(bytes.fromhex(saved.progress))._replace(next_offset=next_offset, last_offset=-1)
    saved = replace(saved, progress=encode_progress(progress).hex())
    return dataclass_replace(at(days, verified=True), manifest=replace(manifest, partitions=(saved,)))


def test_a_name_of_the_future_neither_expires_another_snapshot_nor_is_the_newest() -> None:
    daily = [taken(2, 100), taken(1, 200), taken(0.1, 400)]
    ahead = taken(-10, 300)
    assert expired([*daily, ahead], NOW, 7) == []
    assert expired([*daily, ahead], NOW, 1) == [one.id for one in daily[:2]], "as if it were not there"
    assert newest([*daily, ahead], NOW) == daily[2]
    [line] = doubts([*daily, ahead], daily[2].id, NOW)
    assert line.startswith(f"snapshot {ahead.id} has a name of the future: ")
    later = NOW + timedelta(days=10, hours=1)
    of_today = dataclass_replace(taken(-9.9, 900), id="20261206T123000Z")
    assert ahead.id < of_today.id
    assert expired([*daily, ahead, of_today], later, 7) == [one.id for one in daily], "its day has come"
    before_it = dataclass_replace(taken(0, 800), id="20261206T020000Z")
    assert before_it.id < ahead.id
    assert before_it.id not in expired([*daily, before_it, ahead], later, 1), "it has less of the log than that one"
    assert newest([*daily, before_it, ahead], later) == before_it


def test_one_name_that_is_months_too_early_neither_removes_the_verified_one_nor_makes_another_the_newest() -> None:
    slow = dataclass_replace(taken(300, 1000), verified=None)
    daily = [dataclass_replace(taken(days, 900 - 10 * days), verified="yes" if days == 9 else None) for days in DAYS]
    [good] = [one for one in daily if one.verified]
    assert believed([slow, *daily], NOW) == daily, "all others contradict it"
    assert newest([slow, *daily], NOW) == slow, "it has the most of the log"
    kept = {one.id for one in (slow, good, *daily[-6:])}
    assert {one.id for one in (slow, *daily)} - {*expired([slow, *daily], NOW, 7)} == kept
    before = taken(20, 500, lineage=2)
    assert newest([slow, before, *daily], NOW) == slow, "not one of the lineages before"
    assert not {slow.id, good.id, before.id} & {*expired([slow, before, *daily], NOW, 7)}


def test_a_newest_snapshot_that_is_worse_than_an_older_one_is_doubted() -> None:
    good, over = of_lineages(0, 0, lineage=1), of_lineages(9, 0, lineage=2)
    first, second = (dataclass_replace(at(days), manifest=some) for days, some in ((3, good), (2, over)))
    [line] = doubts([first, second], second.id, NOW)
    assert f"1 of 2 partitions of {second.id} lack events of the log, and 0 of 2 of the older one" in line
    assert f"--id {first.id}" in line
    third = dataclass_replace(at(1), manifest=of_lineages(9, 9, lineage=3))
    [line] = doubts([first, second, third], third.id, NOW)
    assert f"--id {first.id}" in line, "the best one"
    again = dataclass_replace(at(1), manifest=of_lineages(0, 0, lineage=3))
    assert doubts([first, second, again], again.id, NOW) == [], "it was folded from the start of the log"
    assert doubts([first], first.id, NOW) == []


def test_newer_snapshots_that_cannot_be_used_are_named() -> None:
    used, cut = at(3), dataclass_replace(at(2, complete=False), problem="manifest.json cannot be read")
    lines = doubts([at(4, complete=False), used, cut, at(1, complete=False)], used.id, NOW)
    assert [at(2).id in lines[0], "manifest.json" in lines[0], at(1).id in lines[1]] == [True] * 3
    assert len(lines) == 2


@pytest.mark.full
def test_a_snapshot_of_a_namespace_that_started_over_neither_expires_the_good_one_nor_replaces_it_in_silence(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(real_kafka, N)
    world = World(tmp_path / "world", topics, valkey.url, valkey.prefix, {})
    create = ("snapshot", "create", "--to", str(tmp_path / "s"), "--verify", "--expire", "--json")
    try:
        world.produce(300, 40)
        worker = world.worker()
        world.wait_folded()
        world.log()
        good = json.loads(done(world.environment(), *create))["id"]
        worker.stop()
        upto = {p: decode_progress(r).next_offset for p, r in world.progress_records().items()}
        admin = KafkaAdminClient(bootstrap_servers=real_kafka)
        admin.delete_records({TopicPartition(topics.events, p): offset for p, offset in upto.items()})
        admin.close()
        world.empty_store()
        world.produce(60, 40)
        worker = world.worker()
        until(lambda: world.covered(world.log()), "UIC has started over", within_s=60)
        worse = json.loads(done(world.environment(), *create))["id"]
        worker.stop()
        rows = json.loads(done(world.environment(), "snapshot", "list", "--from", str(tmp_path / "s"), "--json"))
        assert [(one["id"], one["partitions"], one["partial"]) for one in rows] == [(good, N, 0), (worse, N, N)]
        assert len({one["lineages"] for one in rows}) == 2
        world.empty_store()
        restore = ("snapshot", "restore", "--from", str(tmp_path / "s"))
        capsys.readouterr()
        assert f"of snapshot {worse}" in done(world.environment(), *restore)
        assert f"lost, restore that one: --id {good}" in capsys.readouterr().err
        world.empty_store()
        done(world.environment(), *restore, "--id", good)
        world.worker()
        world.wait_folded()
    finally:
        world.close()


def test_namespaces_are_listed_and_one_that_nothing_needs_is_dropped_across_kills(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(600, 60)
    worker = world.worker()
    world.wait_folded()
    other = world.environment(UIC_BUNDLE__GENERATION="1")
    done(other, "backfill", "--work", str(tmp_path))
    names = {generation: namespace(world.bundle.manifest.fingerprint, generation) for generation in (0, 1)}
    rows = {r["namespace"]: r for r in json.loads(done(world.environment(), "namespaces", "list", "--json"))}
    assert set(rows) == set(names.values())
    stored = world.stored().states
    for row in rows.values():
        assert (row["users"], row["lag"], row["partial_share"]) == (len(stored), 0, 0.0)
        assert 0.5 < row["bytes"] / sum(map(len, stored.values())) < 4
        assert row["last_read_s"] is not None
    assert rows[names[0]]["folded"]
    code, _ = run(world.environment(), "namespaces", "drop", names[0], "--yes")
    assert (code, "within the last half minute" in capsys.readouterr().err) == (1, True)

    of = world.bundle.manifest
    serving = Release(of.name, of.version, world.bundle.sha256, of.files["head.onnx"], of.fingerprint, 1)
    record = encode_record(Record(revision=1, salt="0" * 16, serving=serving))
    world.client.set(record_key(world.keys.prefix), record)
    code, _ = run(world.environment(), "namespaces", "drop", names[1], "--yes", "--force")
    assert (code, "is serving in the rollout record" in capsys.readouterr().err) == (1, True)
    world.client.delete(record_key(world.keys.prefix))

    for step in ("progress", "slice", "keys"):
        assert killed(world.environment(), "namespaces", step, 0, "drop", names[1], "--yes", "--force") == KILLED
    done(world.environment(), "namespaces", "drop", names[1], "--yes", "--force")
    left = {key.decode() for key in world.client.scan_iter(match=f"{world.keys.prefix}:*")}
    assert not [key for key in left if names[1] in key]
    assert world.client.smembers(world.keys.namespaces) == {names[0].encode()}
    assert not world.compare(), "the other one is as it was"
    worker.stop()


@pytest.mark.parametrize("writes", ["a worker that lags", "a load"])
def test_a_namespace_that_is_written_is_not_dropped(writes: str, world: World) -> None:
    """Its last as-of time is old, so only what changes while it is watched shows that a process writes there."""
    world.produce(200, 20)
    worker = world.worker()
    world.wait_folded()
    worker.stop()
    records = {p: decode_progress(record) for p, record in world.progress_records().items()}
    for p, progress in records.items():
        world.client.set(world.keys.progress(p), encode_progress(progress._replace(as_of_ms=1)))
    before = world.stored()

    def meanwhile(seconds: float) -> None:
        if writes == "a load":
            world.client.sadd(world.keys.staged(0), "user-1")
        else:
            commit = records[0]._replace(as_of_ms=1, next_offset=records[0].next_offset + 1)
            world.client.set(world.keys.progress(0), encode_progress(commit))

    watched = Namespaces(world.client, world.keys.prefix, sleep=meanwhile)
    with pytest.raises(BulkRefused, match=r"1 partitions of namespace .* were written within 6 s"):
        watched.drop(world.keys.namespace, force=False, after=lambda step: None)
    assert world.stored().states == before.states
    quiet = Namespaces(world.client, world.keys.prefix, sleep=lambda seconds: None)
    assert quiet.drop(world.keys.namespace, force=False, after=lambda step: None) > len(before.states)
    assert world.stored().states == {}


@pytest.mark.full
def test_a_backfill_loads_a_cluster(tmp_path: Path, kafka: str, make_topics: MakeTopics) -> None:
    with ExitStack() as ending:
        node = ending.enter_context(OneNodeCluster(tmp_path / "node"))
        told = {"UIC_REDIS__MODE": "cluster"}
        world = World(tmp_path / "world", make_topics(kafka, N), node.address, "loaded", told)
        ending.callback(world.close)
        world.produce(500, 60)
        done(world.environment(), "backfill", "--work", str(tmp_path / "work"))
        assert not world.compare()
        world.produce(100, 70)
        world.worker()
        world.wait_folded()
        done(world.environment(UIC_BUNDLE__GENERATION="1"), "backfill", "--work", str(tmp_path / "again"))
        other = namespace(world.bundle.manifest.fingerprint, 1)
        done(world.environment(), "namespaces", "drop", other, "--yes", "--force")
        assert not [key for key in world.client.scan_iter() if other.encode() in key]
        assert not world.compare()
