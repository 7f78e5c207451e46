"""Requests that are sent before the answers to those in front of them: few wait at a time, the others as bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from rtp.doors.protocol import BoundedProtocol, bounded, cut_late
from support.rtp_server import (
    ARRIVAL_S,
    ASGI,
    CLOSE,
    DIRECT,
    MAX_HEAD,
    Server,
    application,
    bodies,
    request,
    run,
)
from support.waiting import WITHIN_S, until

ELSEWHERE = b"POST /elsewhere HTTP/1.1"
SHORTEST = b"GET / HTTP/1.1\r\nhost:\r\n\r\n"
MOST_WAITING = 25
ONE_READ = 1 << 18
"""Bytes that uvloop reads at once, at the most."""


class Watched:
    """Answers as the others do, and looks at its connection whenever it begins."""

    def __init__(self, server: Server, size: int) -> None:
        """`size`: bytes of a request."""
        self._server = server
        self._size = size
        self.begun = 0
        self.most_waiting = 0
        self.most_unparsed = 0
        """Bytes that were read, less those of requests that have begun, at the most."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        for connection in self._server.state.connections:
            assert isinstance(connection, BoundedProtocol)
            self.most_waiting = max(self.most_waiting, len(connection.pipeline))
        self.most_unparsed = max(self.most_unparsed, self._server.received - self.begun * self._size)
        await application(scope, receive, send)


@asynccontextmanager
async def watched(size: int) -> AsyncIterator[tuple[Server, Watched]]:
    server = Server()
    server.opened.set()
    protocol = bounded(MAX_HEAD, ARRIVAL_S, server.refused.append, server.shed, server.predict)
    app = Watched(server, size)
    listener = await server.listen(protocol, app)
    try:
        yield server, app
    finally:
        listener.close()


def test_few_requests_wait_however_many_are_sent() -> None:
    one, count = SHORTEST, 500_000 // len(SHORTEST)

    async def test() -> None:
        async with watched(len(one)) as (server, app):
            got = await server.ask(one * count + request(b"last", CLOSE, start=ELSEWHERE))
            assert got.count(b"HTTP/1.1 200 ") == count + 1
            assert got.endswith(ASGI + b"last")
            assert app.begun == count + 1
            assert 0 < app.most_waiting <= MOST_WAITING
            assert app.most_unparsed < ONE_READ + 10_000

    uvloop.run(test())


def chunked(body: bytes) -> bytes:
    head = b"POST /predict HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


SENT = st.tuples(
    st.sampled_from(
        [
            request,
            chunked,
            lambda body: request(body, start=ELSEWHERE),
            lambda body: request(body, b"x: " + b"y" * 700),
            lambda body: request(body, b"connection: upgrade", b"upgrade: h2c"),
            lambda body: b"\r\n" + request(body, *[b"x-%d: y" % i for i in range(60)]),
        ]
    ),
    st.sampled_from([b"", b"a", b"{}\r\n\r\n" * 300, b"\r" * 2000, SHORTEST * 100, b"z" * 3000]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SENT, min_size=1, max_size=12), st.lists(st.integers(0, 40_000), max_size=6))
def test_requests_are_answered_whole_and_in_order_wherever_they_are_cut(
    sent: list[tuple[object, bytes]], cuts: list[int]
) -> None:
    async def test(server: Server) -> None:
        whole = b"".join(make(body) for make, body in sent) + request(b"last", CLOSE)  # type: ignore[operator]
        edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
        pieces = [whole[begin:end] for begin, end in pairwise(edges)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        found = bodies(await asyncio.wait_for(reader.read(), WITHIN_S))
        writer.close()
        assert [re.sub(b"^(?:%b|%b)" % (ASGI, DIRECT), b"", one) for one in found] == [b for _, b in sent] + [b"last"]

    run(test)


def test_what_is_held_back_is_not_late() -> None:
    async def test(server: Server) -> None:
        loop = asyncio.get_running_loop()
        got = asyncio.create_task(server.ask(request(b"a") + request(b"b", start=ELSEWHERE) * 50 + b"GET /"))
        await until(lambda: server.asked and server.connection.pipeline, "requests wait")
        cut_late(server.state.connections, loop.time() + 10**6)
        server.opened.set()
        await until(lambda: server.state.total_requests == 51, "all that came whole are answered")
        cut_late(server.state.connections, loop.time() + ARRIVAL_S - 5)
        assert server.refused == []
        cut_late(server.state.connections, loop.time() + ARRIVAL_S + 5)
        answers, refusal = (await got).split(b"HTTP/1.1 408 ")
        assert bodies(answers) == [DIRECT + b"a"] + [ASGI + b"b"] * 50
        assert b"slow_body" in refusal

    run(test, shut=True)


def test_a_shutdown_answers_what_waits_and_no_more() -> None:
    async def test(server: Server) -> None:
        got = asyncio.create_task(server.ask(request(b"a") * 1000))
        await until(lambda: server.asked and server.connection.pipeline, "requests wait")
        waiting = len(server.connection.pipeline)
        server.connection.shutdown()
        server.opened.set()
        whole = await got
        assert len(bodies(whole)) == 1 + waiting
        assert whole.count(b"connection: close") == 1
        await until(lambda: not server.state.tasks and not server.state.connections, "nothing is left")

    run(test, shut=True)
