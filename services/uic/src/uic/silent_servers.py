"""Servers of a cluster that did not answer, and are left alone for a while.

A question to a server that hangs costs the timeout, and the fold asks for one partition after another, several times a
round. So after a server has kept us waiting it is not asked again for several times as long: the others' partitions
get most of the time, however long the timeout is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TIMES: Final = 4
LONGEST_S: Final = 10.0
"""It may be back, so it is asked again by then."""


class SilentServers:
    """By name of a server: until when it is not asked, and why. Its methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, tuple[float, str]] = {}

    def why(self, server: str) -> str:
        """Why a server is not to be asked now; empty if it is."""
        until, reason = self._until.get(server, (0.0, ""))
        return reason if self._clock() < until else ""

    def gave_no_answer(self, server: str, reason: str, waited_s: float) -> None:
        """A server was waited for, for so long, and did not answer."""
        self._until[server] = self._clock() + min(TIMES * waited_s, LONGEST_S), reason

    def answered(self, server: str) -> None:
        """A server is there."""
        self._until.pop(server, None)
