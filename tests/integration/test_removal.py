"""A namespace is removed while its worker comes back: neither is harmed, and what was interrupted can be finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from localstack.web import web
from mimn.release import Record, Release, encode_record, record_key
from mimn.state import NO_TOPIC_ID, Keys, Progress, encode_progress
from support.bulk_running import done, kill
from support.for_test import MakeTopics, RedisForTest
from support.world import World
from uic.bulk import namespaces, removal
from uic.bulk.errors import BulkRefused
from uic.bulk.namespaces import Namespaces
from uic.bulk.removal import Removal
from uic.core.start_position import LogBounds

pytestmark = pytest.mark.servers

N = 4


@pytest.fixture
def world(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A namespace that may be dropped at once, in many slices."""
    monkeypatch.setattr(namespaces, "FOLDED_WITHIN_MS", 0)
    monkeypatch.setattr(removal, "SLICE", 10)
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, {})
    yield made
    made.close()


def dropped(world: World, after: Callable[[str], None] = lambda step: None, *, force: bool = False) -> int:
    found = Namespaces(world.client, world.keys.prefix, sleep=lambda seconds: None)
    return found.drop(world.keys.namespace, force=force, after=after)


def at(step: str, act: Callable[[], None]) -> Callable[[str], None]:
    """Acts the first time that the step is done."""
    left = [act]

    def after(reached: str) -> None:
        if reached == step and left:
            left.pop()()

    return after


def said(worker: UicWorker) -> str:
    """What the worker says of its readiness."""
    return web().get(f"{worker.admin_url}/readyz", timeout=60).text


def waits(worker: UicWorker) -> bool:
    return "namespace_removed: partitions 0-3 wait" in said(worker)


@pytest.mark.parametrize(
    ("step", "comes"),
    [
        ("progress", "restarts"),
        ("slice", "wakes"),
        pytest.param("keys", "restarts", marks=pytest.mark.full),
        pytest.param("name", "wakes", marks=pytest.mark.full),
    ],
)
def test_a_worker_that_comes_back_while_its_namespace_is_removed_waits_and_builds_it_again(
    world: World, step: str, comes: str
) -> None:
    world.produce(300, 60)
    worker = world.worker()
    world.wait_folded()
    if comes == "restarts":
        worker.stop()
    else:
        worker.freeze()

    def back() -> None:
        nonlocal worker
        if comes == "restarts":
            worker = world.worker()
        else:
            worker.thaw()
            world.produce(20, 60)
        until(lambda: waits(worker), "the worker waits", within_s=60)

    assert dropped(world, at(step, back)) >= 60
    world.produce(50, 60)
    world.wait_folded()
    assert world.client.sismember(world.keys.namespaces, world.keys.namespace)
    assert world.client.exists(world.keys.meta)
    until(lambda: "namespace_removed" not in said(worker), "the worker waits no more", within_s=60)


def test_a_removal_that_was_killed_is_finished_whatever_the_rollout_record_says_by_then(world: World) -> None:
    world.produce(200, 40)
    worker = world.worker()
    world.wait_folded()
    worker.stop()
    kill(world.environment(), "namespaces", "slice", 0, "drop", world.keys.namespace, "--yes", "--force")
    worker = world.worker()
    until(lambda: waits(worker), "the worker waits", within_s=60)
    of = world.bundle.manifest
    named = Release(of.name, of.version, world.bundle.sha256, of.files["head.onnx"], of.fingerprint, 0)
    record = encode_record(Record(revision=1, salt="0" * 16, serving=named))
    world.client.set(record_key(world.keys.prefix), record)
    done(world.environment(), "namespaces", "drop", world.keys.namespace, "--yes")
    world.wait_folded()
    assert world.client.sismember(world.keys.namespaces, world.keys.namespace)


def small(valkey: RedisForTest) -> Keys:
    """A namespace of two partitions, each with a record and a state."""
    keys = Keys("0123456789abcdef-0", valkey.prefix)
    valkey.client.sadd(keys.namespaces, keys.namespace)
    valkey.client.set(keys.meta, b'{"partitions": 2, "topic": "events"}')
    for p in (0, 1):
        valkey.client.set(keys.progress(p), record_at(7))
        valkey.client.set(keys.state(p, "user-1"), b"state")
    return keys


def record_at(next_offset: int) -> bytes:
    return encode_progress(Progress(partitions=2, next_offset=next_offset, lineage=1, writer=1, base=0, as_of_ms=1))


def serving(keys: Keys) -> bytes:
    """A rollout record that names the namespace."""
    fingerprint, _, generation = keys.namespace.rpartition("-")
    release = Release("tiny", "1", "0" * 64, "0" * 64, fingerprint.ljust(64, "0"), int(generation))
    return encode_record(Record(revision=1, salt="0" * 16, serving=release))


@pytest.mark.parametrize("when", ["while it is watched", "when it is closed"])
def test_a_namespace_that_a_rollout_names_before_its_first_key_goes_stays_as_it_was(
    valkey: RedisForTest, when: str
) -> None:
    keys = small(valkey)
    valkey.client.delete(keys.progress(1))

    def begin() -> None:
        valkey.client.set(record_key(valkey.prefix), serving(keys))

    def everything() -> dict[object, object]:
        return {key: valkey.client.get(key) for key in valkey.client.scan_iter(match=f"{valkey.prefix}:{{*")}

    before = everything()
    watched = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: begin() if "while" in when else None)
    with pytest.raises(BulkRefused, match="is serving in the rollout record"):
        watched.drop(keys.namespace, force=False, after=at("progress", begin))
    assert everything() == before
    assert (valkey.client.exists(keys.meta), watched.names()) == (1, [keys.namespace])


def test_a_namespace_whose_removal_was_interrupted_is_listed_as_one_that_goes(valkey: RedisForTest) -> None:
    keys = small(valkey)
    found = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)
    logs = {"events": dict.fromkeys((0, 1), LogBounds(0, 9, NO_TOPIC_ID))}
    [before] = found.survey(lambda: logs)
    assert (before.removed, before.lag, found.usable(None)) == (False, 4, [keys.namespace])

    assert (found.topic(keys.namespace), found.usable("events"), found.usable("other")) == (
        "events",
        [keys.namespace],
        [],
    )

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.drop(keys.namespace, force=False, after=at("progress", end))
    [after] = found.survey(lambda: logs)
    assert (after.removed, after.lag, found.usable(None)) == (True, None, [])


def test_what_a_worker_folds_while_the_log_is_asked_is_no_truncated_log(valkey: RedisForTest) -> None:
    keys, end = small(valkey), 9

    def asked() -> dict[str, dict[int, LogBounds]]:
        for p in (0, 1):  # events arrive, and a worker commits them
            valkey.client.set(keys.progress(p), record_at(end + 2))
        return {"events": dict.fromkeys((0, 1), LogBounds(0, end, NO_TOPIC_ID))}

    [seen] = Namespaces(valkey.client, valkey.prefix).survey(asked)
    assert (seen.broken_log, seen.lag) == (None, 4)
    [seen] = Namespaces(valkey.client, valkey.prefix).survey(asked)
    assert seen.broken_log == "truncated", "it is one if the progress was read before"


def test_a_removal_that_another_one_has_taken_over_removes_nothing_more(valkey: RedisForTest) -> None:
    keys = small(valkey)
    found = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)

    def another() -> None:
        found.drop(keys.namespace, force=False, after=lambda step: None)
        assert not list(valkey.client.scan_iter(match=f"{valkey.prefix}:*"))
        small(valkey)  # a worker has begun it again

    for step in ("progress", "keys"):
        with pytest.raises(BulkRefused, match="another command removes namespace"):
            found.drop(keys.namespace, force=False, after=at(step, another))
        assert valkey.client.get(keys.progress(0)) == valkey.client.get(keys.progress(1)) == record_at(7)
        assert valkey.client.get(keys.state(1, "user-1")) == b"state"
        assert (valkey.client.exists(keys.meta), found.names()) == (1, [keys.namespace])


def test_of_two_removals_at_once_the_refused_one_names_the_other_and_no_worker(valkey: RedisForTest) -> None:
    keys = small(valkey)
    found = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)

    def another() -> None:
        if found.exists(keys.namespace):
            found.drop(keys.namespace, force=False, after=lambda step: None)

    watched = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: another())
    with pytest.raises(BulkRefused, match=f"another command removes namespace {keys.namespace}.*: run this again$"):
        watched.drop(keys.namespace, force=False, after=lambda step: None)
    assert not found.exists(keys.namespace)

    for goes in (True, False):
        keys = small(valkey)
        begun = Removal(valkey.client, keys)
        begun.close({0: record_at(7), 1: record_at(7)}, force=False)
        if goes:
            begun.remove(lambda step: None)
        with pytest.raises(BulkRefused, match="another command removes namespace"):
            Removal(valkey.client, keys).close({0: record_at(7), 1: record_at(7)}, force=False)


def test_a_partition_that_is_folded_since_it_was_looked_at_keeps_its_namespace_as_it_is(valkey: RedisForTest) -> None:
    keys = small(valkey)
    valkey.client.delete(keys.progress(0))
    one = Removal(valkey.client, keys)
    valkey.client.set(keys.progress(1), record_at(8))
    with pytest.raises(BulkRefused, match="a worker has begun to fold partition 1"):
        one.close({0: None, 1: record_at(7)}, force=False)
    assert valkey.client.get(keys.progress(0)) not in (None, record_at(7)), "it is kept from workers"
    one.open_again()
    assert [valkey.client.get(keys.progress(p)) for p in (0, 1)] == [None, record_at(8)]


def test_a_namespace_without_meta_or_with_keys_of_more_partitions_goes_whole(valkey: RedisForTest) -> None:
    for damage in ("no meta", "more partitions"):
        keys = small(valkey)
        if damage == "no meta":
            valkey.client.delete(keys.meta)
        else:
            valkey.client.set(keys.state(5, "user-}:progress"), b"state")
        found = Namespaces(valkey.client, valkey.prefix, sleep=lambda seconds: None)
        assert found.drop(keys.namespace, force=False, after=lambda step: None) >= 4
        assert not list(valkey.client.scan_iter(match=f"{valkey.prefix}:*"))
