"""Replacing a bundle and reading progress, with fakes: a good bundle is taken up whole, a bad one changes nothing."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mimn.bundle import BundleError, load_bundle
from mimn.state import Keys
from rtp.core.ports import Model
from rtp.errors import ReloadRefused, ReloadTimedOut
from rtp.loader import MAX_ABANDONED, Loader
from rtp.metrics import Metrics
from rtp.progress_watcher import NoNamespace, ProgressReader, ProgressWatcher
from rtp.release import Arm, InService, Release, Traffic
from rtp.reload import Reloader
from rtp.runtime import OnnxModel
from rtp.store_clock import StoreClock
from support.fake_state_reader import FakeStateReader, progress_reader
from support.stored import Stored, now_ms
from support.waiting import until

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
SKETCH = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
CONTEXT = FIXTURES / "bundle_tiny_context/tiny-context/1"


@cache
def model(path: Path) -> OnnxModel:
    return OnnxModel(load_bundle(path))


@dataclass
class World:
    """A process that serves the tiny bundle, and the bundle that a reload finds."""

    found: Model | Exception
    load_timeout_s: float = 60.0
    stored: Stored = field(default_factory=lambda: Stored(load_bundle(TINY)))

    def __post_init__(self) -> None:
        self.store = FakeStateReader()
        self.store.values = dict(self.stored.values)
        self.metrics = Metrics()
        self.in_service = InService(Release.of(model(TINY), prefix="uic", generation=0))
        self.before = self.in_service.current
        self.reader = progress_reader(self.store)
        self.loader = Loader(self.load, self.load_timeout_s)
        self.reloader = Reloader(
            self.in_service, self.store, self.reader, self.metrics, self.loader, path=Path("x"), generation=0,
            stale_after_ms=60_000, least_coverage=0.99,
        )  # fmt: skip

    def load(self, _: Path) -> Model:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def reload(self, *, force: bool = False) -> Release:
        async def learned() -> Release:
            self.in_service.learn(self.before.keys, await self.reader.read_whole(self.before.keys))
            self.before = self.in_service.current
            return await self.reloader.reload(force=force)

        return asyncio.run(learned())

    def count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("rtp_bundle_reloads_total", {"result": result}) or 0.0


def test_a_bundle_of_the_same_fingerprint_is_taken_up() -> None:
    again = OnnxModel(load_bundle(TINY))
    world = World(again)
    world.in_service.learn(world.before.keys, asyncio.run(world.reader.read(world.before.keys, None))[0])
    world.store.away = True  # not needed: the namespace is the same
    release = asyncio.run(world.reloader.reload())
    assert world.in_service.current is release
    assert release.model is again
    assert release.progress is not None
    assert world.count("taken_up") == 1


USERS = [f"user-{i}" for i in range(200)]


def with_users(users: list[str], bundle: Path = TINY, partitions: int = 4) -> Stored:
    stored = Stored(load_bundle(bundle), partitions)
    for user in users:
        stored.state(user)
    return stored


def change(users_there: list[str], edit: Callable[[Stored], object] = lambda _: None, partitions: int = 4) -> World:
    """A process whose next bundle reads another namespace, in which `users_there` have a state."""
    world = World(model(CONTEXT), stored=with_users(USERS))
    other = with_users(users_there, CONTEXT, partitions)
    edit(other)
    world.store.values.update(other.values)
    return world


def test_a_bundle_of_another_fingerprint_is_taken_up() -> None:
    world = change(USERS[:198])
    release = world.reload()
    assert release.keys != world.before.keys
    assert release.progress is not None
    labels = {"name": "tiny-context", "version": "1", "state_namespace": release.keys.namespace, "prefix": "uic"}
    assert world.metrics.registry.get_sample_value("rtp_bundle", labels) == 1


@pytest.mark.parametrize(
    "world",
    [
        lambda: change(USERS[:197]),
        lambda: change(USERS, lambda stored: stored.progress(2, as_of_ms=1)),
        lambda: change(USERS, lambda stored: [stored.state(user, events=4) for user in USERS[:3]]),
        lambda: change(USERS, lambda stored: [stored.state(user, partial=True) for user in USERS[:5]]),
    ],
    ids=["some are missing", "stale", "other events", "partial"],
)
def test_a_bundle_that_costs_users_their_states_is_refused(world: Callable[[], World]) -> None:
    refusing = world()
    with pytest.raises(ReloadRefused):
        refusing.reload()
    assert refusing.in_service.current is refusing.before
    assert (refusing.count("refused"), refusing.count("taken_up")) == (1, 0)
    forced = world()
    assert forced.reload(force=True).model is model(CONTEXT)
    assert (forced.count("refused"), forced.count("forced")) == (0, 1)


def test_a_bad_bundle_changes_nothing_and_is_counted() -> None:
    world = World(BundleError("head.onnx is not the file"))
    with pytest.raises(ReloadRefused, match=r"head\.onnx"):
        world.reload()
    assert world.in_service.current is world.before
    assert world.count("refused") == 1


def test_a_load_that_hangs_is_given_up_and_later_ones_work() -> None:
    world = World(model(TINY), load_timeout_s=0.05)
    hold = threading.Event()
    world.loader = hanging = Loader(lambda path: (hold.wait(), world.load(path))[1], 0.05)
    world.reloader._loader = hanging  # the same process: its loads hang until `hold` is set

    async def many() -> None:
        for _ in range(MAX_ABANDONED):
            with pytest.raises(ReloadTimedOut, match="RTP_BUNDLE__LOAD_TIMEOUT_S"):
                await world.reloader.reload()
        with pytest.raises(ReloadTimedOut, match="restart this process"):
            await world.reloader.reload()
        hanging._timeout_s = 60.0  # the next is a good one
        hold.set()
        await until(lambda: not world.reloader.hanging, "no load hangs any more", within_s=60)
        assert (await world.reloader.reload()).model is model(TINY)

    asyncio.run(many())
    assert (world.count("timed_out"), world.count("taken_up")) == (MAX_ABANDONED + 1, 1)


# Watching


def known(world: World) -> bool:
    return world.in_service.current.progress is not None


def trouble(watching: ProgressWatcher) -> str | None:
    return watching.trouble


def watcher(world: World) -> ProgressWatcher:
    reader = progress_reader(world.store, timeout_s=0.05)
    return ProgressWatcher(world.in_service, reader, world.metrics, every_s=0.01, stale_after_ms=60_000)


def test_the_last_good_progress_is_kept_while_the_store_is_away() -> None:
    world = World(model(TINY))
    watching = watcher(world)

    async def look() -> None:
        await watching.look()
        good = world.in_service.current.progress
        assert good is not None
        assert trouble(watching) is None
        world.store.frozen = True
        await watching.look()
        assert world.in_service.current.progress is good
        assert trouble(watching)
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 0
        world.store.frozen = False
        await watching.look()
        assert trouble(watching) is None
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 1

    asyncio.run(look())


def test_a_store_without_the_namespace_gives_no_progress() -> None:
    world = World(model(TINY))
    watching, whole = watcher(world), world.store.values
    world.store.values = {}

    async def look() -> None:
        await watching.look()
        assert (trouble(watching) or "").startswith("NoNamespace")
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 0
        world.store.values = whole
        await watching.look()
        assert trouble(watching) is None
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 1

    asyncio.run(look())


def test_an_unforeseen_error_is_trouble_for_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(model(TINY))
    watching = watcher(world)

    async def look() -> None:
        await watching.look()
        with monkeypatch.context() as broken:
            broken.setattr(world.store, "read_each", lambda *_: 1 / 0)
            await watching.look()
        assert "ZeroDivisionError" in (trouble(watching) or "")
        assert world.metrics.registry.get_sample_value("rtp_store_up") == 0
        await watching.look()
        assert trouble(watching) is None

    asyncio.run(look())


def test_states_are_looked_at_again_while_progress_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(model(TINY))
    watching = watcher(world)

    async def look() -> None:
        await watching.look()
        assert world.store.asked_again == 1
        world.store.away = True
        await watching.look()
        assert world.store.asked_again == 1
        world.store.away = False
        with monkeypatch.context() as broken, capture_logs() as lines:
            broken.setattr(world.store, "read_again", lambda _: 1 / 0)
            await watching.look()
        assert len([line for line in lines if "reason" in line]) == 1
        await watching.look()
        assert world.store.asked_again == 2

    asyncio.run(look())


def test_why_states_grow_old_is_told() -> None:
    world, later_s = World(model(TINY)), 0.0
    clock = StoreClock(world.store, timeout_s=0.05, steady_s=lambda: later_s)
    reader = ProgressReader(world.store, clock, timeout_s=0.05, ahead_within_ms=5_000)
    watching = ProgressWatcher(
        world.in_service, reader, world.metrics, every_s=0.01, stale_after_ms=60_000, clock=lambda: later_s
    )

    def seen() -> str | None:
        asyncio.run(watching.look())
        return watching.stale

    name = world.before.keys.namespace
    assert seen() is None
    world.store.away, later_s = True, 200.0
    said = seen() or ""
    assert name in said
    assert said.endswith("200 s ago")
    assert trouble(watching) == "StoreAway: away"
    world.store.away, world.store.clock_ms = False, lambda: now_ms() + 200_000
    assert "UIC worker" in (seen() or "")


def test_why_the_progress_of_a_canary_is_not_read_is_told_of_it() -> None:
    world = World(model(TINY))
    stored = Stored(load_bundle(SKETCH))
    for partition in range(stored.partitions):
        stored.progress(partition, as_of_ms=now_ms() - 61_000)
    whole = {**world.store.values, **stored.values}
    canary = Arm("canary", Release.of(model(SKETCH), prefix="uic", generation=0), ((0, 5000),))
    world.in_service.assign(Traffic((Arm("serving", world.in_service.current), canary)))
    watching = watcher(world)
    world.store.values = whole
    asyncio.run(watching.look())
    assert "UIC worker" in (watching.stale or "")
    world.store.silent = {stored.keys.meta, *(stored.keys.progress(p) for p in range(stored.partitions))}
    asyncio.run(watching.look())
    assert re.search(r"\(tiny-sketch/1\).* \d+ s ago \(StoreAway: away\)", watching.stale or "")
    assert trouble(watching) is None


def test_an_emptied_store_keeps_the_partition_count_and_forgets_the_progress() -> None:
    world = World(model(TINY))
    watching = watcher(world)

    async def look() -> None:
        await watching.look()
        world.store.values = {}
        await watching.look()

    asyncio.run(look())
    progress = world.in_service.current.progress
    assert progress is not None
    assert progress.partitions == (None,) * 4


HOUR_MS = 3_600_000


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS], ids=["fast", "slow"])
def test_a_wrong_clock_of_this_process_is_a_metric_and_makes_no_partition_old(ahead_ms: int) -> None:
    world = World(model(TINY))
    reader = progress_reader(world.store, wall_ms=lambda: now_ms() + ahead_ms)
    asyncio.run(ProgressWatcher(world.in_service, reader, world.metrics, every_s=1.0, stale_after_ms=60_000).look())
    value = world.metrics.registry.get_sample_value
    assert value("rtp_clock_skew_seconds") == pytest.approx(ahead_ms / 1000, abs=60)
    assert value("rtp_as_of_ahead_seconds") == 0
    assert 0 <= (value("rtp_oldest_partition_age_seconds") or 0) < 60


def test_without_the_stores_time_ages_are_by_the_own_clock() -> None:
    world = World(model(TINY))
    world.store.clock_ms = lambda: now_ms() - HOUR_MS
    world.store.keeps_its_time = True
    watching = watcher(world)
    value = world.metrics.registry.get_sample_value
    with capture_logs() as lines:
        asyncio.run(watching.look())
        asyncio.run(watching.look())
        assert (watching.no_time, watching.trouble) == ("StoreRefused: NOPERM", None)
        assert math.isnan(value("rtp_clock_skew_seconds") or 0)
        assert 0 <= (value("rtp_oldest_partition_age_seconds") or 0) < 60
        world.store.keeps_its_time = False
        asyncio.run(watching.look())
    assert watching.no_time is None
    assert value("rtp_clock_skew_seconds") == pytest.approx(3600, abs=60)
    assert len([line for line in lines if "time" in line["event"]]) == 2


def test_as_of_times_ahead_of_the_store_are_a_metric_and_their_age_is_unknown() -> None:
    world = World(model(TINY))
    world.stored.progress(1, as_of_ms=now_ms() + 3_600_000)
    world.store.values = dict(world.stored.values)
    asyncio.run(watcher(world).look())
    value = world.metrics.registry.get_sample_value
    assert 3_500 < (value("rtp_as_of_ahead_seconds") or 0) <= 3_600
    assert math.isnan(value("rtp_oldest_partition_age_seconds") or 0)


def test_partitions_that_are_not_answered_stay_as_they_were_and_the_others_go_on() -> None:
    world = World(model(TINY))
    watching = watcher(world)
    keys = world.before.keys

    def as_of() -> list[int | None]:
        progress = world.in_service.current.progress
        assert progress is not None
        return [None if one is None else one.as_of_ms for one in progress.partitions]

    async def look() -> tuple[list[int | None], list[int | None]]:
        await watching.look()
        before = as_of()
        for partition in range(4):
            world.stored.progress(partition, as_of_ms=now_ms() - 1_000_000)
        world.store.values = dict(world.stored.values)
        # The meta is on the same node as partition 2.
        world.store.silent = {keys.meta, keys.progress(2)}
        await watching.look()
        return before, as_of()

    before, after = asyncio.run(look())
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True, False]
    assert trouble(watching) == "StoreAway: away"
    assert world.metrics.registry.get_sample_value("rtp_store_up") == 0
    world.store.silent = set()
    asyncio.run(watching.look())
    assert trouble(watching) is None
    assert as_of() != after


def test_trouble_is_logged_when_it_begins_and_not_again() -> None:
    world = World(model(TINY))
    world.store.away = True
    watching = watcher(world)

    async def look() -> None:
        for _ in range(3):
            await watching.look()

    with capture_logs() as logs:
        asyncio.run(look())
    assert len(logs) == 1


def test_it_looks_again_and_again_until_cancelled() -> None:
    world = World(model(TINY))
    world.store.values, there = {}, world.store.values

    async def run() -> None:
        running = asyncio.create_task(watcher(world).run())
        await asyncio.sleep(0)
        assert not known(world)
        world.store.values = there
        await until(lambda: known(world), "the progress is read", within_s=60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())


@pytest.mark.parametrize("meta", [b"", b"{", b"5", b'{"partitions": 0, "topic": "t"}'])
def test_a_meta_that_says_nothing_usable_is_named(meta: bytes) -> None:
    store = FakeStateReader()
    keys = Keys("abc-0")
    store.values[keys.meta] = meta
    with pytest.raises(NoNamespace, match="uic:abc-0:meta"):
        asyncio.run(progress_reader(store).read(keys, None))
