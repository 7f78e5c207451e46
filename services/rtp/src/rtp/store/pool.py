"""One server, or the one that Sentinels name: a bounded set of connections, each asked one command at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

from rtp.store.commands import SCAN_COUNT, Command, TooManyConnects, fits, in_ms, reason_of, scan
from rtp.store.connection import Connection, check_client, connect, packed
from rtp.store.late import LateReply
from rtp.store.sentinels import Sentinels
from rtp.store.together import NotTogether, Together
from rtp.time_limits import Deadlines, within

_IN_VAIN_S = 1.25
"""How long an unanswered connection counts against the limit: a second, and some more because connections do not all
take the same time to be made."""


class PoolCommands:
    """One server: a bounded set of connections, each asked one command at a time.

    A connection is asked again once its reply was read to its end, and closed if that is not soon: a late reply would
    answer another request. At most as many as the pool holds are opened without success within a second, so that a
    store in trouble is not also flooded with connections. Both go on for a while when their asker has no more time, so
    that askers with little time cost others no connections.
    """

    def __init__(self, pool: ConnectionPool, size: int, connect_s: float) -> None:
        """`connect_s`: how long, in seconds, a connection goes on being made for no asker."""
        check_client()
        self._pool = pool
        self._size = size
        self._connect_s = connect_s
        self._in_vain: deque[float] = deque()
        """When the connections were opened that have not answered yet."""
        self._reason = ""
        """Why the last one that was opened in vain was."""
        self._free: deque[Connection | None] = deque([None] * size)
        """What may be taken: None for a connection that may still be opened; to the right those that are open."""
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        """Who waits for one, while none is free."""
        self._gathering: Together | None = None
        """The reads of this pass of the loop that are not sent yet."""
        self._outstanding = 0
        """How many commands for such reads wait for their reply, or gather. A read that finds none is sent at once:
        nothing is saved by waiting for company."""
        self._deadlines = Deadlines(monotonic)
        self._epoch = 0
        """Raised to drop all connections; those in use at that moment are not kept either."""

    @property
    def sentinels(self) -> str | None:
        """See `Commands`."""
        return None

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        """What every request does, so where a connection is open and free, with a deadline instead of `within`, and
        together with the other reads of this pass of the loop."""
        value: bytes | None
        due = monotonic() + timeout_s
        together = self._gathering or self._gather()
        if together is None:
            value = await within(timeout_s, self._ask("GET", key))
            return value
        read = together.add(key)
        if self._outstanding == 1 or together.full:
            self._send(together)
        self._deadlines.set(read, due)
        try:
            value = await read
            return value
        except RedisConnectionError:
            if together.epoch == self._epoch:
                await self.close()  # as in `_ask`
        except NotTogether:
            pass
        except BaseException as error:
            together.forsake(late=isinstance(error, TimeoutError))
            raise
        finally:
            self._deadlines.lift(read)
        value = await within(due - monotonic(), self._ask("GET", key))
        return value

    def _gather(self) -> Together | None:
        """Begin to gather reads until this pass of the loop ends; None if no connection is open and free."""
        free = self._free
        if not free or (connection := free[-1]) is None or not connection.free:
            return None
        free.pop()
        self._outstanding += 1
        self._gathering = Together(connection, self._answered)
        if self._outstanding > 1:
            asyncio.get_running_loop().call_soon(self._send, self._gathering)
        return self._gathering

    def _send(self, together: Together) -> None:
        if together is self._gathering:
            self._gathering = None
            together.send()

    def _answered(self, connection: Connection, command: Command) -> None:
        self._outstanding -= 1
        self._give_back(connection, command)

    async def get_many(self, keys: Sequence[str], timeout_s: float) -> Sequence[bytes | Exception | None]:
        """See `Commands`."""
        return await within(timeout_s, self._get_many(keys))

    async def _get_many(self, keys: Sequence[str]) -> list[bytes | Exception | None]:
        values: list[bytes | Exception | None] = await self._ask("MGET", *keys)
        return values

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        """See `Commands`."""

        async def step(cursor: int) -> tuple[int, Sequence[bytes]]:
            answer: Any = await self._ask("SCAN", str(cursor), "MATCH", pattern, "COUNT", str(SCAN_COUNT))
            return int(answer[0]), answer[1]

        return await scan(step, most)

    async def count(self, keys: Sequence[bytes]) -> int:
        """See `Commands`."""
        found: int = await self._ask("EXISTS", *keys)
        return found

    async def time_ms(self, timeout_s: float) -> int:
        """See `Commands`."""
        return in_ms(await within(timeout_s, self._ask("TIME")))

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        """See `Commands`. It is all that is written, so it notices a master that was demoted: where the store's name or
        a Sentinel leads to another one by now, every other connection is of the former."""
        try:
            await self._ask("SADD", into, name)
        except ReadOnlyError:
            await self._ask("SADD", into, name, reconnect=True)
            await self.close()
        await self._ask("SET", key, value, "PX", str(lasts_ms))

    async def close(self) -> None:
        """See `Commands`."""
        self._epoch += 1
        free, self._free = self._free, deque([None] * len(self._free))
        for connection in free:
            if connection is not None:
                connection.close()

    async def _ask(self, *command: str | bytes, reconnect: bool = False) -> Any:
        """The reply to a command; with `reconnect`, on a new connection."""
        opening: asyncio.Task[Connection] | None = None
        connection = await self._take()
        try:
            if reconnect and connection is not None:
                connection.close()
            if connection is not None and connection.free:
                try:
                    return await _replied(connection, command)
                except RedisConnectionError:
                    # The server closed an idle connection, or restarted; the others are as old. Try once more.
                    await self.close()
            connection = None
            opening = self._open()
            await asyncio.wait([opening])
            connection = opening.result()
            return await _replied(connection, command)
        except BaseException as error:
            self._reason = reason_of(error)
            raise
        finally:
            if opening is None or connection is not None:
                self._give_back(connection, command)
            else:
                self._give_back_when_open(opening)

    def _open(self) -> asyncio.Task[Connection]:
        """Make a connection in the place that the asker has taken.

        Raises:
            TooManyConnects: not now.
        """
        now = monotonic()
        while self._in_vain and self._in_vain[0] <= now - _IN_VAIN_S:
            self._in_vain.popleft()
        if len(self._in_vain) >= self._size:
            raise TooManyConnects(self._reason)
        self._in_vain.append(now)
        fresh = self._pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no annotation here
        return asyncio.get_running_loop().create_task(connect(fresh, self._epoch))

    def _give_back_when_open(self, opening: asyncio.Task[Connection]) -> None:
        """The asker has left, or learned that there is no connection. One that is made soon is the next asker's."""

        def opened(made: asyncio.Task[Connection]) -> None:
            timer.cancel()
            failed = made.cancelled() or made.exception() is not None
            self._give_back(None if failed else made.result())

        timer = asyncio.get_running_loop().call_later(self._connect_s, opening.cancel)
        opening.add_done_callback(opened)

    async def _take(self) -> Connection | None:
        """A connection that was open when it was given back, or None for one that the caller may open."""
        if self._free:
            return self._free.pop()
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._give_back(waiter.result())
            raise

    def _give_back(self, connection: Connection | None, command: Command = ()) -> None:
        """Give back a place, and the connection in it. If that is busy, the asker of `command` has left, and the place
        is given back once the reply has come, or is not waited for any more."""
        if connection is not None:
            kept = connection.epoch == self._epoch
            if connection.free:
                if not connection.proven:  # it answered its handshake, or a command, if only with an error
                    connection.proven = True
                    if self._in_vain:
                        self._in_vain.pop()
            elif connection.busy and kept:
                LateReply(connection, command, self._give_back)
                return
            else:
                kept = False
            if not kept:
                connection.close()
                connection = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._free.appendleft(None)
        else:
            self._free.append(connection)


class SentinelCommands(PoolCommands):
    """The master that the Sentinels name. A new connection asks them; background reads notice a master that was demoted
    and still answers, with the data it last got from the new one."""

    def __init__(self, pool: SentinelConnectionPool, sentinels: Sentinels, size: int, connect_s: float) -> None:
        super().__init__(pool, size, connect_s)
        self._master_of = pool
        self._sentinels = sentinels

    @property
    def sentinels(self) -> str | None:
        """See `Commands`."""
        return self._sentinels.trouble

    async def _get_many(self, keys: Sequence[str]) -> list[bytes | Exception | None]:
        known = self._master_of.master_address
        with suppress(MasterNotFoundError):  # none is named: the master that is known may go on
            now: Any = await self._master_of.get_master_address()  # type: ignore[no-untyped-call] # as above
            if now != known:
                await self.close()
        return await super()._get_many(keys)


async def _replied(connection: Connection, command: Command) -> Any:
    reply = await connection.ask(packed(*command))
    if not fits(command, reply):
        connection.close()
        raise InvalidResponse(f"the reply is none to {command[0]!r}")
    return reply
