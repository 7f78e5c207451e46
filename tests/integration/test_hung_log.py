"""The reader of a service's log hangs, and its pipe is full: the service serves, says what it dropped, and ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from localstack.server import Server
from localstack.uic_and_rtp import Surroundings, UicWorker
from localstack.wait import until
from support.certificates import Certificates
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import BUNDLE, RunningUic, click

pytestmark = pytest.mark.servers
PIPE_BYTES = 4096
BAD_HANDSHAKES = 300
PATIENT = {"UIC_GRPC__TIMEOUT_S": "60"}
"""For the first call to a broker that has just started."""


@contextmanager
def log_that_hangs(server: Server) -> Iterator[None]:
    """Its log is a pipe that is full, and stays open."""
    server.log.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(server.log)
    pipe = os.open(server.log, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * PIPE_BYTES)
    try:
        yield
    finally:
        server.kill()
        server.log.unlink()
        os.close(pipe)


def test_uic_folds_and_ends_while_nobody_reads_its_log(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, 2)
    worker = UicWorker(
        "uic", tmp_path, Surroundings(kafka, valkey.url, BUNDLE, topics.events, 2, prefix=valkey.prefix, uic=PATIENT)
    )
    with log_that_hangs(worker):
        worker.spawn()
        until(worker.ready, "UIC serves", within_s=worker.ready_s)
        uic = RunningUic(worker)
        uic.wait_folded(uic.publish(click("u1")))
        uic.channel.close()
        assert worker.stop(60) == 0


class TlsUic(UicWorker):
    """UIC whose gRPC port speaks TLS; ready by health, seen through it. Nothing is said to gRPC's C core by us."""

    issued: Certificates

    def environment(self) -> Mapping[str, str]:
        return {name: value for name, value in super().environment().items() if name != "GRPC_VERBOSITY"}

    def ready(self) -> bool:
        credentials = grpc.ssl_channel_credentials(self.issued.ca.read_bytes())
        with grpc.secure_channel(f"localhost:{self.ports['grpc']}", credentials) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def refuse_handshakes(self) -> None:
        """Bring it plain HTTP where it wants TLS, again and again; it closes each connection."""
        for _ in range(BAD_HANDSHAKES):
            with socket.create_connection(("127.0.0.1", self.ports["grpc"]), timeout=60) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                with suppress(ConnectionResetError):
                    while client.recv(4096):
                        pass


@pytest.fixture
def tls_uic(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> TlsUic:
    topics = make_topics(kafka, 2)
    issued = Certificates.issue(tmp_path / "certificates")
    told = {"UIC_GRPC__TLS_CERT_FILE": str(issued.server), "UIC_GRPC__TLS_KEY_FILE": str(issued.server_key)}
    around = Surroundings(kafka, valkey.url, BUNDLE, topics.events, 2, prefix=valkey.prefix, uic=told)
    worker = TlsUic("uic", tmp_path / "uic", around)
    worker.issued = issued
    return worker


def test_uic_serves_and_ends_though_tls_handshakes_fail_while_nobody_reads_its_log(tls_uic: TlsUic) -> None:
    with log_that_hangs(tls_uic):
        tls_uic.spawn()
        until(tls_uic.ready, "UIC serves", within_s=tls_uic.ready_s)
        tls_uic.refuse_handshakes()
        assert tls_uic.ready()
        assert tls_uic.stop(60) == 0
