"""Waiting for a condition with a deadline, instead of sleeping: for the launcher and the tests."""

from __future__ import annotations

import time
from collections.abc import Callable


class NotReady(TimeoutError):
    """A condition did not become true within its deadline; the message names it and the last error."""


def until(
    condition: Callable[[], object],
    what: str,
    *,
    within_s: float,
    every_s: float = 0.02,
    alive: Callable[[], None] | None = None,
    unmet: str = "",
) -> None:
    """Return as soon as `condition()` is true.

    An OSError from the condition (a refused or reset connection) counts as "not yet" and is named in the failure.

    Args:
        condition: called repeatedly, at least once.
        what:      the condition in words, for the failure's message.
        within_s:  deadline in seconds.
        every_s:   pause between two calls, in seconds.
        alive:     called after each call; raises to stop waiting early (a process that ended never becomes ready).
        unmet:     the failure's message in full, for people who can do something about it; empty: made of `what`.

    Raises:
        NotReady: the deadline has passed.
    """
    deadline = time.monotonic() + within_s
    seen = ""
    while True:
        try:
            if condition():
                return
            seen = ""
        except OSError as error:
            seen = f" (last: {error})"
        if alive:
            alive()
        if time.monotonic() > deadline:
            raise NotReady(f"{unmet or f'not after {within_s:g} s: {what}'}{seen}")
        time.sleep(every_s)
