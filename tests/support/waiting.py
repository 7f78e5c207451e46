"""Waiting for a condition in a running event loop, with a deadline; `localstack.wait` does it without a loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

WITHIN_S = 20


async def until(condition: Callable[[], object], what: str, *, within_s: float = WITHIN_S) -> None:
    """Return as soon as `condition()`, awaited if it can be, is true. `what`: the condition in words.

    Raises:
        AssertionError: the deadline has passed; names `what`.
    """

    async def holds() -> object:
        found = condition()
        return await found if inspect.isawaitable(found) else found

    try:
        async with asyncio.timeout(within_s):
            while not await holds():
                await asyncio.sleep(0.001)
    except TimeoutError as late:
        raise AssertionError(f"not within {within_s:g} s: {what}") from late
