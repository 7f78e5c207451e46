"""When a reply counts as late: by the loop that reads it, which other work may have kept from its sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence

import pytest
import uvloop

from rtp.core.outage import Outage
from rtp.errors import StoreLate
from rtp.store import RedisStateReader


class OneReply:
    """A store that is one end of a pair of sockets. Implements `Commands`."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours

    async def get(self, key: str) -> bytes | None:
        reader, writer = await asyncio.open_connection(sock=self._ours)
        try:
            return await reader.readexactly(5)
        finally:
            writer.close()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        raise AssertionError("only get() is exercised here")

    async def count(self, keys: Sequence[bytes]) -> int:
        raise AssertionError("only get() is exercised here")

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        raise AssertionError("only get() is exercised here")

    async def close(self) -> None:
        self._ours.close()


def read(*, timeout_s: float, replies_after_s: float, blocked_s: float = 0.4) -> bytes | None:
    """One read, whose reply comes so late, by a loop that is busy with something else for so long meanwhile."""

    async def reading() -> bytes | None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader = RedisStateReader(OneReply(ours), Outage(1, 1.0))
        reply = threading.Timer(replies_after_s, theirs.sendall, [b"state"])
        asyncio.get_running_loop().call_later(0.005, time.sleep, blocked_s)
        reply.start()
        try:
            return await reader.read("key", timeout_s)
        finally:
            reply.cancel()
            reply.join()
            theirs.close()

    return uvloop.run(reading())


def test_a_reply_that_is_there_is_not_late_though_the_loop_was_kept_from_it() -> None:
    assert read(timeout_s=0.1, replies_after_s=0.03) == b"state"


def test_a_reply_that_is_not_there_is_late() -> None:
    with pytest.raises(StoreLate, match="100 ms"):
        read(timeout_s=0.1, replies_after_s=10)
