"""What a connection of RTP makes of requests that are rare, hostile or out of order."""

from __future__ import annotations

import asyncio

import pytest

from rtp.errors import HeadTooLarge
from support.rtp_server import ASGI, CLOSE, DIRECT, MAX_HEAD, WITHIN_S, Server, bodies, request, run, until

H2C = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA")
"""As Java's client and `curl --http2` send it."""

# Upgrades


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([request(b"a", *H2C) + request(b"b", CLOSE)], [DIRECT + b"a", ASGI + b"b"]),
        ([request(b"a", *H2C)[:-1], b"a" + request(b"b", CLOSE)], [ASGI + b"a", ASGI + b"b"]),
        ([request(b"a", *H2C)[:90], request(b"a", *H2C)[90:] + request(b"b", CLOSE)], [DIRECT + b"a", ASGI + b"b"]),
        ([request(request(b"x"), *H2C)[:-20], request(b"x")[-20:] + request(b"b", CLOSE)],
         [ASGI + request(b"x"), ASGI + b"b"]),
        ([request(b"a", b"connection: close, Upgrade", b"upgrade: h2c")], [DIRECT + b"a"]),
        ([request(b"a", *H2C, start=b"POST /predict HTTP/1.0")], [DIRECT + b"a"]),
        ([request(b"", b"connection: upgrade, close", b"upgrade: websocket", start=b"GET /predict HTTP/1.1")], [ASGI]),
        ([request(b"a", *H2C, start=b"POST /elsewhere HTTP/1.1") + request(b"", CLOSE, *H2C)], [ASGI + b"a", ASGI]),
        ([request(b"", *H2C, start=b"GET / HTTP/1.1") * 2000 + request(b"b", CLOSE)], [ASGI] * 2000 + [ASGI + b"b"]),
    ],
    ids=[
        "one packet", "its body comes later", "its head in pieces", "its body looks like a request", "close",
        "HTTP/1.0", "a websocket", "another path", "very many",
    ],
)  # fmt: skip
def test_an_upgrade_that_is_offered_is_ignored_and_the_request_is_answered_whole(
    sent: list[bytes], answers: list[bytes]
) -> None:
    async def test(server: Server) -> None:
        got = await server.ask(*sent)
        assert bodies(got) == answers
        assert got.count(b"connection: close") == 1
        assert server.refused == []

    run(test)


def test_a_request_that_offers_an_upgrade_keeps_its_connection_and_the_time_it_began() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        sent = request(b"0", *H2C)
        for number in range(3):
            before = server.received
            writer.write(sent[:40])
            await until(lambda: server.received == before + 40, "the head has begun to arrive")  # noqa: B023
            late_at = server.connection.late_at
            writer.write(sent[40:-1])
            await until(lambda: server.received == before + len(sent) - 1, "the head is there")  # noqa: B023
            assert server.connection.late_at == late_at
            writer.write(b"%d" % number)
            got = await asyncio.wait_for(reader.readuntil(ASGI + b"%d" % number), WITHIN_S)
            assert b"connection" not in got
        writer.close()

    run(test)


@pytest.mark.parametrize("more", [(), H2C], ids=["alone", "with an upgrade"])
def test_connect_is_refused_and_the_connection_ends(more: tuple[bytes, ...]) -> None:
    async def test(server: Server) -> None:
        got = await server.ask(request(b"", *more, start=b"CONNECT here:80 HTTP/1.1") + request())
        assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert got.count(b"HTTP/1.1 ") == 1
        assert server.asked == 0

    run(test)


def test_a_head_over_the_limit_is_refused_also_if_what_is_too_large_is_the_offer() -> None:
    async def test(server: Server) -> None:
        got = await server.ask(request(b"a", b"connection: upgrade", b"upgrade: " + b"x" * MAX_HEAD))
        assert got.startswith(b"HTTP/1.1 431 ")
        assert got.count(b"HTTP/1.1 ") == 1

    run(test)


# Trailers

CHUNKED = b"POST %b HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
PATHS = pytest.mark.parametrize("path", [b"/predict", b"/elsewhere"], ids=["direct", "by ASGI"])


def test_trailers_are_no_headers() -> None:
    async def test(server: Server) -> None:
        trailers = b"host: evil\r\nauthorization: Bearer x\r\nx-request-id: late\r\nexpect: 100-continue\r\n\r\n"
        got = await server.ask(CHUNKED % b"/predict" + trailers + request(b"c", CLOSE))
        assert bodies(got) == [DIRECT + b"ab", ASGI + b"c"]
        assert server.heads == [[(b"host", b"here"), (b"transfer-encoding", b"chunked")]]

    run(test)


@PATHS
@pytest.mark.parametrize("line", [b"x: y\r\n", b"y" * 1000], ids=["many lines", "one line without an end"])
@pytest.mark.parametrize("pieces", [1, 16], ids=["in one piece", "in pieces"])
def test_trailers_without_an_end_are_cut_at_the_limit_of_a_head(path: bytes, line: bytes, pieces: int) -> None:
    async def test(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(CHUNKED % path)
        piece = line * max(1, 2 * MAX_HEAD // len(line) // pieces)
        sent = 0
        while not server.refused:
            assert sent < 64 * MAX_HEAD, "they are read without end"
            before = server.received
            writer.write(piece)
            sent += len(piece)
            await until(lambda: server.received > before or server.refused, "they arrive")  # noqa: B023
        assert [type(error) for error in server.refused] == [HeadTooLarge]
        await until(lambda: not server.state.connections, "the connection is cut")
        writer.close()

    run(test)


@pytest.mark.parametrize("extension", [b"", b";" + b"x" * 2000])
def test_a_body_in_very_many_chunks_is_no_head(extension: bytes) -> None:
    async def test(server: Server) -> None:
        size = b"1" + extension + b"\r\n"
        pieces = [CHUNKED[: CHUNKED.index(b"2\r\nab")] % b"/elsewhere"]
        for _ in range(100):
            pieces += [size[:-1], size[-1:], b"a", b"\r\n"]
        got = asyncio.create_task(server.ask(*pieces, b"0\r\n\r\n" + request(b"", CLOSE)))
        assert bodies(await got) == [ASGI + b"a" * 100, ASGI]

    run(test)
