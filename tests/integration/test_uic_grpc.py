"""UIC's gRPC port on a real broker and a real store: what is published is folded, what is erased is gone."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.json_format import MessageToJson
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kafka import KafkaProducer

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.dev_broker import DevBroker
from localstack.wait import until
from mimn.bundle.fields import code_of
from mimn.state import EMPTY_DIGEST, extend_digest, partition_of
from support.bundles import SKETCH, again
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import RunningUic, click, running_uic
from torture.watching import metric
from uic.doors.servicer import SERVICE
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 8


def health(uic: RunningUic, service: str = SERVICE) -> int:
    stub = health_pb2_grpc.HealthStub(uic.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status
    return status


def failed(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    code: grpc.StatusCode = error.code()
    return code


def test_what_is_published_is_folded_once_and_in_order(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    with running_uic(tmp_path, valkey, topics) as uic:
        assert health(uic) == health(uic, "") == health_pb2.HealthCheckResponse.SERVING
        assert uic.state("u0") is None
        events = [click(f"u{i % 7}", item=1 + i % 5, event_id=str(i)) for i in range(70)]
        positions = uic.publish(*events)
        uic.wait_folded(positions)
        digests = {f"u{i}": EMPTY_DIGEST for i in range(7)}
        for event, at in zip(events, positions, strict=True):
            digests[event.user_id] = extend_digest(digests[event.user_id], at.offset, event.SerializeToString())
        for user, digest in digests.items():
            state = uic.state(user)
            assert state is not None
            assert (state.event_count, state.digest, state.partial) == (10, digest, False)
    log = {(r.partition, r.offset): r for r in read_to_end({"bootstrap_servers": kafka}, topics.events)}
    assert len(log) == 70
    for event, at in zip(events, positions, strict=True):
        assert log[at.partition, at.offset].value == event.SerializeToString()


def test_a_text_folds_as_the_number_that_training_gives_it(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    bundle = again(tmp_path / "bundles", SKETCH, ids="string")
    number = click("number", item=code_of("sku-1"), category_id=code_of("shoes"))
    in_protobuf, in_json = BehaviorEvent(), BehaviorEvent()
    for text, user in ((in_protobuf, "protobuf"), (in_json, "json")):
        text.CopyFrom(number)
        text.MergeFrom(BehaviorEvent(user_id=user, item_text="sku-1", category_text="shoes"))
        text.ClearField("item_id")
        text.ClearField("category_id")
    with running_uic(tmp_path, valkey, topics, bundle=bundle) as uic:
        producer = KafkaProducer(bootstrap_servers=kafka)
        landed = producer.send(
            topics.events,
            MessageToJson(in_json).encode(),
            b"json",
            [("content-type", b"application/json")],
            partition_of(b"json", N),
        ).get(60)
        producer.close()
        by_json = pb.LogPosition(partition=landed.partition, offset=landed.offset)
        uic.wait_folded([*uic.publish(number, in_protobuf), by_json])

        def tensors(user: str) -> list[list[float]]:
            state = uic.state(user)
            assert state is not None
            return [list(block.values) for block in state.blocks]

        folded = tensors("number")
        assert tensors("protobuf") == tensors("json") == folded
        uic.wait_folded([uic.erase_item("number", number.item_id)])
        erasure = pb.EraseItemRequest(user_id="json", item_text="sku-1")
        uic.wait_folded([uic.stub.EraseItem(erasure, timeout=10).position])
        assert tensors("json") == tensors("number") != folded


def test_an_erased_user_is_gone_and_starts_anew(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    with running_uic(tmp_path, valkey, make_topics(kafka, N)) as uic:
        uic.wait_folded(uic.publish(click("u1"), click("u1"), click("u2")))
        at = uic.erase("u1")
        uic.wait_folded([at])
        assert uic.state("u1") is None
        neighbor = uic.state("u2")
        assert neighbor is not None
        assert neighbor.event_count == 1
        again = click("u1")
        [position] = uic.publish(again)
        uic.wait_folded([position])
        state = uic.state("u1")
        assert state is not None
        assert state.digest == extend_digest(EMPTY_DIGEST, position.offset, again.SerializeToString())
        assert state.event_count == 1


def test_a_broker_that_is_away_is_unavailable_in_time_and_nothing_comes_late(
    tmp_path: Path, valkey: RedisForTest, own_kafka: DevBroker, make_topics: MakeTopics
) -> None:
    topics = make_topics(own_kafka.address, N)
    with running_uic(tmp_path / "uic", valkey, topics, UIC_GRPC__TIMEOUT_S="8") as uic:
        uic.publish(click("before"))
        own_kafka.freeze()
        try:
            began = time.monotonic()
            assert failed(lambda: uic.publish(click("during"), timeout_s=120)) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 60, "by UIC's own limit, and not by the caller's"
            short = failed(lambda: uic.publish(click("hurried"), timeout_s=0.5))
            assert short in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        finally:
            own_kafka.thaw()

        def publishes() -> bool:
            try:
                return bool(uic.publish(click("after"), timeout_s=20))
            except grpc.RpcError:
                return False

        until(publishes, "publishing works again", within_s=60)
        users = [r.key for r in read_to_end({"bootstrap_servers": own_kafka.address}, topics.events)]
        assert users.count(b"before") == 1
        # A frozen broker may have taken what reached its socket; whatever it was, it is there once at most.
        assert users.count(b"during") <= 1
        assert users.count(b"hurried") <= 1


def test_the_store_being_away_is_unavailable_for_inspection_alone(
    tmp_path: Path, own_valkey: Any, kafka: str, make_topics: MakeTopics
) -> None:
    store = RedisForTest(own_valkey.address, "t", None)  # type: ignore[arg-type]  # this test does not use it
    with running_uic(tmp_path / "uic", store, make_topics(kafka, N)) as uic:
        own_valkey.stop()
        get = pb.GetUserStateRequest(user_id="u1")
        assert failed(lambda: uic.stub.GetUserState(get, timeout=60)) is grpc.StatusCode.UNAVAILABLE
        [position] = uic.publish(click("u1"))
        assert health(uic) == health_pb2.HealthCheckResponse.SERVING
        own_valkey.start()
        uic.wait_folded([position])
        state = uic.state("u1")
        assert state is not None
        assert state.event_count == 1


def test_drain_says_not_serving_before_it_goes(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    with running_uic(tmp_path, valkey, make_topics(kafka, N)) as uic:
        stub = health_pb2_grpc.HealthStub(uic.channel)
        seen: list[int] = []

        def watch() -> None:
            try:
                for answer in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE)):
                    seen.append(answer.status)
            except grpc.RpcError:
                return

        watching = threading.Thread(target=watch)
        watching.start()
        until(lambda: seen, "the watch has begun", within_s=60)
        assert metric(uic.worker, "uic_watches") == 1
        assert uic.worker.stop() == 0
        watching.join(60)
        assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


@pytest.mark.full
def test_a_worker_that_announces_its_end_answers_meanwhile_and_clients_that_follow_the_health_leave_it(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    """Without the announcement the gRPC library may cancel calls that arrive as the port closes."""
    topics = make_topics(kafka, N)
    follow = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}}
    # Time to look at it meanwhile, also on a machine that stalls.
    announces: dict[str, Any] = {"UIC_GRPC__ANNOUNCE_S": "12", "UIC_FOLD__DRAIN_TIMEOUT_S": "30"}
    over, stopped, codes = threading.Event(), list[int | None](), Counter[grpc.StatusCode]()
    asked = pb.GetUserStateRequest(user_id="u")

    def call_on(addresses: str) -> None:
        options = [("grpc.service_config", json.dumps(follow)), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(addresses, options) as channel:
            stub = UserInterestCenterStub(channel)
            while not over.is_set():
                codes[stub.GetUserState.future(asked, timeout=60).code()] += 1

    with (
        running_uic(tmp_path / "stays", valkey, topics) as stays,
        running_uic(tmp_path / "ends", valkey, topics, **announces) as ends,
    ):
        addresses = f"ipv4:{ends.worker.address},{stays.worker.address}"
        clients = [threading.Thread(target=call_on, args=(addresses,)) for _ in range(8)]
        try:
            for client in clients:
                client.start()
            until(lambda: codes.total() > 200, "calls are answered", within_s=60)
            ending = threading.Thread(target=lambda: stopped.append(ends.worker.stop(60)))
            ending.start()
            until(lambda: health(ends) == health_pb2.HealthCheckResponse.NOT_SERVING, "it ends", within_s=60)
            assert httpx.get(f"{ends.worker.admin_url}/readyz", timeout=60).status_code == 503
            assert (metric(stays.worker, "uic_ready"), metric(ends.worker, "uic_ready")) == (1, 0)
            assert ends.state("u") is None, "and still answers"
            ending.join(60)
            assert stopped == [0]
            enough = codes.total() + 200
            until(lambda: codes.total() > enough, "the other answers", within_s=60)
        finally:
            over.set()
            for client in clients:
                client.join()
    assert set(codes) == {grpc.StatusCode.NOT_FOUND}, "there is no such user"
