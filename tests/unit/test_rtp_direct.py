"""Predictions that have arrived whole are answered without ASGI, and as they are answered with it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

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
    application,
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
        ([request(b"a", CLOSE, start=b"POST /v1/predict HTTP/1.1")], DIRECT + b"a"),
        ([request(b"a", start=b"POST /predict HTTP/1.0")], DIRECT + b"a"),
        ([request(b"", CLOSE)], DIRECT),
        ([CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"], DIRECT + b"abc"),
        ([request(b"a", CLOSE)[:40], request(b"a", CLOSE)[40:]], DIRECT + b"a"),
        ([request(b"abc", CLOSE)[:-3], b"abc"], ASGI + b"abc"),
        ([request(b"abc", CLOSE)[:-2], b"b", b"c"], ASGI + b"abc"),
        ([CHUNKED + b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"], ASGI + b"abc"),
        ([request(b"a", CLOSE, start=b"POST /predict?x=1 HTTP/1.1")], ASGI + b"a"),
        ([request(b"a", CLOSE, start=b"POST /elsewhere HTTP/1.1")], ASGI + b"a"),
        ([request(b"a", CLOSE, start=b"PUT /predict HTTP/1.1")], ASGI + b"a"),
        ([request(b"", CLOSE, start=b"GET /predict HTTP/1.1")], ASGI),
    ],
    ids=[
        "whole", "the other path", "HTTP/1.0", "no body", "chunks in one packet", "its head in pieces",
        "its body comes later", "its body comes in pieces", "chunks in pieces", "a query", "another path",
        "another method", "GET",
    ],
)  # fmt: skip
def test_a_prediction_whose_body_came_with_the_end_of_its_head_is_answered_directly(
    sent: list[bytes], answer: bytes
) -> None:
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
        (b"POST /predict HTTP/1.1", b"x-request-deadline-ms: soon", 422),
        (b"POST /elsewhere HTTP/1.1", b"x: y", 404),
        (b"PUT /predict HTTP/1.1", b"x: y", 405),
    ],
)
def test_a_client_that_is_refused_before_it_was_asked_for_the_body_is_told_to_close(
    start: bytes, more: bytes, status: int
) -> None:
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
        with_body = request(b"{}", b"expect: 100-continue", more, start=start) + request(
            b"", CLOSE, start=b"GET / HTTP/1.1"
        )
        got = await server.ask(with_body)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert got.count(b"HTTP/1.1 ") == 2, "its body was there: the connection goes on"
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


def test_requests_after_one_another_on_a_connection_are_answered_directly() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for number in range(3):
            writer.write(request(b"%d" % number))
            got = await asyncio.wait_for(reader.readuntil(b"direct %d" % number), WITHIN_S)
            assert b"connection" not in got
        writer.write(request(b"", CLOSE, start=b"GET / HTTP/1.1"))
        assert bodies(await asyncio.wait_for(reader.read(), WITHIN_S)) == [ASGI]
        writer.close()
        assert server.asked == 3
        assert server.state.total_requests == 4

    run(test)


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


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("start", [b"POST /predict HTTP/1.1", b"GET /elsewhere HTTP/1.1"])
def test_a_client_that_leaves_while_requests_wait_gets_no_answer_and_no_line_in_the_log(
    loop: Callable[[Coroutine[Any, Any, None]], None], start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The first is answered, the second is being answered, the third waits."""

    async def test() -> None:
        server, gone = Server(), asyncio.Event()
        server.opened.set()
        begun = 0

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal begun
            begun += 1
            await gone.wait()
            await application(scope, receive, send)

        protocol = bounded(MAX_HEAD, ARRIVAL_S, server.refused.append, server.shed, server.predict)
        listener = await server.listen(protocol, held)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"a") + request(start=start) + request())
        await asyncio.wait_for(reader.readuntil(b"direct a"), WITHIN_S)
        await until(lambda: begun and len(server.connection.pipeline) == 1, "the second is begun, the third waits")
        leave(writer)
        await until(lambda: not server.state.connections, "the server knows")
        gone.set()
        await until(lambda: not server.state.tasks, "what was begun is finished")
        assert (begun, server.state.total_requests) == (1, 1)
        assert caplog.records == []
        listener.close()

    loop(test())


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


def test_a_client_that_does_not_read_is_waited_for() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"a"))
        await until(lambda: server.asked, "it is being answered")
        connection = server.connection
        connection.pause_writing()
        server.opened.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not connection.cycle.response_complete
        connection.resume_writing()
        assert bodies(await asyncio.wait_for(reader.readuntil(b"direct a"), WITHIN_S)) == [DIRECT + b"a"]
        writer.close()

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
        (GOOD, [JSON, b"x-request-id: mine"], 200),
        (GOOD, [], 200),
        (GOOD, [b"content-type: text/plain"], 415),
        (GOOD, [JSON, b"content-encoding: gzip"], 415),
        (GOOD, [JSON, b"content-encoding: Identity"], 200),
        (GOOD, [JSON, b"content-encoding:"], 200),
        (GOOD, [JSON, b"x-request-deadline-ms: soon", b"x-request-id: mine"], 422),
        (b"{", [JSON], 400),
        (b'{"user_id": "u"}', [JSON, b"x-request-id: not plain"], 422),
        (GOOD, [JSON, b"authorization: Bearer wrong", b"x-request-id: mine"], 401),
        (GOOD, [JSON, b"authorization: none"], 401),
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


def test_a_body_over_the_limit_is_refused_when_it_came_whole() -> None:
    async def asked() -> bytes:
        limits: dict[str, Any] = {"http": {"max_body_bytes": 1024}}
        service = create_service(RtpSettings(**limits), store=FakeStateReader(), runtime=MODEL)
        server = Server()
        protocol = bounded(65_536, 30.0, service.refused, service.shed, service.predict)
        listener = await server.listen(protocol, service.app)
        got = await server.ask(request(b" " * 1025, JSON, CLOSE))
        listener.close()
        return got

    assert asyncio.run(asked()).startswith(b"HTTP/1.1 413 ")


# A client that still sends when all is said

MUCH = 1 << 24
"""Bytes, more than both ends' buffers hold."""


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"", JSON, CLOSE).replace(b"length: 0", b"length: %d" % MUCH), 413),
        (request(b"", b"expect: 100-continue", start=b"PUT /predict HTTP/1.1").replace(b": 0", b": %d" % MUCH), 405),
        (request(b"", CLOSE, start=b"POST /elsewhere HTTP/1.1").replace(b": 0", b": %d" % MUCH), 404),
        (b"POST /predict HTTP/1.1\r\nhost: here\r\nx: ", 431),
        (b"POST /predict HTTP/1.1\r\ncontent-length: %d\r\n%b\r\n\r\n" % (MUCH, JSON), 400),
    ],
    ids=["a large body", "a body that was not asked for", "another path", "a large head", "no host"],
)
def test_a_client_that_still_sends_gets_its_refusal(
    sent: bytes, status: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
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

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asked())


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


def test_a_process_that_ends_does_not_wait_for_a_client_that_still_sends() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(CHUNKED.replace(b"/predict", b"/elsewhere") + b"2\r\nab\r\n")
        await until(lambda: server.received, "the request has begun")
        writer.write(b"no chunk\r\n")
        assert b"HTTP/1.1 400 " in await asyncio.wait_for(reader.read(), WITHIN_S)
        server.connection.shutdown()
        await until(lambda: not server.state.connections, "the connection has ended")
        writer.close()

    run(test)


def test_a_client_that_has_sent_all_is_not_waited_for() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"a", start=b"POST /elsewhere HTTP/1.1"))
        writer.write(b"this is no request\r\n\r\n")
        writer.write_eof()
        got = await asyncio.wait_for(reader.read(), WITHIN_S)
        assert got.startswith(b"HTTP/1.1 200 ")
        await until(lambda: not server.state.connections, "the connection has ended")
        writer.close()

    run(test)
