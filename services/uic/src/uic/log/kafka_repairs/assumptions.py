"""What is assumed of kafka-python, by name, and the check of it before the first client is opened."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Final

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.sender import Sender
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.metadata import MetadataRequest
from kafka.record.default_records import DefaultRecordBatch

from process.assumptions import broken, takes, uses
from uic.errors import UnsuitableClient

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
    "_connect resets the backoff if told, which is kept by node, also where init_future has failed": lambda: (
        takes(KafkaConnectionManager._connect, "self", "node", "conn", "reset_backoff_on_connect", "timeout_at")
        and uses(KafkaConnectionManager._connect, "initialize", "reset_backoff", "update_backoff")
        and uses(KafkaConnection.initialize, "close")
        and uses(KafkaConnectionManager.update_backoff, "_backoff")
        and uses(KafkaConnectionManager.reset_backoff, "_backoff")
    ),
    "a connection keeps requests in in_flight_requests: number, future, when it was sent, …": lambda: (
        uses(KafkaConnection.__init__, "in_flight_requests")
        and uses(KafkaConnection._send_request, "in_flight_requests", "monotonic", "append")
    ),
    "a manager raises a refused login that it keeps in maybe_raise_auth_failure(node_id)": lambda: (
        takes(KafkaConnectionManager.maybe_raise_auth_failure, "self", "node_id")
        and uses(KafkaConnectionManager.get_connection, "maybe_raise_auth_failure", "connection_delay")
    ),
    "a producer's sender connects with maybe_connect(node_id, …) of its _client, which has the _manager": lambda: (
        takes(KafkaNetClient.maybe_connect, "self", "node_id")
        and uses(KafkaNetClient.maybe_connect, "_manager", "get_connection")
        and uses(KafkaNetClient.__init__, "_manager")
        and uses(Sender._send_producer_data, "_client", "maybe_connect")
        and uses(Sender.__init__, "_client")
        and uses(KafkaProducer.__init__, "_sender")
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
    "a consumer has _fetcher, _subscription, _cluster, _net and _manager": lambda: uses(
        KafkaConsumer.__init__, "_fetcher", "_subscription", "_cluster", "_net", "_manager"
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
    "a batch's records lie at _pos of its _buffer": lambda: {"_buffer", "_pos"} <= set(DefaultRecordBatch.__slots__),
    "metadata is asked for with send(request, node), and has topics with name and error_code": lambda: (
        uses(ClusterMetadata._do_refresh_metadata, "_manager", "send", "metadata_request")
        and uses(ClusterMetadata.update_metadata, "topics", "name", "error_code")
    ),
    "connecting ends in init_future, and a bootstrap server tells broker_version": lambda: (
        uses(KafkaConnection.__init__, "_init_future")
        and isinstance(KafkaConnection.init_future, property)
        and uses(KafkaConnectionManager._connect, "broker_version_data", "is_bootstrap")
        and isinstance(KafkaConnectionManager.broker_version, property)
    ),
    "a producer has a _sender": lambda: uses(KafkaProducer.__init__, "_sender"),
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
