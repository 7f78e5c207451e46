"""The store's time, as RTP keeps it between two answers."""

from __future__ import annotations

import asyncio

import pytest

from rtp.errors import StoreAway
from rtp.store_clock import StoreClock
from support.fake_state_reader import FakeStateReader

NOW_MS = 1_700_000_000_000


class World:
    """A process that has run for 100 s, and whose clock says `wall_ms`; the store's says `NOW_MS`."""

    def __init__(self) -> None:
        self.store = FakeStateReader()
        self.store.clock_ms = lambda: NOW_MS
        self.steady_s = 100.0
        self.wall_ms = NOW_MS + 3_600_000
        self.clock = StoreClock(self.store, timeout_s=1.0, steady_s=lambda: self.steady_s, wall_ms=lambda: self.wall_ms)

    def compare(self) -> float:
        return asyncio.run(self.clock.compare())


def test_the_own_clock_counts_until_the_store_has_told_its_time() -> None:
    world = World()
    assert world.clock.now_ms() == world.wall_ms
    assert world.compare() == 3600
    assert world.clock.now_ms() == NOW_MS


def test_between_two_answers_time_goes_on_whatever_becomes_of_the_own_clock_and_of_the_store() -> None:
    world = World()
    world.compare()
    world.steady_s += 1.5
    world.wall_ms -= 7_200_000
    world.store.away = True
    with pytest.raises(StoreAway):
        world.compare()
    assert world.clock.now_ms() == NOW_MS + 1_500


def test_a_store_that_is_set_or_fails_over_is_followed() -> None:
    world = World()
    world.compare()
    world.store.clock_ms = lambda: NOW_MS - 5_000
    assert world.compare() == 3605
    assert world.clock.now_ms() == NOW_MS - 5_000


def test_the_way_to_the_store_and_back_does_not_count() -> None:
    world = World()

    def told() -> int:
        world.steady_s += 0.2  # there; and as long back
        at_ms = NOW_MS
        world.steady_s += 0.2
        return at_ms

    world.store.clock_ms = told
    world.compare()
    assert world.clock.now_ms() == NOW_MS + 200
