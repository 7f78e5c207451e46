"""All that reaches into kafka-python's private parts, each part behind an assumption that is checked before use. The
file is long because it is all: with another version of the library, this file must be read again, and no other.

Two kinds: what the library has no public way to (a position without a network call, fresh metadata, faster reading of
batches, the log behind an open transaction), and repairs of its faults, seen in 3.0.12:

* `_Coordinator`: a finished join is collected, whenever it finishes, and the next one waits until others have theirs; a
  short outage does not end the member.
* `ClaimingAssignor`: a member that joins claims the partitions that it holds.
* `unblock_paused`: a resumed partition is not silent for ever.
* `_OfLeaders`: offsets of partitions without a leader are an error that names these partitions.
* `_Fetcher`: an answer that is too large is not asked for again and again, and a topic that may not be read does not
  end the poll.
* `poll_once`: a broker that answers an empty fetch at once does not keep a core busy.
* `open_kafka_client`: a client that finds no broker leaves no thread and no open file.
* `_Manager`: a connection that cannot be made leaves no open socket, and why it failed is known; TLS has no longer
  than the connection; a broker that the client has not heard of is looked up before a request to it fails.
* `_Asked`: a server that is silent does not keep a client from the next one, and is named.
* `_QUESTIONS`: what any broker can answer is asked of another one, too, if one is gone or silent.
* `_ReadsAll`: what a broker says before it ends a connection is read.
* `_TransactionManager`: a producer that gave its id up asks for another one.
* `_Sender`: a record that fails says whether the brokers can have it.

Another version of the library may move any of this, so `check_client` names the first assumption that does not hold.
Decisions 32, 187 and 204 say what each repair is for.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from functools import cache
from typing import Any, ClassVar, Final, NamedTuple, TypeVar
from uuid import UUID

import kafka
import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import BaseCoordinator
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    ClusterAuthorizationFailedError,
    CorruptRecordError,
    IncompatibleBrokerVersion,
    InvalidReceiveError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    PolicyViolationError,
    RecordListTooLargeError,
    RequestTimedOutError,
    RetriableError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
    for_code,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager, TransactionState
from kafka.protocol.admin import DescribeConfigsRequest, DescribeTopicPartitionsRequest
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.consumer import OffsetForLeaderEpochRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import MemberState
from kafka.util import Timer

from mimn.state import NO_EPOCH, NO_TOPIC_ID
from process.assumptions import broken, takes, uses
from uic.core.epochs import EpochEnd
from uic.core.event import Record
from uic.core.records import BatchRecord, Records
from uic.core.topics import bring_back
from uic.errors import UnsuitableClient
from uic.log.connection_causes import ConnectionsFailed, NoConnection, does_not_answer, why_no_connection
from uic.log.outcomes import Outcomes
from uic.log.record_batches import Malformed, UnreadableBatch, read_records
from uic.settings import MAX_BATCH_BYTES

# What is assumed


ASSUMPTIONS: Final[dict[str, Callable[[], bool]]] = {
    "consumers, producers and admin clients make their network with kafka_client(**options)": lambda: all(
        "kafka_client" in kind.DEFAULT_CONFIG and uses(kind.__init__, "_manager")
        for kind in (KafkaConsumer, KafkaProducer, KafkaAdminClient)
    ),
    "a network is made of a NetworkSelector and a KafkaConnectionManager, which are closed": lambda: (
        takes(KafkaNetClient.__init__, "self", "net", "manager")
        and takes(KafkaConnectionManager.__init__, "self", "net")
        and uses(KafkaNetClient.close, "_manager", "_net", "close")
        and uses(NetworkSelector.close, "_io_thread", "stop", "_selector")
    ),
    "a manager connects in _build_transport(node, timeout_at)": lambda: (
        takes(KafkaConnectionManager._build_transport, "self", "node", "timeout_at")
        and uses(KafkaConnectionManager._connect, "_build_transport", "connection_lost")
    ),
    "connecting is a task that can be ended, and one whose connection was closed meanwhile makes none": lambda: (
        takes(NetworkSelector.call_soon, "self", "task")
        and takes(NetworkSelector.cancel, "self", "task")
        and uses(NetworkSelector.cancel, "_pending_tasks", "close")
        and uses(KafkaConnectionManager._connect, "closed", "connection_made")
    ),
    "a manager keeps connections in _conns and makes one in _connect(node, conn), which ends in close_future": lambda: (
        takes(KafkaConnectionManager._connect, "self", "node", "conn")
        and uses(KafkaConnectionManager.get_connection, "_conns", "close_future")
        and uses(KafkaConnection.__init__, "connected", "_close_future")
        and isinstance(KafkaConnection.close_future, property)
    ),
    "a connection keeps requests in in_flight_requests: number, future, when it was sent, …": lambda: (
        uses(KafkaConnection.__init__, "in_flight_requests")
        and uses(KafkaConnection._send_request, "in_flight_requests", "monotonic", "append")
    ),
    "a manager sends with send(request, node_id, request_timeout_ms), to brokers that its metadata has": lambda: (
        takes(KafkaConnectionManager.send, "self", "request", "node_id", "request_timeout_ms")
        and uses(KafkaConnectionManager.send, "get_connection")
        and uses(KafkaConnectionManager.get_connection, "broker_metadata", "UnknownBrokerIdError")
        and takes(KafkaConnectionManager.wait_for, "self", "future", "timeout_ms")
        and takes(KafkaConnectionManager.call_soon, "self", "coro")
    ),
    "any broker is asked with send(request), and a request takes its API_VERSION when it is sent": lambda: (
        uses(KafkaAdminClient._get_cluster_metadata, "MetadataRequest", "_manager", "send")
        and uses(KafkaConnection._send_request, "API_VERSION", "broker_version_data")
        and issubclass(MetadataRequest, ApiMessage)
    ),
    "a client learns of the cluster in _do_bootstrap(deadline), from one of bootstrap_brokers() until it is closed": (
        lambda: (
            takes(KafkaConnectionManager._do_bootstrap, "self", "deadline")
            and uses(KafkaConnectionManager._do_bootstrap, "bootstrap_brokers", "closed", "cluster", "brokers")
            and uses(KafkaConnectionManager._do_bootstrap, "connection_delay", "update_backoff", "reset_backoff")
            and uses(KafkaConnectionManager._do_bootstrap, "get_connection", "_conns", "start_refresh_loop")
            and uses(KafkaConnectionManager.bootstrap_async, "_do_bootstrap", "call_soon")
            and takes(
                KafkaConnectionManager.get_connection,
                "self",
                "node_id",
                "timeout_ms",
                "pop_on_close",
                "refresh_metadata_on_err",
                "reset_backoff_on_connect",
            )
        )
    ),
    "a cluster has metadata_request() and update_metadata(answer), and a connection send_request(request)": lambda: (
        takes(ClusterMetadata.metadata_request, "self")
        and takes(ClusterMetadata.update_metadata, "self", "metadata")
        and uses(ClusterMetadata._do_refresh_metadata, "metadata_request", "update_metadata")
        and takes(KafkaConnection.send_request, "self", "request")
    ),
    "a connection that is not needed any more ends without an error in connection_lost(None), or its transport": (
        lambda: (
            takes(KafkaConnection.connection_lost, "self", "exc")
            and uses(KafkaConnection.connection_lost, "_close_future", "success")
            and uses(KafkaConnection.close, "transport", "connection_lost", "abort", "close")
        )
    ),
    "a transport reads with _sock_recv(), which gives bytes and an error": lambda: all(
        takes(kind._sock_recv, "self") and uses(kind._read_from_sock, "_sock_recv", "abort", "data_received")
        for kind in (KafkaTCPTransport, KafkaSSLTransport)
    ),
    "a consumer has _coordinator, _fetcher, _subscription, _cluster, _net and _manager": lambda: uses(
        KafkaConsumer.__init__, "_coordinator", "_fetcher", "_subscription", "_cluster", "_net", "_manager"
    ),
    "a poll goes round in _poll_once(timer, max_records) until its time is over": lambda: (
        takes(KafkaConsumer._poll_once, "self", "timer", "max_records")
        and uses(KafkaConsumer.poll, "_poll_once", "Timer", "expired")
    ),
    "a join in progress is kept in _join_task and begun again if that is_done": lambda: (
        uses(BaseCoordinator.__init__, "_join_task") and uses(BaseCoordinator.join_group_async, "_join_task", "is_done")
    ),
    "_join_task is an attribute of the instance, not of the class": lambda: (
        not hasattr(ConsumerCoordinator, "_join_task") and ConsumerCoordinator.__dictoffset__ != 0
    ),
    "a poll looks for the coordinator with ensure_coordinator_ready_async(timeout_ms), and ends if there is none": (
        lambda: (
            takes(BaseCoordinator.ensure_coordinator_ready_async, "self", "timeout_ms")
            and uses(BaseCoordinator.ensure_coordinator_ready, "ensure_coordinator_ready_async")
            and uses(BaseCoordinator.ensure_coordinator_ready_async, "config", "_manager", "_net", "sleep")
            and uses(ConsumerCoordinator.poll, "ensure_coordinator_ready")
            and {"session_timeout_ms", "retry_backoff_ms"} <= set(BaseCoordinator.DEFAULT_CONFIG)
        )
    ),
    "joining goes on while need_rejoin() says so": lambda: (
        takes(ConsumerCoordinator.need_rejoin, "self")
        and uses(BaseCoordinator.join_group_async, "need_rejoin")
        and uses(ConsumerCoordinator.poll, "need_rejoin")
    ),
    "a member that gave partitions up asks for a rejoin at the end of _on_join_complete_async": lambda: uses(
        ConsumerCoordinator._on_join_complete_async, "request_rejoin", "assign_from_subscribed"
    ),
    "an assignor claims member_assignment when it makes its metadata(topics)": lambda: (
        takes(CooperativeStickyAssignor.metadata, "self", "topics")
        and uses(CooperativeStickyAssignor.metadata, "member_assignment")
    ),
    "a fetch is read by the class that Fetcher.PartitionRecords names": lambda: (
        inspect.isclass(Fetcher.PartitionRecords) and uses(Fetcher._parse_fetched_data, "PartitionRecords")
    ),
    "PartitionRecords reads with _unpack_records(tp, records, …) and ends with drain()": lambda: (
        takes(Fetcher.PartitionRecords._unpack_records, "self", "tp", "records")
        and takes(Fetcher.PartitionRecords.drain, "self")
        and uses(
            Fetcher.PartitionRecords.__init__, "_unpack_records", "next_fetch_offset", "leader_epoch", "check_crcs"
        )
    ),
    "PartitionRecords hands out with take(n), which keeps an error for the next call": lambda: (
        takes(Fetcher.PartitionRecords.take, "self", "n")
        and uses(Fetcher.PartitionRecords.take, "_maybe_raise_next_inline_exception", "record_iterator")
        and uses(Fetcher._append, "take", "next_fetch_offset")
    ),
    "PartitionRecords tells which transactions were aborted": lambda: (
        takes(Fetcher.PartitionRecords._consume_aborted_transactions_up_to, "self", "offset")
        and takes(Fetcher.PartitionRecords._is_batch_aborted, "self", "batch")
        and takes(Fetcher.PartitionRecords._contains_abort_marker, "self", "batch")
    ),
    "a marker's batch has one record, which says whether it is an abort": lambda: uses(
        Fetcher.PartitionRecords._contains_abort_marker, "is_control_batch", "abort"
    ),
    "offsets are asked for with the fetcher's _isolation_level": lambda: (
        uses(Fetcher.__init__, "_isolation_level") and uses(Fetcher._send_list_offsets_request, "_isolation_level")
    ),
    "all offsets are asked for with _fetch_offsets_by_times_async(timestamps, timeout_ms), of leaders only": lambda: (
        takes(Fetcher._fetch_offsets_by_times_async, "self", "timestamps", "timeout_ms")
        and uses(Fetcher.beginning_or_end_offset, "_fetch_offsets_by_times_async")
        and uses(Fetcher.offsets_by_times, "_fetch_offsets_by_times_async")
        and uses(Fetcher._group_list_offset_requests, "leader_for_partition")
        and uses(Fetcher.__init__, "_manager")
        and takes(ClusterMetadata.leader_for_partition, "self", "partition")
    ),
    "a fetcher keeps the records in line in _next_partition_records": lambda: uses(
        Fetcher.fetched_records, "_next_partition_records", "_paused_partition_records"
    ),
    "a fetch that failed is told to _handle_fetch_error(node, exception)": lambda: (
        takes(Fetcher._handle_fetch_error, "self", "node_id", "exception")
        and uses(Fetcher._send_fetches_async, "_handle_fetch_error")
    ),
    "a fetch's answer is handled by _handle_fetch_response(node, offsets, sent, response)": lambda: (
        takes(Fetcher._handle_fetch_response, "self", "node_id", "fetch_offsets", "send_time", "response")
        and uses(Fetcher._send_fetches_async, "_handle_fetch_response")
    ),
    "and its partitions one after the other by _parse_fetched_data(fetch)": lambda: (
        takes(Fetcher._parse_fetched_data, "self", "completed_fetch")
        and uses(Fetcher._parse_fetched_data, "topic_partition", "partition_data", "error_code")
        and takes(SubscriptionState.move_partition_to_end, "self", "partition")
        and uses(Fetcher.fetched_records, "_parse_fetched_data")
    ),
    "a batch's records lie at _pos of its _buffer": lambda: {"_buffer", "_pos"} <= set(DefaultRecordBatch.__slots__),
    "a subscription keeps positions in assignment": lambda: uses(SubscriptionState.__init__, "assignment"),
    "a cluster has request_update(), topic_id(topic) and partitions_for_topic(topic)": lambda: (
        takes(ClusterMetadata.request_update, "self")
        and takes(ClusterMetadata.topic_id, "self")
        and takes(ClusterMetadata.partitions_for_topic, "self", "topic")
    ),
    "a cluster knows leader_epoch_for_partition(partition), and OffsetForLeaderEpochRequest asks where epochs end": (
        lambda: (
            takes(ClusterMetadata.leader_epoch_for_partition, "self", "partition")
            and uses(Fetcher._send_offset_for_leader_epoch_request, "OffsetForLeaderEpochRequest", "leader_epoch")
            and uses(Fetcher._handle_offset_for_leader_epoch_response, "topics", "partitions", "end_offset")
        )
    ),
    "a producer has a thread _sender with force_close()": lambda: (
        uses(KafkaProducer.__init__, "_sender") and takes(Sender.force_close, "self") and hasattr(Sender, "join")
    ),
    "an idempotent producer asks for its id with init_producer_id() while it has none": lambda: (
        uses(KafkaProducer.__init__, "_transaction_manager")
        and takes(TransactionManager.init_producer_id, "self")
        and uses(Sender.run_once, "_transaction_manager", "has_producer_id", "init_producer_id")
        and uses(TransactionManager.init_producer_id, "_lock", "_current_state", "UNINITIALIZED")
        and takes(TransactionManager.has_fatal_error, "self")
        and {"READY", "UNINITIALIZED"} <= set(TransactionState.__members__)
    ),
    "a batch that fails goes through _dispatch_error(batch, exception, …), and in_retry() says if it is sent again": (
        lambda: (
            takes(Sender._dispatch_error, "self", "batch", "exception", "partition_response")
            and uses(Sender._complete_batch, "_dispatch_error")
            and uses(Sender._complete_batch_with_exception, "_dispatch_error")
            and takes(ProducerBatch.in_retry, "self")
        )
    ),
    "what waits when a producer has failed ends with _maybe_abort_batches(exc), and drained says when a batch left": (
        lambda: (
            takes(Sender._maybe_abort_batches, "self", "exc")
            and uses(Sender.run_once, "_maybe_abort_batches")
            and uses(Sender.__init__, "_accumulator")
            and uses(RecordAccumulator.__init__, "_incomplete")
            and uses(RecordAccumulator.drain_batches_for_one_node, "drained")
            and uses(RecordAccumulator.abort_batches, "_incomplete", "all")
        )
    ),
}


@cache
def check_client() -> None:
    """Once, before the first consumer.

    Raises:
        UnsuitableClient: the installed kafka-python is not one that these repairs are for.
    """
    if found := broken(ASSUMPTIONS):
        raise UnsuitableClient(
            f"kafka-python {kafka.__version__} does not work with this version of UIC, which assumes that "
            f"{'; '.join(found)}. "
            "Install kafka-python>=3.0.12,<3.1"
        )


# Connecting


log = logging.getLogger("kafka.uic")
"""Among the library's, with its level: what it logs itself where it is not repaired."""
Client = TypeVar("Client")


NO_BROKER: Final = -1
"""What the brokers name as the leader of a partition that has none."""
SILENT_S: Final = 0.5
"""How long a server may be silent before the next one is asked, too."""
UNANSWERED_S: Final = 2.0
"""From when on a request without an answer says that a broker is silent."""
RECENT_S: Final = 30.0
"""How long a connection that failed may be the reason why there is no answer."""
_QUESTIONS: Final = (MetadataRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest, FindCoordinatorRequest)
"""Of those, all that is asked of any broker. To ask twice changes nothing."""
_NO_ANSWER: Final = (KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError)


class _ReadsAll:
    """A transport that hands on what it has received before it ends.

    The library drops it if the end of the connection is there already: the answer in which a broker refuses a login.
    """

    def _sock_recv(self) -> tuple[bytes, Any]:
        received, error = super()._sock_recv()  # type: ignore[misc]  # the library's
        return received, None if received else error  # the end is there again at the next look


class _PlainTransport(_ReadsAll, KafkaTCPTransport):  # type: ignore[misc]  # kafka-python has no types
    pass


class _TlsTransport(_ReadsAll, KafkaSSLTransport):  # type: ignore[misc]  # kafka-python has no types
    pass


class _Wanted(NamedTuple):
    """A server that is connected to, as long as that is wanted."""

    node_id: Any
    host: str
    port: int
    closed: Future
    """Done when the connection is closed."""


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """Connections of which one that cannot be made leaves no socket open, and is known with its reason; and requests
    that find brokers which are new to the client.

    The library does not close it. The error's traceback refers to it, from a cycle, so it stays open until the
    collector of cycles runs, which UIC lets do so rarely. And it logs the reason and tries again, until the caller
    is told that time is over. No error is kept here, only its words, for the same reason.
    """

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self.answers_at_once = True
        """Whether brokers answer all that this client asks without delay: not so a member of a group, whose joins wait
        for the others'."""
        self._failed: dict[str, tuple[float, NoConnection]] = {}
        """By address: when and why a connection to it failed. Written by the client's I/O thread."""

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
                made.success(await super(_Manager, self)._build_transport(node, timeout_at))
            except Exception as error:
                _forget_locals(error)
                made.failure(error)

        def end(_: object) -> None:
            if not ended.is_done:
                ended.success(None)

        made.add_both(end)
        node.closed.add_both(end)
        making = self._net.call_soon(make)
        with suppress(KafkaTimeoutError):
            await self.wait_for(ended, _ms_until(timeout_at))
        self._net.cancel(making)  # which closes its socket
        if made.is_done:
            transport = await made
            transport.__class__ = _TlsTransport if isinstance(transport, KafkaSSLTransport) else _PlainTransport
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
        race = _Race(self, len(servers), deadline)
        asked: list[_Asked] = []
        answered = False
        try:
            for server in servers:
                one = _Asked(self, server, deadline, race.move_on)
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
        raise race.refusal() or KafkaTimeoutError(f"no broker answers at {_addresses(servers)}")

    def send(self, request: Any, node_id: Any = None, request_timeout_ms: int | None = None) -> Any:
        """A `Future` of the answer. Fresh metadata is asked for if it is not known where the broker is: the library
        does not ask, though it was just told that this broker is a leader or coordinator, and its metadata may date
        from before the broker came (back). A question that each broker can answer goes to another one, too, if one
        does not answer: the library asks one."""
        if node_id is None and isinstance(request, _QUESTIONS):
            return self.call_soon(self._ask, request, request_timeout_ms)
        try:
            return super().send(request, node_id, request_timeout_ms)
        except UnknownBrokerIdError:
            if node_id == NO_BROKER:
                raise
            return self.call_soon(self._send_when_known, request, node_id, request_timeout_ms)

    async def _send_when_known(self, request: Any, node_id: Any, request_timeout_ms: int | None) -> Any:
        await self.wait_for(self.cluster.request_update(), request_timeout_ms or self.config["request_timeout_ms"])
        return await super().send(request, node_id, request_timeout_ms)

    async def _ask(self, question: Any, timeout_ms: int | None) -> Any:
        """The answer of the first broker that gives one.

        Raises:
            KafkaError: none does in time, or each fails; then the error of one that refuses.
        """
        timeout_ms = timeout_ms or self.config["request_timeout_ms"]
        brokers = list(self.cluster.brokers())
        random.shuffle(brokers)
        brokers.sort(key=lambda broker: not self._is_idle(broker.node_id))
        race = _Race(self, len(brokers), time.monotonic() + timeout_ms / 1000)
        for broker in brokers:
            # A copy, because a request takes on the version of the broker that it is sent to.
            if await race.joined_by(self.call_soon(super().send, copy(question), broker.node_id, timeout_ms)):
                break
        if await race.is_won():
            return race.answer
        raise race.refusal() or KafkaConnectionError(f"no broker answers at {_addresses(brokers)}")

    def _is_idle(self, node_id: Any) -> bool:
        """Whether there is a connection to a broker, and no answer is waited for on it."""
        conn = self._conns.get(node_id)
        return conn is not None and conn.connected and not conn.in_flight_requests

    async def _connect(self, node: Any, conn: Any, *given: Any, **named: Any) -> None:
        conn.close_future.add_errback(self._note, _address(node))
        wanted = _Wanted(node.node_id, node.host, node.port, conn.close_future)
        await super()._connect(wanted, conn, *given, **named)

    def _note(self, address: str, error: BaseException) -> None:
        """A connection has failed. That time was over says less than what was seen before."""
        why = why_no_connection(error, self.config["security_protocol"])
        if why.telling or address not in self.failures():
            self._failed[address] = time.monotonic(), why

    def failures(self) -> dict[str, NoConnection]:
        """Address → why the last connection to it failed, a short while ago, of those without an open one; and of those
        with one, that it does not answer."""
        now = time.monotonic()
        connected: set[str] = set()
        silent: dict[str, NoConnection] = {}
        for conn in list(self._conns.values()):
            node = self.cluster.broker_metadata(conn.node_id)
            if conn.connected and node is not None:
                connected.add(_address(node))
                with suppress(IndexError):  # it has answered all
                    _, _, sent, *_ = conn.in_flight_requests[0]
                    if self.answers_at_once and now - sent >= UNANSWERED_S:
                        silent[_address(node)] = does_not_answer(now - sent)
        failed = {at: why for at, (when, why) in self._failed.items() if now - when <= RECENT_S and at not in connected}
        return dict(sorted((failed | silent).items()))


class _Race:
    """Attempts at one thing, of which the first success counts. The next one begins, too, when one has failed or has
    given no sign for a moment."""

    def __init__(self, manager: _Manager, size: int, deadline: float | None) -> None:
        self._manager = manager
        self._size = size
        self._deadline = deadline
        self._moved = Future()
        self._won = Future() if size else Future().success(False)
        self.answer: Any = None
        """Of the attempt that has succeeded."""
        self._failed: list[BaseException] = []

    async def joined_by(self, attempt: Future) -> bool:
        """Whether the race has ended, a moment after one more attempt has begun."""
        self._moved = Future()
        attempt.add_callback(self._succeed).add_errback(self._fail).add_both(self.move_on)
        with suppress(KafkaTimeoutError):
            await self._manager.wait_for(self._moved, _ms_until(self._deadline, SILENT_S * 1000))
        return bool(self._won.is_done)

    def move_on(self, *_: object) -> None:
        """There is no reason to wait before the next attempt."""
        if not self._moved.is_done:
            self._moved.success(None)

    async def is_won(self) -> bool:
        """Whether an attempt succeeds before all have failed and before time is over."""
        with suppress(KafkaTimeoutError):
            return bool(await self._manager.wait_for(self._won, _ms_until(self._deadline)))
        return False

    def refusal(self) -> BaseException | None:
        """The first error that is not only the lack of an answer. It is not kept: an error that a frame of its own
        traceback refers to stays until the collector of cycles runs."""
        failed, self._failed = self._failed, []
        return next((error for error in failed if not isinstance(error, _NO_ANSWER)), None)

    def _succeed(self, answer: Any) -> None:
        if not self._won.is_done:
            self.answer = answer
            self._won.success(True)

    def _fail(self, error: BaseException) -> None:
        self._failed.append(error)
        if len(self._failed) == self._size and not self._won.is_done:
            self._won.success(False)


class _Asked:
    """A server that is asked for the cluster's metadata until it answers, or its answer is not needed any more.

    The library's own way shares one request among all who ask: a server that hangs at it would keep the others waiting.
    """

    def __init__(self, manager: _Manager, server: Any, deadline: float | None, failed: Callable[[], None]) -> None:
        """`failed` is called when a try has failed; there may be more of them."""
        self._manager = manager
        self._server = server
        self._deadline = deadline
        self._failed = failed
        self._began = time.monotonic()
        self._stopped = Future()

    async def answer(self) -> None:
        """Let the client's cluster be as this server says.

        Raises:
            KafkaError: it refuses, or its time is over.
        """
        manager, node_id = self._manager, self._server.node_id
        while not (self._stopped.is_done or manager.closed or _ms_until(self._deadline) == 0):
            if (delay_s := manager.connection_delay(node_id)) > 0:
                with suppress(KafkaTimeoutError):
                    await manager.wait_for(self._stopped, _ms_until(self._deadline, delay_s * 1000))
                continue
            conn = manager.get_connection(
                node_id,
                timeout_ms=_ms_until(self._deadline),
                pop_on_close=False,
                refresh_metadata_on_err=False,
                reset_backoff_on_connect=False,
            )
            try:
                await conn
                manager.cluster.update_metadata(await conn.send_request(manager.cluster.metadata_request()))
                if manager.cluster.brokers():
                    manager.reset_backoff(node_id)
                    return
            except IncompatibleBrokerVersion:
                raise
            except Exception as error:
                if not self._stopped.is_done:
                    log.warning("no metadata from %s: %s", _address(self._server), error)
            finally:
                if manager._conns.get(node_id) is conn:
                    del manager._conns[node_id]
                _close(conn)
            if not self._stopped.is_done:
                manager.update_backoff(node_id)
                self._failed()
        raise KafkaTimeoutError(f"no answer from {_address(self._server)}")

    def stop(self, *, needed: bool) -> None:
        """Ask no more. That there was no answer says something of the server only if it was `needed`."""
        if not self._stopped.is_done:
            self._stopped.success(None)
        if (conn := self._manager._conns.pop(self._server.node_id, None)) is None:
            return
        if needed:
            conn.close(KafkaTimeoutError(f"no answer for {time.monotonic() - self._began:.1f} s"))
        else:
            _close(conn)


def _close(conn: Any) -> None:
    """End a connection that is not needed any more; the library's way is an error in its log where it is not made."""
    if conn.transport is None:
        conn.connection_lost(None)
    else:
        conn.transport.close()


def _ms_until(at: float | None, most_ms: float | None = None) -> float | None:
    """The time that is left, up to `most_ms`; None is without a limit."""
    left_ms = None if at is None else max(0.0, (at - time.monotonic()) * 1000)
    return min((ms for ms in (left_ms, most_ms) if ms is not None), default=None)


def _address(node: Any) -> str:
    return f"{node.host}:{node.port}"


def _addresses(nodes: Iterable[Any]) -> str:
    return ", ".join(sorted(map(_address, nodes)))


def failures_of(client: Any) -> dict[str, NoConnection]:
    """Address → why a client that `open_kafka_client` has opened has no connection to it."""
    manager = getattr(client, "_manager", None)
    return manager.failures() if isinstance(manager, _Manager) else {}


@contextmanager
def explained(client: Any) -> Iterator[None]:
    """Errors of a client get why it has no connection as their cause, a `ConnectionsFailed`, if it has none."""
    try:
        yield
    except KafkaError as error:
        if failures := failures_of(client):
            raise error from ConnectionsFailed(failures)
        raise


def _forget_locals(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def open_kafka_client(kind: Callable[..., Client], **options: Any) -> Client:
    """A connected client: `kind` is the library's `KafkaConsumer`, `KafkaProducer` or `KafkaAdminClient`, and `options`
    are its options. Close it.

    The library starts a thread and opens files before it looks for a broker, and leaves them if it finds none. Here
    they are closed, whatever the constructor raises.

    Raises:
        KafkaError: no broker answers in time; its cause is a `ConnectionsFailed` if it is known why.
        UnsuitableClient: see `check_client`.
    """
    check_client()
    managers: list[_Manager] = []
    with ExitStack() as started:

        def network(**configs: Any) -> KafkaNetClient:
            net = NetworkSelector(**configs)
            started.callback(net.close)
            manager = _Manager(net, **configs)
            manager.answers_at_once = options.get("group_id") is None
            started.callback(manager.close)
            managers.append(manager)
            return KafkaNetClient(net, manager)

        try:
            client = kind(**options, kafka_client=network)
        except KafkaError as error:
            if failures := {at: why for manager in managers for at, why in manager.failures().items()}:
                raise error from ConnectionsFailed(failures)
            raise
        started.pop_all()
    if isinstance(client, KafkaConsumer):
        client._fetcher.__class__ = _OfLeaders
    return client


# Joining the group


class _Unfinished:
    """A join in progress or finished, which the library must await and never begin again."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback, self.add_errback = join.add_callback, join.add_errback


SECOND_ROUND_S: Final = 0.2
"""How long a member that gave up partitions waits before it joins again. The others learn of the next round by their
heartbeats, seconds apart, so this makes it little longer."""


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]  # kafka-python has no types
    """A coordinator that collects every join that it began, also one that finishes between two polls, and lets the
    others collect theirs.

    The library loses such a join in two ways. It begins another one when it finds the first done: then what was
    assigned is lost, and the group goes through one more rebalance. And it does not look at all if nothing asks for a
    rejoin any more, which is so after a rejoin that only a change of metadata caused: then heartbeats stay off, and the
    broker expels the member for good.

    A member whose brokers are away for less than a session waits for them. The library's search for the coordinator
    ends the poll if its metadata cannot be had. A member that is given up for that cannot leave its group, which keeps
    its partitions for it until the session ends.

    A member that must give up partitions joins again, so that their next owner gets them. The library does so at once,
    which begins the next round. A slower member may not have fetched its assignment of this round yet. The broker then
    refuses to send it, so this member keeps its partitions until the next round, and the group needs a third one.
    """

    _second_round_at = 0.0
    _away_since: float | None = None
    """When the coordinator was first not found, since it was known last."""

    async def ensure_coordinator_ready_async(self, timeout_ms: float | None = None) -> bool:
        """Whether the coordinator is known.

        Raises:
            KafkaError: it is not, and has not been for a session.
        """
        try:
            ready = bool(await super().ensure_coordinator_ready_async(timeout_ms))
        except RetriableError:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = now
            if now - self._away_since >= self.config["session_timeout_ms"] / 1000:
                raise
            await self._manager._net.sleep(self.config["retry_backoff_ms"] / 1000)
            return False
        if ready:
            self._away_since = None
        return ready

    @property
    def _join_task(self) -> _Unfinished | None:
        join: _Unfinished | None = self.__dict__.get("_join")
        return join

    @_join_task.setter
    def _join_task(self, join: Any) -> None:
        self.__dict__["_join"] = None if join is None else _Unfinished(join)

    def need_rejoin(self) -> bool:
        """Also while a join is not collected, and not at once after one."""
        if self._join_task is not None:
            return True
        early = self.state is MemberState.STABLE and time.monotonic() < self._second_round_at
        return not early and super().need_rejoin()

    async def _on_join_complete_async(self, *joined: Any) -> None:
        await super()._on_join_complete_async(*joined)
        if self.rejoin_needed:
            self._second_round_at = time.monotonic() + SECOND_ROUND_S


class ClaimingAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """Cooperative-sticky, with members that claim what they hold when they join.

    The library claims what it was last assigned, also after the group gave it up. The leader keeps a claimed partition
    from its next owner until the claimant gives it up, which a member that does not hold it never does: the partition
    had no owner until the group changed again. Java's client claims what it holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.holds: Callable[[], Iterable[TopicPartition]] = tuple
        """Set once there is a consumer: its `assignment`."""

    def metadata(self, topics: Iterable[str]) -> Any:
        """What the member says of itself when it joins."""
        self.member_assignment = sorted(self.holds())
        return super().metadata(topics)


def open_consumer(*, most_bytes: int = MAX_BATCH_BYTES, **options: Any) -> KafkaConsumer:
    """A member of a group, with all repairs, which hands out `FetchedBatch`es. Subscribe next.

    `most_bytes` is the most that a batch may be when decompressed; `options` are the library's.
    """
    check_client()
    assignor = ClaimingAssignor()
    consumer = open_kafka_client(KafkaConsumer, **options, partition_assignment_strategy=[assignor])
    assignor.holds = consumer.assignment
    read_batches_with_uic(consumer, PartitionBatches, most_bytes=most_bytes)
    consumer._coordinator.__class__ = _Coordinator
    consumer._fetcher.__class__ = _Fetcher
    return consumer


def is_settled(consumer: KafkaConsumer) -> bool:
    """Whether we are a member of the group, no rebalance is under way, and there is something to read."""
    return bool(consumer.assignment()) and consumer.group_metadata().state is MemberState.STABLE


# Reading


class Leaderless(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """No broker leads some of the partitions that a consumer was asked about."""

    def __init__(self, partitions: Iterable[TopicPartition]) -> None:
        self.partitions = tuple(sorted(partitions))
        topics = {tp.topic: [at.partition for at in self.partitions if at.topic == tp.topic] for tp in self.partitions}
        self.words = "; ".join(f"topic {topic}: {bring_back(those)}" for topic, those in topics.items())
        super().__init__(self.words)


class _OfLeaders(Fetcher):  # type: ignore[misc]  # kafka-python has no types
    """A fetcher that tells which partitions have no leader when it is asked for their offsets, in a `Leaderless`.

    The library leaves them out of the answer, and then fails with a `KeyError`.
    """

    async def _fetch_offsets_by_times_async(self, timestamps: Any, timeout_ms: int | None = None) -> Any:
        cluster = self._manager.cluster
        if _leaderless(cluster, timestamps):  # as of metadata that may be old
            await self._manager.wait_for(cluster.request_update(), timeout_ms)
            if found := _leaderless(cluster, timestamps):
                raise Leaderless(found)
        offsets = await super()._fetch_offsets_by_times_async(timestamps, timeout_ms)
        ends = {tp for tp, at in timestamps.items() if at < 0}  # where a log begins or ends; it may lack a later time
        if lost := ends - offsets.keys():  # meanwhile
            raise Leaderless(lost)
        return offsets


def _leaderless(cluster: ClusterMetadata, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
    return {tp for tp in partitions if cluster.leader_for_partition(tp) == NO_BROKER}


def leaderless(consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
    """Those that have no leader, as of the client's latest metadata."""
    return _leaderless(consumer._cluster, partitions)


class _Fetcher(_OfLeaders):
    """A fetcher that remembers an answer which was too large to be read, and which partitions may not be read.

    Of the first, the library only logs it, closes the connection and asks the same again, for ever. The second it
    raises, once for each partition, so one who polls does not see when the right is granted: an answer with nothing
    new names no partitions.
    """

    too_large: str = ""
    refused: frozenset[TopicPartition] = frozenset()
    """Partitions whose last fetch was refused."""
    answered = False
    """Whether a fetch was answered without a refusal."""

    def _handle_fetch_response(self, node_id: Any, fetch_offsets: Any, send_time: float, response: Any) -> None:
        if not response.error_code:
            refused = {
                TopicPartition(topic.topic, found.partition_index)
                for topic in response.responses
                for found in topic.partitions
                if found.error_code == TopicAuthorizationFailedError.errno
            }
            self.refused = self.refused.difference(fetch_offsets) | refused
            self.answered |= not refused
        super()._handle_fetch_response(node_id, fetch_offsets, send_time, response)

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        if completed_fetch.partition_data.error_code == TopicAuthorizationFailedError.errno:
            self._subscriptions.move_partition_to_end(completed_fetch.topic_partition)
            return None
        return super()._parse_fetched_data(completed_fetch)

    def _handle_fetch_error(self, node_id: Any, exception: BaseException) -> None:
        if isinstance(exception, InvalidReceiveError):
            self.too_large = str(exception)
        super()._handle_fetch_error(node_id, exception)


def too_large(consumer: KafkaConsumer) -> str:
    """What the library said of an answer that was larger than `receive_message_max_bytes`; empty if none was."""
    found: str = consumer._fetcher.too_large
    return found


def fetch_refused(consumer: KafkaConsumer) -> bool | None:
    """Whether the brokers refuse to let this user read; None before the first fetch is answered."""
    fetcher = consumer._fetcher
    if fetcher.refused & consumer.assignment():
        return True
    return False if fetcher.answered else None


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """What the client fetched of one partition, record by record, or an `UnreadableBatch` where a batch is unreadable.

    The library raises instead, from a poll that reads many partitions, and raises again at every later poll: one bad
    batch would stop them all.
    """

    most_bytes: ClassVar[int] = MAX_BATCH_BYTES
    """The most that a batch may be when decompressed."""

    def _unpack_records(self, tp: Any, records: Any, *_: object) -> Iterator[Any]:
        batch = last = None
        try:
            while (batch := records.next_batch()) is not None:
                last = batch
                if self.check_crcs and not batch.validate_crc():
                    raise Malformed("the checksum does not match")
                if not self._to_skip(batch):
                    yield from self._handed_out(read_batch(batch, self.most_bytes))
                elif batch.magic == 2:
                    self.next_fetch_offset = batch.next_offset
                    yield from self._left_out(batch)
        except (Malformed, CorruptRecordError, UnsupportedCodecError) as error:
            at = self.next_fetch_offset
            behind = batch.next_offset if batch is not None and batch.magic == 2 else at
            yield UnreadableBatch(at, max(at, behind), str(error))
            self.drain()
            return
        if last is not None and last.magic == 2:
            # Compaction may have removed the batch's last records: what comes next begins behind them.
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _handed_out(self, records: Sequence[Record]) -> Iterator[Any]:
        """What the client gets of a batch."""
        for record in records:
            self.next_fetch_offset = record.offset + 1
            yield record

    def _left_out(self, batch: Any) -> Iterator[Any]:
        """What the client gets in place of a batch without events."""
        yield from ()

    def _to_skip(self, batch: Any) -> bool:
        """Whether the batch holds no events: a transaction's marker, or part of an aborted transaction."""
        if batch.magic != 2:
            return False
        self.leader_epoch = batch.leader_epoch
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


class SettledRecords(PartitionRecords):
    """Of what a client reads that asks for uncommitted records, too: those without a transaction, and those of which
    `outcomes` says that they were committed."""

    outcomes: ClassVar[Outcomes]

    def _to_skip(self, batch: Any) -> bool:
        return super()._to_skip(batch) or (
            batch.magic == 2
            and batch.is_transactional
            and not self.outcomes.committed(self.topic_partition, batch.producer_id, batch.base_offset)
        )


class Markers(PartitionRecords):
    """Hands out nothing that is wanted, and notes in `outcomes` how transactions ended."""

    outcomes: ClassVar[Outcomes]

    def _to_skip(self, batch: Any) -> bool:
        if super()._to_skip(batch) and batch.has_producer_id():
            commits = not self._contains_abort_marker(batch)
            self.outcomes.note(self.topic_partition, batch.producer_id, batch.base_offset, commits=commits)
        return bool(batch.magic == 2)  # older batches have no transactions, and are not skipped as a whole


class FetchedBatch(NamedTuple):
    """Records that a broker sent together; none if what lies at the offset that was fetched from is no event: a
    transaction's marker, or part of an aborted transaction."""

    offset: int
    """Of the first."""
    records: Sequence[Record]
    epoch: int = NO_EPOCH
    """The leader epoch in which the batch was appended."""


class PartitionBatches(PartitionRecords):
    """The same batch by batch, as `FetchedBatch`es: nothing is done for a single record."""

    def _handed_out(self, records: Sequence[Record]) -> Iterator[FetchedBatch]:
        offsets = records.offsets if isinstance(records, Records) else np.array([record.offset for record in records])
        wanted = (offsets >= self.fetch_offset).nonzero()[0]  # reading may begin in the middle of a batch
        if len(wanted):
            self.next_fetch_offset = int(offsets[-1]) + 1
            yield FetchedBatch(int(offsets[wanted[0]]), records[int(wanted[0]) :], self.leader_epoch)

    def _left_out(self, batch: Any) -> Iterator[FetchedBatch]:
        if batch.base_offset <= self.fetch_offset <= batch.last_offset:  # that record's place is what UIC must know of
            yield FetchedBatch(self.fetch_offset, ())

    def take(self, n: int) -> list[FetchedBatch | UnreadableBatch]:
        """Whole batches with `n` records or more, or all that are left."""
        self._maybe_raise_next_inline_exception()
        found: list[FetchedBatch | UnreadableBatch] = []
        try:
            for batch in self.record_iterator:
                found.append(batch)
                n -= len(batch.records) if isinstance(batch, FetchedBatch) else 0
                if n <= 0:
                    break
        except Exception as error:
            if not found:
                raise
            self._next_inline_exception = error
        return found


def read_batch(batch: Any, most_bytes: int = MAX_BATCH_BYTES) -> Sequence[Record]:
    """The records of a batch that the client library has framed, of at most `most_bytes` when decompressed.

    Raises:
        Malformed, CorruptRecordError, UnsupportedCodecError: the batch cannot be read.
    """
    if batch.magic != 2:
        return [BatchRecord(r.offset, r.timestamp, r.key, r.value, r.headers) for r in batch]
    return read_records(batch, bytes(memoryview(batch._buffer)[batch._pos :]), most_bytes)


def read_batches_with_uic(
    consumer: KafkaConsumer,
    reader: type[PartitionRecords] = PartitionRecords,
    *,
    most_bytes: int = MAX_BATCH_BYTES,
    **more: Any,
) -> None:
    """Make `consumer` hand out what `reader` does, of batches of at most `most_bytes` when decompressed. `more` are
    further attributes of the reader."""
    check_client()
    consumer._fetcher.PartitionRecords = type(reader.__name__, (reader,), {"most_bytes": most_bytes} | more)


@contextmanager
def up_to_the_high_watermark(consumer: KafkaConsumer) -> Iterator[None]:
    """Meanwhile, `end_offsets` and `offsets_for_times` see the whole log. The library asks for offsets as it reads, so
    a consumer of committed records otherwise sees it up to the last stable offset. For a consumer outside any group,
    which is not polled meanwhile."""
    fetcher = consumer._fetcher
    before, fetcher._isolation_level = fetcher._isolation_level, IsolationLevel.READ_UNCOMMITTED
    try:
        yield
    finally:
        fetcher._isolation_level = before


def poll_once(consumer: KafkaConsumer, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
    """What `consumer` has fetched. Waits up to `timeout_ms` for the answer to an open fetch and ends with it, empty or
    not; `KafkaConsumer.poll` fetches again and again until its time is over."""
    fetched: dict[TopicPartition, list[Any]] = consumer._poll_once(
        Timer(timeout_ms), consumer.config["max_poll_records"]
    )
    return fetched


def position(consumer: KafkaConsumer, tp: TopicPartition) -> int | None:
    """Where the client reads on, without a network call (`KafkaConsumer.position` may fetch committed offsets)."""
    state = consumer._subscription.assignment.get(tp)
    return None if state is None or state.position is None else int(state.position.offset)


def unblock_paused(consumer: KafkaConsumer) -> None:
    """Let the library hand out what it had fetched of a partition before that was paused.

    It puts such records aside and takes them back only when its place for the records in line is None; after use it
    holds an empty object instead, so a resumed partition would stay silent for ever.
    """
    fetcher = consumer._fetcher
    if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
        fetcher._next_partition_records = None


# Metadata


def ends_of_epochs(
    consumer: KafkaConsumer, epochs: Mapping[TopicPartition, int], timeout_ms: int
) -> dict[TopicPartition, EpochEnd]:
    """Where the records of leader epochs end, as the leaders say, of those partitions that have been led in a later
    epoch since, by the client's latest metadata. Left out is what a leader does not know, or is too old to say.

    The library asks this only of positions that it reads at, and says nothing of an answer that it agrees with.

    Raises:
        KafkaError: no answer, or not from the leader.
    """
    found: dict[TopicPartition, EpochEnd] = consumer._net.run(_ends_of_epochs, consumer._manager, epochs, timeout_ms)
    return found


async def _ends_of_epochs(
    manager: KafkaConnectionManager, epochs: Mapping[TopicPartition, int], timeout_ms: int
) -> dict[TopicPartition, EpochEnd]:
    by_leader: dict[int, list[tuple[TopicPartition, int, int]]] = defaultdict(list)
    for tp, epoch in epochs.items():
        now = manager.cluster.leader_epoch_for_partition(tp)
        if now is not None and now > epoch:
            by_leader[manager.cluster.leader_for_partition(tp)].append((tp, now, epoch))
    found: dict[TopicPartition, EpochEnd] = {}
    for leader, asked in by_leader.items():
        topics: dict[str, list[Any]] = defaultdict(list)
        for tp, now, epoch in asked:
            one = OffsetForLeaderEpochRequest.OffsetForLeaderTopic.OffsetForLeaderPartition(
                partition=tp.partition, current_leader_epoch=now, leader_epoch=epoch
            )
            topics[tp.topic].append(one)
        request = OffsetForLeaderEpochRequest(replica_id=-1, topics=list(topics.items()))
        try:
            answer = await manager.wait_for(manager.send(request, node_id=leader), timeout_ms)
        except IncompatibleBrokerVersion:  # it does not answer this question
            continue
        for topic in answer.topics:
            for one in topic.partitions:
                error = for_code(one.error_code)
                if issubclass(error, RetriableError):
                    raise error
                if error is NoError and one.leader_epoch >= 0 and one.end_offset >= 0:
                    found[TopicPartition(topic.topic, one.partition)] = EpochEnd(one.leader_epoch, one.end_offset)
    return found


def partition_count(consumer: KafkaConsumer, topic: str) -> int:
    """As of the client's latest metadata; 0 if unknown."""
    return len(consumer._cluster.partitions_for_topic(topic) or ())


def fresh_topic_id(consumer: KafkaConsumer, topic: str, timeout_ms: int) -> bytes:
    """The topic's id by fresh metadata, zeros if the broker has none."""
    _refresh(consumer, timeout_ms)
    found = consumer._cluster.topic_id(topic)
    return found.bytes if isinstance(found, UUID) else NO_TOPIC_ID


def learn_topic(consumer: KafkaConsumer, topic: str, timeout_ms: int) -> None:
    """Learn the topic's partitions before joining: a leader that does not know them assigns none.

    Raises:
        TopicAuthorizationFailedError: this user may not see it.
        UnknownTopicOrPartitionError: there is no such topic.
    """
    _refresh(consumer, timeout_ms)
    if topic in consumer._cluster.unauthorized_topics:
        raise TopicAuthorizationFailedError(topic)
    if not partition_count(consumer, topic):
        raise UnknownTopicOrPartitionError(topic)


def _refresh(consumer: KafkaConsumer, timeout_ms: int) -> None:
    refreshed = consumer._cluster.request_update()
    consumer._net.run(consumer._manager.wait_for, refreshed, timeout_ms)


# Producing


REFUSALS: Final = (
    ClusterAuthorizationFailedError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)
"""What a record of a repaired producer fails with if the brokers refused it and surely did not append it."""


class _TransactionManager(TransactionManager):  # type: ignore[misc]  # kafka-python has no types
    """The producer's id, which is asked for again after it was given up.

    The library gives the id up when a record's time is over that it had sent without an answer, as after any outage
    that is longer than that time. It stays in the state of a producer that has an id, in which it asks for none: such a
    producer never sends anything again.
    """

    _current_state: Any

    def init_producer_id(self) -> None:
        """Ask for an id; the library calls it whenever there is none."""
        with self._lock:
            if self._current_state is TransactionState.READY and not self.has_producer_id():
                self._current_state = TransactionState.UNINITIALIZED
            super().init_producer_id()


class _Sender(Sender):  # type: ignore[misc]  # kafka-python has no types
    """A sender whose records fail with one of `REFUSALS` if, and only if, the brokers did not append them.

    The library says the same of a record that was refused when it was sent again, of which the first try may be in the
    log, and of all other records that were on their way when one was refused.
    """

    def _dispatch_error(self, batch: Any, exception: Any, partition_response: Any) -> None:
        if isinstance(exception, REFUSALS) and (batch.in_retry() or partition_response is None):
            exception = KafkaError(f"refused when it was sent again: {exception!r}")
        super()._dispatch_error(batch, exception, partition_response)

    def _maybe_abort_batches(self, exc: Exception) -> None:
        waiting = self._accumulator._incomplete.all()
        if _no_id(exc) and not any(batch.in_retry() or batch.drained for batch in waiting):
            exc = ClusterAuthorizationFailedError("the brokers give the producer no id")
        elif isinstance(exc, REFUSALS):
            exc = KafkaError(f"another record was refused, which ended the producer: {exc!r}")
        super()._maybe_abort_batches(exc)


def _no_id(exc: Exception) -> bool:
    """Whether the brokers refused the producer an id, of which the library keeps no more than the error's name."""
    return all(part in str(exc) for part in ("InitProducerIdResponse", ClusterAuthorizationFailedError.__name__))


def repair_producer(producer: KafkaProducer) -> None:
    """Apply both repairs to an idempotent producer that `open_kafka_client` has opened."""
    producer._sender.__class__ = _Sender
    producer._transaction_manager.__class__ = _TransactionManager


def has_failed(producer: KafkaProducer) -> bool:
    """Whether an idempotent producer has failed for good: it takes records only to let them fail."""
    return bool(producer._transaction_manager.has_fatal_error())


def end_sender(producer: KafkaProducer) -> None:
    """End the producer's thread at once. `close` flushes first and, when that takes too long, raises and lets the
    thread go on for ever."""
    producer._sender.force_close()
    producer._sender.join(1.0)
