"""A Kafka client that finds no broker leaves nothing behind: UIC waits for its brokers however long they are away."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer
from kafka.errors import KafkaError, KafkaTimeoutError

from localstack.ports import LOOPBACK
from localstack.wait import until
from uic import preflight
from uic.errors import LogUnavailable
from uic.log.clients import open_kafka_client
from uic.log.event_log import KafkaLog
from uic.log.lone_consumer import open_lone_consumer
from uic.log.partition_reader import PartitionReader
from uic.log.producer import open_producer
from uic.settings import KafkaSettings
from uic.tools.doctor.log_facts import gather_log

TRIES = 4
TIMEOUT_MS = 50
"""How long a try looks for a broker. In that time several connections fail."""


def open_files() -> set[int]:
    return {int(file.name) for file in Path("/dev/fd").iterdir()}


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What only the collector of cycles would close counts as left open: UIC lets it run rarely."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def hangs_up() -> Iterator[str]:
    """An address that accepts connections and closes each one."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                connection.close()
                if ended.is_set():
                    return

        ended = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{LOOPBACK}:{server.getsockname()[1]}"
        ended.set()
        socket.create_connection(server.getsockname()).close()
        thread.join(30)


def leaves_nothing(attempt: Callable[[], object], raises: type[Exception]) -> None:
    """`attempt` fails `TRIES` times, and afterwards there are no more threads and open files than before."""
    threads, files = set(threading.enumerate()), open_files()
    for _ in range(TRIES):
        with pytest.raises(raises):
            attempt()
    assert set(threading.enumerate()) <= threads
    # A connection that the server has just accepted may be open in this process for a moment.
    until(lambda: len(open_files()) <= len(files), "no file is left open", within_s=60)


def settings(bootstrap: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=bootstrap, topic="events", partitions=1)


def raising(answers: bool) -> None:
    if not answers:
        raise KafkaError("no broker answers")


OPENERS: dict[str, tuple[Callable[[KafkaSettings], object], type[Exception]]] = {
    "the check at the start": (preflight.check_topic, LogUnavailable),
    "the reader of events": (
        lambda given: open_kafka_client(
            KafkaConsumer, **given.consumer_options() | {"bootstrap_timeout_ms": TIMEOUT_MS}
        ),
        KafkaError,
    ),
    "a reader of whole partitions": (
        lambda given: PartitionReader(given.client_options(), "events", idle_s=TIMEOUT_MS / 1000),
        LogUnavailable,
    ),
    "a lone consumer": (
        lambda given: open_lone_consumer(given.client_options(), timeout_s=TIMEOUT_MS / 1000),
        LogUnavailable,
    ),
    "a producer": (
        lambda given: open_producer(given.client_options(), timeout_s=TIMEOUT_MS / 1000, max_request_bytes=1 << 20),
        KafkaError,
    ),
    "the id of the topic of notes": (
        lambda given: KafkaLog(given.client_options(), timeout_s=TIMEOUT_MS / 1000, max_request_bytes=1 << 20).topic_id(
            "events"
        ),
        LogUnavailable,
    ),
    "the doctor": (
        lambda given: raising(gather_log(given, None, TIMEOUT_MS / 1000).error is None),
        KafkaError,
    ),
}


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("name", OPENERS)
def test_looking_for_a_broker_in_vain_leaves_no_thread_and_no_open_file(
    name: str, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "BOOTSTRAP_MS", TIMEOUT_MS)
    attempt, raises = OPENERS[name]
    given = settings(closed_port)
    leaves_nothing(lambda: attempt(given), raises)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(
    "security",
    [
        {},
        {"security_protocol": "SSL"},
        {"security_protocol": "SSL", "ssl_cafile": "/no/such/file"},
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "no such mechanism"},
    ],
    ids=["no answer", "no handshake", "no certificates", "no such mechanism"],
)
def test_a_connection_that_fails_behind_its_beginning_leaves_no_open_file(
    security: dict[str, str], hangs_up: str
) -> None:
    options = {"bootstrap_servers": hangs_up, "bootstrap_timeout_ms": TIMEOUT_MS} | security
    leaves_nothing(lambda: open_kafka_client(KafkaConsumer, **options), KafkaTimeoutError)
