"""The files of TLS to Kafka change under a running worker, on a real Kafka that asks for a client certificate: a new
certificate is taken up, one that cannot be used is named, and a mount that hangs is told and does not keep the worker
from ending."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from localstack.wait import until
from localstack.web import web
from support.certificates import Certificates, TlsFront
from support.for_test import RedisForTest
from support.secured_kafka import SecuredKafka, secured_kafka
from support.uic_running import BUNDLE, RunningUic, click, running_uic

pytestmark = pytest.mark.servers

ENDS_S = 150
"""Within this a worker ends whose reader of the log is blocked: a minute after it noticed that it must connect again,
on a busy machine."""


@dataclass(frozen=True)
class InUse:
    """The files that a worker is told; a test replaces them."""

    certificate: Path
    key: Path
    issued: Certificates

    @classmethod
    def of(cls, issued: Certificates, folder: Path) -> InUse:
        made = cls(folder / "in-use.pem", folder / "in-use.key", issued)
        made.put_back()
        return made

    def put_back(self) -> None:
        """As a renewal does: write beside it, and rename."""
        for file, new in ((self.certificate, self.issued.client), (self.key, self.issued.client_key)):
            shutil.copy(new, beside := file.with_suffix(".new"))
            beside.rename(file)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Who reads the certificate waits, as of a mount that hangs, until the end."""
        fifo = self.certificate.with_suffix(".fifo")
        os.mkfifo(fifo)
        os.link(fifo, beside := self.certificate.with_suffix(".new"))
        beside.rename(self.certificate)
        try:
            yield
        finally:
            self.put_back()
            with suppress(OSError):  # nothing waits any more
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            fifo.unlink()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecuredKafka, Certificates]]:
    folder = tmp_path_factory.mktemp("secured")
    issued = Certificates.issue(folder / "pki")
    with secured_kafka(folder, issued) as broker:
        yield broker, issued


@pytest.fixture
def worker(
    kafka: tuple[SecuredKafka, Certificates], valkey: RedisForTest, tmp_path: Path
) -> Iterator[tuple[RunningUic, InUse]]:
    broker, issued = kafka
    files = InUse.of(issued, tmp_path)
    topics = replace(broker.create(f"events-{time.time_ns()}", 2), bootstrap=broker.mutual_address)
    broker.grant_documented(topics, valkey.prefix)
    variables: dict[str, Any] = {
        **broker.variables(),
        "UIC_GRPC__TIMEOUT_S": "9",  # a broker that has just started takes its time; the callers have 10 s
        "UIC_KAFKA__SSL_CERTFILE": str(files.certificate),
        "UIC_KAFKA__SSL_KEYFILE": str(files.key),
    }
    with running_uic(tmp_path / "uic", valkey, topics, bundle=BUNDLE, **variables) as uic:
        yield uic, files


def readiness(uic: RunningUic) -> tuple[int, str]:
    answer = web().get(f"{uic.worker.admin_url}/readyz", timeout=60)
    return answer.status_code, answer.text


@pytest.mark.full
def test_a_certificate_on_a_mount_that_hangs_ends_the_worker(
    worker: tuple[RunningUic, InUse], kafka: tuple[SecuredKafka, Certificates]
) -> None:
    uic, files = worker
    broker, _ = kafka
    uic.wait_folded(uic.publish(click("ann")))
    child = uic.worker.child
    assert child is not None
    with files.hanging():
        broker.restart()  # so that the worker has to connect again
        until(lambda: not child.identity.alive(), "the worker ends, and its supervisor may start it", within_s=ENDS_S)
    assert "no progress" in uic.worker.log.read_text()
    uic.worker.start()
    until(lambda: readiness(uic) == (200, '{"status": "ready", "degraded": []}\n'), "another one goes on", within_s=120)
    uic.wait_folded(uic.publish(click("ann")))


def test_a_renewed_certificate_is_used_and_a_locked_key_is_named(
    worker: tuple[RunningUic, InUse], kafka: tuple[SecuredKafka, Certificates]
) -> None:
    uic, files = worker
    broker, _ = kafka
    uic.wait_folded(uic.publish(click("ann")))
    lock(files.key)
    broker.restart()
    named = "the key has a passphrase"
    until(lambda: named in readiness(uic)[1], "it is named", within_s=120)

    def publishing_is_told() -> bool:
        """By a call that fails, and by what `/readyz` says of it."""
        with pytest.raises(grpc.RpcError) as raised:
            uic.publish(click("bob"), timeout_s=20)
        _, _, told = readiness(uic)[1].partition("publishing_fails: ")
        return named in str(raised.value) and named in told

    until(publishing_is_told, "it is named to callers, too", within_s=120)
    files.put_back()
    until(lambda: "log_unavailable" not in readiness(uic)[1], "it is taken up", within_s=120)
    uic.wait_folded(uic.publish(click("ann"), click("bob")))
    until(lambda: readiness(uic) == (200, '{"status": "ready", "degraded": []}\n'), "all is well", within_s=120)


def lock(key: Path) -> None:
    """Give a key a passphrase, as it is in its file."""
    opened = load_pem_private_key(key.read_bytes(), None)
    new = key.with_suffix(".new")
    new.write_bytes(opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    new.rename(key)


CONNECTS = """
from kafka import KafkaConsumer
from uic.log.clients import open_kafka_client
from uic.log.unreachable import unreachable
from uic.settings import read_client_settings
options = read_client_settings().kafka.client_options()
try:
    open_kafka_client(KafkaConsumer, **options, bootstrap_timeout_ms=10000)
except Exception as error:
    print("told:", unreachable(options, error).detail)
"""


def test_no_terminal_is_asked_for_a_passphrase(tmp_path: Path, closed_port: str) -> None:
    issued = Certificates.issue(tmp_path)
    lock(issued.client_key)
    ours, terminal = pty.openpty()
    with TlsFront(issued, int(closed_port.rpartition(":")[2])) as front:
        variables = {
            "UIC_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{front.port}",
            "UIC_KAFKA__SECURITY_PROTOCOL": "SSL",
            "UIC_KAFKA__SSL_CAFILE": str(issued.ca),
            "UIC_KAFKA__SSL_CERTFILE": str(issued.client),
            "UIC_KAFKA__SSL_KEYFILE": str(issued.client_key),
        }
        done = subprocess.run(
            [sys.executable, "-c", CONNECTS],
            env=os.environ | variables, stdin=terminal, capture_output=True, text=True, timeout=60, check=False,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
    os.close(terminal)
    os.close(ours)
    assert "the key has a passphrase" in done.stdout, done.stderr
    assert "UIC_KAFKA__SSL_KEYFILE" in done.stdout
