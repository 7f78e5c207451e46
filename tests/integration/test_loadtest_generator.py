"""The load generator tells the truth: a freeze shows at the percentile that it deserves, and what was not achieved is
no latency. Each test starts the documented command against a server that misbehaves in a known way.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.population import Population
from loadtest.result import Run
from loadtest.sending import NotSent, send
from loadtest.stacks import Client
from localstack.ports import free_port
from support.certificates import Certificates, TlsFront
from support.wayward_server import server

ROOT = Path(__file__).resolve().parents[2]
ASKING = Population(bundle=ROOT / "tests/fixtures/bundle_tiny/tiny/1", users=5, candidates=2)
BEFORE = 21
"""Requests that come before those of the schedule: one that asks who is there, and a second's worth of warmth."""


@pytest.mark.alone
def test_a_server_that_freezes_shows_at_its_percentile_and_hides_from_a_closed_loop() -> None:
    """Of five seconds two are frozen: two fifths of the requests were due meanwhile, and waited from 2 s down to 0."""
    began, seen = 0.0, threading.Event()

    def behave(number: int) -> tuple[float, int, bool]:
        nonlocal began
        now = time.monotonic()
        if number == BEFORE:
            began = now
            seen.set()
        frozen = number >= BEFORE and 1.5 <= now - began < 3.5
        return began + 3.5 - now if frozen else 0.0, 200, False

    runs: list[Run] = []
    waited_s: list[float] = []
    with server(behave) as url:
        options = {"rate": 100, "seconds": 5, "patience_s": 9}
        sending = threading.Thread(target=lambda: runs.extend(send(url, ASKING, "fixed", **options)))
        sending.start()
        assert seen.wait(60)
        closed = Client(url)
        while time.monotonic() < began + 5:
            waited_s.append(closed.post(b"{}"))
            time.sleep(0.005)
        sending.join()
    (open_loop,) = runs[0].phases
    assert (open_loop.count, open_loop.failed, open_loop.dropped) == (500, 0, 0)
    # The requests that waited longer than x are those that were due in the first 2 s - x of the freeze. A busy machine
    # adds its own stalls; who starts the clock when a request is sent, and not when it was due, finds milliseconds.
    assert open_loop.quantile_ms(0.9) == pytest.approx(2000 - 0.1 * 5000, abs=700)
    assert open_loop.quantile_ms(0.99) == pytest.approx(2000 - 0.01 * 5000, abs=700)
    assert open_loop.quantile_ms(0.5) < 700
    assert max(waited_s) > 1.0, "the closed loop met the same freeze"
    assert np.quantile(waited_s, 0.9) < 0.5, "and hides it, for it asked for nothing meanwhile"


def test_a_server_that_cannot_keep_up_is_saturated_and_what_was_never_sent_is_told(tmp_path: Path) -> None:
    """Fifty answers a second at most, of two hundred that are due."""
    with server(lambda _: (0.02, 200, False), one_at_a_time=True) as url:
        (run,) = send(url, ASKING, "fixed", rate=200, seconds=2, users=5, patience_s=0.3, gaps="poisson")
    (result,) = run.phases
    assert result.saturated
    assert result.to_json()["quantiles_ms"] == {}
    assert result.achieved_per_s < 60
    assert result.dropped > 0
    assert result.count + result.failed + result.dropped == result.due


def test_answers_that_are_not_scores_are_errors_by_kind_and_no_latencies() -> None:
    def behave(number: int) -> tuple[float, int, bool]:
        return 0.0, 503 if number >= BEFORE and number % 4 == 0 else 200, number % 3 == 0  # which closes it

    with server(behave) as url:
        (run,) = send(url, ASKING, "step", rates="50,100", seconds=1, patience_s=60)
    assert [result.due for result in run.phases] == [50, 100]
    assert sum((result.errors for result in run.phases), start=run.phases[0].errors.__class__()) == {"HTTP 503": 37}
    assert sum(result.count for result in run.phases) == 113
    assert not run.trusted
    assert 0 < run.generator_cpu < 1


@pytest.mark.alone
@pytest.mark.full
def test_the_knee_lies_below_what_the_server_can_do() -> None:
    """One answer every 20 ms: fifty a second. A stall of the machine can end a search early, but not three of them."""
    for _ in range(3):
        with server(lambda _: (0.02, 200, False), one_at_a_time=True) as url:
            runs = send(url, ASKING, "knee", start=10, factor=2, most=300, seconds=1.5, halvings=1, least=1)
        offered = [round(run.phases[0].offered_per_s) for run in runs]
        saturated = [rate for rate, run in zip(offered, runs, strict=True) if run.phases[0].saturated]
        assert saturated
        assert min(saturated) <= 80
        if min(saturated) > 10:
            break
    assert offered[:2] == [10, 20]
    assert min(saturated) > 10


def test_a_wrong_address_or_key_is_one_error_that_says_what_to_do(tmp_path: Path, closed_port: str) -> None:
    with pytest.raises(NotSent, match=r"status 2: loadtest: .*[Cc]onnect"):
        send(f"http://{closed_port}", ASKING, "fixed")
    heads: list[str] = []
    key = tmp_path / "key"
    key.write_text("ctr_secret\n")
    with server(lambda _: (0.0, 401, False), heads=heads) as url, pytest.raises(NotSent, match="--key-file"):
        send(url, ASKING, "fixed", key_file=key, deadline_ms=70)
    assert len(heads) == 1, "a key that is refused is not sent a thousand times"
    told = heads[0].lower()
    assert "authorization: bearer ctr_secret" in told
    assert "x-request-deadline-ms: 70" in told


def test_a_wrong_bundle_is_one_error_and_nothing_was_sent(tmp_path: Path) -> None:
    wrong = replace(ASKING, bundle=tmp_path)
    with pytest.raises(NotSent, match=rf"status 2: loadtest: .*{tmp_path}"):
        send(f"http://127.0.0.1:{free_port()}", wrong, "fixed")


def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = Certificates.issue(tmp_path)
    with server(lambda _: (0.0, 200, False)) as plain, TlsFront(certificates, int(plain.rpartition(":")[2])) as front:
        url = f"https://127.0.0.1:{front.port}"
        with pytest.raises(NotSent, match=r"status 2: loadtest: .*certificate"):
            send(url, ASKING, "fixed", rate=20, seconds=1)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        (run,) = send(url, ASKING, "fixed", rate=20, seconds=1, patience_s=60)
    assert (run.phases[0].count, run.phases[0].failed) == (20, 0)


@contextmanager
def soaking(url: str, *, rate: int) -> Iterator[subprocess.Popen[str]]:
    """The documented command, for ten minutes; killed if it is still there at the end."""
    command = [sys.executable, "-m", "loadtest", "soak", "--host", url, "--rate", str(rate), "--seconds", "600"]
    environment = {**os.environ, **ASKING.environment()}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as soak:
        try:
            yield soak
        finally:
            soak.kill()


def test_a_soak_that_is_ended_tells_what_there_was() -> None:
    enough = threading.Event()

    def behave(number: int) -> tuple[float, int, bool]:
        if number == BEFORE + 80:
            enough.set()
        return 0.0, 200, False

    with server(behave) as url, soaking(url, rate=50) as soak:
        assert enough.wait(60)
        soak.send_signal(signal.SIGTERM)
        said, _ = soak.communicate(timeout=60)
    assert soak.returncode == 130, said
    offered = re.match(r"part 1 of 10: offered (\d+\.\d)/s", said)
    assert offered is not None, said
    assert 10 < float(offered[1]) <= 55, "as many as were due until then, and not until the minute's end"
    assert "cut short" in said


ENDED_BY_A_USER = """
import json, os, signal, sys
from loadtest.generator import Asking, Generator
from loadtest.schedule import Schedule, fixed

class Bodies(list):
    def __getitem__(self, n):
        global taken
        taken += 1
        if taken == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(n)

taken = 0
with Generator(sys.argv[1], Asking(Bodies([b"{}"]))) as generator:
    runs = [generator.run(Schedule(fixed(50, 600))) for _ in range(2)]
print(json.dumps([[run.cut, sum(p.due for p in run.phases), sum(p.count for p in run.phases)] for run in runs]))
"""


def test_a_signal_while_a_user_runs_ends_the_run_and_not_the_user() -> None:
    """Python's own handler would raise in the user's greenlet, and the run would wait for its request forever."""
    with server(lambda _: (0.0, 200, False)) as url:
        ended = subprocess.run(
            [sys.executable, "-c", ENDED_BY_A_USER, url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    (cut, due, count), later = json.loads(ended.stdout)
    assert cut
    assert due == count, "the user's own request was answered, too"
    assert 30 <= due < 50 * 600, "it ended there and then"
    assert later == [True, 0, 0], "and nothing follows"


def test_locust_alone_drives_the_same_schedule(tmp_path: Path) -> None:
    heads: list[str] = []
    (tmp_path / "key").write_text("ctr_secret\n")
    with server(lambda _: (0.0, 200, False), heads=heads) as url:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py"), "--host", url),
                *("--headless", "-u", "20", "-r", "20", "--only-summary", "--json-file", str(tmp_path / "summary")),
                *("--rate", "50", "--seconds", "2"),
            ],
            cwd=tmp_path,
            env={**ASKING.environment(), "LOADTEST_KEY_FILE": str(tmp_path / "key"), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (predict,) = json.loads((tmp_path / "summary.json").read_text())
    assert (predict["num_requests"], predict["num_failures"]) == (100, 0)
    assert "offered 50.0/s" in done.stdout, "the exact figures come at the end"
    assert {"authorization: bearer ctr_secret" in head.lower() for head in heads} == {True}
