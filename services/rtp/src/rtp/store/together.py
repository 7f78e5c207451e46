"""Reads that are asked in the same pass of the event loop, as one command on one connection.

A GET costs the sender two system calls and wakes the store and then this process, which is more than all that happens
between them. Where several requests wait, their reads share that. The command is an MGET, which has one reply: a
connection still gives a command its own whole reply or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from rtp.store.commands import FAIR_S, Command, fits
from rtp.store.connection import Connection, packed


class NotTogether(Exception):
    """Several reads at once got no reply of their own: each may ask again alone. Never leaves the store."""


MOST: Final = 16
"""Reads of one command: their replies fit into one look at the socket, and one that is lost concerns few."""


class Together:
    """Gathers reads until it is sent, and is then what the connection answers, in place of a future."""

    def __init__(self, connection: Connection, give_back: Callable[[Connection, Command], None]) -> None:
        """Takes a free connection, which `give_back` gets once, with the command that was asked: after the reply, or
        when no read waits for it."""
        self._connection = connection
        self._give_back = give_back
        self._keys: list[str] = []
        self._reads: list[asyncio.Future[bytes | None]] = []
        self._sent = False
        self._command: Command = ()
        self._kept = True
        """Whether the connection was not given back yet."""

    @property
    def epoch(self) -> int:
        """The connection's."""
        return self._connection.epoch

    @property
    def full(self) -> bool:
        """Whether no more reads may be added."""
        return len(self._keys) == MOST

    def add(self, key: str) -> asyncio.Future[bytes | None]:
        """One more read, before `send`.

        The future fails with:
            RedisConnectionError: the connection is lost: ask again.
            NotTogether: another read was late, or there was no such reply: ask again.
            ResponseError, InvalidResponse: as `Connection.ask` says, of a read that was alone.
        """
        self._keys.append(key)
        read: asyncio.Future[bytes | None] = self._connection.promise()
        self._reads.append(read)
        return read

    def send(self) -> None:
        """Ask the store, unless no read waits any more."""
        self._sent = True
        if not self._connection.free:
            self._fail(RedisConnectionError("the connection was lost before anything was asked"))
        elif self._none_waits():
            self._let_go()
        else:
            self._command = ("GET" if len(self._keys) == 1 else "MGET", *self._keys)
            self._connection.ask_for(self, packed(*self._command))

    def forsake(self, *, late: bool) -> None:
        """A read no longer waits, because the reply is late or for reasons of its own. What is late for one, and does
        not come soon, is late for all: those that still wait may ask by another connection."""
        if not self._sent:
            return
        if self._none_waits():
            self._let_go()
        elif late:
            asyncio.get_running_loop().call_later(FAIR_S, self._fail, NotTogether())

    def _none_waits(self) -> bool:
        return all(read.done() for read in self._reads)

    # What the connection sees

    def done(self) -> bool:
        """Whether the reply is another's to take."""
        return not self._kept

    def set_result(self, reply: Any) -> None:
        """The reply, to those that still wait."""
        if not fits(self._command, reply):
            self._connection.close()  # out of step
            self._fail(NotTogether())
            return
        self._let_go()
        for read, value in zip(self._reads, [reply] if len(self._keys) == 1 else reply, strict=True):
            if read.done():
                continue
            if isinstance(value, Exception):
                read.set_exception(value)
            else:
                read.set_result(value)

    def set_exception(self, error: Exception) -> None:
        """What came instead."""
        alone = len(self._keys) == 1 or isinstance(error, RedisConnectionError)
        self._fail(error if alone else NotTogether())

    def _fail(self, error: Exception) -> None:
        self._let_go()
        for read in self._reads:
            if not read.done():
                read.set_exception(error)

    def _let_go(self) -> None:
        if self._kept:
            self._kept = False
            self._give_back(self._connection, self._command)
