"""All Sentinels are gone while both services run, or most: nothing fails, and both say that no failover would be made
or followed."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import redis

from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from support.for_test import MakeTopics
from support.sentinel_node import SentinelNode
from support.uic_running import BUNDLE, RunningUic, click
from uic.core.deployment import Severity
from uic.settings import read_settings
from uic.tools.doctor.command import gather
from uic.tools.doctor.diagnosis import diagnose

pytestmark = pytest.mark.servers
LINES = {
    "uic": ("event=sentinels_unavailable", 'event="sentinels_unavailable is over"'),
    "rtp": ('event="the Sentinels ensure no failover"', 'event="the Sentinels ensure failovers again"'),
}


def text(url: str) -> str:
    return web().get(url, timeout=60).text


def behind_sentinels(kafka: str, topic: str, master: Valkey, watchers: list[SentinelNode]) -> Surroundings:
    sentinels = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
    # A question that a busy machine answers late would count as one more loss.
    told = {"MODE": "sentinel", "SENTINELS": sentinels, "SENTINEL_SERVICE": "states"}
    return Surroundings(
        kafka, master.address, BUNDLE, topic, 2,
        uic={f"UIC_REDIS__{name}": value for name, value in told.items()}
        | {"UIC_FOLD__AS_OF_INTERVAL_S": "0.1", "UIC_REDIS__TIMEOUT_S": "20"},
        rtp={f"RTP_REDIS__{name}": value for name, value in told.items()}
        | {"RTP_REDIS__CONNECT_TIMEOUT_MS": "20000", "RTP_REDIS__BACKGROUND_TIMEOUT_MS": "20000"},
    )  # fmt: skip


def test_lost_sentinels_are_told_by_both_services_and_their_return_is(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, 2)
    with ExitStack() as running:
        master = running.enter_context(Valkey(tmp_path / "master"))
        watcher = running.enter_context(SentinelNode(tmp_path / "sentinel", master))
        around = behind_sentinels(kafka, topics.events, master, [watcher])
        uic = running.enter_context(UicWorker("uic", tmp_path / "uic", around))
        rtp = running.enter_context(RtpProcess("rtp", tmp_path / "rtp", around))
        services: dict[str, UicWorker | RtpProcess] = {"uic": uic, "rtp": rtp}

        def up(value: float) -> bool:
            shown = {name: text(f"{service.admin_url}/metrics") for name, service in services.items()}
            return all(f"\n{name}_sentinels_up {value}" in metrics for name, metrics in shown.items())

        until(lambda: up(1.0), "both were told the master", within_s=60)
        watcher.kill()
        until(lambda: up(0.0), "both miss the Sentinels", within_s=60)
        for name, service in services.items():
            silent = f"no Sentinel of {name.upper()}_REDIS__SENTINELS answers: 127.0.0.1:{watcher.port} "
            until(partial(ready_and_says, service, f"{silent}(Connection refused)"), "it is told", within_s=60)
        assert "sentinels_unavailable: no Sentinel" in text(f"{uic.admin_url}/readyz")
        calls = RunningUic(uic)
        calls.wait_folded(calls.publish(click("u1")))
        calls.channel.close()
        watcher.start()
        until(lambda: up(1.0), "both are told the master again", within_s=60)
        until(lambda: "sentinels_unavailable" not in text(f"{uic.admin_url}/readyz"), "UIC is as before", within_s=60)
        for service in services.values():
            until(partial(told_once, service), "the loss and the return are a line each", within_s=60)


@pytest.mark.full
def test_a_lost_quorum_is_told_by_both_services_and_the_doctor_and_its_return_is(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(kafka, 2)
    with ExitStack() as running:
        master = running.enter_context(Valkey(tmp_path / "master"))
        watchers = [
            running.enter_context(SentinelNode(tmp_path / f"sentinel-{i}", master, quorum=2, down_after_ms=10_000))
            for i in range(3)
        ]
        until(lambda: all(map(reaches_quorum, watchers)), "the Sentinels have found each other", within_s=60)
        around = behind_sentinels(kafka, topics.events, master, watchers)
        uic = running.enter_context(UicWorker("uic", tmp_path / "uic", around))
        rtp = running.enter_context(RtpProcess("rtp", tmp_path / "rtp", around))
        for name, value in uic.environment().items():
            if name.startswith("UIC_"):
                monkeypatch.setenv(name, value)

        def up(value: float) -> bool:
            shown = {"uic": text(f"{uic.admin_url}/metrics"), "rtp": text(f"{rtp.admin_url}/metrics")}
            return all(f"\n{name}_sentinels_up {value}" in metrics for name, metrics in shown.items())

        until(lambda: up(1.0), "both know that there is a quorum", within_s=60)
        assert quorum_for_the_doctor() == (Severity.OK, "")
        for watcher in watchers[:2]:
            watcher.kill()
        until(lambda: up(0.0), "both miss the quorum", within_s=60)
        said = (
            f"the Sentinels are too few to replace the master 'states' if it fails: 127.0.0.1:{watchers[2].port} says"
        )
        for service in (uic, rtp):
            until(partial(ready_and_says, service, f"{said} NOQUORUM 1 usable Sentinels."), "it is told", within_s=60)
        verdict, fix = quorum_for_the_doctor()
        assert verdict is Severity.FAIL
        assert "start the Sentinels that are missing" in fix
        calls = RunningUic(uic)
        calls.wait_folded(calls.publish(click("u1")))
        calls.channel.close()
        for watcher in watchers[:2]:
            watcher.start()
        until(lambda: up(1.0), "both know that there is a quorum again", within_s=60)
        assert quorum_for_the_doctor() == (Severity.OK, "")
        for service in (uic, rtp):
            until(partial(told_once, service), "the loss and the return are a line each", within_s=60)


def told_once(service: UicWorker | RtpProcess) -> bool:
    """Whether its log says both once. The line of the return may come just after the metric."""
    log = service.log.read_text()
    return [log.count(event) for event in LINES["uic" if isinstance(service, UicWorker) else "rtp"]] == [1, 1]


def reaches_quorum(watcher: SentinelNode) -> bool:
    with redis.Redis.from_url(watcher.address) as client, suppress(redis.ResponseError):
        client.execute_command("SENTINEL", "CKQUORUM", "states")
        return True
    return False


def quorum_for_the_doctor() -> tuple[Severity, str]:
    """What it finds, and what it says to do."""
    settings = read_settings()
    [found] = [one for one in diagnose(gather(settings, 5.0), settings) if one.check == "sentinel quorum"]
    return found.verdict, found.fix


def ready_and_says(service: UicWorker | RtpProcess, what: str) -> bool:
    """Whether /readyz has it, though the service is ready."""
    said = text(f"{service.admin_url}/readyz")
    assert '"ready"' in said
    return what in said
