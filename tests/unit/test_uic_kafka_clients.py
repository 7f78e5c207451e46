"""A Kafka client that finds no broker leaves nothing behind: UIC waits for its brokers however long they are away."""

from __future__ import annotations

import ast
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConfigurationError, KafkaError, KafkaTimeoutError, SaslAuthenticationFailedError
from kafka.net.connection import KafkaConnection

import uic
from localstack import dev_broker
from localstack.dev_broker import broker_answers
from localstack.ports import LOOPBACK
from localstack.wait import until
from uic import preflight
from uic.errors import LogUnavailable
from uic.log.bounded_producer import open_producer
from uic.log.broker_view import BrokerView
from uic.log.event_log import KafkaLog
from uic.log.kafka_repairs.clients import open_kafka_client
from uic.log.kafka_repairs.group import open_consumer
from uic.log.lone_consumer import open_lone_consumer
from uic.log.partition_reader import PartitionReader
from uic.settings import KafkaSettings
from uic.tools.doctor.log_facts import gather_log

TRIES = 4
TIMEOUT_MS = 50
"""How long a try looks for a broker. In that time several connections fail."""
KINDS = (KafkaConsumer, KafkaProducer, KafkaAdminClient)


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


@pytest.mark.parametrize("kind", KINDS)
def test_every_client_asks_for_metadata_twice_a_minute(kind: Any) -> None:
    assert "metadata_max_age_ms" in kind.DEFAULT_CONFIG
    for options in (KafkaSettings().client_options(), KafkaSettings().consumer_options("group")):
        assert options["metadata_max_age_ms"] == 30_000


def settings(bootstrap: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=bootstrap, topic="events", partitions=1)


def raising(answers: bool) -> None:
    if not answers:
        raise KafkaError("no broker answers")


OPENERS: dict[str, tuple[Callable[[KafkaSettings], object], type[Exception]]] = {
    "the check at the start": (preflight.check_topic, LogUnavailable),
    "a member of the group": (
        lambda given: open_consumer(**given.consumer_options("group") | {"bootstrap_timeout_ms": TIMEOUT_MS}),
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
    "a broker's view": (
        lambda given: BrokerView(given.client_options() | {"bootstrap_timeout_ms": TIMEOUT_MS}, "events", "group"),
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
@pytest.mark.parametrize("kind", KINDS)
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
    kind: type[Any], security: dict[str, str], hangs_up: str
) -> None:
    options = {"bootstrap_servers": hangs_up, "bootstrap_timeout_ms": TIMEOUT_MS} | security
    leaves_nothing(lambda: open_kafka_client(kind, **options), KafkaTimeoutError)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_is_refused_its_credentials_leaves_no_thread_and_no_open_file(
    kind: type[Any], hangs_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(self: KafkaConnection, timeout_at: float | None = None) -> None:
        raise SaslAuthenticationFailedError("no such user")

    monkeypatch.setattr(KafkaConnection, "_get_api_versions", refused)  # what comes first on a connection
    options = {"bootstrap_servers": hangs_up, "bootstrap_timeout_ms": TIMEOUT_MS}
    leaves_nothing(lambda: open_kafka_client(kind, **options), KafkaTimeoutError)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and says nothing, as a broker that hangs."""
    with socket.create_server((LOOPBACK, 0), backlog=128) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", KINDS)
def test_where_one_server_refuses_and_the_others_say_nothing_the_refusal_is_told(
    kind: type[Any], silent: str, hangs_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(self: KafkaConnection, timeout_at: float | None = None) -> None:
        if self.node_id == "bootstrap-1":
            raise SaslAuthenticationFailedError("no such user")
        await unchanged(self, timeout_at)

    unchanged = KafkaConnection._get_api_versions
    monkeypatch.setattr(KafkaConnection, "_get_api_versions", refused)
    options = {"bootstrap_servers": [silent, hangs_up], "bootstrap_timeout_ms": 2000}
    with pytest.raises(KafkaError) as raised:
        open_kafka_client(kind, **options)
    assert "no such user" in str(raised.value.__cause__)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(
    ("kind", "options", "raises"),
    [
        (KafkaConsumer, {"group_id": None, "group_instance_id": "a"}, KafkaConfigurationError),
        (KafkaProducer, {"compression_type": "none such"}, ValueError),
        (KafkaProducer, {"client_dns_lookup": "none such"}, ValueError),
    ],
    ids=["behind the thread", "behind the network", "within the network"],
)
def test_a_constructor_that_raises_at_a_later_step_leaves_no_thread_and_no_open_file(
    kind: type[Any], options: dict[str, Any], raises: type[Exception], closed_port: str
) -> None:
    leaves_nothing(
        lambda: open_kafka_client(kind, bootstrap_servers=closed_port, api_version=(3, 0), **options), raises
    )


@pytest.mark.usefixtures("without_collector")
def test_the_local_stack_looks_for_its_broker_in_the_same_way(
    closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev_broker, "LOOK_MS", TIMEOUT_MS)
    leaves_nothing(lambda: raising(broker_answers(closed_port)), KafkaError)


def test_all_of_uic_opens_its_clients_by_the_one_function() -> None:
    names = {kind.__name__ for kind in KINDS}
    direct = [
        f"{path}:{call.lineno}"
        for path in Path(uic.__path__[0]).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and (getattr(call.func, "id", None) in names or getattr(call.func, "attr", None) in names)
    ]
    assert direct == [], "call uic.log.kafka_repairs.clients.open_kafka_client"
