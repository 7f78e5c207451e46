"""Waiting for a condition, with a deadline and a reason: what the launcher and the tests do instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable


class NotReady(TimeoutError):
    """A condition did not come true within its deadline; the message says which, and what was seen last."""


def until(
    condition: Callable[[], object],
    what: str,
    *,
    within_s: float,
    every_s: float = 0.02,
    alive: Callable[[], None] | None = None,
) -> None:
    """Return as soon as `condition()` is true.

    An OSError from the condition (a refused or reset connection) counts as "not yet" and is named in the failure.

    Args:
        condition: asked again and again, at least once.
        what:      completes the sentence "... did not happen: <what>".
        within_s:  deadline in seconds.
        every_s:   pause between two questions, in seconds.
        alive:     called between questions; raises to stop waiting early (a process that ended never becomes ready).

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
            raise NotReady(f"not after {within_s:g} s: {what}{seen}")
        time.sleep(every_s)
