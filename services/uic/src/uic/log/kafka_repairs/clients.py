"""How a client is opened, so that one that finds no broker leaves nothing behind, and why it has no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from process.tls_causes import no_passphrase
from uic.log.connection_causes import ConnectionsFailed, NoConnection
from uic.log.kafka_repairs.assumptions import check_client
from uic.log.kafka_repairs.connections import Manager
from uic.log.kafka_repairs.metadata import address_of

Client = TypeVar("Client")


class NetClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """A network on which a producer's connection to one broker is no other one's trouble."""

    def maybe_connect(self, node_id: Any, **named: Any) -> None:
        """Begin to connect, if that can be done now. The library raises errors of one broker, such as that it is not
        known yet where a leader is: then a producer sends nothing to the others, reads no answer and takes a core."""
        with suppress(KafkaError):
            super().maybe_connect(node_id, **named)


def open_kafka_client(kind: Callable[..., Client], **options: Any) -> Client:
    """A connected client: `kind` is the library's `KafkaConsumer`, `KafkaProducer` or `KafkaAdminClient`, and `options`
    are its options. Close it.

    A key that has a passphrase is a connection that fails, as `why_no_connection` tells it, and no question at the
    terminal, for which the thread of the client would wait for good.

    The library starts a thread and opens files before it looks for a broker, and leaves them if it finds none. Here
    they are closed, whatever the constructor raises.

    Raises:
        KafkaError: no broker answers in time; its cause is a `ConnectionsFailed`.
        UnsuitableClient: see `check_client`.
    """
    check_client()
    options = {"ssl_password": no_passphrase, **options}
    managers: list[Manager] = []
    with ExitStack() as started:

        def network(**configs: Any) -> NetClient:
            net = NetworkSelector(**configs)
            started.callback(net.close)
            manager = Manager(net, **configs)
            started.callback(manager.close)
            managers.append(manager)
            return NetClient(net, manager)

        try:
            client = kind(**options, kafka_client=network)
        except KafkaError as error:
            failures = {at: why for manager in managers for at, why in manager.failures().items()}
            raise error from ConnectionsFailed(failures, found_none=True)
        started.pop_all()
    return client


def _manager_of(client: Any) -> Manager | None:
    """None of a client that `open_kafka_client` has not opened. A producer's belongs to its sender."""
    sender = getattr(client, "_sender", None)
    manager = getattr(client if sender is None else sender._client, "_manager", None)
    return manager if isinstance(manager, Manager) else None


def failures_of(client: Any) -> dict[str, NoConnection]:
    """Address → why a client that `open_kafka_client` has opened has no connection to it."""
    manager = _manager_of(client)
    return {} if manager is None else manager.failures()


def _brokers_of(client: Any) -> set[str]:
    """Addresses of the brokers that such a client knows."""
    manager = _manager_of(client)
    return set() if manager is None else set(map(address_of, manager.cluster.brokers()))


def is_unknown(client: Any, topic: str) -> bool:
    """Whether the brokers have told a client that they do not have a topic. A producer that waits for its partitions
    says the same of that and of brokers that are silent."""
    manager = _manager_of(client)
    return manager is not None and topic in manager.unknown_topics


def broker_version(client: Any) -> tuple[int, ...] | None:
    """The version of the broker that a client found first; None if it did not say."""
    version = client._manager.broker_version
    return None if version is None else tuple(version)


@contextmanager
def explained(client: Any, broker: Any = None) -> Iterator[None]:
    """Errors of a client get why it has no connection as their cause, a `ConnectionsFailed`, if it has none; only to
    one broker if its number is given."""
    try:
        yield
    except KafkaError as error:
        failures = failures_of(client)
        if failures and broker is not None and (node := client._manager.cluster.broker_metadata(broker)) is not None:
            failures = {at: why for at, why in failures.items() if at == address_of(node)}
        if failures:
            raise error from ConnectionsFailed(failures, brokers=_brokers_of(client))
        raise


@contextmanager
def answered_by(client: Any, deadline: float) -> Iterator[None]:
    """Within, a question that any broker can answer fails at `deadline`, on the monotonic clock, if that is before its
    time is over. For one thread at a time."""
    manager = _manager_of(client)
    if manager is None:
        yield
        return
    manager.answer_by = deadline
    try:
        yield
    finally:
        manager.answer_by = None
