"""A real RTP process on a real Valkey: what its users see while the store, the bundle and the process itself change."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from localstack.uic_and_rtp import RtpProcess, Surroundings, rtp_variables
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import HeadGraph
from support.stored import Stored, now_ms

pytestmark = pytest.mark.servers

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
CANDIDATES: list[dict[str, int | str]] = [
    {"item_id": 3, "category_id": 2},
    {"item_id": "17", "category_id": "5"},
    {"item_id": 999, "category_id": 0},
]
FAST = {"RTP_STATE__REFRESH_EVERY_S": "0.1", "RTP_DRAIN__LINGER_S": "0.5", "RTP_DEADLINE__MAX_MS": "60000"}
PATIENT_MS = 30_000
PATIENT = {"content-type": "application/json", "x-request-deadline-ms": str(PATIENT_MS)}
"""For requests whose time is not what is tested: other programs share the machine."""


def write(server: Valkey, stored: Stored) -> None:
    with redis.Redis.from_url(server.address, protocol=2) as client:
        client.mset(cast("dict[str | bytes, bytes]", stored.values))


def surroundings(server: Valkey, bundle: Path = TINY, **variables: str) -> Surroundings:
    return Surroundings("", server.address, bundle, rtp={**FAST, **variables})


@pytest.fixture
def stored() -> Stored:
    stored = Stored(load_bundle(TINY))
    stored.state("warm", events=7)
    return stored


def body(user_id: str = "warm", **fields: Any) -> bytes:
    return json.dumps({"user_id": user_id, "candidates": CANDIDATES, **fields}).encode()


def post(rtp: RtpProcess, content: bytes, deadline_ms: int = PATIENT_MS) -> tuple[int, dict[str, Any]]:
    """Status and JSON. A plain client, because a heavy one would slow the server on a small machine."""
    connection = http.client.HTTPConnection("127.0.0.1", rtp.ports["http"], timeout=60)
    headers = {"content-type": "application/json", "x-request-deadline-ms": str(deadline_ms)}
    connection.request("POST", "/predict", content, headers)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def ask(rtp: RtpProcess, user_id: str = "warm", deadline_ms: int = PATIENT_MS, **fields: Any) -> dict[str, Any]:
    status_code, answer = post(rtp, body(user_id, **fields), deadline_ms)
    assert status_code == 200, answer
    return answer


def status(rtp: RtpProcess, user_id: str = "warm", deadline_ms: int = PATIENT_MS) -> str:
    return cast("str", ask(rtp, user_id, deadline_ms)["state"]["status"])


def metric(rtp: RtpProcess, name: str) -> float:
    for line in web().get(f"{rtp.admin_url}/metrics", timeout=60).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def send(rtp: RtpProcess, sign: signal.Signals) -> None:
    assert rtp.child is not None
    rtp.child.send(sign)


def expected(bundle: Bundle, state: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    items = np.array([int(c["item_id"]) for c in CANDIDATES], np.uint64)
    categories = np.array([int(c["category_id"]) for c in CANDIDATES], np.uint64)
    head = HeadGraph(bundle)
    return cast("list[float]", head(bundle.vectors(items, categories), state, np.zeros(0, np.float32)).tolist())


def test_what_the_scores_rest_on(own_valkey: Valkey, stored: Stored, tmp_path: Path) -> None:
    lagging = next(user for user in map(str, range(99)) if stored.partition(user) != stored.partition("warm"))
    stored.state(lagging, events=2)
    stored.state("broken")
    stored.values[stored.key("broken")] = stored.values[stored.key("broken")][:-1] + b"\x01"
    stored.progress(stored.partition(lagging), as_of_ms=now_ms() - 3_600_000)
    write(own_valkey, stored)
    cold = next(f"c{i}" for i in range(99) if stored.partition(f"c{i}") == stored.partition("warm"))
    with RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey)) as rtp:
        warm = ask(rtp)
        assert warm["state"] == {"status": "warm", "events": 7, "age_ms": warm["state"]["age_ms"], "partial": False}
        assert warm["model"] == {"name": "tiny", "version": "1"}
        golden = stored.bundle.golden.states
        np.testing.assert_allclose(warm["scores"], expected(stored.bundle, golden[4 % len(golden)]), atol=1e-5)
        unknown = ask(rtp, cold)
        assert (unknown["state"]["status"], unknown["state"]["events"]) == ("cold", 0)
        np.testing.assert_allclose(unknown["scores"], expected(stored.bundle, stored.bundle.initial_state), atol=1e-5)
        stale = ask(rtp, lagging)["state"]
        assert (stale["status"], stale["events"]) == ("stale", 2)
        assert stale["age_ms"] >= 3_600_000
        broken = ask(rtp, "broken")
        assert broken["state"]["status"] == "unavailable"
        assert broken["scores"] == unknown["scores"]
        assert metric(rtp, 'rtp_unreadable_states_total{error="CorruptState"}') == 1


def test_a_killed_store_degrades_answers_and_its_return_needs_nobody(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    with RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey)) as rtp:
        assert status(rtp) == "warm"
        own_valkey.kill()
        for _ in range(20):
            assert status(rtp) == "unavailable"
        assert web().get(f"{rtp.address}/readyz", timeout=60).status_code == 200
        assert web().get(f"{rtp.address}/livez", timeout=60).status_code == 200
        status_code, required = post(rtp, body(require_state=True))
        assert (status_code, required["code"]) == (503, "state_unavailable")
        own_valkey.start()
        until(lambda: status(rtp) == "warm", "the state is read again", within_s=60)


@pytest.mark.full
@pytest.mark.alone
def test_a_store_that_hangs_costs_no_request_its_deadline(own_valkey: Valkey, stored: Stored, tmp_path: Path) -> None:
    write(own_valkey, stored)
    with RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey)) as rtp:
        assert status(rtp) == "warm"
        own_valkey.freeze()
        took_s = []
        for _ in range(30):
            began = time.monotonic()
            assert status(rtp, deadline_ms=400) == "unavailable"
            took_s.append(time.monotonic() - began)
        assert max(took_s) < 0.4
        assert sorted(took_s)[len(took_s) // 2] < 0.1, "after a few late replies requests do not wait for the store"
        own_valkey.thaw()
        until(lambda: status(rtp) == "warm", "the state is read again", within_s=60)
        answers = [ask(rtp, user) for user in ("warm", "unknown") * 10]
        assert [answer["state"]["status"] for answer in answers] == ["warm", "cold"] * 10, "no late reply was taken"


def test_requests_at_once_on_a_store_that_hangs_are_all_answered(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    with RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey)) as rtp:
        own_valkey.freeze()
        with ThreadPoolExecutor(30) as pool:
            said = list(pool.map(lambda _: status(rtp, deadline_ms=1000), range(60)))
        own_valkey.thaw()
        assert said == ["unavailable"] * 60


# Swapping the bundle


# The end of a process


def test_requests_in_flight_are_answered_before_the_process_ends(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    # Only the test ends what the requests wait for: on a busy machine they may not see it begin and end in seconds.
    told: dict[str, Any] = {"RTP_DRAIN__LINGER_S": "1", "RTP_REDIS__BACKGROUND_TIMEOUT_MS": "60000"}
    rtp = RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey, **told))
    with rtp, ThreadPoolExecutor(4) as pool:
        own_valkey.freeze()
        asked = [pool.submit(status, rtp) for _ in range(4)]
        until(lambda: metric(rtp, "rtp_in_flight") == 4, "four requests wait for the store", within_s=60)
        send(rtp, signal.SIGTERM)
        until(lambda: web().get(f"{rtp.admin_url}/readyz").status_code == 503, "it is not ready any more", within_s=60)
        own_valkey.kill()
        ended = rtp.stop(grace_s=60)
        assert [answer.result() for answer in asked] == ["unavailable"] * 4
        assert ended == 0


def test_a_draining_process_tells_clients_to_close_and_takes_no_new_ones(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    settings = surroundings(own_valkey, RTP_DRAIN__LINGER_S="8", RTP_DRAIN__FINISH_S="1")
    with RtpProcess("rtp", tmp_path / "rtp", settings) as rtp:
        kept = http.client.HTTPConnection("127.0.0.1", rtp.ports["http"], timeout=60)
        kept.request("POST", "/predict", body(), PATIENT)
        first = kept.getresponse()
        assert first.read()
        assert not first.will_close
        send(rtp, signal.SIGTERM)
        until(lambda: not accepts(rtp.ports["http"]), "it does not accept any more", within_s=60)
        kept.request("POST", "/predict", body(), PATIENT)
        last = kept.getresponse()
        assert last.status == 200
        assert last.read()
        assert last.will_close


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# The wire


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtpProcess]:
    """A process on a store that holds one warm user."""
    folder = tmp_path_factory.mktemp("plain")
    with Valkey(folder / "valkey", appendfsync="no") as server:
        stored = Stored(load_bundle(TINY))
        stored.state("warm", events=7)
        write(server, stored)
        with RtpProcess("rtp", folder / "rtp", surroundings(server, RTP_HTTP__ARRIVAL_S="60")) as rtp:
            yield rtp


Answer = tuple[int, dict[str, Any], bool]


@contextmanager
def raw(rtp: RtpProcess) -> Iterator[tuple[socket.socket, Callable[[], Answer]]]:
    """A plain connection, and a function that reads the next answer: status, JSON, whether the server closes."""
    with socket.create_connection(("127.0.0.1", rtp.ports["http"]), timeout=60) as connection:
        stream = connection.makefile("rb")

        def answer() -> Answer:
            status_code = int(stream.readline().split()[1])
            headers = http.client.parse_headers(stream)
            content = stream.read(int(headers["content-length"]))
            return status_code, json.loads(content), headers["connection"] == "close"

        yield connection, answer
        stream.close()


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LENGTH = b"x-request-deadline-ms: 30000\r\ncontent-length: %d\r\n\r\n"


def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        connection.sendall(HEAD + b"content-length: 70000\r\nexpect: 100-continue\r\n\r\n")
        status_code, said, _ = answer()
        assert (status_code, said["code"]) == (413, "body_too_large")


def test_a_client_of_http_1_0_is_not_told_to_continue(plain: RtpProcess) -> None:
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"x-request-deadline-ms: 500\r\ncontent-length: 70\r\n"
    with socket.create_connection(("127.0.0.1", plain.ports["http"]), timeout=60) as connection:
        connection.sendall(head + b"expect: 100-continue\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert int(stream.readline().split()[1]) == 408


def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(9):
            connection.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
        status_code, said, _ = answer()
        assert (status_code, said["code"]) == (413, "body_too_large")


def test_a_body_that_stalls_is_408_at_the_deadline_and_nobody_else_waits(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        began = time.monotonic()
        connection.sendall(HEAD + b"x-request-deadline-ms: 200\r\ncontent-length: 100\r\n\r\n{")
        assert status(plain) == "warm"
        status_code, said, _ = answer()
        assert (status_code, said["code"]) == (408, "slow_body")
        assert 0.15 < time.monotonic() - began < 30.0, "half of what every request has to arrive in"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", "malformed_body"), (b"{}", "invalid_request"), (body()[:-1] + b', "x": 1}', "invalid_request")],
)
def test_a_mistake_is_told_and_the_connection_stays(plain: RtpProcess, content: bytes, code: str) -> None:
    with raw(plain) as (connection, answer):
        for sent, want in ((content, code), (body(), None)):
            connection.sendall(HEAD + LENGTH % len(sent) + sent)
            _, said, closes = answer()
            assert (said.get("code"), closes) == (want, False)


def test_a_client_that_goes_away_is_forgotten(plain: RtpProcess) -> None:
    for _ in range(20):
        with raw(plain) as (connection, _):
            connection.sendall(HEAD + LENGTH % len(body()) + body()[:20])
        with raw(plain) as (connection, _):
            connection.sendall(HEAD + LENGTH % len(body()) + body())
    assert status(plain) == "warm"
    until(lambda: metric(plain, "rtp_in_flight") == 0, "nothing is left in flight", within_s=60)
    assert "Traceback" not in plain.log.read_text()


def test_a_port_that_is_taken_is_said_at_once(own_valkey: Valkey, plain: RtpProcess) -> None:
    told = rtp_variables(surroundings(own_valkey), port=plain.ports["http"], admin_port=0)
    ended = subprocess.run(
        [sys.executable, "-m", "rtp"],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert "Address already in use" in ended.stderr
    assert "RTP_HTTP__PORT" in ended.stderr
