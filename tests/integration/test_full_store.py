"""A store that is full, or refuses writes for another reason: what is in service stays, and no RTP is passed over
because it cannot say in the store what it has loaded."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import redis

from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.release import (
    Announcement,
    Checked,
    GateClosed,
    Loaded,
    Release,
    announcement_key,
    begin,
    encode_announcement,
    encode_record,
    instances_key,
    observe,
    record_key,
)
from mimn.release.announcement import LASTS_S, SERVING
from mimn.state import Keys
from support.bundles import TINY, with_scaled_head
from support.for_test import MakeTopics
from support.one_node_cluster import OneNodeCluster
from support.stored import Stored
from support.world import World
from uic.bulk import namespaces
from uic.bulk.errors import BulkRefused
from uic.bulk.namespaces import Namespaces
from uic.bulk.watch import WATCHED_S
from uic.errors import StoreUnavailable
from uic.rollout import main as rollout_command
from uic.rollout.gates import Demands
from uic.rollout.planning import read_release
from uic.rollout.verbs import TimedOut, Verbs
from uic.settings import ClientSettings
from uic.tools.scorers import Scorers

pytestmark = pytest.mark.servers
PREFIX = "uic"
SILENT = "web:1"


@pytest.fixture
def client(own_valkey: Valkey) -> Iterator[Any]:
    with redis.Redis.from_url(own_valkey.address, protocol=2, socket_timeout=10) as opened:
        yield opened


@pytest.fixture(autouse=True)
def folded_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of half a minute in which the store has refused all commits."""
    monkeypatch.setattr(namespaces, "FOLDED_WITHIN_MS", 0)


def put(client: Any, bundle: Path = TINY) -> Keys:
    """A namespace as UIC leaves it, with one user."""
    stored = Stored(load_bundle(bundle))
    stored.state("ada")
    for key, value in stored.values.items():
        client.set(key, value)
    client.sadd(stored.keys.namespaces, stored.keys.namespace)
    return stored.keys


def fill(client: Any) -> None:
    """The store takes no more; what is in it stays."""
    client.config_set("maxmemory", 1)


def silent(client: Any) -> bool:
    """Whether no process announces itself any more."""
    return bool(client.scard(instances_key(PREFIX))) and not Scorers(client, PREFIX).announced()


def drop(client: Any, keys: Keys, *, force: bool = False) -> int:
    return Namespaces(client, PREFIX).drop(keys.namespace, force=force, after=lambda step: None)


@pytest.mark.parametrize("mode", ["single", pytest.param("cluster", marks=pytest.mark.full)])
def test_a_full_store_keeps_the_namespace_that_a_silenced_rtp_reads_and_gives_one_that_nothing_reads(
    mode: str, tmp_path: Path
) -> None:
    kind: Any = OneNodeCluster if mode == "cluster" else Valkey
    with kind(tmp_path / "store") as server:
        opened: Any = redis.RedisCluster if mode == "cluster" else redis.Redis
        client = opened.from_url(server.address, protocol=2, socket_timeout=10)
        keys = put(client)
        told = Surroundings("", server.address, TINY, rtp={"RTP_REDIS__MODE": mode})
        with RtpProcess("rtp", tmp_path / "rtp", told) as rtp:
            with pytest.raises(BulkRefused, match="is read by 1 RTP process"):
                drop(client, keys)
            fill(client)
            until(lambda: silent(client), "the announcement has expired", within_s=60)
            with pytest.raises(BulkRefused, match=r"was read within 6 s: an RTP that does not announce.*--force"):
                drop(client, keys)
            body = {"user_id": "ada", "candidates": [{"item_id": 3, "category_id": 1}]}
            answer = web().post(f"{rtp.address}/predict", json=body, timeout=60).json()
            assert answer["state"]["status"] != "cold"
        assert drop(client, keys) > 0, "without --force, in a store that is still full"
        client.close()


def test_a_full_store_keeps_the_namespace_whose_worker_waits_with_its_commits(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, own_valkey: Valkey, client: Any
) -> None:
    world = World(tmp_path / "world", make_topics(kafka, 4), own_valkey.address, PREFIX, {})
    try:
        worker = world.worker()
        world.produce(100)
        world.wait_folded()
        fill(client)
        world.produce(100)

        def waits() -> list[dict[str, Any]]:
            told = web().get(f"{worker.admin_url}/partitions", timeout=60).json()["partitions"]
            return [one for one in told if one["phase"] == "unsure"]

        refused: list[dict[str, Any]] = []

        def are_refused() -> bool:
            refused[:] = waits()
            return bool(refused)

        until(are_refused, "commits are refused", within_s=60)
        assert all("OutOfMemoryError" in one["reason"] for one in refused)
        with pytest.raises(BulkRefused, match="a worker waits for the store"):
            drop(client, world.keys)
        assert worker.stop(60) == 0
        assert drop(client, world.keys) > 0
    finally:
        world.close()


@pytest.mark.parametrize("why", ["it evicts by frequency", "it is being saved"])
def test_a_full_store_that_does_not_tell_reads_gives_a_namespace_by_force_alone(why: str, client: Any) -> None:
    keys = put(client)
    if why == "it evicts by frequency":
        client.config_set("maxmemory-policy", "volatile-lfu")
    else:  # reads leave no trace while a child of the server saves
        client.config_set("rdb-key-save-delay", 10_000_000)
        client.bgsave()
    fill(client)
    with pytest.raises(BulkRefused, match=r"is unknown: the store refuses writes \(OutOfMemory.*--force"):
        drop(client, keys)
    client.config_set("maxmemory", 0)
    assert drop(client, keys) > 0, "RTP can announce itself, and none does"
    put(client)
    fill(client)
    assert drop(client, keys, force=True) > 0


@pytest.mark.parametrize("mode", ["single", pytest.param("cluster", marks=pytest.mark.full)])
def test_a_save_within_the_watch_hides_no_reader(mode: str, tmp_path: Path) -> None:
    """It begins after the first look at the progress and ends before the second one, and all reads are in between."""
    kind: Any = OneNodeCluster if mode == "cluster" else Valkey
    opened: Any = redis.RedisCluster if mode == "cluster" else redis.Redis
    with (
        kind(tmp_path / "store") as server,
        opened.from_url(server.address, protocol=2, socket_timeout=10) as client,
        redis.Redis.from_url(server.address, protocol=2, socket_timeout=10) as node,
    ):
        keys = put(client)
        fill(node)

        def saved(seconds: float) -> None:
            # Long enough that it is still under way when the progress is read, whatever else the machine does.
            node.config_set("rdb-key-save-delay", int(seconds * 1.6e6) // node.dbsize())
            node.bgsave()
            assert node.info("persistence")["rdb_bgsave_in_progress"]
            assert node.get(keys.progress(0)), "as RTP does"
            until(lambda: not node.info("persistence")["rdb_bgsave_in_progress"], "it is saved", within_s=60)

        with pytest.raises(
            BulkRefused, match=r"is unknown: the store refuses writes \(OutOfMemory.*run this again.*--force"
        ):
            Namespaces(client, PREFIX, sleep=saved).drop(keys.namespace, force=False, after=lambda step: None)
        assert drop(client, keys) > 0, "nothing is saved any more, and nothing reads it"


def announce(client: Any, serving: Release) -> None:
    """Say in the store what an RTP says of itself."""
    loaded = Loaded(serving.bundle, serving.manifest, serving.namespace, SERVING)
    told = Announcement(instance=SILENT, revision=2, loaded=(loaded,))
    client.sadd(instances_key(PREFIX), SILENT)
    client.set(announcement_key(PREFIX, SILENT), encode_announcement(told), px=5000)


def begun(client: Any, old: Release, new: Release) -> None:
    """A rollout r1 of `new` is ready, and `old` serves."""
    record = begin(None, new, serving=old, origin="log", salt="0" * 16, now_ms=1)
    record, _ = observe(record, "r1", Checked(record.revision, ()), now_ms=1)
    client.set(record_key(PREFIX), encode_record(record))


def begun_beside_a_silent_rtp(client: Any, releases: tuple[Path, Path]) -> None:
    """A rollout is ready, and an RTP of the list announces nothing."""
    old, new = (read_release(path, 0)[0] for path in releases)
    put(client, releases[0])
    begun(client, old, new)
    client.sadd(instances_key(PREFIX), SILENT)


@pytest.fixture
def releases(own_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The bundle in service, and one with another head."""
    old = tmp_path / "tiny/1"
    shutil.copytree(TINY, old)
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    monkeypatch.setenv("UIC_BUNDLE__PATH", str(old))
    return old, with_scaled_head(tmp_path, old, "2", 0.5)


def verbs(client: Any, sleep: Callable[[float], None]) -> Verbs:
    return Verbs(client, ClientSettings(), Demands(), sleep=sleep, clock=lambda: 0.0)


@pytest.mark.parametrize("verb", ["start", "promote", "drop"])
def test_an_rtp_that_a_full_store_has_silenced_is_waited_for_once_the_store_takes_writes_again(
    verb: str, client: Any, releases: tuple[Path, Path]
) -> None:
    old, new = (read_release(path, 0)[0] for path in releases)
    keys = put(client, releases[0])
    client.sadd(instances_key(PREFIX), SILENT)  # and what it had announced has expired

    def later(seconds: float) -> None:
        if seconds < WATCHED_S:
            announce(client, new if verb == "start" else old)

    if verb == "drop":
        client.config_set("maxmemory-policy", "volatile-lfu")  # the announcements decide
        with pytest.raises(BulkRefused, match="is read by 1 RTP process"):
            Namespaces(client, PREFIX, sleep=later).drop(keys.namespace, force=False, after=lambda step: None)
        assert client.exists(keys.progress(0))
        return
    if verb == "start":
        with pytest.raises(GateClosed, match="web:1 serves tiny/2"):
            verbs(client, later).start(releases[1], "log", None, 1)
        return
    begun(client, old, new)
    with pytest.raises(GateClosed, match="web:1 has not loaded tiny/2"):
        verbs(client, later).promote("r1", 60, dry_run=False)


def test_an_rtp_that_has_ended_is_waited_for_once_and_as_long_as_an_announcement_lasts(
    client: Any, releases: tuple[Path, Path]
) -> None:
    begun_beside_a_silent_rtp(client, releases)
    slept: list[float] = []
    verbs(client, slept.append).wait("r1", 0)
    assert sum(slept) == LASTS_S
    assert not client.exists(instances_key(PREFIX)), "its name goes by itself"
    verbs(client, slept.append).promote("r1", 60, dry_run=False)
    assert sum(slept) == LASTS_S


def test_no_name_of_an_rtp_goes_while_the_store_is_full_or_becomes_full_again(
    client: Any, releases: tuple[Path, Path]
) -> None:
    begun_beside_a_silent_rtp(client, releases)
    fill(client)
    verbs(client, lambda seconds: None).gc()
    assert client.scard(instances_key(PREFIX)) == 1
    client.config_set("maxmemory", 0)
    with pytest.raises(TimedOut, match="the store refuses writes"):
        verbs(client, lambda seconds: fill(client)).wait("r1", 0)
    assert client.scard(instances_key(PREFIX)) == 1


@contextmanager
def refusing(client: Any, answer: str) -> Iterator[None]:
    """The store refuses every write while the body runs, and takes writes after it."""
    if answer == "NOREPLICAS":
        client.config_set("min-replicas-to-write", 1)
    else:
        client.execute_command("REPLICAOF", LOOPBACK, 1)  # where nothing listens
    yield
    client.config_set("min-replicas-to-write", 0)
    client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("answer", ["NOREPLICAS", "ReadOnlyError"])
def test_a_store_that_refuses_all_writes_refuses_removals_and_what_changes_the_record(
    answer: str, own_valkey: Valkey, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = put(client)
    monkeypatch.setenv("UIC_REDIS__URL", own_valkey.address)
    monkeypatch.setenv("UIC_BUNDLE__PATH", str(TINY))
    shutil.copytree(TINY, tmp_path / "tiny/1")
    assert rollout("start", str(with_scaled_head(tmp_path, tmp_path / "tiny/1", "2", 0.5)))[0] == 0

    def stored() -> dict[bytes, object]:
        return {key: client.dump(key) for key in client.keys("*")}

    before = stored()
    with refusing(client, answer):
        for force in (False, True):
            with pytest.raises(StoreUnavailable, match=answer):
                Namespaces(client, PREFIX, sleep=lambda seconds: None).drop(
                    keys.namespace, force=force, serving=True, after=lambda step: None
                )
        for verb in ("wait", "promote", "abort"):
            status, said = rollout(verb, "r1")
            assert (status, answer in said["error"]) == (1, True), said
        assert stored() == before


def rollout(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Runs `ctr rollout ... --json`; exit status and document."""
    out = io.StringIO()
    with redirect_stderr(io.StringIO()):
        status = rollout_command.main([*arguments, "--json"], out)
    return status, json.loads(out.getvalue())
