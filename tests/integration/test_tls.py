"""TLS on real sockets with real certificates: RTP, UIC's two doors, and the clients of the store and of Kafka."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kafka import KafkaAdminClient, KafkaProducer

from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.apache_kafka import ApacheKafka
from localstack.ports import free_port
from localstack.topics import create_topics, topics
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from support.certificates import Certificates, TlsFront
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.kafka_home import kafka_home
from support.stored import Stored
from support.uic_running import BUNDLE, click

pytestmark = pytest.mark.servers

N = 8
ASK = {"user_id": "u", "candidates": [{"item_id": 3, "category_id": 2}]}
PATIENT = {"x-request-deadline-ms": "30000"}
FOR_PATIENT = {"RTP_DEADLINE__MAX_MS": "30000", "RTP_REDIS__CONNECT_TIMEOUT_MS": "30000"}
"""RTP's settings for them: how long a request takes is not what is tested."""


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.issue(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Issued by an authority that is not trusted here."""
    return Certificates.issue(tmp_path_factory.mktemp("foreign"))


def listener(prefix: str, issued: Certificates, *, mutual: bool = False) -> dict[str, str]:
    """The variables that give a listener TLS."""
    files = {"TLS_CERT_FILE": issued.server, "TLS_KEY_FILE": issued.server_key}
    if mutual:
        files["TLS_CLIENT_CA_FILE"] = issued.ca
    return {f"{prefix}__{name}": str(file) for name, file in files.items()}


class TlsRtp(RtpProcess):
    """RTP whose doors speak TLS; ready by /readyz, seen through it."""

    trusted: ssl.SSLContext

    def ready(self) -> bool:
        return _get(f"https://127.0.0.1:{self.ports['admin']}/readyz", self.trusted) == 200


class TlsUic(UicWorker):
    """UIC whose admin door speaks TLS; ready by /readyz."""

    trusted: ssl.SSLContext

    def ready(self) -> bool:
        return _get(f"https://127.0.0.1:{self.ports['admin']}/readyz", self.trusted) == 200


def _get(url: str, trusted: ssl.SSLContext) -> int | None:
    """The status, None if there is no connection to be had."""
    try:
        return httpx.get(url, verify=trusted, timeout=30).status_code
    except httpx.TransportError:
        return None


def expires(metrics: str, service: str) -> dict[str, float]:
    """When the certificates of a process cease to be valid (Unix time), by listener."""
    lines = re.findall(rf'^{service}_tls_certificate_expires_seconds{{listener="(\w+)"}} (\S+)', metrics, re.M)
    return {listener: float(value) for listener, value in lines}


def warm(valkey: RedisForTest) -> None:
    stored = Stored(load_bundle(BUNDLE), prefix=valkey.prefix)
    stored.state("u", events=7)
    for key, value in stored.values.items():
        valkey.client.set(key, value)


def test_rtp_speaks_tls_and_asks_clients_for_a_certificate_where_it_is_told_to(
    valkey: RedisForTest, issued: Certificates, foreign: Certificates, tmp_path: Path
) -> None:
    warm(valkey)
    told = {**listener("RTP_HTTP", issued, mutual=True), **listener("RTP_ADMIN", issued), **FOR_PATIENT}
    rtp = TlsRtp("rtp", tmp_path / "rtp", Surroundings("", valkey.url, BUNDLE, prefix=valkey.prefix, rtp=told))
    rtp.trusted = issued.trust()
    with rtp:
        url = f"https://localhost:{rtp.ports['http']}"
        with httpx.Client(verify=issued.trust(as_client=True), timeout=60) as client:
            assert client.post(f"{url}/predict", json=ASK, headers=PATIENT).json()["state"]["status"] == "warm"
        impostor = ssl.create_default_context(cafile=str(issued.ca))
        impostor.load_cert_chain(foreign.client, foreign.client_key)
        for context in (issued.trust(), impostor, foreign.trust(as_client=True)):
            assert _get(f"{url}/readyz", context) is None
        assert _get(f"http://localhost:{rtp.ports['http']}/readyz", issued.trust()) is None
        metrics = httpx.get(f"https://localhost:{rtp.ports['admin']}/metrics", verify=issued.trust(), timeout=60)
        assert metrics.status_code == 200
        assert expires(metrics.text, "rtp") == {"http": issued.expires(), "admin": issued.expires()}
        assert _get(f"{url}/readyz", issued.trust(as_client=True)) == 200
        assert rtp.stop() == 0, "the drain is what it is without TLS"
        for door, purpose in (("admin", "admin"), ("public", "http")):
            assert f"door={door} address=https://127.0.0.1:{rtp.ports[purpose]}" in rtp.log.read_text()


def test_uic_speaks_tls_on_both_doors(
    valkey: RedisForTest,
    kafka: str,
    make_topics: MakeTopics,
    issued: Certificates,
    foreign: Certificates,
    tmp_path: Path,
) -> None:
    named = make_topics(kafka, N)
    told = {**listener("UIC_GRPC", issued, mutual=True), **listener("UIC_ADMIN", issued)}
    uic = TlsUic(
        "uic", tmp_path / "uic", Surroundings(kafka, valkey.url, BUNDLE, named.events, N, valkey.prefix, uic=told)
    )
    uic.trusted = issued.trust()
    with uic:
        address = f"localhost:{uic.ports['grpc']}"

        def health(trusting: Certificates, showing: Certificates | None) -> int | None:
            shown = (showing.client_key.read_bytes(), showing.client.read_bytes()) if showing else (None, None)
            credentials = grpc.ssl_channel_credentials(trusting.ca.read_bytes(), *shown)
            with grpc.secure_channel(address, credentials) as channel:
                try:
                    stub = health_pb2_grpc.HealthStub(channel)
                    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status
                except grpc.RpcError as error:
                    failed: Any = error
                    assert failed.code() is grpc.StatusCode.UNAVAILABLE
                    return None
                return status

        serving = health_pb2.HealthCheckResponse.SERVING
        until(lambda: health(issued, issued) == serving, "health follows /readyz", within_s=60)
        assert health(issued, None) is None
        assert health(issued, foreign) is None
        assert health(foreign, issued) is None
        with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError):
            health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(), timeout=5)
        credentials = grpc.ssl_channel_credentials(
            issued.ca.read_bytes(), issued.client_key.read_bytes(), issued.client.read_bytes()
        )
        with grpc.secure_channel(address, credentials) as channel:
            stub = UserInterestCenterStub(channel)
            assert stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=[click("u1")]), timeout=60).positions
        # A client that never says hello holds up no other at the admin door.
        with socket.create_connection(("127.0.0.1", uic.ports["admin"])):
            assert _get(f"https://127.0.0.1:{uic.ports['admin']}/partitions", issued.trust()) == 200
        assert _get(f"https://127.0.0.1:{uic.ports['admin']}/livez", foreign.trust()) is None
        metrics = httpx.get(f"https://localhost:{uic.ports['admin']}/metrics", verify=issued.trust(), timeout=60)
        assert expires(metrics.text, "uic") == {"grpc": issued.expires(), "admin": issued.expires()}
        command = [sys.executable, "-m", "uic", "partitions", "--admin", f"https://localhost:{uic.ports['admin']}"]
        environment = {**os.environ, "UIC_ACCESS__CA_FILE": str(issued.ca)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1
        assert "certificate verify failed" in done.stderr


# The store


@pytest.fixture
def tls_store(valkey: RedisForTest, issued: Certificates) -> Iterator[RedisForTest]:
    """A store behind a TLS listener that asks its clients for a certificate: `url` is rediss://."""
    port = valkey.client.connection_pool.connection_kwargs["port"]
    with TlsFront(issued, port, ask_clients=True) as front:
        yield replace(valkey, url=f"rediss://localhost:{front.port}/0")
        assert front.handshakes


def store_files(prefix: str, issued: Certificates, authority: Path | None = None) -> dict[str, str]:
    return {
        f"{prefix}_REDIS__TLS_CA_FILE": str(authority or issued.ca),
        f"{prefix}_REDIS__TLS_CERT_FILE": str(issued.client),
        f"{prefix}_REDIS__TLS_KEY_FILE": str(issued.client_key),
    }


def test_events_become_scores_through_a_store_that_speaks_tls(
    tls_store: RedisForTest,
    kafka: str,
    make_topics: MakeTopics,
    issued: Certificates,
    foreign: Certificates,
    tmp_path: Path,
) -> None:
    named = make_topics(kafka, N)
    around = Surroundings(
        kafka, tls_store.url, BUNDLE, named.events, N, tls_store.prefix,
        uic=store_files("UIC", issued),
        rtp=store_files("RTP", issued) | FOR_PATIENT | {"RTP_STATE__REFRESH_EVERY_S": "0.1"},
    )  # fmt: skip
    with UicWorker("uic", tmp_path / "uic", around) as uic, RtpProcess("rtp", tmp_path / "rtp", around) as rtp:
        with grpc.insecure_channel(uic.address) as channel:
            UserInterestCenterStub(channel).PublishBehaviors(
                pb.PublishBehaviorsRequest(events=[click("u")]), timeout=60
            )

        def status() -> str:
            answer = web().post(f"{rtp.address}/predict", json=ASK, headers=PATIENT, timeout=60)
            return str(answer.json()["state"]["status"])

        until(lambda: status() == "warm", "the event is in the score", within_s=60)
    distrusting = replace(around, rtp=store_files("RTP", issued, foreign.ca))
    process = RtpProcess("rtp", tmp_path / "distrusting", distrusting)
    process.spawn()
    try:
        until(lambda: _status(f"{process.admin_url}/readyz") == 503, "it does not take a foreign store", within_s=60)
    finally:
        process.stop()


def _status(url: str) -> int:
    try:
        return web().get(url, timeout=60).status_code
    except httpx.TransportError:
        return 0


# Kafka


class TlsKafka(ApacheKafka):
    """Apache Kafka with a second listener, which has TLS and asks its clients for a certificate."""

    def __init__(self, folder: Path, issued: Certificates) -> None:
        super().__init__(kafka_home(), folder)
        self._issued = issued
        self.ports["tls"] = free_port()

    def settings(self) -> dict[str, str]:
        ours = super().settings()
        port = self.ports["tls"]
        stores = {}
        for kind, pems in (
            ("keystore", (self._issued.server_key, self._issued.server)),
            ("truststore", (self._issued.ca,)),
        ):
            stores[kind] = self.folder.resolve() / f"{kind}.pem"
            stores[kind].write_bytes(b"".join(pem.read_bytes() for pem in pems))
        return ours | {
            "listeners": f"{ours['listeners']},SSL://127.0.0.1:{port}",
            "advertised.listeners": f"{ours['advertised.listeners']},SSL://localhost:{port}",
            "listener.security.protocol.map": f"{ours['listener.security.protocol.map']},SSL:SSL",
            "ssl.client.auth": "required",
            **{f"ssl.{kind}.type": "PEM" for kind in stores},
            **{f"ssl.{kind}.location": str(file) for kind, file in stores.items()},
        }


@pytest.fixture
def tls_kafka(issued: Certificates, tmp_path: Path) -> Iterator[TlsKafka]:
    with TlsKafka(tmp_path / "kafka", issued) as kafka:
        yield kafka


def test_uic_folds_from_a_kafka_that_speaks_tls(
    tls_kafka: TlsKafka, valkey: RedisForTest, issued: Certificates, tmp_path: Path
) -> None:
    address = f"localhost:{tls_kafka.ports['tls']}"
    named = TopicsForTest(address, "events", N)
    create_topics(tls_kafka.address, topics(named.events, N))
    told = {
        "UIC_KAFKA__SECURITY_PROTOCOL": "SSL",
        "UIC_KAFKA__SSL_CAFILE": str(issued.ca),
        "UIC_KAFKA__SSL_CERTFILE": str(issued.client),
        "UIC_KAFKA__SSL_KEYFILE": str(issued.client_key),
    }
    around = Surroundings(address, valkey.url, BUNDLE, named.events, N, valkey.prefix, uic=told)
    with UicWorker("uic", tmp_path / "uic", around) as uic, grpc.insecure_channel(uic.address) as channel:
        stub = UserInterestCenterStub(channel)
        stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=[click("u"), click("u")]), timeout=60)
        plain = KafkaProducer(bootstrap_servers=tls_kafka.address)
        plain.send(named.events, key=b"u", value=click("u").SerializeToString()).get(60)
        plain.close()

        def folded() -> bool:
            try:
                return stub.GetUserState(pb.GetUserStateRequest(user_id="u"), timeout=60).event_count == 3
            except grpc.RpcError:
                return False

        until(folded, "all three are folded", within_s=60)
        assert stub.EraseUser(pb.EraseUserRequest(user_id="u"), timeout=60).position.offset == 3
    with pytest.raises(Exception, match=r"(?i)ssl|bootstrap|broker"):
        KafkaAdminClient(
            bootstrap_servers=address, security_protocol="SSL", ssl_cafile=str(issued.ca), bootstrap_timeout_ms=3000
        )
