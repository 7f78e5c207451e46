"""A real RTP process on a real Valkey: what its users see while the store, the bundle and the process itself change."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from localstack.ports import shared_listener
from localstack.uic_and_rtp import RtpProcess, Surroundings, rtp_variables
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import HeadGraph
from support.bundles import again
from support.stored import Stored, now_ms

pytestmark = pytest.mark.servers

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
CONTEXT = FIXTURES / "bundle_tiny_context/tiny-context/1"
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


class Load:
    """Steady requests from a few keep-alive connections. A failure is anything but a 200 that was read to its end."""

    def __init__(self, port: int, clients: int = 4, pause_s: float = 0.01) -> None:
        self._port = port
        self._pause_s = pause_s
        self._end = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self.models: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.proceed(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def proceed(self, answers: int) -> None:
        """Return after so many more answers or the first failure."""
        enough = self.answers + answers
        until(lambda: self.answers >= enough or self.failures, f"{answers} more answers", within_s=60)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._end.wait(self._pause_s):
            try:
                connection.request("POST", "/predict", body(), PATIENT)
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200:
                    raise ConnectionError(f"{response.status}: {answer!r}")
                self.models[json.loads(answer)["model"]["version"]] += 1
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()


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


@pytest.mark.alone
def test_a_killed_store_degrades_answers_and_its_return_needs_nobody(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    with RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey)) as rtp:
        assert status(rtp) == "warm"
        own_valkey.kill()
        for _ in range(20):
            began = time.monotonic()
            assert status(rtp, deadline_ms=500) == "unavailable"
            assert time.monotonic() - began < 0.5
        assert web().get(f"{rtp.address}/readyz", timeout=60).status_code == 200
        assert web().get(f"{rtp.address}/livez", timeout=60).status_code == 200
        status_code, required = post(rtp, body(require_state=True))
        assert (status_code, required["code"]) == (503, "state_unavailable")
        own_valkey.start()
        back = time.monotonic()
        until(lambda: status(rtp) == "warm", "the state is read again", within_s=60)
        assert time.monotonic() - back < 1.0


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


def repoint(link: Path, target: Path) -> None:
    fresh = link.with_suffix(".new")
    fresh.symlink_to(target)
    fresh.replace(link)


def test_sighup_swaps_a_bundle_without_a_failed_request_and_a_bad_one_changes_nothing(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    current, second = tmp_path / "current", again(tmp_path / "bundles", TINY, version="2")
    bad = tmp_path / "bad/tiny/2"
    shutil.copytree(second, bad)
    (bad / "items.vectors.npy").write_bytes((bad / "items.vectors.npy").read_bytes()[:-4] + b"\0\0\0\1")
    current.symlink_to(TINY)
    with (
        RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey, current)) as rtp,
        Load(rtp.ports["http"]) as load,
    ):
        assert set(load.models) == {"1"}
        repoint(current, second)
        send(rtp, signal.SIGHUP)
        until(lambda: load.models["2"], "version 2 answers", within_s=60)
        once = load.models["1"]
        load.proceed(50)
        assert load.models["1"] <= once + 4, "after the swap nothing is scored by the old one"
        repoint(current, bad)
        send(rtp, signal.SIGHUP)
        until(lambda: metric(rtp, 'rtp_bundle_reloads_total{result="refused"}') == 1, "it is refused", within_s=60)
        refused = web().post(f"{rtp.admin_url}/bundle/reload", timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (409, "reload_refused")
        assert "items.vectors.npy" in refused.json()["detail"]
        assert "items.vectors.npy" in rtp.log.read_text()
        load.proceed(50)
        assert web().get(f"{rtp.admin_url}/bundle", timeout=60).json()["version"] == "2"
    assert load.failures == []
    assert set(load.models) == {"1", "2"}


def test_a_bundle_with_other_states_waits_for_uic(own_valkey: Valkey, stored: Stored, tmp_path: Path) -> None:
    write(own_valkey, stored)
    current = tmp_path / "current"
    current.symlink_to(TINY)
    with RtpProcess("rtp", tmp_path / "rtp", surroundings(own_valkey, current)) as rtp:
        repoint(current, CONTEXT)
        early = web().post(f"{rtp.admin_url}/bundle/reload", timeout=60)
        assert (early.status_code, early.json()["code"]) == (409, "reload_refused")
        assert status(rtp) == "warm"
        folded = Stored(load_bundle(CONTEXT))
        folded.state("warm", events=99)
        write(own_valkey, folded)
        other = web().post(f"{rtp.admin_url}/bundle/reload", timeout=60)
        assert (other.status_code, "a state of other events" in other.json()["detail"]) == (409, True)
        folded.state("warm", events=7)
        write(own_valkey, folded)
        taken = web().post(f"{rtp.admin_url}/bundle/reload", timeout=60)
        assert taken.status_code == 200, taken.text
        assert taken.json()["name"] == "tiny-context"
        answer = ask(rtp, context={"hour": 3})
        assert (answer["model"]["name"], answer["state"]["events"]) == ("tiny-context", 7)


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
        began = time.monotonic()
        assert rtp.child is not None
        ended = rtp.stop(grace_s=10)
        assert time.monotonic() - began < 10
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


def test_two_processes_on_one_socket_restart_in_turn_without_a_failed_request(
    own_valkey: Valkey, stored: Stored, tmp_path: Path
) -> None:
    write(own_valkey, stored)
    listener = shared_listener()
    port = listener.getsockname()[1]

    def process(name: str) -> RtpProcess:
        return RtpProcess(
            name, tmp_path / name, surroundings(own_valkey), port=port, shared_fd=listener.fileno(), admin_port=0
        )

    with listener, process("a") as first, process("b") as second, Load(port) as load:
        for member in (first, second, first, second):
            began = time.monotonic()
            assert member.stop(grace_s=10) == 0
            assert time.monotonic() - began < 10
            load.proceed(30)
            member.start()
            load.proceed(30)
    assert load.failures == []


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


@pytest.mark.parametrize(("version", "first"), [(b"1.0", 408), (b"1.1", 100)])
def test_a_client_of_http_1_0_is_not_told_to_continue(plain: RtpProcess, version: bytes, first: int) -> None:
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/" + version) + b"x-request-deadline-ms: 500\r\ncontent-length: 70\r\n"
    with socket.create_connection(("127.0.0.1", plain.ports["http"]), timeout=60) as connection:
        connection.sendall(head + b"expect: 100-continue\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert int(stream.readline().split()[1]) == first


def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(9):
            connection.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
        status_code, said, _ = answer()
        assert (status_code, said["code"]) == (413, "body_too_large")


def test_a_chunked_body_is_read(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for piece in (body()[:10], body()[10:]):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        assert answer()[0] == 200


def test_a_body_that_stalls_is_408_at_the_deadline_and_nobody_else_waits(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        began = time.monotonic()
        connection.sendall(HEAD + b"x-request-deadline-ms: 200\r\ncontent-length: 100\r\n\r\n{")
        assert status(plain) == "warm"
        status_code, said, _ = answer()
        assert (status_code, said["code"]) == (408, "slow_body")
        assert 0.15 < time.monotonic() - began < 30.0, "half of what every request has to arrive in"


def test_requests_one_after_another_on_one_connection_are_answered_in_order(plain: RtpProcess) -> None:
    with raw(plain) as (connection, answer):
        bodies = [body(request_id=str(i)) for i in range(5)]
        connection.sendall(b"".join(HEAD + LENGTH % len(b) + b for b in bodies))
        assert [answer()[1]["request_id"] for _ in range(5)] == [str(i) for i in range(5)]


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
