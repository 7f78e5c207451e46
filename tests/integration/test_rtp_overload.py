"""What an overloaded RTP says on a real socket: a refusal at once, after which the connection goes on, and scores as
many as ever."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from loadtest.client import Target
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.wait import until
from support.world import BUNDLE
from torture.overload import HeavyRtp
from torture.traffic import Audience, server_s
from torture.watching import metric

pytestmark = pytest.mark.servers

DEADLINE = b"x-request-deadline-ms: %d\r\n"
LONG_MS = 60_000
"""A deadline of requests that are answered, however long the machine stalls."""
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


class HeavierRtp(HeavyRtp):
    """One that has a line for long enough to look at."""

    head_s = 0.05


@pytest.fixture(scope="module")
def audience() -> Audience:
    return Audience()


@pytest.fixture(scope="module")
def rtp(tmp_path_factory: pytest.TempPathFactory, audience: Audience) -> Iterator[RtpProcess]:
    """A process whose head takes so long that a hundred requests at once are a line, also on a busy machine."""
    folder = tmp_path_factory.mktemp("overload")
    with Valkey(folder / "valkey", appendfsync="off") as server:
        audience.settle(server)
        told = {"RTP_STATE__STALE_AFTER_S": "86400", "RTP_DEADLINE__MAX_MS": str(LONG_MS)}
        with HeavierRtp("rtp", folder / "rtp", Surroundings("", server.address, BUNDLE, rtp=told)) as process:
            yield process


class Client:
    """One raw connection."""

    def __init__(self, rtp: RtpProcess) -> None:
        self.socket = socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60)
        self.stream = self.socket.makefile("rb")

    def ask(self, body: bytes, deadline_ms: int) -> None:
        self.socket.sendall(HEAD + DEADLINE % deadline_ms + b"content-length: %d\r\n\r\n" % len(body) + body)

    def look(self) -> None:
        """A request that waits for nothing."""
        self.socket.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert self.answer()[0] == 200

    def answer(self) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
        status = int(self.stream.readline().split()[1])
        headers = http.client.parse_headers(self.stream)
        return status, json.loads(self.stream.read(int(headers["content-length"]))), headers

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture
def line(rtp: RtpProcess, audience: Audience) -> Iterator[list[Client]]:
    """Requests with a long deadline that keep the head busy for six seconds."""
    clients = [Client(rtp) for _ in range(120)]
    for client in clients:  # which RTP has accepted before the first of them asks
        client.look()
    for client in clients:
        client.ask(audience.cases[0].body, LONG_MS)
    until(lambda: metric(rtp, "rtp_in_flight") > 80, "there is a line", within_s=60)
    yield clients
    for client in clients:
        assert client.answer()[0] == 200, "who was let in is answered"
        client.close()


@pytest.mark.alone
def test_a_refusal_comes_before_the_line_and_the_connection_goes_on(
    rtp: RtpProcess, audience: Audience, line: list[Client]
) -> None:
    client, body = Client(rtp), audience.cases[1].body
    client.ask(body, 100)
    status, said, headers = client.answer()
    assert (status, said["code"], headers["retry-after"]) == (503, "overloaded", "1")
    assert headers["connection"] is None
    assert server_s(f"server-timing: {headers['server-timing']}\r\n".encode()) < 0.1
    assert metric(rtp, "rtp_in_flight") > 0, "the line is still there: the answer did not wait for it"
    assert metric(rtp, "rtp_answers_total", 'code="overloaded"') >= 1
    client.ask(body, LONG_MS)
    status, answer, _ = client.answer()
    assert status == 200
    assert audience.cases[1].right(answer)
    client.close()


@pytest.mark.alone
@pytest.mark.full
def test_a_body_that_comes_late_or_in_pieces_is_skipped(
    rtp: RtpProcess, audience: Audience, line: list[Client]
) -> None:
    client, body = Client(rtp), audience.cases[1].body
    head = HEAD + DEADLINE % 100
    client.socket.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
    for piece in (body[:10], body[10:]):
        client.socket.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    client.socket.sendall(b"0\r\n\r\n")
    client.ask(body, LONG_MS)
    assert [client.answer()[0] for _ in range(2)] == [503, 200]
    client.close()


@pytest.mark.alone
@pytest.mark.full
def test_requests_behind_another_on_one_connection_are_answered_in_order(
    rtp: RtpProcess, audience: Audience, line: list[Client]
) -> None:
    client, body = Client(rtp), audience.cases[1].body
    for deadline_ms in (LONG_MS, 1, LONG_MS):
        client.ask(body, deadline_ms)
    assert [client.answer()[0] for _ in range(3)] in ([200, 503, 200], [200, 504, 200])
    client.close()
    old = Client(rtp)
    old.socket.sendall(HEAD.replace(b"1.1", b"1.0") + DEADLINE % 1 + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert old.answer()[2]["connection"] == "close"
    old.close()


@pytest.mark.alone
@pytest.mark.full
def test_other_routes_are_answered_while_there_is_a_line(rtp: RtpProcess, line: list[Client]) -> None:
    client = Client(rtp)
    client.look()
    client.close()


# Many connections

MANY, FEW = 300, 8
LASTS_S = 4.0


async def ask_on_and_on(rtp: RtpProcess, bodies: list[bytes], connections: int) -> None:
    """Each connection sends its next request as soon as it has an answer, whatever that is."""
    target = Target(f"{rtp.address}/predict")
    requests = [target.request(body) for body in bodies]
    ends = time.monotonic() + LASTS_S

    async def one(at: int) -> None:
        connection = await target.connect()
        while time.monotonic() < ends:
            status, _ = await connection.post(requests[at % len(requests)])
            assert status in (200, 503, 504)
            at += connections
        connection.close()

    await asyncio.gather(*(one(at) for at in range(connections)))


def test_scores_cost_no_more_when_hundreds_of_connections_ask_again_as_soon_as_they_are_refused(
    audience: Audience, tmp_path: Path
) -> None:
    """By RTP's own processor time, because others use the machine, too.

    A refusal costs about as much as a cheap score, and heads may run as long as refusals take: about half the scores
    remain. When refusals drowned them, 7 to 22 % did.
    """

    def scores_per_cpu_s(rtp: RtpProcess, connections: int) -> float:
        assert rtp.child is not None
        process = psutil.Process(rtp.child.pid)
        scores, cpu_s = metric(rtp, "rtp_head_seconds_count"), sum(process.cpu_times()[:2])
        uvloop.run(ask_on_and_on(rtp, [case.body for case in audience.cases], connections))
        scores = metric(rtp, "rtp_head_seconds_count") - scores
        return scores / float(sum(process.cpu_times()[:2]) - cpu_s)

    with Valkey(tmp_path / "valkey", appendfsync="off") as server:
        audience.settle(server)
        told = {"RTP_STATE__STALE_AFTER_S": "86400"}
        with RtpProcess("rtp", tmp_path / "rtp", Surroundings("", server.address, BUNDLE, rtp=told)) as rtp:
            few, many = scores_per_cpu_s(rtp, FEW), scores_per_cpu_s(rtp, MANY)
    assert many > 0.3 * few, f"{MANY} connections: {many:.0f} scores a CPU second, {FEW}: {few:.0f}"
