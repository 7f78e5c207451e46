"""The load tools on a real RTP: the bare loop serves the same scores, and the generators' figures are of one kind."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from loadtest import bare_loop, wrk
from loadtest.bare_loop import rates
from loadtest.peers.service import BlockingService, Service
from loadtest.peers.wire import PLAIN
from loadtest.population import Population
from loadtest.sending import NotSent, send
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.web import web
from mimn.bundle import load_bundle
from support.skips import NO_WRK
from support.stored import Stored

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/fixtures/bundle_tiny/tiny/1"
_WAITS = ("DEADLINE__DEFAULT_MS", "DEADLINE__MAX_MS", "REDIS__CONNECT_TIMEOUT_MS")
PATIENT = {"RTP_STATE__STALE_AFTER_S": "86400", **{f"RTP_{name}": "30000" for name in _WAITS}}
"""The machine may be busy with other things, and no time is what is tested here."""


@dataclass(frozen=True)
class At:
    """What `rates` needs to know of a stack."""

    predict: str
    redis_url: str
    prefix: str
    bundle: str
    pid: int = 0


@pytest.fixture
def at(own_valkey: Valkey, tmp_path: Path) -> object:
    stored = Stored(load_bundle(TINY))
    for user in range(20):
        stored.state(f"user-{user}")
    with redis.Redis.from_url(own_valkey.address, protocol=2) as client:
        client.mset(cast("dict[str | bytes, bytes]", stored.values))
    with RtpProcess("rtp", tmp_path / "rtp", Surroundings("", own_valkey.address, TINY, rtp=PATIENT)) as rtp:
        assert rtp.child is not None
        yield At(rtp.address, own_valkey.address, "uic", str(TINY), rtp.child.pid)


@pytest.mark.full
def test_the_bare_loop_gives_the_scores_that_rtp_gives(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_loop, "ROUNDS", 2)
    bodies = Population(bundle=TINY, users=20).bodies(5)
    rtp, bare = rates(at, bodies, 2.0)
    assert len(rtp) == len(bare) == 2
    assert min(*rtp, *bare) > 0
    with bare_loop.serving(at) as url:
        for body in bodies:
            headers = {"content-type": "application/json"}
            ours = web().post(f"{at.predict}/predict", content=body, headers=headers, timeout=60).json()
            assert ours["state"]["status"] == "warm"
            assert web().post(url, content=body, timeout=60).json()["scores"] == pytest.approx(ours["scores"], abs=1e-6)


@pytest.mark.full
def test_a_peers_service_gives_the_scores_that_rtp_gives(at: At) -> None:
    bodies = Population(bundle=TINY, users=25).bodies(8)  # some of them have no state
    variables = {"PEER_BUNDLE": at.bundle, "PEER_PREFIX": at.prefix, "PEER_REDIS_URL": at.redis_url}

    async def answers() -> tuple[list[Any], list[Any], list[Any]]:
        service = Service(variables)
        alone = [json.loads(await service.predict(body)) for body in bodies]
        together = [json.loads(body) for body in await service.predict_all(bodies)]
        return alone, together, await service.predict_decoded([json.loads(body) for body in bodies])

    alone, together, decoded = asyncio.run(answers())
    blocking = BlockingService(variables)
    arrays = blocking.scores([blocking.work.read(body) for body in bodies])
    assert alone == together == decoded
    for body, answer, scores in zip(bodies, alone, arrays, strict=True):
        headers = {"content-type": "application/json"}
        ours = web().post(f"{at.predict}/predict", content=body, headers=headers, timeout=60).json()
        assert answer.keys() == ours.keys()
        assert answer["state"]["status"] == ours["state"]["status"]
        assert answer["scores"] == pytest.approx(ours["scores"], abs=1e-5)
        assert scores.tolist() == pytest.approx(ours["scores"], abs=1e-5)


def test_requests_of_a_file_are_sent_as_they_are(at: At, tmp_path: Path) -> None:
    file = tmp_path / "requests.json"
    file.write_text(PLAIN.requests(Population(bundle=TINY, users=20).bodies(5)))
    (run,) = send(at.predict, Population(bundle=TINY), "fixed", rate=20, seconds=1, requests=file, patience_s=60)
    assert (run.phases[0].count, run.phases[0].failed) == (20, 0)
    file.write_text("{}")
    with pytest.raises(NotSent, match="it needs path, headers and bodies"):
        send(at.predict, Population(bundle=TINY), "fixed", rate=20, seconds=1, requests=file)


def test_a_schedule_reaches_rtp_and_its_cpu_time_is_told(at: At) -> None:
    told = {"rate": 20, "seconds": 2, "server_pid": at.pid, "patience_s": 60}
    (run,) = send(at.predict, Population(bundle=TINY, users=20), "fixed", **told)
    (result,) = run.phases
    assert (result.count, result.failed, result.dropped) == (40, 0, 0)
    assert result.server_cpu_ms is not None
    assert 0 < result.server_cpu_ms < 1000


@pytest.mark.full
def test_wrk_asks_for_the_same_scores(at: At) -> None:
    if not wrk.installed():
        pytest.skip(NO_WRK)
    said = wrk.ask(f"{at.predict}/predict", Population(bundle=TINY, users=20).bodies(50), 1)
    assert said.failed == 0
    assert 0 < said.p50_ms <= said.p99_ms
    assert said.per_s > 1
