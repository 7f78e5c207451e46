"""One broker of several accepts connections and says nothing: the others are asked, and the message names that one."""

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

from localstack.ports import LOOPBACK
from localstack.wait import until
from uic.log.clients import open_kafka_client
from uic.log.connection_causes import ConnectionsFailed

pytestmark = pytest.mark.servers

KINDS = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
TRIES = 3
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
            while connection.recv(65536):
                pass
        connection.close()
        self.left += 1

    def is_left(self) -> bool:
        """Whether a client was here, and has ended all its connections."""
        return 0 < self.connected == self.left

    def _give_up(self) -> None:
        self.ended_itself = True
        self.close()

    def close(self) -> None:
        self._limit.cancel()
        for end in (self._server, *self._open):
            with suppress(OSError):  # not connected
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_nothing_keeps_no_client_waiting(kind: type[Any], silent: Silent, kafka: str) -> None:
    options = {"bootstrap_servers": [silent.address, kafka, kafka], "bootstrap_timeout_ms": 10_000}
    threads = set(threading.enumerate())
    for _ in range(TRIES):
        open_kafka_client(kind, **options).close()
    until(lambda: set(threading.enumerate()) <= threads, "no thread is left", within_s=10)
    until(lambda: silent.left == silent.connected, "it is hung up on", within_s=LIMIT_S)
    assert not silent.ended_itself


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_where_no_server_answers_the_silent_one_is_named_in_time(
    protocol: str, silent: Silent, closed_port: str
) -> None:
    servers = [silent.address, closed_port]
    began = time.monotonic()
    with pytest.raises(KafkaTimeoutError) as raised:
        open_kafka_client(
            KafkaConsumer, bootstrap_servers=servers, bootstrap_timeout_ms=8000, security_protocol=protocol
        )
    assert time.monotonic() - began < 20
    why = raised.value.__cause__
    assert isinstance(why, ConnectionsFailed)
    assert silent.address in why.failures
    until(silent.is_left, "it is hung up on", within_s=LIMIT_S)
    assert not silent.ended_itself
