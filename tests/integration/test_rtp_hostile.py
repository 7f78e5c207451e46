"""Requests that are odd or made to hurt, on a real RTP: each gets an answer that says what to do, and the next one is
answered as ever."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from struct import pack
from typing import Any, cast

import pytest
import redis

from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from mimn.bundle import load_bundle
from support.stored import Stored
from support.uic_running import BUNDLE

pytestmark = pytest.mark.servers

ONE = b'{"item_id":1,"category_id":1}'
NUL, COMPOSED, DECOMPOSED = "nul\0nul", "caf\u00e9", "cafe\u0301"
"""User ids. The last two look the same, and are two users."""
EVENTS = {NUL: 2, COMPOSED: 3, DECOMPOSED: 5}


@pytest.fixture(scope="module")
def rtp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtpProcess]:
    folder = tmp_path_factory.mktemp("hostile")
    with Valkey(folder / "valkey", appendfsync="off") as server:
        stored = Stored(load_bundle(BUNDLE))
        for user, events in EVENTS.items():
            stored.state(user, events=events)
        with redis.Redis.from_url(server.address, protocol=2) as client:
            client.mset(cast("dict[str | bytes, bytes]", stored.values))
        waits = ("DEADLINE__MAX_MS", "DEADLINE__DEFAULT_MS", "REDIS__CONNECT_TIMEOUT_MS")  # no time is tested here
        told = {"RTP_STATE__STALE_AFTER_S": "86400", **{f"RTP_{name}": "30000" for name in waits}}
        with RtpProcess("rtp", folder / "rtp", Surroundings("", server.address, BUNDLE, rtp=told)) as process:
            yield process
        assert "Traceback" not in process.log.read_text()


def talk(rtp: RtpProcess, sent: bytes) -> bytes:
    """All that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60) as line:
        line.sendall(sent)
        back = b""
        while piece := line.recv(65536):
            back += piece
    return back


def answers(raw: bytes) -> list[tuple[int, Any]]:
    """Status and JSON of the answers in `raw`."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        found.append((int(lines[0].split()[1]), json.loads(rest[:length])))
        raw = rest[length:]
    return found


def post(body: bytes, version: bytes = b"1.1", more: bytes = b"connection: close\r\n") -> bytes:
    head = b"POST /predict HTTP/%s\r\nhost: x\r\ncontent-type: application/json\r\n" % version
    return head + more + b"content-length: %d\r\n\r\n" % len(body) + body


def ask(rtp: RtpProcess, body: bytes, **more: bytes) -> tuple[int, Any]:
    [answer] = answers(talk(rtp, post(body, **more)))
    return answer


def predict(user: str = "u", candidates: bytes = ONE, more: bytes = b"") -> bytes:
    return b'{"user_id":%s,"candidates":[%s]%s}' % (json.dumps(user).encode(), candidates, more)


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b'{"a":' * 10_000, 400, "malformed_body", "nested too deeply"),
        (predict(more=b',"context":{"hour":1e309}'), 422, "invalid_request", "finite number"),
        (predict(candidates=b'{"item_id":%s,"category_id":1}' % (b"9" * 60_000)), 422, "invalid_request", "integer"),
        (b'{"user_id":"\xed\xa0\x80","candidates":[%s]}' % ONE, 400, "malformed_body", "not JSON in UTF-8"),
        (predict(more=b',"%s":1' % (b"x" * 60_000)), 422, "invalid_request", "unknown field: remove it"),
        (predict(user="\u00e9" * 65), 422, "invalid_request", "1 to 128 bytes"),
    ],
    ids=["depth", "1e309", "digits", "a surrogate in UTF-8", "a long name", "a long user id"],
)
def test_a_refusal_says_what_to_do_and_is_no_echo(
    rtp: RtpProcess, body: bytes, status: int, code: str, said: str
) -> None:
    got, problem = ask(rtp, body)
    assert (got, problem["code"]) == (status, code)
    assert said in json.dumps(problem)
    assert len(json.dumps(problem)) < 4096


def test_of_two_equal_keys_none_counts(rtp: RtpProcess) -> None:
    body = b'{"user_id":"nobody","user_id":%s,"candidates":[%s]}' % (json.dumps(COMPOSED).encode(), ONE)
    status, problem = ask(rtp, body)
    assert (status, problem["errors"]) == (422, [{"field": "user_id", "message": "given more than once: keep one"}])


@pytest.mark.parametrize("user", EVENTS)
def test_a_user_is_known_by_the_bytes_of_the_id(rtp: RtpProcess, user: str) -> None:
    status, answer = ask(rtp, predict(user))
    assert (status, answer["state"]["events"]) == (200, EVENTS[user])


def test_http_1_0_is_answered_and_closed(rtp: RtpProcess) -> None:
    assert ask(rtp, predict(), version=b"1.0", more=b"")[0] == 200


def test_many_requests_in_one_packet_are_answered_in_order(rtp: RtpProcess) -> None:
    bodies = [predict(more=b',"request_id":"%d"' % i) for i in range(50)]
    found = answers(talk(rtp, b"".join(post(body, more=b"") for body in bodies[:-1]) + post(bodies[-1])))
    assert [(status, answer["request_id"]) for status, answer in found] == [(200, str(i)) for i in range(50)]


@pytest.mark.parametrize("extension", [b"", b';name="value;\\"quoted"'])
def test_chunks_with_extensions_are_read_for_what_they_hold(rtp: RtpProcess, extension: bytes) -> None:
    body = predict(COMPOSED)
    head = post(b"", more=b"connection: close\r\n").replace(b"content-length: 0", b"transfer-encoding: chunked")
    pieces = [body[:10], body[10:11], body[11:]]
    sent = head + b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension, p) for p in pieces) + b"0%s\r\n\r\n" % extension
    [(status, answer)] = answers(talk(rtp, sent))
    assert (status, answer["state"]["events"]) == (200, EVENTS[COMPOSED])


def test_a_java_client_that_offers_http_2_is_answered(rtp: RtpProcess) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\nupgrade: h2c\r\n"
    whole, behind = post(predict(COMPOSED), more=offer), post(predict(DECOMPOSED))
    with socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60) as line:
        head = whole.index(b"\r\n\r\n") + 4
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(whole[:head])
        line.sendall(whole[head:] + behind)
        found = answers(b"".join(iter(lambda: line.recv(65536), b"")))
    assert [(status, answer["state"]["events"]) for status, answer in found] == [
        (200, EVENTS[COMPOSED]),
        (200, EVENTS[DECOMPOSED]),
    ]


def test_a_client_that_sends_no_more_is_answered_what_it_has_asked(rtp: RtpProcess) -> None:
    ended = predict(more=b',"request_id":"ended"')
    for asked in (post(ended, more=b""), post(ended, more=b"") * 5):
        with socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60) as line:
            line.sendall(asked)
            line.shutdown(socket.SHUT_WR)
            back = b""
            while piece := line.recv(65536):
                back += piece
        assert [answer["request_id"] for _, answer in answers(back)] == ["ended"] * (
            len(asked) // len(post(ended, more=b""))
        )
    with socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60) as line:
        line.sendall(post(ended, more=b"")[:-1])
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1) == b"", "half a request is none"


def test_clients_that_leave_with_requests_waiting_write_nothing_into_the_log(rtp: RtpProcess) -> None:
    asked = post(predict(candidates=b",".join([ONE] * 200)), more=b"") * 4
    before = rtp.log.read_text().count("level=error")
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60) as line:
            line.sendall(asked)
            assert line.recv(1) == b"H", "the first is answered, the next one is begun"
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    assert ask(rtp, predict())[0] == 200
    assert rtp.log.read_text().count("level=error") == before


@pytest.mark.parametrize("target", [b"/\xff", b"/%00", b"http://[::1", b"//x@y:z/"])
def test_an_odd_path_is_refused_and_no_error_of_ours(rtp: RtpProcess, target: bytes) -> None:
    raw = talk(rtp, b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % target)
    assert raw.startswith(b"HTTP/1.1 4"), raw[:200]


def test_an_answer_without_a_body_arrives(rtp: RtpProcess) -> None:
    back = talk(rtp, b"HEAD /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert back.startswith(b"HTTP/1.1 405 ")
    assert back.endswith(b"\r\n\r\n")
