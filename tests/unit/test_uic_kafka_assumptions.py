"""What UIC assumes about kafka-python is checked by name, and is all that it uses of the library's private parts."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import BaseCoordinator
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionalRequestResult, TransactionManager
from kafka.record.default_records import DefaultRecordBatch

import uic
from process.assumptions import broken
from uic.errors import UnsuitableClient
from uic.log import kafka_repairs
from uic.log.kafka_repairs.assumptions import ASSUMPTIONS, check_client


def other(self: Any, *arguments: Any) -> None:
    """What a method may have become."""


Broken = Callable[[pytest.MonkeyPatch], None]
CHANGES: dict[str, Broken] = {
    "consumers, producers and admin clients make their network with kafka_client(**options)": lambda patch: (
        patch.delitem(KafkaProducer.DEFAULT_CONFIG, "kafka_client")
    ),
    "a network is made of a NetworkSelector and a KafkaConnectionManager, which are closed": lambda patch: (
        patch.setattr(NetworkSelector, "close", other)
    ),
    "a manager connects in _build_transport(node, timeout_at)": lambda patch: patch.setattr(
        KafkaConnectionManager, "_connect", other
    ),
    "connecting is a task that can be ended, and one whose connection was closed meanwhile makes none": lambda patch: (
        patch.setattr(NetworkSelector, "cancel", other)
    ),
    "a manager keeps connections in _conns and makes one in _connect(node, conn), which ends in close_future": (
        lambda patch: patch.setattr(KafkaConnection, "__init__", other)
    ),
    "_connect resets the backoff if told, which is kept by node, also where init_future has failed": lambda patch: (
        patch.setattr(KafkaConnectionManager, "_connect", other)
    ),
    "a connection keeps requests in in_flight_requests: number, future, when it was sent, …": lambda patch: (
        patch.setattr(KafkaConnection, "_send_request", other)
    ),
    "a manager raises a refused login that it keeps in maybe_raise_auth_failure(node_id)": lambda patch: patch.delattr(
        KafkaConnectionManager, "maybe_raise_auth_failure"
    ),
    "a producer's sender connects with maybe_connect(node_id, …) of its _client, which has the _manager": (
        lambda patch: patch.setattr(KafkaNetClient, "__init__", other)
    ),
    "a manager sends with send(request, node_id, request_timeout_ms), to brokers that its metadata has": lambda patch: (
        patch.setattr(KafkaConnectionManager, "get_connection", other)
    ),
    "any broker is asked with send(request), and a request takes its API_VERSION when it is sent": lambda patch: (
        patch.setattr(KafkaConnection, "_send_request", other)
    ),
    "an admin client keeps coordinators by (kind, group) in its cluster's _coordinators": lambda patch: patch.setattr(
        ClusterMetadata, "get_coordinator", other
    ),
    "an admin client describes groups with _describe_groups_request(groups) and _describe_groups_process_response": (
        lambda patch: patch.setattr(KafkaAdminClient, "_describe_groups_process_response", other)
    ),
    "an admin client's _manager has run(coro, …), and InitProducerIdRequest asks for a transactional_id": (
        lambda patch: patch.setattr(KafkaConnectionManager, "run", other)
    ),
    "a client learns of the cluster in _do_bootstrap(deadline), from one of bootstrap_brokers() until it is closed": (
        lambda patch: patch.setattr(KafkaConnectionManager, "bootstrap_async", other)
    ),
    "a cluster has metadata_request() and update_metadata(answer), and a connection send_request(request)": (
        lambda patch: patch.setattr(KafkaConnection, "send_request", lambda self: None)
    ),
    "a connection that is not needed any more ends without an error in connection_lost(None), or its transport": (
        lambda patch: patch.setattr(KafkaConnection, "connection_lost", other)
    ),
    "a transport reads with _sock_recv(), which gives bytes and an error": lambda patch: patch.setattr(
        KafkaSSLTransport, "_read_from_sock", other
    ),
    "a consumer has _coordinator, _fetcher, _subscription, _cluster, _net and _manager": lambda patch: patch.setattr(
        KafkaConsumer, "__init__", other
    ),
    "a poll goes round in _poll_once(timer, max_records) until its time is over": lambda patch: patch.setattr(
        KafkaConsumer, "poll", other
    ),
    "a join in progress is kept in _join_task and begun again if that is_done": lambda patch: patch.setattr(
        BaseCoordinator, "join_group_async", other
    ),
    "_join_task is an attribute of the instance, not of the class": lambda patch: patch.setattr(
        BaseCoordinator, "_join_task", None, raising=False
    ),
    "a poll looks for the coordinator with ensure_coordinator_ready_async(timeout_ms), and ends if there is none": (
        lambda patch: patch.setattr(BaseCoordinator, "ensure_coordinator_ready", other)
    ),
    "joining goes on while need_rejoin() says so": lambda patch: patch.delattr(ConsumerCoordinator, "poll"),
    "a member that gave partitions up asks for a rejoin at the end of _on_join_complete_async": lambda patch: (
        patch.setattr(ConsumerCoordinator, "_on_join_complete_async", other)
    ),
    "an assignor claims member_assignment when it makes its metadata(topics)": lambda patch: patch.setattr(
        CooperativeStickyAssignor, "metadata", other
    ),
    "a fetch is read by the class that Fetcher.PartitionRecords names": lambda patch: patch.setattr(
        Fetcher, "_parse_fetched_data", other
    ),
    "PartitionRecords reads with _unpack_records(tp, records, …) and ends with drain()": lambda patch: patch.delattr(
        Fetcher.PartitionRecords, "_unpack_records"
    ),
    "PartitionRecords hands out with take(n), which keeps an error for the next call": lambda patch: patch.setattr(
        Fetcher.PartitionRecords, "take", other
    ),
    "PartitionRecords tells which transactions were aborted": lambda patch: patch.delattr(
        Fetcher.PartitionRecords, "_is_batch_aborted"
    ),
    "a marker's batch has one record, which says whether it is an abort": lambda patch: patch.setattr(
        Fetcher.PartitionRecords, "_contains_abort_marker", lambda _, batch: False
    ),
    "offsets are asked for with the fetcher's _isolation_level": lambda patch: patch.setattr(
        Fetcher, "_send_list_offsets_request", other
    ),
    "all offsets are asked for with _fetch_offsets_by_times_async(timestamps, timeout_ms), of leaders only": (
        lambda patch: patch.setattr(Fetcher, "_group_list_offset_requests", other)
    ),
    "a fetcher keeps the records in line in _next_partition_records": lambda patch: patch.setattr(
        Fetcher, "fetched_records", other
    ),
    "a fetch that failed is told to _handle_fetch_error(node, exception)": lambda patch: patch.setattr(
        Fetcher, "_handle_fetch_error", other
    ),
    "a fetch's answer is handled by _handle_fetch_response(node, offsets, sent, response)": lambda patch: patch.setattr(
        Fetcher, "_send_fetches_async", other
    ),
    "and its partitions one after the other by _parse_fetched_data(fetch)": lambda patch: patch.delattr(
        SubscriptionState, "move_partition_to_end"
    ),
    "a batch's records lie at _pos of its _buffer": lambda patch: patch.setattr(
        DefaultRecordBatch, "__slots__", ("_data",)
    ),
    "a subscription keeps positions in assignment": lambda patch: patch.setattr(SubscriptionState, "__init__", other),
    "metadata is asked for with send(request, node), and has topics with name and error_code": lambda patch: (
        patch.setattr(ClusterMetadata, "_do_refresh_metadata", other)
    ),
    "connecting ends in init_future, and a bootstrap server tells broker_version": lambda patch: patch.delattr(
        KafkaConnectionManager, "broker_version"
    ),
    "a member of a group talks to its coordinator on a connection of its own, coordinator-…": lambda patch: (
        patch.setattr(ClusterMetadata, "add_coordinator", other)
    ),
    "a cluster has request_update(), topic_id(topic) and partitions_for_topic(topic)": lambda patch: patch.delattr(
        ClusterMetadata, "topic_id"
    ),
    "a cluster knows leader_epoch_for_partition(partition), and OffsetForLeaderEpochRequest asks where epochs end": (
        lambda patch: patch.delattr(ClusterMetadata, "leader_epoch_for_partition")
    ),
    "a producer has a thread _sender with force_close()": lambda patch: patch.delattr(Sender, "force_close"),
    "a producer that is _closed is not closed again": lambda patch: patch.setattr(KafkaProducer, "close", other),
    "an idempotent producer asks for its id with init_producer_id() while it has none": lambda patch: patch.setattr(
        Sender, "run_once", other
    ),
    "a producer's id and epoch are set with set_producer_id_and_epoch, and reset_producer_id resets all counts": (
        lambda patch: patch.setattr(TransactionManager, "reset_producer_id", other)
    ),
    "a sender sends with _send_producer_data(now), one batch of a partition at a time, which it tells if it is late": (
        lambda patch: patch.delattr(Sender, "_get_expired_inflight_batches")
    ),
    "a batch is sent again if _can_retry(batch, error_cls), and is_done once it is told": lambda patch: patch.delattr(
        ProducerBatch, "is_done"
    ),
    "what a batch that failed ends is what classify_batch_error(error, batch, …) says, and RETRIABLE ends nothing": (
        lambda patch: patch.delattr(TransactionManager, "classify_batch_error")
    ),
    "a batch that fails goes through _dispatch_error(batch, exception, …), and in_retry() says if it is sent again": (
        lambda patch: patch.setattr(Sender, "_complete_batch", other)
    ),
    "its records fail with what _record_exceptions_fn(top_level_exception, …) gives for each": lambda patch: (
        patch.delattr(Sender, "_record_exceptions_fn")
    ),
    "an epoch is asked for with initialize_transactions(), and a result waited for with wait(timeout_ms)": (
        lambda patch: patch.setattr(TransactionalRequestResult, "wait", other)
    ),
    "a transaction: begin_transaction(), maybe_add_partition_to_transaction(tp), begin_commit()": lambda patch: (
        patch.delattr(TransactionManager, "maybe_add_partition_to_transaction")
    ),
    "a producer without a transactional_id is in no transaction, and keeps the id that it has": lambda patch: (
        patch.setattr(TransactionManager, "is_transactional", other)
    ),
    "ERROR_CLASS_FATAL ends a producer with last_error before the partition may send, and then nothing is drained": (
        lambda patch: patch.setattr(TransactionManager, "is_send_to_partition_allowed", other)
    ),
    "what waits when a producer has failed ends with _maybe_abort_batches(exc), and drained says when a batch left": (
        lambda patch: patch.setattr(RecordAccumulator, "drain_batches_for_one_node", other)
    ),
    "what waits is in a line of an accumulator's _batches, and taken from it under _tp_lock(tp)": lambda patch: (
        patch.setattr(RecordAccumulator, "append", other)
    ),
    "a batch has its records' futures, each with its _produce_future, and its number of attempts": lambda patch: (
        patch.setattr(ProducerBatch, "try_append", other)
    ),
    "a coordinator keeps in heartbeat.last_receive when one was accepted, by received_heartbeat()": lambda patch: (
        patch.setattr(BaseCoordinator, "_do_heartbeat", other)
    ),
}


def test_the_installed_client_meets_every_assumption() -> None:
    assert broken(ASSUMPTIONS) == []
    assert set(CHANGES) == set(ASSUMPTIONS)


@pytest.mark.parametrize("name", CHANGES)
def test_a_client_that_breaks_an_assumption_is_refused_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    CHANGES[name](monkeypatch)
    assert name in broken(ASSUMPTIONS)
    with pytest.raises(UnsuitableClient) as refused:
        check_client.__wrapped__()
    assert name in refused.value.detail
    assert "kafka-python" in refused.value.detail


def test_the_library_still_needs_each_repair() -> None:
    """When this fails, a new kafka-python has fixed something: look whether a repair can go."""
    assert "offsets[tp] = offsets[tp].offset" in inspect.getsource(Fetcher.beginning_or_end_offset)
    assert "elif node_id == -1:" in inspect.getsource(Fetcher._group_list_offset_requests)
    assert "except Errors.NodeNotReadyError" in inspect.getsource(KafkaConnectionManager.send)
    assert "raise Errors.UnknownBrokerIdError" in inspect.getsource(KafkaConnectionManager.get_connection)
    assert "except Errors.NodeNotReadyError" in inspect.getsource(KafkaNetClient.maybe_connect), "and no other error"
    assert "random.choice(self.cluster.bootstrap_brokers())" in inspect.getsource(KafkaConnectionManager._do_bootstrap)
    assert "await self._refresh_future" in inspect.getsource(ClusterMetadata.refresh_metadata)
    connecting = inspect.getsource(KafkaConnectionManager._connect)
    assert "raise" not in inspect.getsource(KafkaConnection.initialize).partition("except Exception as error")[2]
    assert connecting.index("await conn.initialize(") < connecting.index("self.reset_backoff("), "whatever became of it"
    assert "await transport.handshake()" in inspect.getsource(KafkaConnectionManager._build_transport)
    assert "timeout" not in inspect.getsource(KafkaSSLTransport.handshake)
    source = inspect.getsource(BaseCoordinator.join_group_async)
    assert "self._join_task is None or self._join_task.is_done" in source
    assert "while self.need_rejoin()" in source
    looks = inspect.getsource(BaseCoordinator.ensure_coordinator_ready_async)
    assert looks.count("Errors.RetriableError") == 1, "an error of the metadata that it then asks for ends the poll"
    completed = inspect.getsource(ConsumerCoordinator._on_join_complete_async)
    assert "if revoked:" in completed
    assert "self.request_rejoin()" in completed
    finds = inspect.getsource(KafkaAdminClient._find_coordinator_ids)
    assert "cached = cluster.get_coordinator(key, key_type)" in finds
    assert "del " not in finds + inspect.getsource(ClusterMetadata.add_coordinator), "what was found once is kept"
    assert "result['error'] = str(" in inspect.getsource(KafkaAdminClient._describe_groups_process_response)
    assert "_transition_to" not in inspect.getsource(TransactionManager.reset_producer_id)
    bumps = inspect.getsource(TransactionManager.bump_producer_id_and_epoch)
    assert "InitProducerIdHandler(" in bumps, "it asks for another id, and drops what is sent again under this one"
    assert "producer_id_and_epoch.match(batch)" in inspect.getsource(Sender._can_retry)
    sends = inspect.getsource(Sender._send_producer_data)
    assert sends.index("_accumulator.drain(") < sends.index("expired_batches(") < sends.index("return 0"), "never sent"
    judges = inspect.getsource(TransactionManager.classify_batch_error)
    assert judges.rstrip().endswith("return self.ERROR_CLASS_FATAL"), "what no retry repairs ends the producer"
    assert "self._init_transactions_result is None" in inspect.getsource(KafkaProducer.init_transactions), "only once"
    assert "result.wait()" in inspect.getsource(KafkaProducer.commit_transaction), "without a limit"
    tells = inspect.getsource(Sender._record_exceptions_fn)
    assert "else Errors.InvalidRecordError" in tells, "whatever the brokers say of the batch"
    for kind in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
        assert "except" not in inspect.getsource(kind.__init__)
    for connects in (KafkaNetSocket.connect, KafkaNetSocket.sock_connect, KafkaConnectionManager._build_transport):
        assert "close()" not in inspect.getsource(connects)
    assert "raise Errors.TopicAuthorizationFailedError" in inspect.getsource(Fetcher._parse_fetched_data)
    reads = inspect.getsource(KafkaTCPTransport._read_from_sock)
    assert reads.index("if err:") < reads.index("data_received"), "what came with the end of the connection is dropped"


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What a module uses that is private to another, with its line: not of `self`, nor a method of its own classes."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name, lineno=line) | ast.alias(name=name, lineno=line):
                if re.match("_[^_]", name) and name not in own | {"_replace"}:  # which is a named tuple's
                    yield line, name


def test_only_the_repairs_reach_into_private_parts_of_the_library() -> None:
    repairs = Path(kafka_repairs.__path__[0])
    files = [path for path in Path(uic.__path__[0]).rglob("*.py") if repairs not in path.parents]
    texts = {path: path.read_text() for path in files}
    of_kafka = {path: text for path, text in texts.items() if re.search(r"^(from|import) kafka\b", text, re.M)}
    assert of_kafka
    inside = [
        f"{path}:{line}: {name}" for path, text in of_kafka.items() for line, name in private_names(ast.parse(text))
    ]
    assert inside == [], "let a module of uic.log.kafka_repairs do this, and name what it assumes"
