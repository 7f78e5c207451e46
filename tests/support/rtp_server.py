"""A server of RTP's connections whose door can be held shut, and a client that says every byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from rtp.doors.problems import Answer, Headers, send_answer
from rtp.doors.protocol import BoundedProtocol, bounded
from rtp.errors import Overloaded, RtpError
from support.waiting import WITHIN_S, until

CLOSE = b"connection: close"
PLAIN = [(b"content-type", b"text/plain")]
DIRECT, ASGI = b"direct ", b"asgi "
KEEP_ALIVE_S = 75
ARRIVAL_S = 30.0
MAX_HEAD = 65_536


def request(body: bytes = b"{}", *more: bytes, start: bytes = b"POST /predict HTTP/1.1") -> bytes:
    """As it goes over the wire, with `more` headers."""
    lines = [start, b"host: here", b"content-length: %d" % len(body), *more]
    return b"\r\n".join([*lines, b"", body])


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Says that it answered, and what it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send_answer(scope, send, 200, PLAIN, ASGI + body)


@dataclass
class Server:
    """A listening server, what it keeps of its connections, and a door that can be held shut."""

    port: int = 0
    state: ServerState = field(default_factory=ServerState)
    received: int = 0
    """Bytes, on all connections."""
    asked: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    heads: list[Headers] = field(default_factory=list)
    """Of the predictions that were asked for."""
    refused: list[RtpError] = field(default_factory=list)
    overloaded: bool = False

    def shed(self, headers: Headers, arrived: float) -> RtpError | None:
        """Refuses all while it is overloaded."""
        return Overloaded("too many") if self.overloaded else None

    async def predict(self, path: str, headers: Headers, arrived: float, body: bytes) -> Answer:
        """The door."""
        assert path in ("/predict", "/v1/predict")
        assert (b"host", b"here") in headers
        self.asked += 1
        self.heads.append(headers)
        await self.opened.wait()
        if body == b"fault":
            raise ZeroDivisionError
        return 200, PLAIN, DIRECT + body

    @property
    def connection(self) -> BoundedProtocol:
        """The only one."""
        (one,) = self.state.connections
        assert isinstance(one, BoundedProtocol)
        return one

    async def ask(self, *pieces: bytes) -> bytes:
        """All that a connection gives back until the server ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces[:-1]:
            expected = self.received + len(piece)
            writer.write(piece)
            await until(lambda: self.received == expected, "the piece has arrived")  # noqa: B023
        writer.write(pieces[-1])
        got = await asyncio.wait_for(reader.read(), WITHIN_S)
        writer.close()
        return got

    async def listen(self, protocol: type[BoundedProtocol], application: Any) -> asyncio.Server:
        """Begin to accept."""
        server = self

        class Counted(protocol):  # type: ignore[valid-type, misc]
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                server.received += len(data)

        config = Config(
            application, http=Counted, ws="none", lifespan="off", log_config=None, date_header=False,
            server_header=False, timeout_keep_alive=KEEP_ALIVE_S,
        )  # fmt: skip
        config.load()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Counted(config, self.state, {}), "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        return listener


@asynccontextmanager
async def serving(*, shut: bool = False) -> AsyncIterator[Server]:
    """A server that listens."""
    made = Server()
    if not shut:
        made.opened.set()
    protocol = bounded(MAX_HEAD, ARRIVAL_S, made.refused.append, made.shed, made.predict)
    listener = await made.listen(protocol, application)
    try:
        yield made
    finally:
        listener.close()


def run(test: Callable[[Server], Awaitable[None]], *, shut: bool = False) -> None:
    """Run `test` with a server; `shut`: its door is opened by the test."""

    async def served() -> None:
        async with serving(shut=shut) as server:
            await test(server)

    uvloop.run(served())  # as RTP does


def bodies(got: bytes) -> list[bytes]:
    """Of the answers in `got`, all of which are right."""
    found = []
    while got:
        head, _, got = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        found.append(got[: int(length[1])])
        got = got[int(length[1]) :]
    return found
