"""One broker of several accepts connections and says nothing, or no more after its first answer: the others are asked,
and the message names that one."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError
from kafka.protocol.metadata import MetadataRequest

from localstack.ports import LOOPBACK
from localstack.wait import NotReady, until
from support.certificates import Certificates, TlsFront
from uic.log.connection_causes import ConnectionsFailed
from uic.log.kafka_repairs import connections
from uic.log.kafka_repairs.assumptions import check_client
from uic.log.kafka_repairs.clients import failures_of, open_kafka_client

pytestmark = pytest.mark.servers

KINDS = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
FINISHED: dict[type[Any], Callable[[Any], object]] = {
    KafkaConsumer: KafkaConsumer.topics,
    KafkaProducer: lambda client: client.partitions_for("no-topic"),
    KafkaAdminClient: KafkaAdminClient.list_topics,
}
"""A call of each kind that is answered. What is judged comes before the client is closed: the library complains of a
connection or a question that this cuts short."""
TRIES = 8
"""Enough that each order of the servers comes up."""
LIMIT_S = 60.0
"""For a test whose client would wait for a silent server without end: then the server goes away."""


class Silent:
    """Accepts connections and says nothing."""

    def __init__(self) -> None:
        self._server = socket.create_server((LOOPBACK, 0), backlog=128)
        self.address = f"{LOOPBACK}:{self._server.getsockname()[1]}"
        self.connected = 0
        """Connections so far."""
        self.left = 0
        """How many of them the client has ended."""
        self._open: list[socket.socket] = []
        self.ended_itself = False
        threading.Thread(target=self._accept, daemon=True).start()
        self._limit = threading.Timer(LIMIT_S, self._give_up)
        self._limit.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                self.connected += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while received := connection.recv(65536):
                self.heard(connection, received)
        connection.close()
        self.left += 1

    def is_left(self) -> bool:
        """Whether a client was here, and has ended all its connections."""
        return 0 < self.connected == self.left

    def heard(self, connection: socket.socket, received: bytes) -> None:
        """What came on a connection."""

    def _give_up(self) -> None:
        self.ended_itself = True
        self.close()

    def close(self) -> None:
        self._limit.cancel()
        for end in (self._server, *self._open):
            with suppress(OSError):  # not connected
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class HangsAtMetadata(Silent):
    """Answers what a broker answers, but never with metadata."""

    def __init__(self, broker: str) -> None:
        host, port = broker.split(":")
        self._broker = host, int(port)
        super().__init__()

    def heard(self, connection: socket.socket, received: bytes) -> None:
        # A request on a new connection comes alone, and begins with its size and its kind.
        if int.from_bytes(received[4:6]) == MetadataRequest.API_KEY:
            return
        with socket.create_connection(self._broker) as broker:
            broker.sendall(received)
            connection.sendall(broker.recv(65536))


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.close()


@pytest.fixture
def hangs_at_metadata(kafka: str) -> Iterator[Silent]:
    made = HangsAtMetadata(kafka)
    yield made
    made.close()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What the library complains of from here on, but for a consumer's options, and but for clients of other tests,
    each of which has a thread of its own."""
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    with caplog.at_level(logging.WARNING, "kafka"):
        yield lambda: [
            record.getMessage()
            for record in caplog.records
            if record.thread not in others and not record.name.startswith("kafka.coordinator")
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_nothing_keeps_no_client_from_the_one_that_answers(
    kind: type[Any], silent: Silent, closed_port: str, kafka: str
) -> None:
    options = {"bootstrap_servers": [silent.address, closed_port, kafka], "bootstrap_timeout_ms": 30_000}
    threads = set(threading.enumerate())
    for _ in range(TRIES):
        client = open_kafka_client(kind, **options)
        assert silent.address not in failures_of(client), "that it was not waited for says nothing of it"
        client.close()
    until(lambda: set(threading.enumerate()) <= threads, "no thread is left", within_s=10)


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_hangs_at_its_metadata_keeps_no_client_from_the_one_that_answers(
    kind: type[Any], hangs_at_metadata: Silent, kafka: str
) -> None:
    options = {"bootstrap_servers": [hangs_at_metadata.address, kafka], "bootstrap_timeout_ms": 30_000}
    for _ in range(TRIES):
        began = time.monotonic()
        open_kafka_client(kind, **options).close()
        assert time.monotonic() - began < 5
    assert hangs_at_metadata.connected, "it was asked"


class Refused(NamedTuple):
    """How opening a client ended where no server answers."""

    took_s: float
    answered: dict[str, bool]
    """By address: whether it had answered."""
    threads: int
    files: int
    """How many more of them there are than before."""


def refused(kind: type[Any], protocol: str, servers: list[str]) -> Refused:
    """Open a client in a process that has no other. UIC lets the collector of cycles run rarely; here it never runs."""
    gc.disable()
    check_client()
    threads, files = threading.active_count(), open_files()
    began = time.monotonic()
    with pytest.raises(KafkaTimeoutError) as raised:
        open_kafka_client(kind, bootstrap_servers=servers, bootstrap_timeout_ms=1000, security_protocol=protocol)
    took_s, why = time.monotonic() - began, raised.value.__cause__
    assert isinstance(why, ConnectionsFailed)
    with suppress(NotReady):
        until(lambda: threading.active_count() <= threads and open_files() <= files, "nothing is left", within_s=30)
    answered = {address: failure.answered for address, failure in why.failures.items()}
    return Refused(took_s, answered, threading.active_count() - threads, open_files() - files)


@pytest.mark.alone
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_no_server_answers_a_silent_one_is_waited_for_no_longer_than_the_limit_and_named(
    kind: type[Any], protocol: str, silent: Silent, closed_port: str
) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seen = pool.submit(refused, kind, protocol, [silent.address, closed_port]).result(timeout=120)
        assert seen.took_s < 5
        assert seen.answered == {silent.address: False, closed_port: False}
        assert (seen.threads, seen.files) == (0, 0)
        until(silent.is_left, "it is hung up on", within_s=LIMIT_S)
        assert not silent.ended_itself


def test_where_no_server_answers_one_that_hangs_at_its_metadata_is_named(
    hangs_at_metadata: Silent, closed_port: str
) -> None:
    servers = [hangs_at_metadata.address, closed_port]
    with pytest.raises(KafkaTimeoutError) as raised:
        open_kafka_client(KafkaConsumer, bootstrap_servers=servers, bootstrap_timeout_ms=1000)
    why = raised.value.__cause__
    assert isinstance(why, ConnectionsFailed)
    assert why.failures[hangs_at_metadata.address].said.startswith("no answer for ")


@pytest.fixture
def silent_first(monkeypatch: pytest.MonkeyPatch, silent: Silent, hangs_at_metadata: Silent) -> None:
    last = {silent.address: 0, hangs_at_metadata.address: 1}
    at = "{0.host}:{0.port}".format
    by_patience = SimpleNamespace(shuffle=lambda servers: servers.sort(key=lambda server: last.get(at(server), 2)))
    monkeypatch.setattr(connections, "random", by_patience)


@pytest.mark.usefixtures("silent_first")
@pytest.mark.parametrize("kind", KINDS)
def test_servers_that_are_not_needed_any_more_are_hung_up_on_and_not_complained_of(
    kind: type[Any], silent: Silent, hangs_at_metadata: Silent, kafka: str, complaints: Callable[[], list[str]]
) -> None:
    servers = [silent.address, hangs_at_metadata.address, kafka]
    client = open_kafka_client(kind, bootstrap_servers=servers, bootstrap_timeout_ms=30_000)
    for server in (silent, hangs_at_metadata):
        until(server.is_left, "it is hung up on", within_s=LIMIT_S)
        assert not server.ended_itself
    assert failures_of(client) == {}
    FINISHED[kind](client)
    assert complaints() == []
    client.close()


@pytest.mark.usefixtures("silent_first")
def test_a_server_that_hangs_in_its_handshake_is_hung_up_on_when_another_answers(
    silent: Silent, kafka: str, tmp_path: Path, complaints: Callable[[], list[str]]
) -> None:
    ours = Certificates.issue(tmp_path)
    with TlsFront(ours, int(kafka.rpartition(":")[2])) as front:
        servers = [silent.address, f"{LOOPBACK}:{front.port}"]
        options = {"security_protocol": "SSL", "ssl_cafile": str(ours.ca), "bootstrap_timeout_ms": 30_000}
        client = open_kafka_client(KafkaConsumer, bootstrap_servers=servers, **options)
        until(silent.is_left, "it is hung up on", within_s=LIMIT_S)
        assert not silent.ended_itself
        assert failures_of(client) == {}
        assert complaints() == []
        client.close()
