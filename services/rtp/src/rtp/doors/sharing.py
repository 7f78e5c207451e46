"""Accepting on a listening socket that several processes share, so that each gets its part of the connections.

A connection that comes wakes every process, and whoever is on a processor first takes it: of sixteen connections opened
at once one process can get all, and since they are kept alive, it works alone from then on. Nobody here knows of the
others, so each waits before it takes, the longer the more connections it has, and takes a part of those that wait: who
has fewer comes first. One socket, and not one a process (SO_REUSEPORT): what waits in a socket that is closed is lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Callable, Sized

log = logging.getLogger(__name__)

_DOUBLING_S = 0.001
_PART = 4
_PAUSE_S = 1.0
_UNACKED = slice(24, 28)
"""`tcpi_unacked` in Linux's `struct tcp_info`; of a socket that listens it is the number of connections that wait."""


def patience_s(held: int) -> float:
    """How long a process that holds so many connections leaves a new one to the others: nothing if it holds none, and
    a millisecond for each doubling, so that who has half as many is clearly first however many there are."""
    return _DOUBLING_S * math.log2(1 + held)


def part_of(waiting: int) -> int:
    """How many of the connections that wait are taken before the others are let in again: at least one."""
    return max(1, waiting // _PART)


def waiting_on(listener: socket.socket) -> int:
    """How many connections wait to be accepted; 1 where the system does not say."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)
    except OSError:  # not TCP
        return 1
    return int.from_bytes(info[_UNACKED], "little")


class SharedListener:
    """Stands in for the `asyncio.Server` of a socket on which other processes accept as well."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Sized,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`connections` are those that protocols have begun and not ended. The socket stays its owner's to close."""
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.beginning: set[asyncio.Task[None]] = set()
        """Connections that were accepted and have no protocol yet."""
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Accept no more; what waits is left to the others."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """See `asyncio.Server`; there is nothing to wait for but the connections, which have an owner."""

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
            pass  # somebody else took it, or its client has gone
        except OSError as error:
            log.error("cannot accept connections, trying again in %g s: %s", _PAUSE_S, error.strerror)
            self._timer = self._loop.call_later(_PAUSE_S, self._watch)
            return
        self._watch()

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except OSError as error:  # TLS that fails, or a client that left; TLS errors are OSErrors
            connection.close()
            log.debug("a connection did not begin: %s", type(error).__name__)
