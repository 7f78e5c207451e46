"""Whose turn it is: one run of the head a pass of the event loop, first come, first served.

The head keeps the event loop's thread to itself while it runs. If several ran in one pass, nobody would look at the
sockets meanwhile: requests would grow old in the kernel, where no deadline sees them, and refusals would come late.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """The line before the head. For one event loop."""

    def __init__(self) -> None:
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._taken = False
        """Whether somebody's turn was in this pass, or will be in the next."""

    def age_s(self, now: float) -> float:
        """How long the first in the line has waited, in seconds; 0 if nobody waits."""
        return now - self._line[0][0] if self._line else 0.0

    async def take(self, now: float) -> None:
        """Return when it is the caller's turn: at once if nobody had one in this pass of the loop."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on, loop)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._line.append((now, turn))
        await turn

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once a pass: whoever is first goes on in the next one."""
        while self._line:
            _, turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                loop.call_soon(self._pass_on, loop)
                return
        self._taken = False
