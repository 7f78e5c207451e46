"""Swapping a bundle and watching the store, with fakes: a good bundle is taken up whole, a bad one changes nothing."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from mimn.bundle import BundleError, GoldenMismatch, load_bundle
from mimn.state import Keys
from rtp.core.ports import Model
from rtp.errors import ReloadRefused
from rtp.metrics import Metrics
from rtp.reload import Reloader
from rtp.runtime import OnnxModel
from rtp.serving import Holder, Serving
from rtp.watcher import NoNamespace, Watcher, read_standing
from support.fake_store import FakeStateReader
from support.stored import Stored

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
CONTEXT = FIXTURES / "bundle_tiny_context/tiny-context/1"


@cache
def model(path: Path) -> OnnxModel:
    return OnnxModel(load_bundle(path))


@dataclass
class World:
    """A process that serves the tiny bundle, and the bundle that a reload finds."""

    found: Model | Exception

    def __post_init__(self) -> None:
        self.store = FakeStateReader()
        self.store.values = Stored(load_bundle(TINY)).values
        self.metrics = Metrics()
        self.holder = Holder(Serving.of(model(TINY), prefix="uic", generation=0))
        self.before = self.holder.current
        self.reloader = Reloader(
            self.holder, self.store, self.metrics, path=Path("x"), generation=0, timeout_s=1.0, load=self.load
        )

    def load(self, _: Path) -> Model:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def reload(self) -> Serving:
        return asyncio.run(self.reloader.reload())

    def count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("rtp_bundle_reloads_total", {"result": result}) or 0.0


def test_a_bundle_of_the_same_fingerprint_is_taken_up_with_what_is_known_of_the_store() -> None:
    again = OnnxModel(load_bundle(TINY))
    world = World(again)
    standing, _ = asyncio.run(read_standing(world.store, world.before.keys, None, 1.0))
    world.holder.learn(world.before.keys, standing)
    world.store.away = True  # not needed: the namespace is the same
    serving = world.reload()
    assert world.holder.current is serving
    assert serving.model is again
    assert serving.standing is standing
    assert world.count("taken_up") == 1


def test_a_bundle_of_another_fingerprint_is_taken_up_when_its_namespace_exists() -> None:
    world = World(model(CONTEXT))
    world.store.values.update(Stored(load_bundle(CONTEXT), partitions=7).values)
    serving = world.reload()
    assert serving.keys != world.before.keys
    assert serving.standing is not None
    assert serving.standing.partitions == 7
    labels = {"name": "tiny-context", "version": "1", "namespace": serving.keys.namespace}
    assert world.metrics.registry.get_sample_value("rtp_bundle", labels) == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (BundleError("head.onnx is not the file"), "head.onnx is not the file"),
        (GoldenMismatch("differs by 0.1"), "differs by"),
        (MemoryError("no more"), "MemoryError"),
    ],
)
def test_a_bad_bundle_changes_nothing_and_is_counted(
    found: Exception, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(found)
    with pytest.raises(ReloadRefused, match=words):
        world.reload()
    assert world.holder.current is world.before
    assert world.count("refused") == 1
    assert words in caplog.text


def test_a_bundle_whose_states_nobody_folds_is_refused() -> None:
    world = World(model(CONTEXT))
    with pytest.raises(ReloadRefused, match="let UIC build its states first"):
        world.reload()
    assert world.holder.current is world.before


def test_a_bundle_of_another_namespace_is_refused_while_the_store_cannot_be_asked() -> None:
    world = World(model(CONTEXT))
    world.store.away = True
    with pytest.raises(ReloadRefused, match="when the store is back"):
        world.reload()
    assert world.holder.current is world.before


def test_what_the_watcher_learned_while_a_bundle_was_loading_is_kept() -> None:
    world = World(model(TINY))

    async def reload() -> Serving:
        reading = asyncio.create_task(world.reloader.reload())
        await asyncio.sleep(0)
        standing, _ = await read_standing(world.store, world.before.keys, None, 1.0)
        world.holder.learn(world.before.keys, standing)
        return await reading

    assert asyncio.run(reload()).standing is not None


# Watching


def known(world: World) -> bool:
    return world.holder.current.standing is not None


def trouble(watching: Watcher) -> str | None:
    return watching.trouble


def watcher(world: World) -> Watcher:
    return Watcher(world.holder, world.store, world.metrics, every_s=0.01, timeout_s=0.05)


def test_the_last_good_standing_is_kept_while_the_store_is_away() -> None:
    world = World(model(TINY))
    watching = watcher(world)

    async def look() -> None:
        await watching.look()
        good = world.holder.current.standing
        assert good is not None
        assert trouble(watching) is None
        world.store.frozen = True
        await watching.look()
        assert world.holder.current.standing is good
        assert trouble(watching)
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 0
        world.store.frozen = False
        await watching.look()
        assert trouble(watching) is None
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 1

    asyncio.run(look())


def test_an_emptied_store_keeps_the_partition_count_and_forgets_the_progress() -> None:
    world = World(model(TINY))
    watching = watcher(world)

    async def look() -> None:
        await watching.look()
        world.store.values = {}
        await watching.look()

    asyncio.run(look())
    standing = world.holder.current.standing
    assert standing is not None
    assert standing.progress == (None,) * 4


def test_trouble_is_logged_when_it_begins_and_not_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World(model(TINY))
    world.store.away = True
    watching = watcher(world)

    async def look() -> None:
        for _ in range(3):
            await watching.look()

    with caplog.at_level(logging.WARNING):
        asyncio.run(look())
    assert len(caplog.records) == 1


def test_it_looks_again_and_again_until_cancelled() -> None:
    world = World(model(TINY))
    world.store.values, there = {}, world.store.values

    async def run() -> None:
        running = asyncio.create_task(watcher(world).run())
        await asyncio.sleep(0)
        assert not known(world)
        world.store.values = there
        async with asyncio.timeout(60):
            while not known(world):
                await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())


@pytest.mark.parametrize(
    "meta", [b"", b"{", b"\xff", b"5", b'{"partitions": 0, "topic": "t"}', b'{"partitions": 1e9, "topic": "t"}']
)
def test_a_meta_that_says_nothing_usable_is_named(meta: bytes) -> None:
    store = FakeStateReader()
    keys = Keys("abc-0")
    store.values[keys.meta] = meta
    with pytest.raises(NoNamespace, match="uic:abc-0:meta"):
        asyncio.run(read_standing(store, keys, None, 1.0))
