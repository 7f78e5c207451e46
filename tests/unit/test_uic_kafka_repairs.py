"""What UIC assumes about kafka-python is checked by name, and its repairs of the library do what they are for."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.assignors.abstract import RebalanceProtocol
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import BaseCoordinator
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
)
from kafka.future import Future
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager, TransactionState
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import MemberState

from process.assumptions import broken
from uic.errors import NoLeader, UnsuitableClient
from uic.log import kafka_repairs
from uic.log.kafka_repairs import (
    ASSUMPTIONS,
    REFUSALS,
    UNANSWERED_S,
    ClaimingAssignor,
    Leaderless,
    check_client,
    fetch_refused,
    poll_once,
    repair_producer,
)
from uic.log.unreachable import described, stopped

TOPIC = "behavior-events"
ALL = [TopicPartition(TOPIC, p) for p in range(8)]
CLUSTER = SimpleNamespace(topics=lambda: {TOPIC}, partitions_for_topic=lambda topic: set(range(8)))


def member(name: str, assigned: list[TopicPartition], holds: list[TopicPartition]) -> tuple[str, ClaimingAssignor]:
    assignor = ClaimingAssignor()
    assignor.holds = lambda: holds
    partitions = [tp.partition for tp in assigned]
    assignor.on_assignment(ConsumerProtocolAssignment(1, [(TOPIC, partitions)], b""), 7)
    return name, assignor


def joined(*members: tuple[str, ClaimingAssignor]) -> dict[str, set[TopicPartition]]:
    """What each gets in one round of a rebalance."""
    told: Any = [SimpleNamespace(member_id=name, metadata=a.metadata([TOPIC])) for name, a in members]
    found = members[0][1].assign(CLUSTER, told)
    return {name: set(assignment.partitions()) for name, assignment in found.items()}


def test_who_lost_its_partitions_claims_none_and_each_gets_an_owner_at_once() -> None:
    got = joined(member("woke up", ALL, []), member("new", [], []))
    assert got["woke up"] | got["new"] == set(ALL)
    assert len(got["woke up"]) == len(got["new"]) == 4


def test_what_is_held_stays_where_it_is_until_it_is_given_up() -> None:
    got = joined(member("old", ALL, ALL), member("new", [], []))
    assert got["new"] == set()
    assert len(got["old"]) == 4
    kept = sorted(got["old"])
    assert joined(member("old", kept, kept), member("new", [], []))["new"] == set(ALL) - set(kept)


# The assumptions


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
    "a connection keeps requests in in_flight_requests: number, future, when it was sent, …": lambda patch: (
        patch.setattr(KafkaConnection, "_send_request", other)
    ),
    "a manager sends with send(request, node_id, request_timeout_ms), to brokers that its metadata has": lambda patch: (
        patch.setattr(KafkaConnectionManager, "get_connection", other)
    ),
    "any broker is asked with send(request), and a request takes its API_VERSION when it is sent": lambda patch: (
        patch.setattr(KafkaConnection, "_send_request", other)
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
    "a cluster has request_update(), topic_id(topic) and partitions_for_topic(topic)": lambda patch: patch.delattr(
        ClusterMetadata, "topic_id"
    ),
    "a cluster knows leader_epoch_for_partition(partition), and OffsetForLeaderEpochRequest asks where epochs end": (
        lambda patch: patch.delattr(ClusterMetadata, "leader_epoch_for_partition")
    ),
    "a producer has a thread _sender with force_close()": lambda patch: patch.delattr(Sender, "force_close"),
    "an idempotent producer asks for its id with init_producer_id() while it has none": lambda patch: patch.setattr(
        Sender, "run_once", other
    ),
    "a batch that fails goes through _dispatch_error(batch, exception, …), and in_retry() says if it is sent again": (
        lambda patch: patch.setattr(Sender, "_complete_batch", other)
    ),
    "what waits when a producer has failed ends with _maybe_abort_batches(exc), and drained says when a batch left": (
        lambda patch: patch.setattr(RecordAccumulator, "drain_batches_for_one_node", other)
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


# Brokers and leaders


class Metadata(ClusterMetadata):  # type: ignore[misc]  # kafka-python has no types
    """What a client knows of a cluster, and what the brokers would tell it now."""

    def __init__(self, leaders: dict[int, int], now: dict[int, int], brokers: set[int], more: set[int]) -> None:
        self.leaders, self.now = leaders, now
        self.known, self.more = brokers, more
        self.asked = 0

    def request_update(self) -> Future:
        self.asked += 1
        self.leaders, self.known = self.now, self.known | self.more
        return Future().success(self)

    def leader_for_partition(self, partition: TopicPartition) -> int | None:
        return self.leaders.get(partition.partition)

    def broker_metadata(self, broker_id: Any) -> Any:
        return SimpleNamespace(host="host", port=9092) if broker_id in self.known else None


class Network:
    """A manager that awaits nothing."""

    def __init__(self, cluster: Metadata) -> None:
        self.cluster = cluster

    async def wait_for(self, future: Future, timeout_ms: float | None) -> Any:
        return future.value


def offsets_of(cluster: Metadata, monkeypatch: pytest.MonkeyPatch, kind: Any = kafka_repairs._OfLeaders) -> Any:
    """A fetcher without brokers: every partition that has a leader begins at its own number times ten."""

    async def fetched(self: Any, timestamps: dict[TopicPartition, int], timeout_ms: int | None = None) -> Any:
        by_node = self._group_list_offset_requests(timestamps)
        return {tp: SimpleNamespace(offset=10 * tp.partition) for those in by_node.values() for tp in those}

    monkeypatch.setattr(Fetcher, "_fetch_offsets_by_times_async", fetched)
    made: Any = object.__new__(kind)
    made._manager = Network(cluster)
    made._net = SimpleNamespace(run=lambda ask, *given: asyncio.run(ask(*given)))
    return made


def test_offsets_of_partitions_without_a_leader_are_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    leaders = {0: 1, 1: -1, 2: 1, 3: -1}
    with pytest.raises(KeyError):
        offsets_of(Metadata(leaders, leaders, {1}, set()), monkeypatch, Fetcher).beginning_offsets(ALL[:4])
    repaired = offsets_of(Metadata(leaders, leaders, {1}, set()), monkeypatch)
    assert repaired.end_offsets([ALL[0], ALL[2]]) == {ALL[0]: 0, ALL[2]: 20}
    for ask in (repaired.beginning_offsets, repaired.end_offsets):
        with pytest.raises(Leaderless) as told:
            ask(ALL[:4])
        assert told.value.words == "topic behavior-events: partitions 1,3 have no leader: bring their replicas back"
    with pytest.raises(Leaderless, match="partition 1 has no leader: bring its replicas back"):
        repaired.offsets_by_times({ALL[1]: 5})


def test_a_leader_that_is_there_again_is_seen_though_the_metadata_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({0: 1, 1: -1}, {0: 1, 1: 2}, {1}, {2})
    assert offsets_of(cluster, monkeypatch).end_offsets(ALL[:2]) == {ALL[0]: 0, ALL[1]: 10}
    assert cluster.asked == 1


def test_a_partition_that_loses_its_leader_meanwhile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({0: 1, 1: 2}, {0: 1, 1: 2}, {1, 2}, set())
    asked = offsets_of(cluster, monkeypatch)

    async def lost(self: Any, timestamps: Any, timeout_ms: int | None = None) -> Any:
        return {ALL[0]: SimpleNamespace(offset=0)}

    monkeypatch.setattr(Fetcher, "_fetch_offsets_by_times_async", lost)
    with pytest.raises(Leaderless) as told:
        asked.end_offsets(ALL[:2])
    assert told.value.partitions == (ALL[1],)
    assert asked.offsets_by_times({ALL[0]: 5, ALL[1]: 5})[ALL[1]] is None, "a log may have nothing later than a time"


class Manager(kafka_repairs._Manager):
    """A repaired manager that needs no loop, and whose brokers answer with their own number."""

    def __init__(self, cluster: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.config = {"request_timeout_ms": 1000}
        self._auth_failures: dict[int, Exception] = {}
        self._backoff: dict[int, Any] = {}
        brokers = {n: SimpleNamespace(send_request=lambda *_, n=n, **__: Future().success(n)) for n in (1, 3)}

        def get_connection(manager: Any, node_id: int) -> Any:
            if manager.cluster.broker_metadata(node_id) is None:
                raise UnknownBrokerIdError(node_id)
            return brokers[node_id]

        monkeypatch.setattr(KafkaConnectionManager, "get_connection", get_connection)

    def call_soon(self, coro: Any, *given: Any) -> Future:
        try:
            return Future().success(asyncio.run(coro(*given)))
        except Exception as error:
            return Future().failure(error)

    async def wait_for(self, future: Future, timeout_ms: float | None) -> Any:
        return future.value


def test_a_broker_that_the_client_has_not_heard_of_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({}, {}, {1}, {3})
    manager = Manager(cluster, monkeypatch)
    with pytest.raises(UnknownBrokerIdError):
        KafkaConnectionManager.send(manager, "request", 3)
    assert (manager.send("request", 1).value, cluster.asked) == (1, 0)
    assert (manager.send("request", 3).value, cluster.asked) == (3, 1)
    assert (manager.send("request", 3).value, cluster.asked) == (3, 1), "it is known now"


def test_a_broker_that_no_broker_knows_stays_an_error_that_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({}, {}, {1}, set())
    manager = Manager(cluster, monkeypatch)
    failed = manager.send("request", 3).exception
    assert isinstance(failed, UnknownBrokerIdError)
    assert "the brokers name broker 3 as a leader or coordinator, and do not say where it is" in described(failed, {})
    assert described(failed, {}) in stopped(failed).detail
    asked = cluster.asked
    with pytest.raises(UnknownBrokerIdError) as none:
        manager.send("request", -1)
    assert cluster.asked == asked, "there is none to be looked up"
    assert described(none.value, {}) == "a partition has no leader: bring its replicas back"


def test_what_a_tool_raises_names_the_partitions_without_a_leader() -> None:
    told = stopped(Leaderless([ALL[3], ALL[1]]), "no broker answers at somewhere")
    assert isinstance(told, NoLeader)
    assert told.partitions == (1, 3)
    assert told.detail == "topic behavior-events: partitions 1,3 have no leader: bring their replicas back"


# Joins


def coordinator(**state: Any) -> Any:
    """The repaired coordinator without a broker, in the state given."""
    made: Any = object.__new__(kafka_repairs._Coordinator)
    joined = {"events"}
    vars(made).update(
        rejoin_needed=False,
        _joined_subscription=joined,
        _assignment_snapshot=None,
        _metadata_snapshot={"events": {0}},
        _subscription=SimpleNamespace(partitions_auto_assigned=lambda: True, subscription=joined),
        config={"group_id": "group", "api_version": (4, 0)},
        _join_task=None,
        state=MemberState.STABLE,
    )
    vars(made).update(state)
    return made


def test_a_join_that_finished_between_two_polls_is_still_collected() -> None:
    member = coordinator(_assignment_snapshot={"events": set()})
    assert member.need_rejoin()  # the topic's partitions changed, and nothing else asks for a rejoin
    join = Future()
    member._join_task = join
    join.success(b"assignment")
    member._assignment_snapshot = member._metadata_snapshot  # as the leader does while it joins
    assert not ConsumerCoordinator.need_rejoin(member)  # the library would never look at the join again
    assert member.need_rejoin()
    assert not member._join_task.is_done  # nor begin another one
    collected: list[bytes] = []
    member._join_task.add_callback(collected.append)
    assert collected == [b"assignment"]
    member._join_task = None
    assert not member.need_rejoin()


def test_a_member_waits_for_its_coordinator_for_a_session_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = 100.0, [KafkaConnectionError("away"), KafkaConnectionError("away"), True, KafkaConnectionError("away")]

    async def look(self: Any, timeout_ms: float | None = None) -> bool:
        if isinstance(seen := found.pop(0), bool):
            return seen
        raise seen

    monkeypatch.setattr(kafka_repairs, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(BaseCoordinator, "ensure_coordinator_ready_async", look)
    member = coordinator(
        config={"session_timeout_ms": 10_000, "retry_backoff_ms": 1},
        _manager=SimpleNamespace(_net=SimpleNamespace(sleep=asyncio.sleep)),
    )
    assert not asyncio.run(member.ensure_coordinator_ready_async())
    now += 9.9
    assert not asyncio.run(member.ensure_coordinator_ready_async())
    assert asyncio.run(member.ensure_coordinator_ready_async())
    now += 9.9
    assert not asyncio.run(member.ensure_coordinator_ready_async()), "this is another outage"
    found.append(KafkaConnectionError("away"))
    now += 10.0
    with pytest.raises(KafkaConnectionError):
        asyncio.run(member.ensure_coordinator_ready_async())


@pytest.mark.parametrize("kept", [ALL[:5], ALL], ids=["some are given up", "none is"])
def test_who_gives_partitions_up_joins_again_when_the_others_have_learned_what_they_got(
    kept: list[TopicPartition], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(kafka_repairs, "time", SimpleNamespace(monotonic=lambda: now))
    holds = SubscriptionState()
    holds.subscribe([TOPIC])
    holds.assign_from_subscribed(ALL)
    member = coordinator(
        _subscription=holds,
        _joined_subscription=holds.subscription,
        _is_leader=False,
        _lookup_assignor=lambda name: ClaimingAssignor(),
        _rebalance_protocol=RebalanceProtocol.COOPERATIVE,
        auto_commit_interval=5.0,
    )
    got = ConsumerProtocolAssignment(1, [(TOPIC, [tp.partition for tp in kept])], b"").encode()
    asyncio.run(member._on_join_complete_async(7, "member", "cooperative-sticky", got))
    assert holds.assigned_partitions() == set(kept)
    assert member.rejoin_needed == (kept != ALL)
    assert not member.need_rejoin()
    member.state = MemberState.UNJOINED  # the group has lost it
    assert member.need_rejoin() == (kept != ALL)
    member.state = MemberState.STABLE
    now += kafka_repairs.SECOND_ROUND_S
    assert member.need_rejoin() == (kept != ALL)


def test_a_poll_ends_with_the_first_answer_although_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def answered_at_once(self: Any, timer: Any, max_records: int, **more: Any) -> dict[Any, Any]:
        rounds.append(max_records)
        return {}

    monkeypatch.setattr(KafkaConsumer, "_poll_once", answered_at_once)
    consumer: Any = object.__new__(KafkaConsumer)
    consumer.config, consumer._closed = {"max_poll_records": 500}, False
    assert poll_once(consumer, 20) == {}
    assert rounds == [500]
    assert consumer.poll(timeout_ms=20) == {}
    assert len(rounds) > 10, "the library asks again until its time is over"


# Producing


def with_id(manager: Any) -> Any:
    manager.init_producer_id()
    manager._pending_requests.clear()
    manager._transition_to(TransactionState.READY)
    manager.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 0))
    return manager


def test_a_producer_that_gave_its_id_up_asks_for_another_one() -> None:
    library = with_id(TransactionManager(api_version=(4, 0)))
    library.reset_producer_id()
    library.init_producer_id()
    assert library._pending_requests == [], "so it never sends anything again"
    repaired = with_id(kafka_repairs._TransactionManager(api_version=(4, 0)))
    repaired.init_producer_id()
    assert repaired._pending_requests == [], "it has an id"
    repaired.reset_producer_id()
    for _ in range(3):
        repaired.init_producer_id()
    assert len(repaired._pending_requests) == 1


class Batches:
    """A repaired sender without a broker; a batch of it is `refused` or `aborted`."""

    def __init__(self) -> None:
        self.waiting: list[ProducerBatch] = []
        accumulator = SimpleNamespace(
            _incomplete=SimpleNamespace(all=lambda: list(self.waiting)),
            has_incomplete=True,
            abort_batches=self._abort,
            delivery_timeout_ms=5000,
            deallocate=lambda batch: None,
        )
        self.sender: Any = object.__new__(Sender)
        self.sender.config = {
            "retries": 10,
            "guarantee_message_order": False,
            "client_id": "",
            "transactional_id": None,
        }
        self.sender._accumulator = accumulator
        self.sender._in_flight_batches = {}
        self.sender._sensors = None
        self.sender._transaction_manager = with_id(TransactionManager(api_version=(4, 0)))
        repair_producer(SimpleNamespace(_sender=self.sender, _transaction_manager=self.sender._transaction_manager))

    def _abort(self, error: Exception) -> None:
        for batch in self.waiting:
            batch.abort(error)

    def add(self) -> ProducerBatch:
        records: Any = SimpleNamespace(next_offset=lambda: 1, producer_id=7, producer_epoch=0, base_sequence=0)
        self.waiting.append(ProducerBatch(TopicPartition(TOPIC, 0), records))
        return self.waiting[-1]

    def refuse(self, batch: ProducerBatch, error: Any) -> Exception:
        """What its records fail with when the brokers answer with `error`."""
        answer = SimpleNamespace(
            error_code=error.errno,
            error_message="",
            log_start_offset=-1,
            base_offset=-1,
            record_errors=[],
        )
        self.sender._complete_batch(batch, answer)
        return failure(batch)


def failure(batch: ProducerBatch) -> Exception:
    error: Exception = batch.produce_future.value[2](0)
    return error


@pytest.mark.parametrize("kind", [TopicAuthorizationFailedError, MessageSizeTooLargeError])
def test_a_record_that_is_refused_at_its_first_try_is_surely_not_in_the_log(kind: type[Exception]) -> None:
    batches = Batches()
    assert isinstance(batches.refuse(batches.add(), kind), kind)


@pytest.mark.parametrize("kind", [TopicAuthorizationFailedError, MessageSizeTooLargeError])
def test_a_record_that_is_refused_when_it_is_sent_again_may_be_in_the_log(kind: type[Exception]) -> None:
    batches = Batches()
    batch = batches.add()
    batch.retry()
    found = batches.refuse(batch, kind)
    assert not isinstance(found, REFUSALS)
    assert kind.__name__ in str(found)


def test_what_is_on_its_way_when_another_record_is_refused_may_be_in_the_log() -> None:
    batches = Batches()
    other_one = batches.add()
    batches.sender._maybe_abort_batches(TopicAuthorizationFailedError("another topic"))
    assert not isinstance(failure(other_one), REFUSALS)


@pytest.mark.parametrize("sent", [False, True], ids=["never sent", "sent under an earlier id"])
def test_what_waits_for_an_id_that_is_refused_is_refused_unless_it_was_sent_before(sent: bool) -> None:
    batches = Batches()
    batch = batches.add()
    if sent:
        batch.drained = 1.0
    said = f"Unexpected error in InitProducerIdResponse: {ClusterAuthorizationFailedError()}"
    batches.sender._maybe_abort_batches(KafkaError(said))
    assert isinstance(failure(batch), REFUSALS) is not sent


def test_the_library_still_needs_each_repair() -> None:
    """When this fails, a new kafka-python has fixed something: look whether a repair can go."""
    assert "offsets[tp] = offsets[tp].offset" in inspect.getsource(Fetcher.beginning_or_end_offset)
    assert "elif node_id == -1:" in inspect.getsource(Fetcher._group_list_offset_requests)
    assert "except Errors.NodeNotReadyError" in inspect.getsource(KafkaConnectionManager.send)
    assert "raise Errors.UnknownBrokerIdError" in inspect.getsource(KafkaConnectionManager.get_connection)
    assert "random.choice(self.cluster.bootstrap_brokers())" in inspect.getsource(KafkaConnectionManager._do_bootstrap)
    assert "await self._refresh_future" in inspect.getsource(ClusterMetadata.refresh_metadata)
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
    assert "_transition_to" not in inspect.getsource(TransactionManager.reset_producer_id)
    for kind in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
        assert "except" not in inspect.getsource(kind.__init__)
    for connects in (KafkaNetSocket.connect, KafkaNetSocket.sock_connect, KafkaConnectionManager._build_transport):
        assert "close()" not in inspect.getsource(connects)
    assert "raise Errors.TopicAuthorizationFailedError" in inspect.getsource(Fetcher._parse_fetched_data)
    reads = inspect.getsource(KafkaTCPTransport._read_from_sock)
    assert reads.index("if err:") < reads.index("data_received"), "what came with the end of the connection is dropped"


# Reading what may not be read


REFUSED = 29
"""TOPIC_AUTHORIZATION_FAILED."""


def fetcher() -> Any:
    made: Any = object.__new__(kafka_repairs._Fetcher)
    vars(made).update(
        _subscriptions=SimpleNamespace(move_partition_to_end=lambda tp: None),
        _session_handlers={},
        _sensors=None,
        _completed_fetches=[],
        _manager=SimpleNamespace(broker_version=(0, 10)),
        config={"enable_incremental_fetch_sessions": False},
    )
    return made


def fetched(error: int, **partitions: int) -> Any:
    """An answer to a fetch; `partitions`: error code of each, by `p0` and so on."""
    told = [SimpleNamespace(partition_index=int(p[1:]), error_code=code) for p, code in partitions.items()]
    topics = [SimpleNamespace(topic=TOPIC, partitions=told)] if told else []
    return SimpleNamespace(API_VERSION=4, error_code=error, responses=topics)


def test_a_topic_that_may_not_be_read_is_known_until_a_fetch_of_it_is_answered() -> None:
    made = fetcher()
    member: Any = SimpleNamespace(_fetcher=made, assignment=lambda: set(ALL[:3]))
    here, there = dict.fromkeys(ALL[:2], 0), {ALL[2]: 0}
    assert fetch_refused(member) is None
    made._handle_fetch_response(1, here, 0.0, fetched(0, p0=REFUSED, p1=REFUSED))
    assert fetch_refused(member) is True
    made._handle_fetch_response(2, there, 0.0, fetched(0, p2=0))
    assert fetch_refused(member) is True, "another broker answers"
    made._handle_fetch_response(1, here, 0.0, fetched(70))
    assert fetch_refused(member) is True, "that was an error of the whole fetch"
    made._handle_fetch_response(1, here, 0.0, fetched(0))
    assert fetch_refused(member) is False, "an answer with nothing new names no partitions"


def test_a_refused_fetch_ends_no_poll() -> None:
    refused = SimpleNamespace(partition_data=SimpleNamespace(error_code=REFUSED), topic_partition=ALL[0])
    assert fetcher()._parse_fetched_data(refused) is None


# What is said of connections


class Ending:
    """A library's transport that gets bytes and the end of the connection at one look, and at the next the end."""

    def __init__(self) -> None:
        self._received = b"refused"

    def _sock_recv(self) -> tuple[bytes, object]:
        received, self._received = self._received, b""
        return received, "the end"


def test_what_a_broker_says_before_it_ends_a_connection_is_read() -> None:
    class Repaired(kafka_repairs._ReadsAll, Ending):
        pass

    transport = Repaired()
    assert transport._sock_recv() == (b"refused", None)
    assert transport._sock_recv() == (b"", "the end")


def test_a_time_that_is_over_hides_no_reason_and_an_open_connection_ends_it() -> None:
    manager: Any = object.__new__(kafka_repairs._Manager)
    conns: dict[str, Any] = {}
    nodes = {"node": SimpleNamespace(host="h", port=1)}
    vars(manager).update(
        _failed={}, config={"security_protocol": "SASL_SSL"}, _conns=conns,
        cluster=SimpleNamespace(broker_metadata=nodes.get),
    )  # fmt: skip
    manager._note("h:1", KafkaTimeoutError("SASL Authentication timed out"))
    assert not manager.failures()["h:1"].answered
    manager._note("h:1", SaslAuthenticationFailedError("SaslAuthenticationFailedError: wrong"))
    manager._note("h:1", RequestTimedOutError("Request timed out after 4 ms"))
    assert manager.failures()["h:1"].said == "wrong"
    conns["node"] = SimpleNamespace(node_id="node", connected=True, in_flight_requests=deque())
    assert manager.failures() == {}


def test_a_broker_that_does_not_answer_is_named_unless_it_may_wait_for_others() -> None:
    manager: Any = object.__new__(kafka_repairs._Manager)
    asked = time.monotonic() - UNANSWERED_S
    open_one = SimpleNamespace(
        node_id="node", connected=True, in_flight_requests=deque([(1, None, asked, asked + 9, None)])
    )
    vars(manager).update(
        _failed={}, _conns={"node": open_one}, answers_at_once=True,
        cluster=SimpleNamespace(broker_metadata=lambda node_id: SimpleNamespace(host="h", port=1)),
    )  # fmt: skip
    assert str(manager.failures()["h:1"]).startswith("no answer for 2 s; start Kafka there")
    manager.answers_at_once = False  # a join is answered when all members have joined
    assert manager.failures() == {}
