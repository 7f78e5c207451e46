"""Deadlines share one timer: each future fails at its own time and never before, and a lifted one never."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from rtp.time_limits import Deadlines, within

EARLY_S = 0.003
"""How much before its time one may fail: timers count milliseconds."""
WITHIN_S = 30


def test_each_fails_at_its_own_time_in_whatever_order_they_are_set() -> None:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.integers(-5, 40), st.booleans()), max_size=8))
    def test(drawn: list[tuple[int, bool]]) -> None:
        async def waiting() -> None:
            deadlines = Deadlines(time.monotonic)
            loop = asyncio.get_running_loop()
            failed_at: dict[asyncio.Future[Any], float] = {}
            set_to = {}
            for after_ms, lifted in drawn:
                future = loop.create_future()
                due = time.monotonic() + after_ms / 1000
                deadlines.set(future, due)
                if lifted:
                    deadlines.lift(future)
                else:
                    set_to[future] = due
                    future.add_done_callback(lambda f: failed_at.setdefault(f, time.monotonic()))
                await asyncio.sleep(0)
            async with asyncio.timeout(WITHIN_S):
                found = await asyncio.gather(*set_to, return_exceptions=True)
            assert [type(one) for one in found] == [TimeoutError] * len(set_to)
            assert all(failed_at[future] >= due - EARLY_S for future, due in set_to.items())

        uvloop.run(waiting())

    test()


def test_what_is_done_or_lifted_is_left_alone_when_its_time_comes() -> None:
    async def waiting() -> None:
        deadlines = Deadlines(time.monotonic)
        loop = asyncio.get_running_loop()
        done, lifted, last = (loop.create_future() for _ in range(3))
        due = time.monotonic() + 0.01
        for future in (done, lifted, last):
            deadlines.set(future, due)
        done.set_result(1)
        deadlines.lift(lifted)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(TimeoutError):
                await last
        assert done.result() == 1
        assert not lifted.done()

    uvloop.run(waiting())


def test_one_that_is_set_after_all_others_ended_has_its_time_too() -> None:
    async def waiting() -> None:
        deadlines = Deadlines(time.monotonic)
        for _ in range(3):
            future = asyncio.get_running_loop().create_future()
            began = time.monotonic()
            deadlines.set(future, began + 0.02)
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(TimeoutError):
                    await future
            assert time.monotonic() - began >= 0.02 - EARLY_S
            deadlines.lift(future)

    uvloop.run(waiting())


def test_within_cancels_what_takes_too_long_and_tells_it_from_a_cancellation() -> None:
    async def waiting() -> None:
        async def soon() -> int:
            return 1

        assert await within(WITHIN_S, soon()) == 1
        with pytest.raises(TimeoutError):
            await within(0.01, asyncio.sleep(WITHIN_S))
        task = asyncio.create_task(within(WITHIN_S, asyncio.sleep(WITHIN_S)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uvloop.run(waiting())
