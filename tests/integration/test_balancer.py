"""Behind HAProxy, with the configuration of the documents, processes restart in turn and no call fails."""

from __future__ import annotations

import csv
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest

from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.ports import accepts
from localstack.server import Server
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.wait import until
from support.certificates import Certificates
from support.folded_log import PATIENT, PATIENT_MS
from support.for_test import MakeTopics, RedisForTest
from support.skips import haproxy
from support.uic_running import BUNDLE, click

pytestmark = pytest.mark.servers

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
RTP_ENDS = {"RTP_DRAIN__ANNOUNCE_S": "3", "RTP_DRAIN__FINISH_S": "5"}
UIC_ENDS = {"UIC_GRPC__ANNOUNCE_S": "3"}
"""As docs/runbooks/balancer.md says."""
RTP_WAITS = {"RTP_DEADLINE__MAX_MS": PATIENT_MS, "RTP_REDIS__CONNECT_TIMEOUT_MS": PATIENT_MS}
UIC_WAITS = {"UIC_GRPC__TIMEOUT_S": "60"}
"""Restarts are what is tested, and not how long a request takes on a busy machine."""


TO_TLS = "ssl alpn h2 verify required ca-file"
CHECKS_TLS = "check-ssl"
"""What a server of UIC needs on its line, as the configuration says."""


class Haproxy(Server):
    """HAProxy with the documented configuration; `behind` are the documented ports and those that stand for them. With
    `ca`, UIC's ports have TLS."""

    def __init__(self, folder: Path, behind: Mapping[int, int], ca: Path | None = None) -> None:
        super().__init__("haproxy", folder, {"predict": 0, "publish": 0})
        self._program = haproxy()
        self._behind = behind
        self._ca = ca
        self._asked = folder / "asked"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['predict']}"

    def command(self) -> list[str]:
        ports = {8080: self.ports["predict"], 8081: self.ports["publish"], **self._behind}
        text = CONFIGURATION.read_text()
        for documented, port in ports.items():
            text, count = re.subn(rf"(127\.0\.0\.1:|port ){documented}\b", rf"\g<1>{port}", text)
            assert count == 1, documented
        if self._ca is not None:
            assert f"`{TO_TLS} …`, with `{CHECKS_TLS}`" in text
            text, count = re.subn(r"(server uic-.*)", rf"\1 {TO_TLS} {self._ca} {CHECKS_TLS}", text)
            assert count == 2
        path = self.folder / "haproxy.cfg"
        path.write_text(f"global\n    stats socket {self._asked}\n\n{text}")
        return [self._program, "-db", "-f", str(path)]

    def ready(self) -> bool:
        return all(accepts(port) for port in self.ports.values())

    def is_up(self, server: str) -> bool:
        """Whether it has seen that `server` is ready."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._asked))
            connection.sendall(b"show stat\n")
            told = connection.makefile(encoding="utf-8").read().removeprefix("# ")
        return any(row["svname"] == server and row["status"] == "UP" for row in csv.DictReader(told.splitlines()))

    def restart_behind(self, member: Server) -> None:
        """Restart a process behind it, and wait until it is seen."""
        member.restart()
        until(partial(self.is_up, member.name), "the balancer sees it", within_s=60)


class TlsWorker(UicWorker):
    """A worker of UIC whose ports have TLS."""

    def ready(self) -> bool:
        """It listens; the balancer asks for more."""
        return all(accepts(port) for port in self.ports.values())


@contextmanager
def asked(ask: Callable[[], object], failures: Sequence[type[Exception]]) -> Iterator[Callable[[int], None]]:
    """Calls `ask` again and again; what is yielded waits for that many further answers. Fails if one call failed."""
    stop, answers, failed = threading.Event(), [0], list[Exception]()

    def run() -> None:
        while not stop.is_set() and not failed:
            try:
                ask()
                answers[0] += 1
            except tuple(failures) as failure:
                failed.append(failure)

    def wait(further: int) -> None:
        enough = answers[0] + further
        until(partial(lambda n: failed or answers[0] >= n, enough), "calls are answered", within_s=60)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield wait
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


@pytest.fixture
def behind(tmp_path: Path, valkey: RedisForTest, make_topics: MakeTopics, kafka: str) -> Surroundings:
    topics = make_topics(kafka)
    return Surroundings(
        bootstrap=kafka,
        redis_url=valkey.url,
        bundle=BUNDLE,
        topic=topics.events,
        partitions=topics.partitions,
        prefix=valkey.prefix,
        uic=UIC_ENDS | UIC_WAITS,
        rtp=RTP_ENDS | RTP_WAITS,
    )


@contextmanager
def balanced(folder: Path, behind: Surroundings) -> Iterator[tuple[Haproxy, list[UicWorker], list[RtpProcess]]]:
    """Two workers and two processes behind a balancer that has found them all."""
    workers = [UicWorker(f"uic-{i}", folder / f"uic-{i}", behind) for i in (1, 2)]
    processes = [RtpProcess(f"rtp-{i}", folder / f"rtp-{i}", behind) for i in (1, 2)]
    started: list[Server] = []
    try:
        for member in (*workers, *processes):
            member.spawn()
            started.append(member)
        for member in started:
            member.wait_ready()
        of_workers = [(worker.ports["grpc"], worker.ports["admin"]) for worker in workers]
        balancer = Haproxy(
            folder / "haproxy",
            {8000: processes[0].port, 8010: processes[1].port}
            | dict(zip((8001, 8003), of_workers[0], strict=True))
            | dict(zip((8011, 8013), of_workers[1], strict=True)),
        )
        balancer.start()
        started.append(balancer)
        yield balancer, workers, processes
    finally:
        for member in reversed(started):
            member.stop()


@pytest.mark.parametrize("kept_alive", [True, pytest.param(False, marks=pytest.mark.full)])
def test_rtp_processes_restart_in_turn_without_a_failed_request(
    tmp_path: Path, behind: Surroundings, kept_alive: bool
) -> None:
    body = {"user_id": "nobody", "candidates": [{"item_id": 1, "category_id": 1}]}
    limits = httpx.Limits(max_keepalive_connections=8 if kept_alive else 0)
    with balanced(tmp_path, behind) as (balancer, _, processes), httpx.Client(limits=limits, timeout=60) as client:

        def ask() -> None:
            client.post(f"{balancer.address}/predict", json=body, headers=PATIENT).raise_for_status()

        with asked(ask, [httpx.HTTPError]) as wait:
            for process in processes:
                wait(20)
                balancer.restart_behind(process)
            wait(20)


@pytest.mark.full
def test_uic_workers_restart_in_turn_and_each_call_publishes_its_event_once(
    tmp_path: Path, behind: Surroundings
) -> None:
    positions = list[tuple[int, int]]()
    with (
        balanced(tmp_path, behind) as (balancer, workers, _),
        grpc.insecure_channel(f"127.0.0.1:{balancer.ports['publish']}") as channel,
    ):
        stub = UserInterestCenterStub(channel)

        def publish() -> None:
            request = pb.PublishBehaviorsRequest(events=[click("user")])
            (at,) = stub.PublishBehaviors(request, timeout=60).positions
            positions.append((at.partition, at.offset))

        with asked(publish, [grpc.RpcError]) as wait:
            for worker in workers:
                wait(20)
                balancer.restart_behind(worker)
            wait(20)
    first = min(offset for _, offset in positions)
    assert sorted(positions) == [(positions[0][0], first + i) for i in range(len(positions))], "each event once"


@pytest.mark.full
def test_calls_reach_a_worker_whose_ports_have_tls(tmp_path: Path, behind: Surroundings, closed_port: str) -> None:
    issued = Certificates.issue(tmp_path / "tls")
    files = {"CERT_FILE": str(issued.server), "KEY_FILE": str(issued.server_key)}
    told = {f"UIC_{door}__TLS_{name}": file for door in ("GRPC", "ADMIN") for name, file in files.items()}
    worker = TlsWorker("uic-1", tmp_path / "uic-1", replace(behind, uic=UIC_ENDS | UIC_WAITS | told))
    closed = int(closed_port.rpartition(":")[2])
    with worker:
        ports = {8001: worker.ports["grpc"], 8003: worker.ports["admin"]}
        others = dict.fromkeys((8000, 8010, 8011, 8013), closed)
        with Haproxy(tmp_path / "haproxy", ports | others, issued.ca) as balancer:
            until(partial(balancer.is_up, worker.name), "the balancer sees it", within_s=60)
            with grpc.insecure_channel(f"127.0.0.1:{balancer.ports['publish']}") as channel:
                request = pb.PublishBehaviorsRequest(events=[click("user")])
                assert UserInterestCenterStub(channel).PublishBehaviors(request, timeout=60).positions
