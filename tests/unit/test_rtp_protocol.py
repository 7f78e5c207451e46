"""RTP's connections: an answer leaves in one piece."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from rtp.doors.problems import AT_ONCE, send_answer
from rtp.doors.protocol import bounded, write_at_once

HEADERS = [(b"content-type", b"application/json")]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@dataclass
class Wire:
    """Records what a transport is told."""

    written: list[bytes] = field(default_factory=list)
    closed: bool = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


@dataclass
class Request:
    """What is used of uvicorn's cycle."""

    transport: Wire | None = None
    flow: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(write_paused=False))
    disconnected: bool = False
    keep_alive: bool = True
    waiting_for_100_continue: bool = False
    more_body: bool = False
    default_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    message_event: asyncio.Event = field(default_factory=asyncio.Event)
    response_started: bool = False
    response_complete: bool = False
    responses: int = 0

    def on_response(self) -> None:
        self.responses += 1


def answer(wire: Wire, request: Request, body: bytes = b"{}") -> bool:
    request.transport = wire
    return write_at_once(cast("RequestResponseCycle", request), 200, HEADERS, body)


def test_head_and_body_are_one_write() -> None:
    wire, request = Wire(), Request()
    assert answer(wire, request)
    assert wire.written == [HEAD + b"content-length: 2\r\n\r\n{}"]
    assert (request.response_started, request.response_complete) == (True, True)
    assert request.message_event.is_set()
    assert (request.responses, wire.closed) == (1, False)


def test_a_client_that_does_not_keep_the_connection_is_told_that_it_closes() -> None:
    wire, request = Wire(), Request(keep_alive=False)
    assert answer(wire, request)
    assert wire.written == [HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"]
    assert wire.closed


def test_while_the_process_drains_the_connection_closes_and_is_told_so_once() -> None:
    wire, request = Wire(), Request(default_headers=[(b"connection", b"close")])
    assert answer(wire, request)
    assert wire.written[0].count(b"connection: close") == 1
    assert wire.closed


def test_nothing_is_written_to_a_client_that_has_gone() -> None:
    wire, request = Wire(), Request(disconnected=True)
    assert answer(wire, request)
    assert (wire.written, request.response_complete) == ([], False)


def test_a_client_that_does_not_read_is_waited_for() -> None:
    wire, request = Wire(), Request(flow=SimpleNamespace(write_paused=True))
    assert not answer(wire, request)
    assert (wire.written, request.response_started) == ([], False)


@pytest.mark.parametrize("scope", [{}, {AT_ONCE: lambda *_: False}], ids=["another server", "it cannot be done now"])
def test_otherwise_an_answer_goes_the_way_of_asgi(scope: dict[str, object]) -> None:
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    asyncio.run(send_answer(scope, send, 200, HEADERS, b"{}"))
    assert sent == [
        {"type": "http.response.start", "status": 200, "headers": [*HEADERS, (b"content-length", b"2")]},
        {"type": "http.response.body", "body": b"{}"},
    ]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request's body, and with "all of it" to HEAD and GET."""
    body = (await receive())["body"] or b"all of it"
    await send_answer(scope, send, 200, HEADERS, body)


async def exchange(sent: bytes) -> bytes:
    """All that a connection gives back until the server ends it."""
    protocol = bounded(65_536, 30.0, lambda _: None, lambda *_: None)
    config = Config(echo, http=protocol, lifespan="off", log_config=None, date_header=False, server_header=False)
    config.load()
    server = await asyncio.get_running_loop().create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(sent)
    got = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    server.close()
    return got


def asked(method: bytes, body: bytes, more: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"%b / HTTP/%b\r\nhost: here\r\ncontent-length: %d\r\n%b\r\n" % (method, version, len(body), more)
    return head + body


CLOSE = b"connection: close\r\n"
ONE = HEAD + b"content-length: %d\r\n\r\n%b"
LAST = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n%b"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (asked(b"POST", b"a") + asked(b"POST", b"bc", CLOSE), ONE % (1, b"a") + LAST % (2, b"bc")),
        (asked(b"POST", b"a", version=b"1.0"), LAST % (1, b"a")),
        (asked(b"POST", b"a", CLOSE), LAST % (1, b"a")),
    ],
    ids=["two in one packet", "HTTP/1.0", "the client asks to close"],
)
def test_answers_over_a_socket_are_whole_and_in_order(sent: bytes, answers: bytes) -> None:
    assert asyncio.run(exchange(sent)) == answers


def test_an_answer_to_head_has_no_body() -> None:
    got = asyncio.run(exchange(asked(b"HEAD", b"", CLOSE)))
    assert got.endswith(b"\r\n\r\n")
    assert b"content-length: 9\r\n" in got
