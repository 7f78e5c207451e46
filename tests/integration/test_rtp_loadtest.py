"""The load tools on a real RTP: the bare loop serves the same scores, and locust's file runs as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import pytest
import redis

from loadtest import bare_loop
from loadtest.bare_loop import rates
from loadtest.open_loop import Schedule, drive
from loadtest.population import Population
from localstack.servers import Valkey
from localstack.services import RtpProcess, Surroundings
from mimn.bundle import load_bundle
from stored import Stored

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/fixtures/bundle_tiny/tiny/1"


@dataclass(frozen=True)
class At:
    """What `rates` needs to know of a stack."""

    predict: str
    redis_url: str
    prefix: str
    bundle: str


@pytest.fixture
def at(own_valkey: Valkey, tmp_path: Path) -> object:
    stored = Stored(load_bundle(TINY))
    for user in range(20):
        stored.state(f"user-{user}")
    with redis.Redis.from_url(own_valkey.address, protocol=2) as client:
        client.mset(cast("dict[str | bytes, bytes]", stored.values))
    with RtpProcess("rtp", tmp_path / "rtp", Surroundings("", own_valkey.address, TINY)) as rtp:
        yield At(rtp.address, own_valkey.address, "uic", str(TINY))


def test_the_bare_loop_gives_the_scores_that_rtp_gives(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_loop, "ROUNDS", 2)
    bodies = Population(bundle=TINY, users=20).bodies(5)
    rtp, bare = rates(at, bodies, 2.0)
    assert len(rtp) == len(bare) == 2
    assert min(*rtp, *bare) > 0
    with bare_loop.serving(at) as url:
        for body in bodies:
            headers = {"content-type": "application/json"}
            ours = httpx.post(f"{at.predict}/predict", content=body, headers=headers).json()
            assert ours["state"]["status"] == "warm"
            assert httpx.post(url, content=body).json()["scores"] == pytest.approx(ours["scores"], abs=1e-6)


def test_an_open_loop_reaches_rtp(at: At) -> None:
    result = drive(f"{at.predict}/predict", Population(bundle=TINY, users=20).bodies(50), Schedule(20, 2))
    assert (result.count, result.errors) == (40, 0)


def test_locust_runs_our_file_as_it_is(at: At, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py"), "--host", at.predict),
        *("--headless", "-u", "2", "-r", "2", "-t", "3s", "--only-summary", "--json-file", str(tmp_path / "summary")),
    ]
    environment = {"LOADTEST_BUNDLE": str(TINY), "LOADTEST_USERS": "20", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (predict,) = json.loads((tmp_path / "summary.json").read_text())
    assert (predict["name"], predict["num_failures"]) == ("/predict", 0)
    assert predict["num_requests"] > 5
