"""Predictions that have arrived whole are answered without ASGI, and as they are answered with it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import pytest
import uvloop

from access import Scope as May
from access import make_key
from mimn.bundle import load_bundle
from rtp.app import create_service
from rtp.doors.protocol import bounded, cut_late
from rtp.runtime import OnnxModel
from rtp.settings import RtpSettings
from support.fake_state_reader import FakeStateReader
from support.rtp_server import (
    ARRIVAL_S,
    ASGI,
    CLOSE,
    DIRECT,
    KEEP_ALIVE_S,
    MAX_HEAD,
    Server,
    bodies,
    request,
    run,
)  # fmt: skip
from support.waiting import WITHIN_S, until

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"
MODEL = OnnxModel(load_bundle(TINY))
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([request(b"a", CLOSE)], DIRECT + b"a"),
        ([request(b"a", start=b"POST /predict HTTP/1.0")], DIRECT + b"a"),
        ([CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"], DIRECT + b"abc"),
        ([request(b"a", CLOSE)[:40], request(b"a", CLOSE)[40:]], DIRECT + b"a"),
        ([request(b"abc", CLOSE)[:-3], b"abc"], ASGI + b"abc"),
        ([CHUNKED + b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"], ASGI + b"abc"),
        ([request(b"a", CLOSE, start=b"POST /predict?x=1 HTTP/1.1")], ASGI + b"a"),
        ([request(b"", CLOSE, start=b"GET /predict HTTP/1.1")], ASGI),
    ],
    ids=[
        "whole", "HTTP/1.0", "chunks in one packet", "its head in pieces", "its body comes later",
        "chunks in pieces", "a query", "GET",
    ],
)  # fmt: skip
def test_a_prediction_that_came_whole_is_answered_directly(sent: list[bytes], answer: bytes) -> None:
    async def test(server: Server) -> None:
        got = await server.ask(*sent)
        assert bodies(got) == [answer]
        assert got.count(b"connection: close") == 1
        assert server.asked == answer.startswith(DIRECT)

    run(test)


def test_an_answer_to_head_has_no_body() -> None:
    async def test(server: Server) -> None:
        got = await server.ask(request(b"", CLOSE, start=b"HEAD /predict HTTP/1.1"))
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert got.endswith(b"\r\n\r\n")

    run(test)


def test_a_client_that_waits_to_be_asked_for_the_body_is_asked() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"abc", b"expect: 100-continue", CLOSE)[:-3])
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WITHIN_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert bodies(await asyncio.wait_for(reader.read(), WITHIN_S)) == [ASGI + b"abc"]
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (b"POST /predict HTTP/1.1", b"content-type: text/plain", 415),
        (b"PUT /predict HTTP/1.1", b"x: y", 405),
    ],
)
def test_a_refusal_instead_of_100_continue_closes(start: bytes, more: bytes, status: int) -> None:
    """Whether it sends the body after that is its own choice, so that what comes next has no certain meaning."""

    async def asked() -> None:
        service = create_service(RtpSettings(), store=FakeStateReader(), runtime=MODEL)
        server = Server()
        protocol = bounded(MAX_HEAD, ARRIVAL_S, service.refused, service.shed, service.predict)
        listener = await server.listen(protocol, service.app)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        whole = request(b"{}", b"expect: 100-continue", more, start=start)
        writer.write(whole[:-2])
        got = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WITHIN_S)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close\r\n" in got
        writer.write(request(GOOD, JSON))
        assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(), WITHIN_S)
        writer.close()
        listener.close()

    asyncio.run(asked())


def test_a_body_that_is_not_http_ends_the_connection_and_reaches_no_one() -> None:
    async def test(server: Server) -> None:
        got = await server.ask(CHUNKED + b"2\r\nab\r\nzz\r\n")
        assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert got.count(b"\r\n\r\n") == 1
        assert server.asked == 0

    run(test)


def test_requests_behind_a_prediction_are_answered_in_order() -> None:
    async def test(server: Server) -> None:
        behind = [request(b"b"), request(b"", start=b"GET /elsewhere HTTP/1.1"), request(b"c", CLOSE)]
        answers = asyncio.create_task(server.ask(b"".join([request(b"a"), *behind])))
        await until(lambda: server.asked == 1 and len(server.connection.pipeline) == 3, "all have arrived")
        assert len(server.state.tasks) == 1, "one is answered at a time"
        server.opened.set()
        assert bodies(await answers) == [DIRECT + b"a", ASGI + b"b", ASGI, ASGI + b"c"]

    run(test, shut=True)


def leave(writer: asyncio.StreamWriter) -> None:
    """End the connection without a word: the other side is told by a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    writer.transport.abort()


def test_a_client_that_leaves_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request())
        await until(lambda: server.asked, "it is being answered")
        cycle = server.connection.cycle
        leave(writer)
        await until(lambda: not server.state.connections, "the server knows")
        assert cycle.disconnected
        assert len(server.state.tasks) == 1, "what was begun is finished"
        server.opened.set()
        await until(lambda: not server.state.tasks, "it is")
        assert not cycle.response_complete
        assert caplog.records == []

    run(test, shut=True)


def test_a_shutdown_waits_for_the_answer_and_then_ends_the_connection() -> None:
    async def test(server: Server) -> None:
        answer = asyncio.create_task(server.ask(request(b"a")))
        await until(lambda: server.asked, "it is being answered")
        server.connection.shutdown()
        assert len(server.state.tasks) == 1, "which uvicorn waits for"
        server.opened.set()
        got = await answer
        assert bodies(got) == [DIRECT + b"a"]
        assert b"connection: close\r\n" in got
        await until(lambda: not server.state.tasks and not server.state.connections, "nothing is left")

    run(test, shut=True)


def test_a_client_of_a_draining_process_is_told_to_close_once() -> None:
    async def test(server: Server) -> None:
        answer = asyncio.create_task(server.ask(request(b"a")))
        await until(lambda: server.asked, "it is being answered")
        server.state.default_headers = [(b"connection", b"close")]
        server.opened.set()
        got = await answer
        assert got.count(b"connection: close") == 1
        assert got.endswith(DIRECT + b"a")

    run(test, shut=True)


@pytest.mark.parametrize("body", [b"fault", b"cancelled"])
def test_what_fails_unforeseen_or_takes_too_long_at_the_end_is_a_500(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(server: Server) -> None:
        answer = asyncio.create_task(server.ask(request(body)))
        await until(lambda: server.asked, "it is being answered")
        if body == b"fault":
            server.opened.set()
        else:
            for task in server.state.tasks:
                task.cancel()
        got = await answer
        assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/problem+json\r\n")
        assert b"connection: close\r\n" in got
        assert json.loads(got.partition(b"\r\n\r\n")[2])["code"] == "internal"
        (line,) = caplog.records
        assert line.exc_info is not None

    run(test, shut=True)


def test_a_connection_is_ended_by_what_it_waits_for() -> None:
    async def test(server: Server) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"a"))
        await until(lambda: server.asked, "it is being answered")
        cut_late(server.state.connections, loop.time() + 10**6)
        server.opened.set()
        assert bodies(await asyncio.wait_for(reader.readuntil(b"direct a"), WITHIN_S)) == [DIRECT + b"a"]
        cut_late(server.state.connections, loop.time() + KEEP_ALIVE_S - 5)
        writer.write(request(b"b"))
        assert bodies(await asyncio.wait_for(reader.readuntil(b"direct b"), WITHIN_S)) == [DIRECT + b"b"]
        cut_late(server.state.connections, loop.time() + KEEP_ALIVE_S + 1)
        assert await asyncio.wait_for(reader.read(), WITHIN_S) == b"", "an idle one has its keep-alive"
        writer.close()

    run(test, shut=True)


# The same answers as by ASGI

ONE = {"item_id": 3, "category_id": 2}
GOOD = json.dumps({"user_id": "u", "candidates": [ONE], "request_id": "r"}).encode()
JSON = b"content-type: application/json"
KEY = b"authorization: Bearer "


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        (GOOD, [JSON], 200),
        (GOOD, [b"content-type: text/plain"], 415),
        (GOOD, [JSON, b"content-encoding: Identity"], 200),
        (GOOD, [JSON, b"x-request-deadline-ms: soon", b"x-request-id: mine"], 422),
        (b"{", [JSON], 400),
        (b'{"user_id": "u"}', [JSON, b"x-request-id: not plain"], 422),
        (GOOD, [JSON, b"authorization: Bearer wrong", b"x-request-id: mine"], 401),
    ],
)
def test_an_answer_is_the_same_whether_its_request_came_whole_or_in_pieces(
    body: bytes, more: list[bytes], status: int, tmp_path: Path
) -> None:
    secret, key = make_key({May.PREDICT}, "k")
    (tmp_path / "keys").write_text(key.line())
    groups: dict[str, Any] = {
        "access": {"keys_file": tmp_path / "keys"},
        "deadline": {"default_ms": 60_000, "max_ms": 60_000},
    }
    settings = RtpSettings(**groups)
    if not any(line.startswith(b"authorization") for line in more):
        more = [*more, KEY + secret.encode()]

    async def both() -> list[bytes]:
        service = create_service(settings, store=FakeStateReader(), runtime=MODEL)
        protocol = bounded(65_536, 30.0, service.refused, service.shed, service.predict)
        server = Server()
        listener = await server.listen(protocol, service.app)
        whole = request(body, *more, CLOSE)
        head = len(whole) - len(body)
        answers = [await server.ask(whole), await server.ask(whole[:head], whole[head:])]
        listener.close()
        return answers

    direct, by_asgi = asyncio.run(both())
    assert direct.startswith(b"HTTP/1.1 %d " % status)
    assert (b"server-timing: rtp;dur=" in direct) == (status != 401)
    known = [re.sub(rb"dur=[\d.]+|x-request-id: [0-9a-f]{12}-\d+", b"", answer) for answer in (direct, by_asgi)]
    assert known[0] == known[1]


# A client that still sends when all is said

MUCH = 1 << 24
"""Bytes, more than both ends' buffers hold."""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"", JSON, CLOSE).replace(b"length: 0", b"length: %d" % MUCH), 413),
        (request(b"", b"expect: 100-continue", start=b"PUT /predict HTTP/1.1").replace(b": 0", b": %d" % MUCH), 405),
        (b"POST /predict HTTP/1.1\r\nhost: here\r\nx: ", 431),
    ],
    ids=["a large body", "a body that was not asked for", "a large head"],
)
def test_a_client_that_still_sends_gets_its_refusal(sent: bytes, status: int) -> None:
    async def asked() -> None:
        service = create_service(RtpSettings(), store=FakeStateReader(), runtime=MODEL)
        server = Server()
        protocol = bounded(MAX_HEAD, ARRIVAL_S, service.refused, service.shed, service.predict)
        listener = await server.listen(protocol, service.app)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        for _ in range(MUCH >> 16):
            writer.write(b"x" * (1 << 16))
            await asyncio.wait_for(writer.drain(), WITHIN_S)
        got = await asyncio.wait_for(reader.read(), WITHIN_S)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert got.count(b"HTTP/1.1") == 1
        assert b"connection: close\r\n" in got
        assert len(server.state.connections) == 1
        writer.close()
        await until(lambda: not server.state.connections, "the connection has ended")
        listener.close()

    uvloop.run(asked())


def test_a_client_that_sends_on_and_on_is_not_waited_for_without_end() -> None:
    async def test(server: Server) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), WITHIN_S)).startswith(b"HTTP/1.1 400 ")
        writer.write(request(b"a"))
        cut_late(server.state.connections, loop.time() + ARRIVAL_S - 5)
        assert len(server.state.connections) == 1
        cut_late(server.state.connections, loop.time() + ARRIVAL_S + 1)
        await until(lambda: not server.state.connections, "the connection has ended")
        assert not server.asked
        writer.close()

    run(test)


def test_a_client_that_sends_much_after_its_refusal_is_cut() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), WITHIN_S)).startswith(b"HTTP/1.1 400 ")

        async def send(count: int) -> None:
            for _ in range(count):
                writer.write(b"x" * (1 << 20))
                await asyncio.wait_for(writer.drain(), WITHIN_S)

        await send(31)
        assert len(server.state.connections) == 1
        with suppress(ConnectionError):
            await send(2)
        await until(lambda: not server.state.connections, "the connection has ended")
        writer.close()

    run(test)
