"""What a connection of RTP makes of requests that are rare, hostile or out of order."""

from __future__ import annotations

import asyncio
import random
import socket
from itertools import pairwise

import pytest

from rtp.doors.protocol import cut_late
from rtp.errors import HeadTooLarge, MalformedHead
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
)
from support.waiting import WITHIN_S, until

H2C = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA")
"""As Java's client and `curl --http2` send it."""

# Upgrades


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([request(b"a", *H2C) + request(b"b", CLOSE)], [DIRECT + b"a", ASGI + b"b"]),
        ([request(b"a", *H2C)[:-1], b"a" + request(b"b", CLOSE)], [ASGI + b"a", ASGI + b"b"]),
        ([request(request(b"x"), *H2C)[:-20], request(b"x")[-20:] + request(b"b", CLOSE)],
         [ASGI + request(b"x"), ASGI + b"b"]),
        ([request(b"a", b"connection: close, Upgrade", b"upgrade: h2c")], [DIRECT + b"a"]),
        ([request(b"", b"connection: upgrade, close", b"upgrade: websocket", start=b"GET /predict HTTP/1.1")], [ASGI]),
        ([request(b"", *H2C, start=b"GET / HTTP/1.1") * 2000 + request(b"b", CLOSE)], [ASGI] * 2000 + [ASGI + b"b"]),
    ],
    ids=["one packet", "its body comes later", "its body looks like a request", "close", "a websocket", "very many"],
)  # fmt: skip
def test_an_upgrade_that_is_offered_is_ignored(sent: list[bytes], answers: list[bytes]) -> None:
    async def test(server: Server) -> None:
        got = await server.ask(*sent)
        assert bodies(got) == answers
        assert got.count(b"connection: close") == 1
        assert server.refused == []

    run(test)


def test_connect_is_refused_and_the_connection_ends() -> None:
    async def test(server: Server) -> None:
        got = await server.ask(request(b"", *H2C, start=b"CONNECT here:80 HTTP/1.1") + request())
        assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert got.count(b"HTTP/1.1 ") == 1
        assert server.asked == 0

    run(test)


# Heads


@pytest.mark.parametrize("header", [b"authorization: Bearer k", b"x-request-deadline-ms: 50"])
def test_space_behind_a_header_is_no_part_of_it(header: bytes) -> None:
    space = b" \t "

    async def test(server: Server) -> None:
        sent = request(b"a", header + space, CLOSE).replace(b"host: here", b"host: here" + space)
        assert bodies(await server.ask(sent)) == [DIRECT + b"a"]
        [head] = server.heads
        assert dict(head)[b"host"] == b"here"
        assert b"%b: %b" % next(one for one in head if header.startswith(one[0])) == header

    run(test)


@pytest.mark.parametrize(
    ("version", "more", "said"),
    [
        (b"2.0", b"", b"HTTP/2.0"),
        (b"1.1", b"transfer-encoding: gzip, chunked\r\n", b"chunked"),
        (b"1.1", b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", b"chunked"),
    ],
    ids=["HTTP/2.0", "gzip", "gzip in a header of its own"],
)
def test_another_version_or_transfer_coding_is_refused(version: bytes, more: bytes, said: bytes) -> None:
    async def test(server: Server) -> None:
        head = b"POST /predict HTTP/%b\r\nhost: here\r\n%b\r\n" % (version, more)
        got = await server.ask(head + b"1\r\na\r\n0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert said in got
        assert got.count(b"HTTP/1.1 400") == 1
        assert server.asked == 0
        assert [type(error) for error in server.refused] == [MalformedHead]

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
def test_trailers_without_an_end_are_cut_at_the_limit(path: bytes, line: bytes) -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(CHUNKED % path)
        piece = line * (2 * MAX_HEAD // len(line) // 16)
        sent = 0
        while not server.refused:
            assert sent < 64 * MAX_HEAD, "they are read without end"
            before = server.received
            writer.write(piece)
            sent += len(piece)
            await until(lambda: server.received > before or server.refused, "they arrive")  # noqa: B023
        assert [type(error) for error in server.refused] == [HeadTooLarge]
        got = await asyncio.wait_for(reader.read(), WITHIN_S)
        assert b"HTTP/1.1 431 " in got
        writer.close()
        await until(lambda: not server.state.connections, "the connection has ended")

    run(test)


def cuts(size: int) -> list[list[int]]:
    """Ways to cut so many bytes in pieces: places, in their order."""
    dice = random.Random(7)
    some = [sorted(dice.sample(range(1, size), dice.choice((1, 2, 3, 40)))) for _ in range(20)]
    return [[], list(range(1000, size, 1000)), list(range(100, size, 100)), *some]


async def fed(server: Server, sent: bytes, at: list[int]) -> bytes:
    """The answer to bytes that are read in these pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await until(lambda: server.state.connections, "it is accepted")
    connection = server.connection
    for begin, end in pairwise([0, *at, len(sent)]):
        connection.data_received(sent[begin:end])
    got = await asyncio.wait_for(reader.read(), WITHIN_S)
    writer.close()
    await until(lambda: not server.state.connections, "it has ended")
    return got


CHUNKED_HEAD = b"POST %b HTTP/1.1\r\nhost: here\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("over", [0, 1], ids=["at the limit", "over it"])
@pytest.mark.parametrize(
    ("before", "line", "behind"),
    [
        (b"", b"2;%b", b"ab\r\n0\r\n\r\n"),
        (b"1;x\r\n\r\r\n" * 300 + b"2\r\nab\r\n", b"0;%b", b"\r\n"),
    ],
    ids=["the first", "the last"],
)
def test_a_chunks_extension_has_one_answer_however_it_is_cut(
    before: bytes, line: bytes, behind: bytes, over: int
) -> None:
    long = line % (b"x" * (MAX_HEAD - 4 + over))  # with the ends of the line before it and of its own
    sent = CHUNKED_HEAD % b"/predict" + before + long + b"\r\n" + behind

    async def test(server: Server) -> None:
        for at in cuts(len(sent)):
            got = await fed(server, sent, at)
            assert got.startswith(b"HTTP/1.1 431 " if over else b"HTTP/1.1 200 "), at

    run(test)


# Refusals behind other requests

NO_HOST = b"GET /refused HTTP/1.1\r\n\r\n"
REFUSALS = {
    "no Host": (NO_HOST + request(b"never"), b"400 Bad Request"),
    "no HTTP": (b"\x00\x01\r\n\r\n", b"400 Bad Request"),
    "a large head": (b"GET /?" + b"x" * MAX_HEAD + b" HTTP/1.1\r\nhost: here\r\n\r\n", b"431 "),
    "a broken body": (CHUNKED[: CHUNKED.index(b"ab")] % b"/elsewhere" + b"abzz\r\n", b"400 Bad Request"),
    "CONNECT": (request(b"", start=b"CONNECT here:80 HTTP/1.1"), b"400 Bad Request"),
}


@pytest.mark.parametrize(("refused", "status"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_comes_after_the_answers_before_it(refused: bytes, status: bytes) -> None:
    async def test(server: Server) -> None:
        got = asyncio.create_task(server.ask(request(b"a") + request(b"b") + refused))
        await until(lambda: server.asked, "the first one is being answered")
        connection = server.connection
        await until(lambda: connection._over or connection._held, "the last one is refused, or held")
        cut_late(server.state.connections, asyncio.get_running_loop().time() + 10**6)
        server.opened.set()
        whole = await got
        said, refusal = whole[: whole.index(b"HTTP/1.1 4")], whole[whole.index(b"HTTP/1.1 4") :]
        assert bodies(said) == [DIRECT + b"a", ASGI + b"b"]
        assert b"connection" not in said
        assert refusal.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in refusal
        assert len(server.refused) == 1

    run(test, shut=True)


def test_a_head_that_is_late_is_refused_after_the_answer_to_the_request_before_it() -> None:
    async def test(server: Server) -> None:
        got = asyncio.create_task(server.ask(request(b"a") + b"GET /"))
        await until(lambda: server.asked, "the first one is being answered")
        cut_late(server.state.connections, asyncio.get_running_loop().time() + ARRIVAL_S + 5)
        server.opened.set()
        answer, refusal = (await got).split(b"HTTP/1.1 408 ")
        assert bodies(answer) == [DIRECT + b"a"]
        assert b"slow_body" in refusal

    run(test, shut=True)


def test_a_client_that_sends_no_more_still_gets_its_answer() -> None:
    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"a") + NO_HOST)
        writer.write_eof()
        await until(lambda: server.asked and not server.connection.cycle.keep_alive, "the end was seen")
        server.opened.set()
        assert bodies(await asyncio.wait_for(reader.read(), WITHIN_S)) == [DIRECT + b"a"]
        writer.close()

    run(test, shut=True)


# Clients that do not read


async def not_reading(server: Server) -> asyncio.StreamWriter:
    """A connection on which nothing is read, with little room on the way."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
    _, writer = await asyncio.open_connection(sock=raw, limit=1)
    await until(lambda: server.state.connections, "it is accepted")
    server.connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return writer


def test_refusals_that_are_not_read_fill_no_memory() -> None:
    async def test(server: Server) -> None:
        server.overloaded = True
        writer = await not_reading(server)
        transport, most = server.connection.transport, 0
        while server.state.connections:
            assert len(server.refused) < 100_000, "they are written without end"
            before = server.received
            writer.write(request() * 100)
            await until(lambda: server.received > before or not server.state.connections, "they arrive")  # noqa: B023
            most = max(most, transport.get_write_buffer_size())
        assert server.refused
        assert most < 1 << 20
        writer.close()

    run(test)


def test_a_client_that_does_not_take_its_answer_is_cut() -> None:
    async def test(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"a"))
        await until(lambda: server.asked, "it is being answered")
        connection, now = server.connection, asyncio.get_running_loop().time()
        connection.pause_writing()
        server.opened.set()
        cut_late(server.state.connections, now + KEEP_ALIVE_S + 5)
        await until(lambda: not server.state.connections and not server.state.tasks, "the connection is cut")
        writer.close()

    run(test, shut=True)
