"""From request to scores with a fake store: what the scores rest on, one read a request, and the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimn.bundle import load_bundle
from rtp.core.admission import Admission
from rtp.core.fold_progress import FoldProgress, Status
from rtp.core.request import ScoreRequest
from rtp.errors import DeadlineMissed, InvalidRequest, Overloaded, ScoringFailed, StateUnavailable
from rtp.metrics import Metrics
from rtp.release import InService, Release
from rtp.runtime import OnnxModel
from rtp.scorer import PATIENCE, Scored, Scorer
from support.fake_state_reader import FakeStateReader, progress_reader
from support.stored import Stored, now_ms

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"
ITEMS, CATEGORIES = np.array([3, 10, 999], np.uint64), np.array([2, 5, 0], np.uint64)


@cache
def model() -> OnnxModel:
    return OnnxModel(load_bundle(TINY))


class World:
    """A scorer on a fake store that holds a namespace of the tiny bundle."""

    def __init__(
        self, serves: OnnxModel | None = None, max_in_flight: int = 100, store_ms: Callable[[], int] = now_ms
    ) -> None:
        self.store = FakeStateReader()
        self.stored = Stored(load_bundle(TINY), partitions=3)
        self.metrics = Metrics()
        self.admission = Admission(max_in_flight)
        self.in_service = InService(Release.of(serves or model(), prefix="uic", generation=0))
        self.now = 100.0
        """Stands still, so that no deadline passes because the machine is busy."""
        self.reader = progress_reader(self.store)
        self.scorer = Scorer(
            self.in_service, self.store, self.admission, self.metrics, stale_after_ms=60_000,
            clock=lambda: self.now, store_ms=store_ms,
        )  # fmt: skip

    async def look(self) -> None:
        self.store.values.update(self.stored.values)
        keys = self.in_service.current.keys
        reading = await self.reader.read(keys, self.in_service.current.progress)
        self.in_service.learn(keys, reading.progress)

    async def ask(self, user_id: str = "u", *, within_s: float = 1.0, require_state: bool = False) -> Scored:
        request = ScoreRequest(user_id, ITEMS, CATEGORIES, require_state=require_state)
        return await self.scorer.score(request, self.now + within_s)

    def score(self, user_id: str = "u", **how: float | bool) -> Scored:
        async def scored() -> Scored:
            await self.look()
            return await self.ask(user_id, **how)  # type: ignore[arg-type]

        return asyncio.run(scored())

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def scores_of(state: NDArray[np.float32]) -> NDArray[np.float32]:
    return model().score(ITEMS, CATEGORIES, state, np.zeros(0, np.float32), now_ms())


def test_a_stored_state_is_what_is_scored_with() -> None:
    world = World()
    tensors = world.stored.state("u", events=5)
    scored = world.score("u")
    assert np.array_equal(scored.scores, scores_of(tensors))
    assert not np.allclose(scored.scores, scores_of(model().initial_state))
    assert (scored.report.status, scored.report.events, scored.report.partial) == (Status.WARM, 5, False)
    assert scored.report.age_ms is not None
    assert scored.report.age_ms < 60_000
    assert world.count("rtp_states_total", status="warm") == 1
    assert world.count("rtp_candidates_total") == 3


def test_candidates_whose_item_the_bundle_does_not_know_are_counted_by_bundle() -> None:
    world = World()
    for _ in range(2):
        world.score("u")
    known = int(np.isin(ITEMS, load_bundle(TINY).items.ids).sum())
    assert 0 < known < len(ITEMS)
    labels = {"arm": world.in_service.traffic.route("u")[0].name, "bundle": "tiny/1"}
    assert world.count("rtp_arm_candidates_total", **labels, item="known") == 2 * known
    assert world.count("rtp_arm_candidates_total", **labels, item="unknown") == 2 * (len(ITEMS) - known)


def test_one_request_reads_one_key_once() -> None:
    world = World()
    world.stored.state("u")
    world.score("u")
    assert world.store.asked == [world.stored.key("u")]


def test_a_user_without_a_state_gets_the_initial_one() -> None:
    scored = World().score("unknown")
    assert np.array_equal(scored.scores, scores_of(model().initial_state))
    assert (scored.report.status, scored.report.events) == (Status.COLD, 0)


def test_a_lagging_partition_makes_its_users_stale_and_no_others() -> None:
    world = World()
    lagging = world.stored.partition("u")
    other = next(user for user in map(str, range(99)) if world.stored.partition(user) != lagging)
    world.stored.state("u")
    world.stored.state(other)
    world.stored.progress(lagging, as_of_ms=now_ms() - 61_000)
    assert world.score("u").report.status is Status.STALE
    assert world.score(other).report.status is Status.WARM


def test_a_state_becomes_stale_by_itself_when_progress_cannot_be_read() -> None:
    clock = now_ms()
    world = World(store_ms=lambda: clock + 61_000)
    world.stored.state("u")
    assert world.score("u").report.status is Status.STALE


@pytest.mark.parametrize("trouble", ["away", "frozen"])
def test_a_store_that_does_not_answer_costs_the_state_and_not_the_answer(trouble: str) -> None:
    world = World()
    world.stored.state("u")

    async def ask() -> Scored:
        await world.look()
        setattr(world.store, trouble, True)
        return await world.ask(within_s=0.5)

    scored = asyncio.run(ask())
    assert np.array_equal(scored.scores, scores_of(model().initial_state))
    assert (scored.report.status, scored.report.events) == (Status.UNAVAILABLE, None)
    assert scored.report.partial
    assert world.count("rtp_store_errors_total", error="StoreAway" if trouble == "away" else "StoreLate") == 1


def test_the_store_gets_its_part_of_what_the_line_leaves_of_the_deadline() -> None:
    world = World()
    cost_s = model().cost_s(3)
    world.score("u", within_s=0.5)
    world.admission.admit(0.2, 0.5)
    assert world.store.budgets_s == pytest.approx([PATIENCE * (0.5 - cost_s)])
    cost_s = model().cost_s(3)
    world.score("u", within_s=0.5)
    assert world.store.budgets_s[1] == pytest.approx(PATIENCE * (0.5 - 0.2 - cost_s))


def test_whoever_is_let_into_the_line_can_ask_the_store() -> None:
    world = World()
    world.stored.state("u")
    said: list[str] = []
    while not said or said[-1] == "warm":
        world.admission.admit(0.01, 10.0)  # a line that only grows
        try:
            said.append(world.score("u", within_s=0.5).report.status.value)
        except Overloaded:
            said.append("refused")
    assert said[-1] == "refused"
    assert len(said) > 10


def flipped(value: bytes) -> bytes:
    return value[:90] + bytes([value[90] ^ 1]) + value[91:]


def foreign(value: bytes) -> bytes:
    from zlib import crc32

    changed = bytearray(value)
    changed[8] ^= 1
    changed[44:48] = crc32(bytes(changed[48:]), crc32(bytes(changed[:44]))).to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize(("damage", "error"), [(flipped, "CorruptState"), (foreign, "ForeignFingerprint")])
def test_a_value_that_cannot_be_used_is_unavailable_and_counted_by_name(damage: object, error: str) -> None:
    world = World()
    world.stored.state("u")
    key = world.stored.key("u")
    assert callable(damage)
    world.stored.values[key] = damage(world.stored.values[key])
    scored = world.score("u")
    assert scored.report.status is Status.UNAVAILABLE
    assert np.array_equal(scored.scores, scores_of(model().initial_state))
    assert world.count("rtp_unreadable_states_total", error=error) == 1


def test_another_users_state_under_this_users_key_is_never_scored_with() -> None:
    world = World()
    world.stored.state("u", owner="somebody else")
    assert world.score("u").report.status is Status.UNAVAILABLE
    assert world.count("rtp_unreadable_states_total", error="WrongUser") == 1


def test_before_the_namespace_was_seen_nothing_is_asked_and_nothing_is_known() -> None:
    world = World()
    scored = asyncio.run(world.ask())
    assert scored.report.status is Status.UNAVAILABLE
    assert world.store.asked == []


@pytest.mark.parametrize("trouble", ["unseen", "away"])
def test_a_required_state_that_cannot_be_had_is_no_answer(trouble: str) -> None:
    world = World()

    async def ask() -> None:
        if trouble == "away":
            await world.look()
            world.store.away = True
        await world.ask(require_state=True)

    with pytest.raises(StateUnavailable):
        asyncio.run(ask())
    assert world.admission.in_flight == 0


def test_a_required_state_may_be_cold_because_that_is_known() -> None:
    assert World().score("unknown", require_state=True).report.status is Status.COLD


def test_a_deadline_that_has_passed_is_missed_and_leaves_nothing_behind() -> None:
    world = World()
    with pytest.raises(DeadlineMissed):
        world.score(within_s=-0.001)
    assert world.admission.in_flight == 0


def test_a_context_that_the_model_does_not_read_is_refused_before_the_store_is_asked() -> None:
    world = World()

    async def ask() -> None:
        await world.look()
        request = ScoreRequest("u", ITEMS, CATEGORIES, context={"hour": 1.0})
        await world.scorer.score(request, world.now + 1)

    with pytest.raises(InvalidRequest, match=r"context\.hour"):
        asyncio.run(ask())
    assert world.store.asked == []


class Broken(OnnxModel):
    """A model whose head always fails."""

    def __init__(self) -> None:
        super().__init__(load_bundle(TINY))

    def score(self, *_: object) -> NDArray[np.float32]:
        raise ScoringFailed("broken")


def test_a_head_that_fails_leaves_the_request_counted_out() -> None:
    world = World(serves=Broken())
    with pytest.raises(ScoringFailed):
        world.score()
    assert (world.admission.in_flight, world.admission.ahead_s) == (0, 0.0)


def test_progress_of_a_namespace_that_is_served_no_more_is_dropped() -> None:
    world = World()
    old = world.in_service.current.keys
    world.in_service.replace(Release.of(model(), prefix="uic", generation=1))
    world.in_service.learn(old, FoldProgress((None,), "t"))
    assert world.in_service.current.progress is None
