"""Accepting on a listening socket that several processes share, so that each gets its part of the connections.

A new connection wakes every process, and the one that runs first takes it: of sixteen connections opened at once one
process can get all, and since they are kept alive, it then does all the work. The processes do not know of each other,
so each waits before it accepts, longer the more connections it has, and then takes a part of the waiting ones: the
process with fewer connections comes first. They share one socket rather than having one each (SO_REUSEPORT), because
connections that wait in a socket are lost when it is closed.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Callable, Sized

import structlog

log = structlog.stdlib.get_logger(__name__)

_DOUBLING_S = 0.001
_PART = 4
_PAUSE_S = 1.0
_UNACKED = slice(24, 28)
"""`tcpi_unacked` in Linux's `struct tcp_info`; for a listening socket it is the number of waiting connections."""


def patience_s(held: int) -> float:
    """How long a process that holds `held` connections waits before it accepts another: not at all if it holds none,
    and a millisecond more for each doubling, so that a process with half as many is always clearly first."""
    return _DOUBLING_S * math.log2(1 + held)


def part_of(waiting: int) -> int:
    """How many of the waiting connections are taken before the other processes get their turn: at least one."""
    return max(1, waiting // _PART)


def waiting_on(listener: socket.socket) -> int:
    """How many connections wait to be accepted; 1 where the system does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)
    except OSError:  # not TCP
        return 1
    return int.from_bytes(info[_UNACKED], "little")


class SharedListener:
    """Takes the place of the `asyncio.Server` of a socket on which other processes accept as well."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Sized,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`connections` are the open ones. The socket is closed by its owner."""
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.beginning: set[asyncio.Task[None]] = set()
        """Accepted connections that have no protocol yet."""
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Accept no more; waiting connections are left to the other processes."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """See `asyncio.Server`. Nothing to wait for: uvicorn waits for the connections."""

    def _watch(self) -> None:
        self._loop.add_reader(self._listener, self._some_wait)

    def _some_wait(self) -> None:
        self._loop.remove_reader(self._listener)
        held = len(self._connections) + len(self.beginning)
        if held:
            self._timer = self._loop.call_later(patience_s(held), self._take)
        else:
            self._take()

    def _take(self) -> None:
        try:
            for _ in range(part_of(waiting_on(self._listener))):
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                task = self._loop.create_task(self._begin(connection))
                self.beginning.add(task)
                task.add_done_callback(self.beginning.discard)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # another process took it, or its client has gone
        except OSError as error:
            log.error("cannot accept connections", reason=error.strerror, next_try_s=_PAUSE_S)
            self._timer = self._loop.call_later(_PAUSE_S, self._watch)
            return
        self._watch()

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except OSError as error:  # TLS that fails, or a client that left; TLS errors are OSErrors
            connection.close()
            log.debug("a connection did not begin", error=type(error).__name__)
