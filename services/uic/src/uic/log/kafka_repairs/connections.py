"""Connections to brokers, why they fail, and which broker a request goes to."""

from __future__ import annotations

import random
import time
import traceback
from contextlib import suppress
from copy import copy
from typing import Any, ClassVar, Final, NamedTuple

from kafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
)
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport
from kafka.protocol.admin import DescribeConfigsRequest, DescribeTopicPartitionsRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

from process.tls_causes import RESET
from uic.log.connection_causes import (
    NoConnection,
    at_known_address,
    does_not_answer,
    has_gone,
    why_no_connection,
)
from uic.log.kafka_repairs.bootstrap import BootstrapServer
from uic.log.kafka_repairs.metadata import NO_BROKER, address_of, addresses_of
from uic.log.kafka_repairs.race import Race, ms_until
from uic.log.kafka_repairs.transports import PlainTransport, TlsTransport

UNANSWERED_S: Final = 2.0
"""From when on a request without an answer says that a broker is silent."""
RECENT_S: Final = 30.0
"""How long a connection that failed may be the reason why there is no answer."""
_QUESTIONS: Final = (MetadataRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest, FindCoordinatorRequest)
"""Of those, all that is asked of any broker. To ask twice changes nothing."""


class _Wanted(NamedTuple):
    """A server that is connected to, as long as that is wanted."""

    node_id: Any
    host: str
    port: int
    closed: Future
    """Done when the connection is closed."""


class Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """Connections of which one that cannot be made leaves no socket open, and is known with its reason; and requests
    that find brokers which are new to the client.

    The library does not close it. The error's traceback refers to it, from a cycle, so it stays open until the
    collector of cycles runs, which UIC lets do so rarely. And it logs the reason and tries again, until the caller
    is told that time is over. No error is kept here, only its words, for the same reason.
    """

    _have_answered: ClassVar[set[tuple[str, str]]] = set()
    """Address and protocol of the servers that have answered a question of this process: if such a server ends a
    connection, it wants no other protocol, and if it is silent, its address is right all the same. One that wants a
    login answers without one only which versions it knows."""

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self.answer_by: float | None = None
        """When questions to any broker must have been answered, on the monotonic clock; None for the time of each."""
        self.unknown_topics: set[str] = set()
        """What the brokers have said, when last asked about them, that they do not have."""
        self._failed: dict[str, tuple[float, NoConnection]] = {}
        """By address: when and why a connection to it failed. Written by the client's I/O thread, as is the next."""
        self._connecting: dict[Any, tuple[str, float]] = {}
        """By node: the address that is connected to, and since when."""

    async def _build_transport(self, node: _Wanted, timeout_at: float | None = None) -> Any:
        """A transport, made by a task of its own: the library waits for the end of a TLS handshake without a limit.

        Returns:
            None if the connection was closed meanwhile; then the library makes none.

        Raises:
            KafkaError: it cannot be made, or not until `timeout_at`.
        """
        made, ended = Future(), Future()

        async def make() -> None:
            try:
                made.success(await super(Manager, self)._build_transport(node, timeout_at))
            except Exception as error:
                _forget_locals(error)
                made.failure(_of_connection(error) if isinstance(error, OSError) else error)

        def end(_: object) -> None:
            if not ended.is_done:
                ended.success(None)

        made.add_both(end)
        node.closed.add_both(end)
        making = self._net.call_soon(make)
        with suppress(KafkaTimeoutError):
            await self.wait_for(ended, ms_until(timeout_at))
        self._net.cancel(making)  # which closes its socket
        if made.is_done:
            transport = await made
            transport.__class__ = TlsTransport if isinstance(transport, KafkaSSLTransport) else PlainTransport
            return transport
        if node.closed.is_done:
            return None
        raise KafkaConnectionError("the connection timed out")

    async def _do_bootstrap(self, deadline: float | None) -> bool:
        """Learn of the cluster from the first server that answers. The next one is asked, too, whenever those that were
        asked have failed or been silent for a moment; the library asks one by chance, and leaves it all of the time.

        Raises:
            KafkaError: none answers in time, or each refuses; then the error of one that refuses.
        """
        servers = self.cluster.bootstrap_brokers()
        random.shuffle(servers)
        race = Race(self, len(servers), deadline)
        asked: list[BootstrapServer] = []
        answered = False
        try:
            for server in servers:
                one = BootstrapServer(self, server, deadline, race.move_on)
                asked.append(one)
                if await race.joined_by(self.call_soon(one.answer)):
                    break
            answered = await race.is_won()
        finally:
            for one in asked:
                one.stop(needed=not answered)
        if answered:
            self.cluster.start_refresh_loop()
            return True
        raise race.refusal() or KafkaTimeoutError(f"no broker answers at {addresses_of(servers)}")

    def send(self, request: Any, node_id: Any = None, request_timeout_ms: int | None = None) -> Any:
        """A `Future` of the answer. Fresh metadata is asked for if it is not known where the broker is: the library
        does not ask, though it was just told that this broker is a leader or coordinator, and its metadata may date
        from before the broker came (back). A question that each broker can answer goes to another one, too, if one
        does not answer: the library asks one, and names one whenever it renews its metadata."""
        any_broker = isinstance(request, _QUESTIONS) and node_id is None
        if any_broker or (isinstance(request, MetadataRequest) and self.cluster.brokers()):
            return self.call_soon(self._ask, request, request_timeout_ms)
        try:
            return self._send(request, node_id, request_timeout_ms)
        except UnknownBrokerIdError:
            if node_id == NO_BROKER:
                raise
            return self.call_soon(self._send_when_known, request, node_id, request_timeout_ms)

    async def _send_when_known(self, request: Any, node_id: Any, request_timeout_ms: int | None) -> Any:
        await self.wait_for(self.cluster.request_update(), request_timeout_ms or self.config["request_timeout_ms"])
        return await self._send(request, node_id, request_timeout_ms)

    def _send(self, request: Any, node_id: Any, request_timeout_ms: int | None) -> Any:
        answer = super().send(request, node_id, request_timeout_ms)
        return answer.add_callback(self.note_answer, node_id)

    def note_answer(self, node_id: Any, _: object = None) -> None:
        """A server has answered a question."""
        if (node := self.cluster.broker_metadata(node_id)) is not None:
            self._have_answered.add((address_of(node), self.config["security_protocol"]))

    def _has_answered(self, address: str) -> bool:
        return (address, self.config["security_protocol"]) in self._have_answered

    async def _ask(self, question: Any, timeout_ms: int | None) -> Any:
        """The answer of the first broker that gives one.

        Raises:
            KafkaError: none does in time, or each fails; then the error of one that refuses.
        """
        timeout_ms = timeout_ms or self.config["request_timeout_ms"]
        deadline = time.monotonic() + timeout_ms / 1000
        if self.answer_by is not None:
            deadline = min(deadline, self.answer_by)
        brokers = list(self.cluster.brokers())
        random.shuffle(brokers)
        brokers.sort(key=lambda broker: not self._is_idle(broker.node_id))
        race = Race(self, len(brokers), deadline)
        for broker in brokers:
            # A copy, because a request takes on the version of the broker that it is sent to.
            if await race.joined_by(self.call_soon(self._send, copy(question), broker.node_id, timeout_ms)):
                break
        if await race.is_won():
            if isinstance(question, MetadataRequest):
                self._note_topics(race.answer)
            return race.answer
        raise race.refusal() or KafkaConnectionError(f"no answer from {addresses_of(brokers)}")

    def _note_topics(self, answer: Any) -> None:
        """The brokers told of topics, or that there are none of these names."""
        for topic in answer.topics:
            if topic.error_code == UnknownTopicOrPartitionError.errno:
                self.unknown_topics.add(topic.name)
            else:
                self.unknown_topics.discard(topic.name)

    def _is_idle(self, node_id: Any) -> bool:
        """Whether there is a connection to a broker, and no answer is waited for on it."""
        conn = self._conns.get(node_id)
        return conn is not None and conn.connected and not conn.in_flight_requests

    async def _connect(
        self, node: Any, conn: Any, reset_backoff_on_connect: bool = True, timeout_at: float | None = None
    ) -> None:
        """Connect, and pause before the next try unless the broker has answered. The library takes a connection for
        made that ended while the first answer was waited for, and makes another one at once. A broker that refuses our
        certificate ends each so: in TLS 1.3 it says so behind the handshake."""
        address = address_of(node)
        self._connecting[node.node_id] = address, time.monotonic()
        conn.init_future.add_both(lambda _: self._connecting.pop(node.node_id, None))
        conn.close_future.add_errback(self._note, address)
        wanted = _Wanted(node.node_id, node.host, node.port, conn.close_future)
        before = self._backoff.get(node.node_id)
        await super()._connect(wanted, conn, reset_backoff_on_connect=False, timeout_at=timeout_at)
        if not reset_backoff_on_connect:
            return
        if conn.init_future.succeeded():
            self.reset_backoff(node.node_id)
        elif conn.close_future.failed() and self._backoff.get(node.node_id) == before:
            self.update_backoff(node.node_id)

    def maybe_raise_auth_failure(self, node_id: Any) -> None:
        """Nothing: a login is tried again after the usual pause, because brokers refuse one also while what they ask
        is away, and passwords change. The library keeps a refusal until a connection is made, and makes none because
        of it. It is told by `failures`."""

    def _note(self, address: str, error: BaseException) -> None:
        """A connection has failed. That time was over says less than what was seen before."""
        why = why_no_connection(error, self.config["security_protocol"])
        if self._has_answered(address):
            why = has_gone() if why.said == RESET else at_known_address(why)
        if why.telling or address not in self.failures():
            self._failed[address] = time.monotonic(), why

    def _silent(self, address: str, seconds: float, *, connected: bool) -> NoConnection:
        why = does_not_answer(seconds, connected=connected)
        return at_known_address(why) if self._has_answered(address) else why

    def failures(self) -> dict[str, NoConnection]:
        """Address → why the last connection to it failed, a short while ago, of those without an open one; and of
        others, that they do not answer."""
        now = time.monotonic()
        open_to: set[str] = set()
        asked = [(since, at, False) for at, since in list(self._connecting.values())]
        for conn in list(self._conns.values()):
            node = self.cluster.broker_metadata(conn.node_id)
            if conn.connected and node is not None:
                open_to.add(address_of(node))
                with suppress(IndexError):  # it has answered all
                    _, _, sent, *_ = conn.in_flight_requests[0]
                    asked.append((sent, address_of(node), True))
        silent = {
            at: self._silent(at, now - since, connected=connected)
            for since, at, connected in sorted(asked, reverse=True)  # of an address, what has waited longest
            if now - since >= UNANSWERED_S
        }
        failed = {at: why for at, (when, why) in self._failed.items() if now - when <= RECENT_S and at not in open_to}
        return dict(sorted((silent | failed).items()))


def _of_connection(error: OSError) -> KafkaConnectionError:
    """An error of TLS files, as the library raises all others of a connection; it reads the files outside of that."""
    failed = KafkaConnectionError(f"no TLS with these files: {error}")
    failed.__cause__ = error
    return failed


def _forget_locals(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
