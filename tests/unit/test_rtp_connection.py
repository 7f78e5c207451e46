"""A connection to the store gives each command its own whole reply or none, and what is assumed of redis-py is checked
by name."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.asyncio.connection import Connection as TcpConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from process.assumptions import broken
from rtp.store.connection import ASSUMPTIONS, Connection, connect, packed
from rtp.store.late import LateReply
from rtp.store.together import NotTogether, Together
from support.scripted_store import ScriptedStore, bulk

WITHIN_S = 30
GET = packed("GET", "key")


@dataclass
class Ends:
    """A connection, and the store's end of it."""

    ours: Connection
    theirs: socket.socket

    async def says(self, data: bytes) -> None:
        """The store sends, and the connection has read it."""
        self.theirs.sendall(data)
        await self.idle()

    async def idle(self) -> None:
        """The loop looks at its sockets a few times."""
        for _ in range(5):
            await asyncio.sleep(0)


def with_ends(test: Callable[[Ends], Awaitable[None]]) -> None:
    async def testing() -> None:
        left, right = socket.socketpair()
        left.setblocking(False)
        streams = await asyncio.open_connection(sock=left)
        ours = Connection(streams, DefaultParser.parse_error)
        asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
        try:
            async with asyncio.timeout(WITHIN_S):
                await test(Ends(ours, right))
        finally:
            ours.close()
            right.close()

    troubles: list[dict[str, Any]] = []
    uvloop.run(testing())
    assert not troubles, "the loop had to deal with no error of ours"


def test_a_command_is_packed_as_the_protocol_has_it() -> None:
    assert packed("SET", "ü", b"\x00\r\n") == b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n$3\r\n\x00\r\n\r\n"


VALUES = [None, b"", b"state", b"$3\r\nnot\r\n", bytes(range(256)) * 3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VALUES), st.lists(st.integers(0, 800), max_size=6)), max_size=8))
def test_each_command_gets_its_own_reply_however_they_are_cut(replies: list[tuple[bytes | None, list[int]]]) -> None:
    async def test(ends: Ends) -> None:
        for value, cuts in replies:
            asked, said = ends.ours.ask(GET), bulk(value)
            edges = [0, *sorted(cut for cut in cuts if cut < len(said)), len(said)]
            for begin, end in pairwise(edges):
                await ends.says(said[begin:end])
            assert await asked == value

    with_ends(test)


@pytest.mark.parametrize("begun", [b"", b"$5\r\nst"], ids=["not begun", "begun"])
def test_a_reply_after_its_request_gave_up_closes_the_connection(begun: bytes) -> None:
    async def test(ends: Ends) -> None:
        asked = ends.ours.ask(GET)
        await ends.says(begun)
        asked.set_exception(TimeoutError())  # as the pool's timer does
        assert not ends.ours.free, "its reply is outstanding"
        await ends.says(bulk(b"state")[len(begun) :])
        assert not ends.ours.free
        assert ends.theirs.recv(1000) == GET
        assert ends.theirs.recv(1) == b"", "closed"
        with pytest.raises(TimeoutError):
            await asked

    with_ends(test)


@pytest.mark.parametrize("said", [bulk(b"state"), b"$", b"-ERR\r\n"], ids=["a reply", "a part of one", "an error"])
def test_what_was_not_asked_for_closes_the_connection(said: bytes) -> None:
    async def test(ends: Ends) -> None:
        await ends.says(said)
        assert not ends.ours.free
        assert ends.theirs.recv(1) == b""

    with_ends(test)


@pytest.mark.parametrize("said", [bulk(b"state") * 2, bulk(b"state") + b"$"])
def test_more_than_one_reply_is_none(said: bytes) -> None:
    async def test(ends: Ends) -> None:
        asked = ends.ours.ask(GET)
        await ends.says(said)
        with pytest.raises(RedisConnectionError, match="more than one"):
            await asked
        assert not ends.ours.free

    with_ends(test)


def test_an_error_reply_keeps_the_connection_and_one_about_the_connection_closes_it() -> None:
    async def test(ends: Ends) -> None:
        for said, error, stays in (
            (b"-WRONGTYPE not a string\r\n", ResponseError, True),
            (b"-NOPERM no\r\n", ResponseError, True),
            (b"-LOADING the data set\r\n", RedisConnectionError, False),
        ):
            asked = ends.ours.ask(GET)
            await ends.says(said)
            with pytest.raises(error):
                await asked
            assert ends.ours.free == stays

    with_ends(test)


@pytest.mark.parametrize("asks", [True, False], ids=["while it waits", "while it is idle"])
def test_a_connection_that_the_store_closes_is_not_used_again(asks: bool) -> None:
    async def test(ends: Ends) -> None:
        asked = ends.ours.ask(GET) if asks else None
        ends.theirs.shutdown(socket.SHUT_RDWR)
        if asked is not None:
            with pytest.raises(RedisConnectionError, match="closed by the store"):
                await asked
        while ends.ours.free:
            await asyncio.sleep(0)

    with_ends(test)


MANY = {
    "too few": b"*1\r\n$1\r\na\r\n",
    "too many": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "a number among them": b"*2\r\n$1\r\na\r\n:2\r\n",
    "one value": b"$1\r\na\r\n",
}


@pytest.mark.parametrize("said", MANY.values(), ids=MANY)
def test_a_reply_that_does_not_fit_several_reads_is_for_none_of_them_and_closes(said: bytes) -> None:
    async def test(ends: Ends) -> None:
        returned: list[Connection] = []
        together = Together(ends.ours, lambda connection, _: returned.append(connection))
        reads = [together.add(key) for key in "ab"]
        together.send()
        await ends.says(said)
        assert ends.theirs.recv(1000) == packed("MGET", "a", "b")
        assert [type(one) for one in await asyncio.gather(*reads, return_exceptions=True)] == [NotTogether] * 2
        assert returned == [ends.ours]
        assert not ends.ours.free

    with_ends(test)


# Replies whose asker has left


ENDS_OF_LATE: dict[str, tuple[list[bytes], bool]] = {
    "a value": ([bulk(b"state")], True),
    "a value in pieces": ([b"$5\r\nst", b"ate\r", b"\n"], True),
    "an error": ([b"-WRONGTYPE no\r\n"], True),
    "another form": ([b":7\r\n"], False),
    "two": ([bulk(b"state") * 2], False),
    "loading": ([b"-LOADING the data set\r\n"], False),
}
"""What comes, and whether its connection may be asked again."""


@pytest.mark.parametrize(("said", "kept"), ENDS_OF_LATE.values(), ids=ENDS_OF_LATE)
def test_a_late_reply_is_dropped_and_the_connection_is_kept_only_if_it_is_in_step(
    said: list[bytes], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtp.store.late.FAIR_S", WITHIN_S)

    async def test(ends: Ends) -> None:
        returned: list[bool] = []
        ends.ours.ask(GET).cancel()
        LateReply(ends.ours, ("GET", "key"), lambda connection: returned.append(connection.free))
        for piece in said:
            assert not ends.ours.free
            assert returned == []
            await ends.says(piece)
        assert returned == [kept]
        if kept:
            asked = ends.ours.ask(GET)
            await ends.says(bulk(b"next"))
            assert await asked == b"next"
        ends.theirs.close()
        await ends.idle()
        assert returned == [kept]

    with_ends(test)


@pytest.mark.parametrize("begun", [b"", b"$5\r\nst"], ids=["not begun", "begun"])
def test_a_late_reply_that_does_not_come_soon_closes_the_connection(begun: bytes) -> None:
    async def test(ends: Ends) -> None:
        returned: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        ends.ours.ask(GET).cancel()
        LateReply(ends.ours, ("GET", "key"), lambda connection: returned.set_result(connection.free))
        await ends.says(begun)
        assert not await returned
        await ends.idle()
        assert ends.theirs.recv(1000) == GET
        assert ends.theirs.recv(1) == b"", "closed"

    with_ends(test)


def client_of(store: ScriptedStore) -> AbstractConnection:
    """redis-py's connection to it, not made."""
    return TcpConnection(host="127.0.0.1", port=store.port, protocol=2)


@pytest.mark.parametrize("said", [b"$", bulk(b"late")], ids=["a part of a reply", "a reply"])
def test_a_connection_that_is_out_of_step_behind_its_handshake_is_not_taken_over(said: bytes) -> None:
    async def test() -> None:
        with ScriptedStore() as store:
            store.behind_handshake = said
            client = client_of(store)
            with pytest.raises(RedisConnectionError, match="out of step"):
                await connect(client)
            assert not client.is_connected

    uvloop.run(test())


# What is assumed of redis-py


def test_the_installed_client_meets_every_assumption() -> None:
    assert broken(ASSUMPTIONS) == []


def test_rtp_does_not_start_with_a_client_that_it_does_not_know() -> None:
    start = (
        "import sys; from redis.asyncio.connection import AbstractConnection; del AbstractConnection.can_read; "
        "from rtp.__main__ import main; sys.exit(main([]))"
    )
    ports = {"RTP_HTTP__PORT": "0", "RTP_ADMIN__PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", start], env=os.environ | ports, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "can_read()" in done.stderr
    assert "redis[hiredis]" in done.stderr
