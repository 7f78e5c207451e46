"""The line before the head: one run of the head in each pass of the event loop, first come, first served.

The head keeps the event loop's thread to itself while it runs. If several ran in one pass, the sockets would not be
read meanwhile: requests would grow old in the kernel, where no deadline sees them, and refusals would come late.
"""

from __future__ import annotations

import asyncio
from collections import deque


class HeadQueue:
    """Requests that wait for the head. For one event loop."""

    def __init__(self) -> None:
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._taken = False
        """Whether a request had its turn in this pass, or will have it in the next."""

    @property
    def busy(self) -> bool:
        """Whether a request has the head in this pass of the loop, or waits for it."""
        return self._taken

    def age_s(self, now: float) -> float:
        """How long the first in the line has waited, in seconds; 0 if the line is empty."""
        return now - self._line[0][0] if self._line else 0.0

    async def turn(self, now: float) -> None:
        """Return when it is the caller's turn: at once if no request had one in this pass of the loop."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on, loop)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._line.append((now, turn))
        await turn

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once a pass: the first in the line runs in the next one."""
        while self._line:
            _, turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                loop.call_soon(self._pass_on, loop)
                return
        self._taken = False
