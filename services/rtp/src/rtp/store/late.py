"""A reply that comes after its asker has left: it is read to its end and dropped, so that its connection can go on.

Otherwise the shortest patience of all callers would decide how often connections are closed and opened again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rtp.store.commands import FAIR_S, Command, fits
from rtp.store.connection import Connection


class LateReply:
    """Takes the reply that is outstanding on a connection. The connection belongs to it until then, so no other command
    is asked on it; without a whole reply of the command's form within `FAIR_S`, it is closed."""

    def __init__(self, connection: Connection, command: Command, give_back: Callable[[Connection], None]) -> None:
        """`give_back` gets the connection once: free, or closed."""
        self._connection = connection
        self._command = command
        self._give_back = give_back
        self._timer = asyncio.get_running_loop().call_later(FAIR_S, self._give_up)
        self._waits = True
        connection.hand_over(self)

    def _give_up(self) -> None:
        self._connection.close()
        self._end()

    def _end(self) -> None:
        self._waits = False
        self._timer.cancel()
        self._give_back(self._connection)

    # What the connection sees

    def done(self) -> bool:
        """Whether it no longer waits."""
        return not self._waits

    def set_result(self, reply: Any) -> None:
        """The reply."""
        if not fits(self._command, reply):
            self._connection.close()  # out of step
        self._end()

    def set_exception(self, error: Exception) -> None:
        """An error reply, which is a reply; or the connection is lost."""
        self._end()
