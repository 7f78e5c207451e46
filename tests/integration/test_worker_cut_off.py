"""One worker is cut off from all brokers, and others are not: it says so, is not ready, and comes back by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from localstack.uic_and_rtp import Surroundings, UicWorker
from localstack.wait import until
from localstack.web import web
from support.cut_off import CutOffKafka, cut_off_kafka
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import BUNDLE, RunningUic, click
from uic.log.observer import UNFIT_S

pytestmark = pytest.mark.servers

TOLD_S = 40
"""Within this, on a busy machine, a worker says that it is cut off or not any more: it looks every 10 s while it is."""
NO_LEASE = "no_lease: no broker has answered for "
SILENT = "log_unavailable: no broker answers at "
RESET = ": Connection reset by peer; it has answered before: "


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[CutOffKafka]:
    with cut_off_kafka(tmp_path) as kafka:
        yield kafka


def readiness(worker: UicWorker) -> tuple[int, str]:
    answer: httpx.Response = web().get(f"{worker.admin_url}/readyz", timeout=60)
    return answer.status_code, answer.text


def serves(worker: UicWorker) -> bool:
    """Whether it is ready, and nothing is degraded."""
    return readiness(worker) == (200, '{"status": "ready", "degraded": []}\n')


def assignments(worker: UicWorker) -> int:
    """How often it was given partitions."""
    return worker.log.read_text().count("event=assigned ")


def holds(worker: UicWorker) -> bool:
    return bool(RunningUic(worker).admin("/partitions")["partitions"])


def assert_told(worker: UicWorker, cut: Callable[[], None], named: str) -> None:
    """A worker that is cut off says so, and then is not ready. It blames no address that has answered it before."""
    seen: list[tuple[int, str]] = []

    def is_out() -> bool:
        if (found := readiness(worker)) not in seen:
            seen.append(found)
        return found[0] == 503

    cut()
    until(is_out, "it is not ready", within_s=TOLD_S + UNFIT_S)
    assert any(status == 200 and named in told for status, told in seen), seen
    assert not [told for _, told in seen if "start Kafka there" in told or "KafkaConnectionError" in told]
    assert NO_LEASE in seen[-1][1]
    assert named in seen[-1][1]
    assert "\nuic_ready 0.0" in web().get(f"{worker.admin_url}/metrics", timeout=60).text


@pytest.mark.full
def test_a_spare_worker_that_is_cut_off_says_so_and_takes_over_when_it_is_not(
    tmp_path: Path, valkey: RedisForTest, brokers: CutOffKafka, make_topics: MakeTopics
) -> None:
    topics = make_topics(brokers.address, 1)

    def made(name: str, bootstrap: str) -> UicWorker:
        around = Surroundings(bootstrap, valkey.url, BUNDLE, topics.events, 1, prefix=valkey.prefix)
        return UicWorker(name, tmp_path / name, around)

    with made("owner", brokers.address) as owner:
        until(lambda: holds(owner), "it has the partition", within_s=60)
        with made("spare", brokers.cut_address) as spare:
            until(lambda: serves(spare), "the spare one is ready", within_s=60)
            assert not holds(spare)
            assert_told(spare, brokers.cut.hang, SILENT + brokers.cut_address)
            assert serves(owner)
            brokers.cut.restore()
            until(lambda: serves(spare), "it is ready by itself", within_s=TOLD_S)
            assert_told(spare, brokers.cut.refuse, SILENT + brokers.cut_address + RESET)
            owner.kill()
            brokers.cut.restore()
            until(lambda: holds(spare), "it takes over", within_s=TOLD_S)
            uic = RunningUic(spare)
            uic.wait_folded(uic.publish(click("u1")))
            until(lambda: serves(spare), "it is as before", within_s=TOLD_S)
            # Now it holds a partition, and nothing is published.
            assert_told(spare, brokers.cut.hang, SILENT + brokers.cut_address)
            assigned = assignments(spare)
            brokers.cut.restore()
            until(lambda: assignments(spare) > assigned, "it has the partition again", within_s=TOLD_S)
            until(lambda: serves(spare), "it is ready by itself again", within_s=TOLD_S)
            uic.wait_folded(uic.publish(click("u1")))
            state = uic.state("u1")
            assert state is not None
            assert state.event_count == 2
            uic.channel.close()
