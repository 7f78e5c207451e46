"""One broker of several accepts connections and says nothing, or no more after its first answer: the others are asked,
and the message names that one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError
from kafka.protocol.metadata import MetadataRequest

from localstack.ports import LOOPBACK
from localstack.wait import until
from uic.log.connection_causes import ConnectionsFailed
from uic.log.kafka_repairs.clients import failures_of, open_kafka_client

pytestmark = pytest.mark.servers

KINDS = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_nothing_keeps_no_client_waiting(
    kind: type[Any], silent: Silent, closed_port: str, kafka: str
) -> None:
    options = {"bootstrap_servers": [silent.address, closed_port, kafka], "bootstrap_timeout_ms": 30_000}
    threads = set(threading.enumerate())
    for _ in range(TRIES):
        client = open_kafka_client(kind, **options)
        assert silent.address not in failures_of(client), "that it was not waited for says nothing of it"
        client.close()
    until(lambda: set(threading.enumerate()) <= threads, "no thread is left", within_s=10)
    until(lambda: silent.left == silent.connected, "it is hung up on", within_s=LIMIT_S)
    assert not silent.ended_itself


def test_a_server_that_hangs_at_metadata_keeps_no_client_waiting(hangs_at_metadata: Silent, kafka: str) -> None:
    options = {"bootstrap_servers": [hangs_at_metadata.address, kafka], "bootstrap_timeout_ms": 30_000}
    for _ in range(TRIES):
        began = time.monotonic()
        open_kafka_client(KafkaConsumer, **options).close()
        assert time.monotonic() - began < 20
    assert hangs_at_metadata.connected, "it was asked"


@pytest.mark.parametrize(
    ("server", "protocol"), [("silent", "PLAINTEXT"), ("silent", "SSL"), ("hangs_at_metadata", "PLAINTEXT")]
)
def test_where_no_server_answers_the_silent_one_is_named_in_time(
    server: str, protocol: str, closed_port: str, request: pytest.FixtureRequest
) -> None:
    silent: Silent = request.getfixturevalue(server)
    servers = [silent.address, closed_port]
    began = time.monotonic()
    with pytest.raises(KafkaTimeoutError) as raised:
        open_kafka_client(
            KafkaConsumer, bootstrap_servers=servers, bootstrap_timeout_ms=1000, security_protocol=protocol
        )
    assert time.monotonic() - began < 20
    why = raised.value.__cause__
    assert isinstance(why, ConnectionsFailed)
    assert set(why.failures) == set(servers)
    until(silent.is_left, "it is hung up on", within_s=LIMIT_S)
    assert not silent.ended_itself
