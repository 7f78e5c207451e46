"""Several releases in one process: who is answered by which, what shadows may take, and how the record is followed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from errno import EACCES
from functools import cache
from hashlib import sha256
from os import stat_result
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.exposition import generate_latest
from structlog.testing import capture_logs

from mimn import release as rollouts
from mimn.bundle import load_bundle
from mimn.bundle.manifest import HEAD
from mimn.release import (
    Arm,
    Checked,
    Finding,
    Gate,
    Record,
    abort,
    begin,
    canary,
    encode_record,
    observe,
    promote,
    rollback,
    shadow,
)
from mimn.state import Keys
from rtp import rollout_follower
from rtp.announcer import Announcer
from rtp.core.admission import Admission
from rtp.core.fold_progress import Status
from rtp.core.ports import Model
from rtp.core.request import ScoreRequest
from rtp.core.shadowing import ShadowBudget
from rtp.errors import (
    DeadlineMissed,
    InvalidRequest,
    ReloadRefused,
    ReloadTimedOut,
    ScoringFailed,
    StateUnavailable,
)
from rtp.field_history import Asked
from rtp.loader import Loader
from rtp.metrics import Metrics
from rtp.progress_watcher import ProgressWatcher
from rtp.release import InService, Release, Traffic
from rtp.rollout_follower import Bundles, RolloutFollower
from rtp.runtime import OnnxModel
from rtp.scorer import Scored, Scorer
from support.fake_state_reader import FakeStateReader, progress_reader
from support.releases import NOW_MS, SALT
from support.stored import Stored, now_ms
from support.waiting import until

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
SKETCH = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
CONTEXT = FIXTURES / "bundle_tiny_context/tiny-context/1"
ITEMS, CATEGORIES = np.array([3, 10, 999, 4], np.uint64), np.array([2, 5, 0, 1], np.uint64)
USERS = [f"user-{i}" for i in range(300)]


@cache
def model(path: Path) -> OnnxModel:
    return OnnxModel(load_bundle(path))


def named(path: Path, generation: int = 0) -> rollouts.Release:
    of = load_bundle(path).manifest
    manifest = sha256((path / "manifest.json").read_bytes()).hexdigest()
    return rollouts.Release(of.name, of.version, manifest, of.files[HEAD], of.fingerprint, generation)


class World:
    """A process that was started with the tiny bundle, and a store with two namespaces."""

    def __init__(self, cpu_share: float = 1.0, folder: Path = Path("/bundles"), timeout_s: float = 1.0) -> None:
        self.store = FakeStateReader()
        self.stored = {path: Stored(load_bundle(path), partitions=3) for path in (TINY, SKETCH)}
        for stored in self.stored.values():
            for user in USERS:
                stored.state(user)
            self.store.values.update(stored.values)
        self.metrics = Metrics()
        self.in_service = InService(Release.of(model(TINY), prefix="uic", generation=0))
        self.reader = progress_reader(self.store, timeout_s=timeout_s)
        self.watcher = ProgressWatcher(self.in_service, self.reader, self.metrics, every_s=1.0, stale_after_ms=60_000)
        self.scorer = Scorer(
            self.in_service, self.store, Admission(100), self.metrics, stale_after_ms=60_000,
            shadow_budget=ShadowBudget(cpu_share, 8),
        )  # fmt: skip
        self.opened: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.instead: dict[str, Model] = {}
        self.now = 0.0
        self.follower = RolloutFollower(
            self.in_service, self.store, self.reader, self.metrics, Loader(self.load, 60.0),
            bundles=Bundles(folder, TINY), prefix="uic", timeout_s=timeout_s, every_s=0.5, retry_every_s=5.0,
            clock=lambda: self.now,
        )  # fmt: skip

    def load(self, path: Path) -> Model:
        self.opened.append(path.parent.name)
        if path.parent.name in self.broken:
            raise self.broken[path.parent.name]
        if path.parent.name in self.instead:
            return self.instead[path.parent.name]
        if path.is_dir():
            return model(path)
        return model({"tiny": TINY, "tiny-sketch": SKETCH, "tiny-context": CONTEXT}[path.parent.name])

    async def follow(self, record: Record | None = None) -> None:
        await self.watcher.look()
        if record is not None:
            self.store.values["uic:rollout"] = encode_record(record)
        await self.follower.look()
        await self.follower.settled()

    async def start(self) -> None:
        """What a process does before its first answer."""
        await self.watcher.look()
        await self.follower.look()
        await asyncio.wait_for(self.follower.begin(), 30)

    async def ask(self, user: str) -> Scored:
        loop = asyncio.get_running_loop()
        return await self.scorer.score(ScoreRequest(user, ITEMS, CATEGORIES), loop.time() + 10)

    def served(self) -> dict[str, str]:
        return {arm.name: arm.release.bundle for arm in self.in_service.traffic.arms}

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def begun() -> Record:
    new, old = named(SKETCH), named(TINY)
    record = begin(None, new, serving=old, origin="log", salt=SALT, now_ms=NOW_MS)
    return observe(record, "r1", Checked(record.revision, ()), now_ms=NOW_MS)[0]


def tried(percent: float) -> Record:
    record = begun()
    return canary(record, "r1", Checked(record.revision, ()), percent=percent, now_ms=NOW_MS)


def promoted() -> Record:
    record = begun()
    return promote(record, "r1", Checked(record.revision, ()), keep_ms=1000, now_ms=NOW_MS)


def test_without_a_record_everybody_is_answered_by_the_configured_bundle() -> None:
    world = World()
    asyncio.run(world.follow())
    assert world.served() == {"serving": "tiny/1"}
    assert (world.follower.governor, world.follower.unready, world.opened) == (None, None, [])


def test_each_user_is_answered_by_the_release_of_their_arm_with_their_state_there() -> None:
    world = World()

    async def answers() -> dict[str, Scored]:
        await world.follow(tried(30))
        return {user: await world.ask(user) for user in USERS}

    seen = asyncio.run(answers())
    arms = Counter(scored.arm for scored in seen.values())
    assert 60 < arms["canary"] < 120
    assert len(world.store.asked) == len(USERS), "a request reads one key, whatever its arm"
    for user, scored in seen.items():
        canary_arm = rollouts.bucket_of(SALT.encode(), user) < 3000
        path = SKETCH if canary_arm else TINY
        stored = world.stored[path]
        assert (scored.arm, scored.model) == ("canary" if canary_arm else "serving", model(path))
        assert scored.report.status is Status.WARM
        tensors = stored.bundle.golden.states[len(user) % len(stored.bundle.golden.states)]
        context = np.zeros(0, np.float32)
        expected = model(path).score(ITEMS, CATEGORIES, np.asarray(tensors), context, now_ms())
        assert np.allclose(scored.scores, expected, atol=1e-4)  # a sketch reads the time
    labels = {"arm": "canary", "bundle": "tiny-sketch/1", "state": "warm"}
    assert world.count("rtp_arm_scored_total", **labels) == arms["canary"]


@pytest.mark.parametrize("here", ["its manifest", "another manifest", "none"])
def test_a_field_of_the_release_before_is_ignored(here: str) -> None:
    """Of a process that is started after a rollback."""
    there = here == "its manifest"
    world = World(folder=Path("/bundles") if here == "none" else CONTEXT.parents[1])
    name = model(CONTEXT).request.names["context"][0]
    before = named(CONTEXT) if here != "another manifest" else replace(named(CONTEXT), manifest="0" * 64)
    record = begin(None, before, serving=named(TINY), origin="log", salt=SALT, now_ms=NOW_MS)
    record = observe(record, "r1", Checked(record.revision, ()), now_ms=NOW_MS)[0]
    record = promote(record, "r1", Checked(record.revision, ()), keep_ms=1000, now_ms=NOW_MS)
    record = rollback(record, "r1", reason="worse", now_ms=NOW_MS)

    async def ask(field: str) -> Scored:
        request = ScoreRequest(USERS[0], ITEMS, CATEGORIES, context={field: 1.0})
        return await world.scorer.score(request, asyncio.get_running_loop().time() + 10)

    async def play() -> None:
        await world.follow(record)
        assert (world.served(), world.opened) == ({"serving": "tiny/1"}, [])
        if there:
            plain = await world.ask(USERS[0])
            assert np.array_equal((await ask(name)).scores, plain.scores)
        else:
            with pytest.raises(InvalidRequest, match=name):
                await ask(name)
        with pytest.raises(InvalidRequest, match="nonsense"):
            await ask("nonsense")

    asyncio.run(play())
    assert world.count("rtp_request_fields_total", field=name, value="ignored") == there


class Locked(type(Path())):  # type: ignore[misc]  # Path chooses its class by itself before Python 3.12
    """A folder that this process may not look into."""

    def stat(self, *, follow_symlinks: bool = True) -> stat_result:
        raise PermissionError(EACCES, "Permission denied", str(self))


def test_a_locked_folder_of_bundles_stops_no_process() -> None:
    world = World(folder=Locked("/locked"))
    record = begin(None, named(SKETCH), serving=named(TINY), origin="log", salt=SALT, now_ms=NOW_MS)
    world.store.values["uic:rollout"] = encode_record(abort(record, "r1", reason="worse", now_ms=NOW_MS))

    async def play() -> None:
        await world.start()
        assert world.follower.unready is None
        await world.ask(USERS[0])

    asyncio.run(play())


def missed() -> tuple[Record, Record]:
    """A record after a rollout, and the same after another one, of the bundle with a context."""
    head = replace(named(TINY), version="2", manifest="0" * 64)
    earlier = begin(None, head, serving=named(TINY), origin="log", salt=SALT, now_ms=NOW_MS)
    earlier = abort(earlier, "r1", reason="slower", now_ms=NOW_MS)
    record = begin(earlier, named(CONTEXT), serving=named(TINY), origin="log", salt=SALT, now_ms=NOW_MS)
    record = observe(record, "r2", Checked(record.revision, ()), now_ms=NOW_MS)[0]
    record = promote(record, "r2", Checked(record.revision, ()), keep_ms=1000, now_ms=NOW_MS)
    return earlier, rollback(record, "r2", reason="worse", now_ms=NOW_MS)


def test_a_process_that_missed_a_rollout_ignores_its_fields() -> None:
    """As one that could not reach the store meanwhile."""
    world = World(folder=CONTEXT.parents[1])
    name = model(CONTEXT).request.names["context"][0]
    earlier, later = missed()

    async def ask(field: str) -> Scored:
        request = ScoreRequest(USERS[0], ITEMS, CATEGORIES, context={field: 1.0})
        return await world.scorer.score(request, asyncio.get_running_loop().time() + 10)

    async def play() -> None:
        await world.follow(earlier)
        with pytest.raises(InvalidRequest, match=name):
            await ask(name)
        await world.follow(later)
        assert (await ask(name)).arm == "serving"

    asyncio.run(play())
    assert (world.served(), world.opened) == ({"serving": "tiny/1"}, [])
    assert world.count("rtp_request_fields_total", field=name, value="ignored") == 1


def test_a_manifest_whose_read_hangs_holds_up_no_release(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(folder=CONTEXT.parents[1])
    earlier, later = missed()
    going = begin(later, named(SKETCH), serving=named(TINY), origin="log", salt=SALT, now_ms=NOW_MS)
    going = observe(going, "r3", Checked(going.revision, ()), now_ms=NOW_MS)[0]
    going = canary(going, "r3", Checked(going.revision, ()), percent=50, now_ms=NOW_MS)
    ended, asked = threading.Event(), []

    def hanging(path: Path) -> Asked:
        asked.append(path)
        ended.wait(30)
        raise ReloadTimedOut("it hung")

    async def play() -> None:
        await world.follow(earlier)
        monkeypatch.setattr(rollout_follower, "read_asked", hanging)
        world.store.values["uic:rollout"] = encode_record(later)
        await world.follower.look()
        world.store.values["uic:rollout"] = encode_record(going)
        await world.follower.look()
        await until(lambda: world.served() == {"serving": "tiny/1", "canary": "tiny-sketch/1"}, "the canary is loaded")
        ended.set()
        await world.follower.settled()
        for record in (abort(going, "r3", reason="slower", now_ms=NOW_MS), None):
            await world.follow(record)

    asyncio.run(play())
    assert len(asked) == 1


def test_a_field_that_one_release_reads_is_no_mistake_in_any_arm() -> None:
    world = World()
    stored = Stored(load_bundle(CONTEXT), partitions=3)
    for user in USERS:
        stored.state(user)
    world.store.values.update(stored.values)
    new = named(CONTEXT)
    name = model(CONTEXT).request.names["context"][0]
    record = begin(None, new, serving=named(TINY), origin="log", salt=SALT, now_ms=NOW_MS)
    record = observe(record, "r1", Checked(record.revision, ()), now_ms=NOW_MS)[0]
    trying = canary(record, "r1", Checked(record.revision, ()), percent=50, now_ms=NOW_MS)

    async def ask(field: str, value: float = 1.0) -> dict[str, set[tuple[float, ...]]]:
        seen: dict[str, set[tuple[float, ...]]] = {}
        for user in USERS[:20]:
            request = ScoreRequest(user, ITEMS, CATEGORIES, context={field: value})
            scored = await world.scorer.score(request, asyncio.get_running_loop().time() + 10)
            seen.setdefault(scored.arm, set()).add(tuple(scored.scores.tolist()))
        return seen

    async def play() -> None:
        await world.follow()
        with pytest.raises(InvalidRequest, match=name):
            await ask(name)
        await world.follow(trying)
        one, other = await ask(name, 1.0), await ask(name, 50.0)
        assert one["serving"] == other["serving"]
        assert one["canary"] != other["canary"]
        with pytest.raises(InvalidRequest, match="nonsense"):
            await ask("nonsense")
        await world.follow(abort(trying, "r1", reason="worse", now_ms=NOW_MS))
        assert (await ask(name)).keys() == {"serving"}

    asyncio.run(play())


def test_a_promoted_release_answers_everybody_and_the_one_before_stays_loaded() -> None:
    world = World()

    async def follow() -> None:
        await world.follow(tried(5))
        await world.follow(promoted())
        assert world.served() == {"serving": "tiny-sketch/1"}
        assert [release.bundle for release in world.in_service.standby] == ["tiny/1"]
        opened = list(world.opened)
        await world.follow(rollback(promoted(), "r1", reason="worse", now_ms=NOW_MS))
        assert world.served() == {"serving": "tiny/1"}
        assert world.opened == opened  # nothing had to be loaded

    asyncio.run(follow())
    assert world.in_service.standby == ()


@pytest.mark.parametrize("trouble", ["missing", "another bundle", "no namespace"])
def test_a_release_that_cannot_be_loaded_is_refused_and_the_others_go_on(trouble: str) -> None:
    world = World()
    record = tried(30)
    if trouble == "missing":
        world.broken["tiny-sketch"] = FileNotFoundError("no bundle there")
    elif trouble == "another bundle":
        other = replace(named(SKETCH), manifest="0" * 64)
        arm = replace(record.arms[0], release=other)
        record = replace(record, arms=(arm,), rollouts=(replace(record.rollouts[0], release=other),))
    else:
        for key in list(world.store.values):
            if Keys(named(SKETCH).namespace).namespace in key:
                del world.store.values[key]

    async def answers() -> list[Scored]:
        await world.follow(record)
        return [await world.ask(user) for user in USERS[:30]]

    seen = asyncio.run(answers())
    assert {(scored.arm, scored.model) for scored in seen} == {("serving", model(TINY))}
    assert "tiny-sketch/1" in world.follower.details
    assert world.follower.unready is None
    assert world.count("rtp_release_refused", bundle="tiny-sketch/1") == 1

    async def healed() -> None:
        world.broken.clear()
        fresh = World()
        world.store.values.update(fresh.store.values)
        await world.follow(replace(tried(30), revision=99))
        assert world.served() == {"serving": "tiny/1"} or trouble == "another bundle"
        world.now += 5.1  # refusals are not tried again at once
        await world.follow()
        assert world.served() == {"serving": "tiny/1", "canary": "tiny-sketch/1"}

    asyncio.run(healed())


def test_a_release_whose_load_hangs_is_not_tried_again_by_itself() -> None:
    world = World()
    world.broken["tiny-sketch"] = ReloadTimedOut("the bundle did not load in time")

    async def follow() -> None:
        await world.follow(tried(30))
        for _ in range(5):
            world.now += 1000
            await world.follow()
        assert world.opened == ["tiny-sketch"]
        world.broken.clear()
        world.follower.retry()
        await world.follow()

    asyncio.run(follow())
    assert world.served() == {"serving": "tiny/1", "canary": "tiny-sketch/1"}


def test_a_process_says_what_it_has_loaded_and_again_when_that_changes() -> None:
    async def play(world: World) -> None:
        announcer = Announcer(
            world.in_service, world.follower, world.store, world.metrics, prefix="uic", timeout_s=1.0,
            clock=lambda: world.now,
        )  # fmt: skip

        def said() -> rollouts.Announcement:
            (name,) = world.store.announced
            return rollouts.decode_announcement(world.store.values.pop(rollouts.announcement_key("uic", name)))

        await world.follow()
        await announcer.look()
        assert [(one.bundle, one.role) for one in said().loaded] == [("tiny/1", "serving")]
        await announcer.look()  # nothing changed, and a second has not passed
        world.broken["tiny-sketch"] = ReloadRefused("it is of another day")
        record = begun()
        await world.follow(record)
        await announcer.look()
        told = said()
        assert told.revision == record.revision
        assert [(one.bundle, one.reason) for one in told.refused] == [("tiny-sketch/1", "it is of another day")]
        new = record.rollouts[0].release
        found = rollouts.not_loaded(told, new, record.revision)
        assert found is not None
        assert (found.gate, found.passes) == (Gate.LOADED, False)
        assert rollouts.not_loaded(told, named(TINY), record.revision) is None
        late = rollouts.not_loaded(told, named(TINY), record.revision + 1)
        assert late is not None
        assert late.passes
        world.broken.clear()
        world.now += 10
        await world.follow()
        await announcer.look()
        assert rollouts.not_loaded(said(), new, record.revision) is None
        world.now += 1
        await announcer.look()
        assert said().revision == record.revision, "each second"
        assert world.count("rtp_announced") == 1
        world.store.away = True
        world.now += 1
        await announcer.look()
        assert world.count("rtp_announced") == 0
        assert announcer.trouble

    asyncio.run(play(World()))


def test_a_process_that_cannot_read_the_record_says_so() -> None:
    async def play(world: World) -> None:
        announcer = Announcer(
            world.in_service, world.follower, world.store, world.metrics, prefix="uic", timeout_s=1.0,
            clock=lambda: world.now,
        )  # fmt: skip

        async def said() -> rollouts.Announcement:
            world.now += 1
            await world.follow()
            await announcer.look()
            (name,) = world.store.announced
            return rollouts.decode_announcement(world.store.values.pop(rollouts.announcement_key("uic", name)))

        new = promoted()
        await world.follow(new)
        assert (await said()).unread is None
        world.store.refused = {"uic:rollout"}
        told = await said()
        assert (told.revision, told.unread) == (new.revision, "refused")
        late = rollouts.not_loaded(told, named(SKETCH), new.revision)
        assert late is not None
        assert (late.gate, late.passes) == (Gate.LOADED, True)
        world.store.refused = set()
        world.store.values["uic:rollout"] = b"of a later version"
        assert (await said()).unread
        world.store.values["uic:rollout"] = encode_record(begun())
        told = await said()
        assert (told.revision, told.unread) == (new.revision, None), "the store came back with an older record"
        assert world.follower.trouble
        del world.store.values["uic:rollout"]
        assert (await said()).unread is None
        assert world.follower.trouble

    asyncio.run(play(World()))


def test_what_a_silent_store_keeps_from_loading_may_pass() -> None:
    async def play(world: World) -> None:
        announcer = Announcer(
            world.in_service, world.follower, world.store, world.metrics, prefix="uic", timeout_s=1.0,
            clock=lambda: world.now,
        )  # fmt: skip

        async def lacked() -> Finding | None:
            await world.follow()
            await announcer.look()
            (name,) = world.store.announced
            told = rollouts.decode_announcement(world.store.values.pop(rollouts.announcement_key("uic", name)))
            return rollouts.not_loaded(told, named(SKETCH), begun().revision)

        world.store.silent = {key for key in world.stored[SKETCH].values if ":s:" not in str(key)}
        world.store.values["uic:rollout"] = encode_record(begun())
        missing = await lacked()
        assert missing is not None
        assert ("StoreAway" in missing.reason, missing.passes) == (True, True)
        world.now += 10
        world.follower.retry()
        world.broken["tiny-sketch"] = ReloadRefused("it is of another day")
        missing = await lacked()
        assert missing is not None
        assert ("another day" in missing.reason, missing.passes) == (True, False)
        world.broken.clear()
        world.store.silent = set()
        world.now += 10
        assert await lacked() is None

    asyncio.run(play(World()))


def test_two_processes_of_one_host_name_and_process_id_are_two() -> None:
    """As of containers that share the host's network: each is process 1 of the same host."""

    async def play(world: World) -> None:
        for _ in range(2):
            await Announcer(
                world.in_service, world.follower, world.store, world.metrics, prefix="uic", timeout_s=1.0
            ).look()
        assert len(world.store.announced) == 2

    asyncio.run(play(World()))


def test_an_outage_of_the_store_is_a_line_of_each_part() -> None:
    world = World(timeout_s=0.02)
    announcer = Announcer(
        world.in_service, world.follower, world.store, world.metrics, prefix="uic", timeout_s=0.001,
        clock=lambda: world.now,
    )  # fmt: skip

    async def look() -> None:
        world.now += 1
        await world.follow()
        await announcer.look()

    async def play() -> tuple[int, int]:
        await look()
        with capture_logs() as began:
            for turn in range(20):
                world.store.away, world.store.frozen = bool(turn % 2), not turn % 2  # it says another thing each time
                await look()
        world.store.away = world.store.frozen = False
        with capture_logs() as ended:
            await look()
            await look()
        return len(began), len(ended)

    assert asyncio.run(play()) == (3, 3), "progress, the record, and what is announced"


def test_a_process_that_never_had_the_release_in_service_is_not_ready() -> None:
    world = World()
    world.broken["tiny-sketch"] = FileNotFoundError("no bundle there")
    asyncio.run(world.follow(promoted()))
    assert world.follower.unready is not None
    assert "no bundle there" in world.follower.unready


def test_a_process_that_starts_during_a_canary_answers_by_it() -> None:
    world, never = World(), threading.Event()

    def slow(path: Path) -> Model:
        never.wait(0.3)
        return model(SKETCH)

    world.follower._loader = Loader(slow, 60.0)
    world.store.values["uic:rollout"] = encode_record(tried(100))

    async def play() -> None:
        await world.start()
        assert (await world.ask(USERS[0])).arm == "canary"

    asyncio.run(play())
    assert (world.follower.unready, world.follower.details) == (None, "")


def test_a_canary_whose_load_hangs_keeps_no_process_from_being_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_follower, "ARMS_WITHIN_S", 0.05)
    world, ended = World(), threading.Event()

    def hanging(path: Path) -> Model:
        ended.wait(60)
        return model(SKETCH)

    world.follower._loader = Loader(hanging, 60.0)
    world.store.values["uic:rollout"] = encode_record(tried(100))

    async def play() -> None:
        await world.start()
        assert (await world.ask(USERS[0])).arm == "serving"
        assert world.follower.unready is None
        assert "tiny-sketch/1 is being loaded" in world.follower.details
        ended.set()
        await world.follower.settled()
        assert (await world.ask(USERS[0])).arm == "canary"
        assert world.follower.details == ""

    try:
        asyncio.run(play())
    finally:
        ended.set()


def test_a_canary_aborted_during_a_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_follower, "ARMS_WITHIN_S", 1000.0)
    world, ended = World(), threading.Event()

    def hanging(path: Path) -> Model:
        ended.wait(60)
        return model(SKETCH)

    world.follower._loader = Loader(hanging, 60.0)
    world.store.values["uic:rollout"] = encode_record(tried(100))

    async def play() -> None:
        starting = asyncio.create_task(world.start())
        await until(lambda: world.follower.record is not None, "the record was read")
        following = asyncio.create_task(world.follower.run())
        assert not starting.done()
        world.store.values["uic:rollout"] = encode_record(abort(tried(100), "r1", reason="slow", now_ms=NOW_MS))
        await starting
        assert (await world.ask(USERS[0])).arm == "serving"
        ended.set()
        await world.follower.settled()
        assert (await world.ask(USERS[0])).arm == "serving"
        following.cancel()

    try:
        asyncio.run(play())
    finally:
        ended.set()
    assert world.follower.details == ""


def test_a_canary_that_is_refused_keeps_no_process_from_being_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_follower, "ARMS_WITHIN_S", 1000.0)
    world = World()
    world.broken["tiny-sketch"] = FileNotFoundError("no bundle there")
    world.store.values["uic:rollout"] = encode_record(tried(100))

    async def play() -> None:
        await world.start()
        assert (await world.ask(USERS[0])).arm == "serving"

    asyncio.run(play())
    assert world.follower.unready is None
    assert "no bundle there" in world.follower.details


@pytest.mark.parametrize("before", [None, begun()], ids=["no record", "a record"])
def test_rtp_stays_ready_when_a_record_names_a_release_it_lacks(before: Record | None) -> None:
    world = World()
    world.broken["tiny-sketch"] = FileNotFoundError("no bundle there")

    async def follow() -> None:
        await world.follow(before)
        await world.follow(promoted())

    asyncio.run(follow())
    assert world.served() == {"serving": "tiny/1"}
    assert world.follower.unready is None
    assert "no bundle there" in world.follower.details


def test_one_that_starts_is_not_ready_before_it_read_the_record() -> None:
    """As when a cluster's node that has the record is away, and the one with the namespace of the settings is not."""
    world = World()
    said: list[str | None] = []

    async def follow() -> None:
        world.store.silent.add("uic:rollout")
        await world.follow(promoted())
        assert world.in_service.current.progress is not None
        said.append(world.follower.unready)
        world.store.silent.clear()
        await world.follow()
        said.append(world.follower.unready)

    asyncio.run(follow())
    before, after = said
    assert before
    assert (world.served(), after) == ({"serving": "tiny-sketch/1"}, None)


@pytest.mark.parametrize("trouble", ["gone", "corrupt", "away"])
def test_a_record_that_cannot_be_read_stays_in_force(trouble: str) -> None:
    world = World()

    async def follow() -> None:
        await world.follow(promoted())
        if trouble == "gone":
            del world.store.values["uic:rollout"]
        elif trouble == "corrupt":
            world.store.values["uic:rollout"] = b"UIRO" + bytes(40)
        else:
            world.store.away = True
        await world.follow()

    asyncio.run(follow())
    assert world.served() == {"serving": "tiny-sketch/1"}
    assert world.follower.details
    assert world.count("rtp_rollout_up") == 0


def test_an_older_record_is_not_obeyed_until_a_command_changes_it() -> None:
    world = World()
    older, newer = begun(), promoted()
    assert older.revision < newer.revision
    changed = abort(older, "r1", reason="not today", now_ms=NOW_MS)

    async def follow() -> tuple[dict[str, str], str, dict[str, str]]:
        await world.follow(older)
        await world.follow(newer)
        for _ in range(2):
            await world.follow(older)
        held, said = world.served(), world.follower.details
        await world.follow(changed)
        return held, said, world.served()

    held, said, after = asyncio.run(follow())
    assert held == {"serving": "tiny-sketch/1"}
    assert f"revision {older.revision}" in said
    assert (after, world.follower.details) == ({"serving": "tiny/1"}, "")


def test_an_unforeseen_error_is_said_and_the_next_look_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def follow() -> tuple[str, float]:
        await world.follow(begun())
        world.store.values["uic:rollout"] = encode_record(promoted())
        with monkeypatch.context() as broken:
            broken.setattr(world.follower, "_assign", lambda: 1 / 0)
            await world.follower.look()
        said, up = world.follower.details, world.count("rtp_rollout_up")
        await world.follow()
        return said, up

    said, up = asyncio.run(follow())
    assert "ZeroDivisionError" in said
    assert up == 0
    assert (world.served(), world.follower.details) == ({"serving": "tiny-sketch/1"}, "")
    assert world.count("rtp_rollout_up") == 1


def test_a_new_record_is_obeyed_after_the_store_lost_the_one_in_force() -> None:
    world = World()

    async def follow() -> None:
        await world.follow(promoted())
        del world.store.values["uic:rollout"]
        await world.follow()
        await world.follow(begun())

    asyncio.run(follow())
    assert begun().revision < promoted().revision
    assert (world.served(), world.follower.details) == ({"serving": "tiny/1"}, "")


def test_a_release_that_the_record_no_longer_names_is_dropped() -> None:
    world = World()

    async def follow() -> None:
        await world.follow(tried(5))
        await world.follow(abort(tried(5), "r1", reason="no", now_ms=NOW_MS))

    asyncio.run(follow())
    assert world.served() == {"serving": "tiny/1"}
    assert len(world.in_service.namespaces) == 1
    assert world.metrics.registry.get_sample_value("rtp_compiled_head", {"bundle": "tiny/1"}) is not None
    assert world.metrics.registry.get_sample_value("rtp_compiled_head", {"bundle": "tiny-sketch/1"}) is None


def test_a_request_finishes_with_the_release_that_it_began_with() -> None:
    world = World()

    async def ask() -> Scored:
        await world.follow(begun())
        world.store.frozen = True
        asked = asyncio.create_task(
            world.scorer.score(ScoreRequest("user-1", ITEMS, CATEGORIES), asyncio.get_running_loop().time() + 0.3)
        )
        await asyncio.sleep(0)
        world.store.frozen = False
        await world.follow(promoted())
        return await asked

    scored = asyncio.run(ask())
    assert (scored.arm, scored.model) == ("serving", model(TINY))


class Failing:
    """A model that gives its candidates scores that are no numbers, or meets a fault of the program."""

    def __init__(self, of: OnnxModel, error: Exception) -> None:
        self._of, self._error = of, error

    def __getattr__(self, name: str) -> object:
        return getattr(self._of, name)

    def score(self, *_: object) -> object:
        raise self._error


class Numbered:
    """A model as another version."""

    def __init__(self, of: OnnxModel, version: str) -> None:
        self._of, self.version, self.sha256 = of, version, f"{int(version):064x}"

    def __getattr__(self, name: str) -> object:
        return getattr(self._of, name)


def test_many_rollouts_leave_no_more_series_than_two() -> None:
    """Each by way of a canary and a shadow, and one an hour."""
    world, first, record = World(), named(TINY), begun()

    def release(number: int) -> rollouts.Release:
        return replace(first, version=str(number), manifest=f"{number:064x}")

    async def roll_out(number: int) -> None:
        world.instead["tiny"] = Numbered(model(TINY), str(number))  # type: ignore[assignment]
        new, every = release(number), ((0, 10_000),)
        before = first if number == 2 else release(number - 1)
        world.now += 3600
        steps = (
            replace(record, serving=before, shadows=(Arm("shadow", new, every),)),
            replace(record, serving=before, arms=(Arm("canary", new, every),)),
            replace(record, serving=new),
        )
        for step, one in enumerate(steps):
            await world.follow(replace(one, revision=10 * number + step))
            await world.ask(USERS[0])
            await world.scorer.shadows.settled()
        assert world.served() == {"serving": f"tiny/{number}"}

    async def series(last: int, first: int = 2) -> int:
        for number in range(first, last + 1):
            await roll_out(number)
        return len(generate_latest(world.metrics.registry).splitlines())  # type: ignore[no-untyped-call]

    async def play() -> tuple[int, int]:
        return await series(3), await series(60, 4)

    after_two, after_all = asyncio.run(play())
    assert after_two == after_all


@pytest.mark.parametrize("error", [ScoringFailed("the head graph returned a non-finite score"), KeyError("x")])
def test_requests_that_fail_are_counted_by_arm(error: Exception) -> None:
    world, name = World(), "ScoringFailed" if isinstance(error, ScoringFailed) else "Internal"
    world.instead["tiny-sketch"] = Failing(model(SKETCH), error)  # type: ignore[assignment]
    labels = {"arm": "canary", "bundle": "tiny-sketch/1", "error": name}

    async def play() -> Counter[str]:
        await world.follow(tried(30))
        assert world.metrics.registry.get_sample_value("rtp_arm_failed_total", labels) == 0
        answered = Counter[str]()
        for user in USERS:
            try:
                answered[(await world.ask(user)).arm] += 1
            except (ScoringFailed, KeyError):
                answered["failed"] += 1
        return answered

    answered = asyncio.run(play())
    assert answered["serving"] + answered["failed"] == len(USERS)
    assert world.count("rtp_arm_failed_total", **labels) == answered["failed"] > 60
    serving = {"arm": "serving", "bundle": "tiny/1"}
    assert world.count("rtp_arm_scored_total", **serving, state="warm") == answered["serving"]
    assert world.count("rtp_arm_failed_total", **serving, error=name) == 0


def test_a_request_that_is_late_or_lacks_its_state_is_counted_as_that() -> None:
    world = World()

    async def play() -> None:
        await world.follow(tried(100))
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineMissed):
            await world.scorer.score(ScoreRequest(USERS[0], ITEMS, CATEGORIES), now)
        world.store.away = True
        with pytest.raises(StateUnavailable):
            await world.scorer.score(ScoreRequest(USERS[0], ITEMS, CATEGORIES, require_state=True), now + 10)

    asyncio.run(play())
    labels = {"arm": "canary", "bundle": "tiny-sketch/1"}
    assert world.count("rtp_arm_failed_total", **labels, error="DeadlineMissed") == 1
    assert world.count("rtp_arm_failed_total", **labels, error="StateUnavailable") == 1


# Shadows


def shadowed(percent: float) -> Record:
    return shadow(begun(), "r1", percent=percent, now_ms=NOW_MS)


def test_a_shadow_is_measured_and_never_answers() -> None:
    world = World()

    async def ask() -> list[Scored]:
        await world.follow(shadowed(100))
        seen = []
        for user in USERS[:20]:
            seen.append(await world.ask(user))
            await world.scorer.shadows.settled()
        return seen

    seen = asyncio.run(ask())
    assert {(scored.arm, scored.model) for scored in seen} == {("serving", model(TINY))}
    labels = {"arm": "shadow", "bundle": "tiny-sketch/1"}
    for name in ("rtp_shadow_abs_difference", "rtp_shadow_rank_correlation", "rtp_shadow_seconds"):
        assert world.count(f"{name}_count", **labels) == 20
    assert world.count("rtp_shadow_abs_difference_sum", **labels) > 0
    assert world.count("rtp_arm_scored_total", arm="shadow", bundle="tiny-sketch/1", state="warm") == 0


def test_shadows_are_shed_first_and_requests_are_not() -> None:
    world = World(cpu_share=0.0)  # what was saved up, and nothing after that

    async def ask() -> None:
        await world.follow(shadowed(100))
        world.scorer.shadows._budget.ran(1.0)
        answers = await asyncio.gather(*(world.ask(user) for user in USERS[:50]))
        assert len(answers) == 50
        await world.scorer.shadows.settled()

    asyncio.run(ask())
    shed = [
        world.count("rtp_shadow_shed_total", arm="shadow", bundle="tiny-sketch/1", reason=r) for r in ("full", "busy")
    ]
    assert shed == [42, 8]
    assert world.count("rtp_shadow_seconds_count", arm="shadow", bundle="tiny-sketch/1") == 0


def test_traffic_of_one_arm_hashes_nothing() -> None:
    traffic = Traffic((InService(Release.of(model(TINY), prefix="uic", generation=0)).traffic.arms[0],))
    assert traffic.route("\ud800")[1] is None  # a string that has no UTF-8


def test_a_reload_is_refused_while_a_record_decides() -> None:
    from rtp.reload import Reloader

    world = World()
    reloader = Reloader(
        world.in_service, world.store, world.reader, world.metrics, Loader(world.load, 60.0), path=SKETCH, generation=0,
        stale_after_ms=60_000, least_coverage=0.99, governed=lambda: world.follower.governor,
    )  # fmt: skip

    async def reload(*, force: bool) -> None:
        await world.follow(begun())
        await reloader.reload(force=force)

    for force in (False, True):
        with pytest.raises(ReloadRefused, match="the rollout record"):
            asyncio.run(reload(force=force))
    assert world.served() == {"serving": "tiny/1"}
