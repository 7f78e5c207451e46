"""The line before the head: in each pass of the event loop it runs once, or a few times in a row if that is short, or
for as long as refusals took in the pass before.

The head keeps the event loop's thread to itself while it runs. If many ran in one pass, the sockets would not be read
meanwhile: requests would grow old in the kernel, where no deadline sees them, and refusals would come late. Some in a
row cost less than as many passes: what they send and what comes back is then read and asked together
(`rtp.store.together`).

A pass reads every connection that sent something. With hundreds of them, whose clients ask again as soon as they are
refused, a few heads a pass would leave nearly all of the time to refusals, and so cause more of them. So heads may then
run for as long as refusals took. (Not for as long as all else took: that makes passes longer and longer, because the
more answers one has, the more requests come in the next.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from rtp.core.admission import IN_A_ROW_S, MOST_IN_A_ROW_S


class HeadQueue:
    """Requests that wait for the head, first come, first served. For one event loop."""

    def __init__(self, refused_share: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """`refused_share` is asked once a pass: of the requests that came in it, the share that was refused. `clock`
        gives seconds of a steady clock."""
        self._refused_share = refused_share
        self._clock = clock
        self._line: deque[tuple[float, float, asyncio.Future[None]]] = deque()
        """Since when each waits, its cost, and what tells it."""
        self._left_s: float | None = None
        """What is left of this pass; None if the head does not run in it."""
        self.share_s = IN_A_ROW_S
        """How long the heads of a pass may run, in seconds of expected cost, if there is more than one."""
        self._began = 0.0
        """This pass, by the clock."""
        self._ran_s = 0.0
        """How long heads ran in it."""

    @property
    def busy(self) -> bool:
        """Whether a request has the head in this pass of the loop, or waits for it."""
        return self._left_s is not None

    def age_s(self, now: float) -> float:
        """How long the first in the line has waited, in seconds; 0 if the line is empty."""
        return now - self._line[0][0] if self._line else 0.0

    async def turn(self, now: float, cost_s: float) -> None:
        """Return when it is the caller's turn at the head, for about `cost_s` seconds.

        At once if no request had a turn in this pass of the loop, or if none waits and the pass has time left.
        """
        if self._left_s is None:
            asyncio.get_running_loop().call_soon(self._next_pass)
            self._began, self._ran_s = self._clock(), 0.0
            self._refused_share()  # from here on
            self._left_s = IN_A_ROW_S - cost_s
        elif not self._line and cost_s <= self._left_s:
            self._left_s -= cost_s
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append((now, cost_s, turn))
            await turn

    def ran(self, took_s: float) -> None:
        """A head ran for so many seconds, after its turn."""
        self._ran_s += took_s

    def _next_pass(self) -> None:
        """Called once a pass: the first in the line run in the next one, and no others."""
        now = self._clock()
        refusals_s = (now - self._began - self._ran_s) * self._refused_share()
        self.share_s = max(IN_A_ROW_S, min(refusals_s, MOST_IN_A_ROW_S))
        self._began, self._ran_s = now, 0.0
        left_s, some = self.share_s, False
        while self._line and (not some or self._line[0][1] <= left_s):
            _, cost_s, turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                left_s -= cost_s
                some = True
        if some:
            self._left_s = 0.0
            asyncio.get_running_loop().call_soon(self._next_pass)
        else:
            self._left_s, self.share_s = None, IN_A_ROW_S
