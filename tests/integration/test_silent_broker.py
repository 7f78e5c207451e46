"""One broker of several accepts connections and says nothing: the others are asked, and the message names that one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from localstack.ports import LOOPBACK
from uic.log.kafka_repairs import failures_of, open_kafka_client

pytestmark = pytest.mark.servers

TRIES = 8
"""Enough that each order of the servers comes up."""


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and says nothing."""
    with socket.create_server((LOOPBACK, 0), backlog=128) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", [KafkaConsumer, KafkaProducer, KafkaAdminClient])
def test_a_server_that_says_nothing_keeps_no_client_from_the_one_that_answers(
    kind: type[Any], silent: str, kafka: str
) -> None:
    options = {"bootstrap_servers": [silent, f"{LOOPBACK}:1", kafka], "bootstrap_timeout_ms": 10_000}
    threads = set(threading.enumerate())
    for _ in range(TRIES):
        client = open_kafka_client(kind, **options)
        assert silent not in failures_of(client), "that it was not waited for says nothing of it"
        client.close()
    assert set(threading.enumerate()) <= threads
