"""How Kafka clients are opened: one that finds no broker leaves nothing open, and why a connection failed is known."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Final, TypeVar
from weakref import WeakKeyDictionary

from kafka.errors import KafkaConnectionError, KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from process.addresses import joined
from process.tls_causes import RESET, no_passphrase
from uic.log.connection_causes import ConnectionsFailed, NoConnection, why_no_connection

Client = TypeVar("Client")
RECENT_S: Final = 30.0
"""How long a connection that failed may be the reason why there is no answer."""


class Connections(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """The library's connections, with a limit to making one, a pause after one that failed, and the reason kept. What
    any broker can answer goes to one that answers.

    The library logs why a connection failed, and gives its caller a timeout. Of an error, only its words are kept here:
    its traceback refers to the socket, in a cycle, so the socket would stay open until the collector of cycles runs,
    which UIC lets do so rarely.
    """

    _sound: ClassVar[set[str]] = set()
    """Addresses to which the last connection of any client in this process was made, and has not failed."""

    def __init__(self, net: NetworkSelector, **configs: Any) -> None:
        super().__init__(net, **configs)
        self._loop = net
        self._watched: dict[Any, Any] = {}
        """By node: its newest connection."""
        self._failed: dict[str, tuple[float, NoConnection]] = {}
        """By address: when and why a connection to it failed."""

    def get_connection(
        self, node_id: Any, timeout_ms: float | None = None, reset_backoff_on_connect: bool = True, **named: Any
    ) -> Any:
        """A connection, made or begun.

        Only a bootstrap server has a `timeout_ms`: all of the time that is left. It gets half of that, so that one that
        is silent leaves time for another.

        Raises:
            KafkaError: none can be begun now.
        """
        timeout_ms = self.socket_connection_setup_timeout_ms(node_id) if timeout_ms is None else timeout_ms / 2
        conn = super().get_connection(node_id, timeout_ms, reset_backoff_on_connect=False, **named)
        if self._watched.get(node_id) is not conn:
            self._watched[node_id] = conn
            self._watch(conn, address_of(self.cluster.broker_metadata(node_id)), timeout_ms)
        return conn

    def least_loaded_node(self) -> Any:
        """As the library's, for what any broker can answer; where its choice has not answered this process, or not
        lately, another one that has. The library cannot know that a broker is silent before it has waited for it."""
        chosen = super().least_loaded_node()
        brokers = {node.node_id: address_of(node) for node in self.cluster.brokers()}
        if brokers.get(chosen) in self._sound:
            return chosen
        sound = (node for node, at in brokers.items() if at in self._sound and self.connection_delay(node) == 0)
        return next(sound, chosen)

    def _watch(self, conn: Any, address: str, timeout_ms: float) -> None:
        def begun(_: Any) -> None:
            self._failed.pop(address, None)
            self._sound.add(address)
            self.reset_backoff(conn.node_id)

        def give_up() -> None:  # the library waits for the end of a TLS handshake without a limit
            if not conn.init_future.is_done:
                conn.close(KafkaConnectionError("the connection timed out"))

        # The library counts a connection as made that ends before the first answer, as where a broker refuses our
        # certificate, and makes another one at once.
        conn.init_future.add_callback(begun).add_errback(lambda _: self.update_backoff(conn.node_id))
        conn.close_future.add_errback(self._note, address)
        self._loop.call_later(timeout_ms / 1000, give_up)

    def _note(self, address: str, error: BaseException) -> None:
        """A connection has failed. That time was over says less than the reason before, and so does a connection that
        ended without a word: the library drops what a broker says just before it ends one."""
        self._sound.discard(address)
        why = why_no_connection(error, self.config["security_protocol"])
        if (why.telling and why.said != RESET) or address not in self.failures():
            self._failed[address] = time.monotonic(), why
        behind: BaseException | None = error
        while behind is not None:
            traceback.clear_frames(behind.__traceback__)
            behind = behind.__context__

    def failures(self) -> dict[str, NoConnection]:
        """Address → why the last connection to it failed, a short while ago."""
        now = time.monotonic()
        return {at: why for at, (when, why) in sorted(self._failed.items()) if now - when <= RECENT_S}


_connections: WeakKeyDictionary[Any, Connections] = WeakKeyDictionary()
"""Of the clients that `open_kafka_client` has opened."""


def address_of(node: Any) -> str:
    """Where a broker is, `host:port`."""
    return joined(node.host, node.port)


def open_kafka_client(kind: Callable[..., Client], **options: Any) -> Client:
    """A connected client: `kind` is the library's `KafkaConsumer`, `KafkaProducer` or `KafkaAdminClient`, and `options`
    are its options. Close it.

    The library starts a thread and opens files before it looks for a broker, and leaves them if it finds none. Here
    they are closed, whatever the constructor raises. And a key that has a passphrase is a connection that fails, and no
    question at the terminal.

    Raises:
        KafkaError: no broker answers in time; its cause is a `ConnectionsFailed`.
    """
    made: list[Connections] = []
    with ExitStack() as started:

        def network(**configs: Any) -> KafkaNetClient:
            net = NetworkSelector(**configs)
            started.callback(net.close)
            connections = Connections(net, **configs)
            started.callback(connections.close)
            made.append(connections)
            return KafkaNetClient(net, connections)

        try:
            client = kind(**{"ssl_password": no_passphrase} | options, kafka_client=network)
        except KafkaError as error:
            failures = {at: why for one in made for at, why in one.failures().items()}
            raise error from ConnectionsFailed(failures, found_none=True)
        started.pop_all()
    _connections.update((client, one) for one in made)
    return client


def failures_of(client: Any) -> dict[str, NoConnection]:
    """Address → why a client that `open_kafka_client` has opened has no connection to it."""
    return _connections[client].failures() if client in _connections else {}


def broker_version(client: Any) -> tuple[int, ...] | None:
    """The version of the broker that such a client found first; None if it did not say."""
    found = _connections[client].broker_version
    return None if found is None else tuple(found)


@contextmanager
def explained(client: Any, broker: Any = None) -> Iterator[None]:
    """Errors of a client get why it has no connection as their cause, a `ConnectionsFailed`; only to one broker if its
    number is given. TLS files that cannot be read are a `KafkaConnectionError`, as the library raises all else."""
    try:
        yield
    except KafkaError as error:
        raise error from _cause(client, broker) or error.__cause__
    except OSError as error:
        raise KafkaConnectionError(f"no TLS with these files: {error}") from _cause(client, broker) or error


def _cause(client: Any, broker: Any) -> ConnectionsFailed | None:
    failures = failures_of(client)
    if not failures:
        return None
    cluster = _connections[client].cluster
    if broker is not None and (node := cluster.broker_metadata(broker)) is not None:
        failures = {at: why for at, why in failures.items() if at == address_of(node)}
    return ConnectionsFailed(failures, brokers=set(map(address_of, cluster.brokers()))) if failures else None
