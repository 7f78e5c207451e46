"""A fold that stands still is told apart from one that waits as long as it may."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from support.fake_state_store import FakeStore
from support.fake_topics import FakeTopic
from support.fold_worker import Worker
from support.uic_running import BUNDLE
from uic.app import App
from uic.core.status import Status
from uic.fold.stall import CALLS, LEAST_S, StallWatch, UnhurriedErasures
from uic.settings import AdminSettings, BundleSettings, GrpcSettings, UicSettings

SERVING = Status(True, ("store_unavailable: x",), ())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_fold_that_stands_still_does_not_serve_until_it_goes_on() -> None:
    clock = Clock()
    stalls = StallWatch(LEAST_S, clock)
    clock.now += 1000
    assert stalls.judge(SERVING) == SERVING, "nothing is due before the first turn"
    stalls.goes_on()
    clock.now += LEAST_S - 1
    assert stalls.judge(SERVING) == SERVING
    clock.now += 3
    judged = stalls.judge(SERVING)
    assert not judged.serving
    assert judged.reasons[0].startswith("fold_stalled")
    stalls.goes_on()
    assert stalls.judge(SERVING) == SERVING
    stalls.rests()
    clock.now += 1000
    assert stalls.judge(SERVING) == SERVING


def test_slow_stores_get_more_time() -> None:
    clock = Clock()
    stalls = StallWatch.of(60, clock)
    stalls.goes_on()
    clock.now += CALLS * 60 - 1
    assert stalls.judge(SERVING).serving
    clock.now += 2
    assert not stalls.judge(SERVING).serving


def test_reading_erasures_is_no_stall() -> None:
    clock = Clock()
    stalls = StallWatch(LEAST_S, clock)
    judged = []

    class Slow:
        def read(self, partitions: Collection[int], topic_id: bytes, /) -> dict[int, dict[bytes, int]]:
            clock.now += 1000
            judged.append(stalls.judge(SERVING))
            return {p: {} for p in partitions}

    stalls.goes_on()
    assert UnhurriedErasures(Slow(), stalls).read([3], b"") == {3: {}}
    assert [*judged, stalls.judge(SERVING)] == [SERVING, SERVING]
    clock.now += LEAST_S
    assert not stalls.judge(SERVING).serving


class Slow(Worker):
    """Takes almost too long for each step of the protocol."""

    def __init__(self, topic: FakeTopic, clock: Clock) -> None:
        super().__init__(topic, FakeStore(), stalls=StallWatch(LEAST_S, clock))
        self._clock = clock
        self.steps: dict[str, bool] = {}

    def _after(self, at: str) -> None:
        self._clock.now += LEAST_S - 1
        self.steps[at] = self.updater.status.serving


def test_a_status_says_that_the_fold_stands_still_and_each_step_is_a_sign_of_life() -> None:
    clock, topic = Clock(), FakeTopic()
    worker = Slow(topic, clock)
    worker.log.assign(0)
    worker.settle()
    for _ in range(20):
        topic.event("ada")
    worker.catch_up()
    worker.turn()
    assert worker.steps == dict.fromkeys(["poll", "decode", "load", "fold", "commit", "advise"], True)
    clock.now += LEAST_S
    status = worker.updater.status
    assert not status.serving
    assert "fold_stalled" in status.reasons[0]
    worker.turn()
    assert worker.updater.status.serving
    worker.updater.drain()
    clock.now += LEAST_S
    assert worker.updater.status.reasons == ("draining",)


def test_the_service_watches_its_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StallWatch, "of", lambda store_timeout_s: StallWatch(0.0))
    bundle, any_port = BundleSettings(path=BUNDLE), AdminSettings(port=0)
    app = App(UicSettings(bundle=bundle, grpc=GrpcSettings(port=0), admin=any_port))
    app._updater.turn([], 0.0, 0)
    assert "fold_stalled" in app._updater.status.reasons[0]
    app._admin.stop()
