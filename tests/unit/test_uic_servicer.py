"""The gRPC port over a real channel, with the log and the store in memory: what it answers, refuses and hints."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ctr.event.v1.behavior_event_pb2 import ACTION_ERASE_ITEM, ACTION_PURCHASE, BehaviorEvent
from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.fields import code_of
from mimn.state import StateHeader, UserState, encode_state, partition_of, user_hash
from support.bundles import TINY, again
from support.uic_doors import BUNDLE, ERASED, TOPIC, N, event_log, open_loop, uic_service
from uic.core.event import DAY_MS, ERASE_ITEM, check_event
from uic.doors.grpc import GrpcServer
from uic.doors.servicer import STATUS, status_of
from uic.errors import StartRefused, StoreUnavailable, UicError, UnreadableLog
from uic.log.erasures import decode_erasure
from uic.metrics import Metrics
from uic.settings import GrpcSettings

NOW_MS = 1_700_000_000_000


class States:
    """Stored values by (partition, user)."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, str], bytes] = {}
        self.away = False
        self.gate: threading.Event | None = None
        self.waiting = threading.Event()

    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        if self.gate is not None:
            self.waiting.set()
            assert self.gate.wait(60)
        if self.away:
            raise StoreUnavailable("no answer")
        return [self.values.get((partition, user)) for user in users]


class Rig:
    """A listening server, and what it serves."""

    def __init__(self, bundle: Bundle = BUNDLE, **settings: Any) -> None:
        self.log = event_log()
        self.states = States()
        self.metrics = Metrics()
        self.serving = True
        self.ahead_ms = 0
        grpc_settings = GrpcSettings(port=0, **settings)
        clocks: dict[str, Any] = {"now_ms": lambda: NOW_MS, "ahead_ms": lambda: self.ahead_ms}
        told: dict[str, Any] = {"log": self.log, "metrics": self.metrics, "bundle": bundle}
        self.service = uic_service(grpc_settings, self.states, **told, **clocks)
        self.door = GrpcServer(self.service, grpc_settings, lambda: self.serving)
        self.loop = open_loop()
        self.port = self.loop.run(self.door.start())
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = UserInterestCenterStub(self.channel)

    def close(self) -> None:
        self.channel.close()
        self.loop.run(self.door.drain(0))
        self.loop.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def event(user: str = "u1", **fields: Any) -> BehaviorEvent:
    usual: dict[str, Any] = {"item_id": 7, "event_time": NOW_MS, "event_id": "e"}
    return BehaviorEvent(user_id=user, **usual | fields)


def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details(), {key: value for key, value in error.trailing_metadata() if key != "date"}


def test_published_events_lie_where_the_answer_says_and_in_order(rig: Rig) -> None:
    events = [event(f"u{i % 3}", event_id=str(i)) for i in range(12)]
    answer = rig.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=events))
    assert len(answer.positions) == 12
    for sent, position in zip(events, answer.positions, strict=True):
        key, value = rig.log.records[TOPIC][position.partition][position.offset]
        assert key == sent.user_id.encode()
        assert position.partition == partition_of(key, N)
        assert value is not None
        assert BehaviorEvent.FromString(value) == sent
    assert rig.metrics.registry.get_sample_value("uic_published_events_total") == 12


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (event(""), r"events[2].user_id: is empty"),
        (event("é" * 65), r"events[2].user_id: is too long"),
        (event(item_id=0), r"events[2].item_id: is 0"),
        (event(event_id="é" * 33), r"events[2].event_id: is too long"),
        (event(event_time=0), r"events[2].event_time: is out of bounds"),
        (event(event_time=NOW_MS + 86_400_001), "events[2].event_time: is out of bounds"),
        (BehaviorEvent.FromString(event().SerializeToString() + b"\xa2\x06\x80\x80\x04" + b"x" * 65536), "events[2]: "),
    ],
)
def test_one_invalid_event_refuses_the_whole_call_and_is_named(rig: Rig, bad: BehaviorEvent, message: str) -> None:
    request = pb.PublishBehaviorsRequest(events=[event(), event(), bad, event("")])
    code, detail, hints = refused(lambda: rig.stub.PublishBehaviors(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.startswith(message)
    assert hints["retriable"] == "false"
    assert not any(rig.log.records[TOPIC])


@pytest.mark.parametrize("deadline_s", [0.03, 0.05])
def test_a_deadline_that_leaves_no_time_to_write_is_refused_before_anything_is_sent(
    rig: Rig, deadline_s: float
) -> None:
    """The call arrives with this much time left; its client waits longer, so that it gets the answer."""
    calls: list[tuple[Callable[[Any, Any], Coroutine[Any, Any, object]], object]] = [
        (rig.service.PublishBehaviors, pb.PublishBehaviorsRequest(events=[event()])),
        (rig.service.EraseUser, pb.EraseUserRequest(user_id="u1")),
        (rig.service.EraseItem, pb.EraseItemRequest(user_id="u1", item_id=7)),
    ]
    for method, request in calls:
        context = Late(deadline_s)
        rig.loop.run(method(request, context))
        assert context.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "nothing was written; give the call at least 100 ms" in context.detail
        assert dict(context.told)["retriable"] == "false"
    assert not any(rig.log.records[TOPIC])
    assert not any(rig.log.records[ERASED])
    request = pb.PublishBehaviorsRequest(events=[event()])
    assert rig.loop.run(rig.service.PublishBehaviors(request, Late(0.1))).positions


class Late:
    """The context of a call whose deadline is near."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s
        self.code, self.detail = grpc.StatusCode.OK, ""
        self.told: tuple[tuple[str, str], ...] = ()

    def time_remaining(self) -> float:
        return self.left_s

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, told: Any) -> None:
        self.told = told

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, detail: str) -> None:
        self.detail = detail


def test_bounds_of_event_time_and_ids_are_accepted(rig: Rig) -> None:
    edges = [
        event("x" * 128, event_id="y" * 64, event_time=NOW_MS + 86_400_000, item_id=2**64 - 1),
        event(event_id="", event_time=946_684_800_000),
    ]
    assert len(rig.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=edges)).positions) == 2


@pytest.mark.parametrize("count", [0, 1001])
def test_a_call_has_1_to_1000_events(rig: Rig, count: int) -> None:
    request = pb.PublishBehaviorsRequest(events=[event()] * count)
    code, detail, _ = refused(lambda: rig.stub.PublishBehaviors(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"events: there are {count}" in detail
    assert len(rig.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=[event()] * 1000)).positions) == 1000


def test_a_thousand_events_of_the_longest_ids_fit_into_a_message(rig: Rig) -> None:
    longest = event("\u00e9" * 64, event_id="e" * 64, item_id=2**64 - 1, category_id=2**64 - 1, action=ACTION_PURCHASE)
    request = pb.PublishBehaviorsRequest(events=[longest] * 1000)
    assert len(rig.stub.PublishBehaviors(request).positions) == 1000


@pytest.mark.parametrize("method", ["PublishBehaviors", "GetUserState", "EraseUser", "EraseItem"])
def test_bytes_that_are_no_message_are_the_callers_mistake(
    rig: Rig, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: Any = rig.channel.unary_unary(f"/ctr.uic.v1.UserInterestCenter/{method}", None, None)
    code, detail, _ = refused(lambda: call(b"\x0a\x02\xff\xfe", timeout=10))
    assert (code, detail) == (
        grpc.StatusCode.INVALID_ARGUMENT, "the request is not the message that the method takes"
    )  # fmt: skip
    assert caplog.records == [], "nor an error of ours in the log"


def test_the_caller_learns_which_events_were_not_acknowledged(rig: Rig) -> None:
    rig.log.withheld = {1, 3}
    request = pb.PublishBehaviorsRequest(events=[event(f"u{i}") for i in range(5)])
    code, detail, hints = refused(lambda: rig.stub.PublishBehaviors(request))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail.startswith("2 of 5 records")
    assert (hints["unacknowledged"], hints["retriable"]) == ("1,3", "false")


def test_a_client_that_repeats_calls_by_itself_publishes_an_event_once(rig: Rig) -> None:
    policy = {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
    method = {"name": [{}], "retryPolicy": policy | {"retryableStatusCodes": ["UNAVAILABLE"]}}
    options = [("grpc.service_config", json.dumps({"methodConfig": [method]}))]
    request = pb.PublishBehaviorsRequest(events=[event("u1"), event("u2")])
    rig.log.withheld = {1}
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options) as channel:
        stub = UserInterestCenterStub(channel)
        assert refused(lambda: stub.PublishBehaviors(request))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [key for some in rig.log.records[TOPIC] for key, _ in some] == [b"u1"]
        rig.log.withheld = {0}
        stub.EraseUser(pb.EraseUserRequest(user_id="u1"))  # twice is harmless: here the second try is welcome
    assert rig.log.records[TOPIC][partition_of(b"u1", N)][-1] == (b"u1", None)


def test_a_slow_clock_of_the_worker_is_not_the_callers_mistake(rig: Rig) -> None:
    rig.ahead_ms = -2 * DAY_MS
    to_come = event(event_time=NOW_MS + 2 * DAY_MS)
    code, detail, told = refused(
        lambda: rig.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=[event(), to_come]))
    )
    assert (code, told["retriable"]) == (grpc.StatusCode.UNAVAILABLE, "true")
    assert "172800 s" in detail
    assert "events[1].event_time" in detail
    assert not any(map(len, rig.log.records[TOPIC]))
    for ahead_ms, event_time in ((-2 * DAY_MS, NOW_MS + 4 * DAY_MS), (2 * DAY_MS, NOW_MS + 2 * DAY_MS)):
        rig.ahead_ms = ahead_ms
        wrong = pb.PublishBehaviorsRequest(events=[event(event_time=event_time)])
        code, _, told = refused(lambda wrong=wrong: rig.stub.PublishBehaviors(wrong))
        assert (code, told["retriable"]) == (grpc.StatusCode.INVALID_ARGUMENT, "false"), "by the store's clock as well"


def test_another_partition_count_is_a_failed_precondition(rig: Rig) -> None:
    rig.log.records[TOPIC].append([])
    request = pb.PublishBehaviorsRequest(events=[event()])
    code, detail, hints = refused(lambda: rig.stub.PublishBehaviors(request))
    assert (code, hints["retriable"]) == (grpc.StatusCode.FAILED_PRECONDITION, "false")
    assert "9 partitions" in detail


def stored(user: str, fingerprint: bytes = BUNDLE.fingerprint) -> tuple[bytes, UserState]:
    header = StateHeader(
        user=user_hash(user),
        lineage=2**63 + 5,
        era=3,
        last_offset=41,
        event_count=17,
        last_event_time=NOW_MS,
        digest=b"12345678",
        partial=True,
    )
    tensors = np.arange(BUNDLE.layout.floats, dtype=np.float32) / np.float32(8)
    state = UserState(header, BUNDLE.layout.round(tensors))
    return encode_state(state, fingerprint, BUNDLE.layout), state


def test_a_stored_state_comes_back_decoded(rig: Rig) -> None:
    partition = partition_of(b"u1", N)
    value, state = stored("u1")
    rig.states.values[partition, "u1"] = value
    answer = rig.stub.GetUserState(pb.GetUserStateRequest(user_id="u1"))
    assert answer.partition == partition
    assert answer.fingerprint == BUNDLE.fingerprint[:16].hex()
    assert (answer.lineage, answer.era, answer.last_offset) == (2**63 + 5, 3, 41)
    assert (answer.event_count, answer.last_event_time, answer.digest) == (17, NOW_MS, b"12345678")
    assert answer.partial
    assert [b.name for b in answer.blocks] == [b.name for b in BUNDLE.layout.blocks]
    for got, want in zip(answer.blocks, BUNDLE.layout.blocks, strict=True):
        assert (tuple(got.shape), got.dtype) == (want.shape, want.dtype)
        named = BUNDLE.layout.view(state.tensors)[want.name]
        assert np.array_equal(np.array(got.values, np.float32).reshape(want.shape), named)


def test_unreadable_states_are_told_apart(rig: Rig) -> None:
    at = (partition_of(b"u1", N), "u1")
    get = pb.GetUserStateRequest(user_id="u1")
    assert refused(lambda: rig.stub.GetUserState(get))[0] is grpc.StatusCode.NOT_FOUND
    sound = stored("u1")[0]
    rig.states.values[at] = sound[:-1] + bytes([sound[-1] ^ 1])
    code, detail, _ = refused(lambda: rig.stub.GetUserState(get))
    assert code is grpc.StatusCode.DATA_LOSS
    assert "CorruptState" in detail
    rig.states.values[at] = stored("u2")[0]
    assert refused(lambda: rig.stub.GetUserState(get))[0] is grpc.StatusCode.DATA_LOSS
    rig.states.values[at] = stored("u1", b"another bundle's fingerprint....")[0]
    code, detail, _ = refused(lambda: rig.stub.GetUserState(get))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "ForeignFingerprint" in detail
    rig.states.away = True
    code, _, hints = refused(lambda: rig.stub.GetUserState(get))
    assert (code, hints["retriable"]) == (grpc.StatusCode.UNAVAILABLE, "true")


def test_an_erasure_is_a_null_record_first_and_then_a_note_that_names_it(rig: Rig) -> None:
    rig.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=[event(), event()]))
    at = rig.stub.EraseUser(pb.EraseUserRequest(user_id="u1")).position
    assert rig.log.records[TOPIC][at.partition][at.offset] == (b"u1", None)
    assert at.offset == 2
    [(key, value)] = rig.log.records[ERASED][at.partition]
    assert key == b"u1"
    assert value is not None
    note = decode_erasure(value)
    assert (note.partition, note.offset, note.topic_id) == (at.partition, at.offset, rig.log.ids[TOPIC])


def test_an_erasure_without_its_note_is_to_be_repeated_and_repeating_is_harmless(rig: Rig) -> None:
    rig.log.away_topics = {ERASED}
    erase = pb.EraseUserRequest(user_id="u1")
    code, _, hints = refused(lambda: rig.stub.EraseUser(erase))
    assert (code, hints["retriable"]) == (grpc.StatusCode.UNAVAILABLE, "true")
    partition = partition_of(b"u1", N)
    assert rig.log.records[TOPIC][partition] == [(b"u1", None)]
    assert rig.log.records[ERASED][partition] == []
    rig.log.away_topics = set()
    assert rig.stub.EraseUser(erase).position.offset == 1
    [(_, value)] = rig.log.records[ERASED][partition]
    assert value is not None
    assert decode_erasure(value).offset == 1


def test_an_item_is_erased_by_one_record_of_its_user_and_by_no_published_event(rig: Rig) -> None:
    at = rig.stub.EraseItem(pb.EraseItemRequest(user_id="u1", item_id=2**64 - 1)).position
    key, value = rig.log.records[TOPIC][at.partition][at.offset]
    assert (key, rig.log.records[ERASED][at.partition]) == (b"u1", [])
    assert value is not None
    record = BehaviorEvent.FromString(value)
    assert check_event(record, "u1", record.event_time) is None
    assert (record.user_id, record.item_id, record.action) == ("u1", 2**64 - 1, ERASE_ITEM)
    code, detail, _ = refused(lambda: rig.stub.EraseItem(pb.EraseItemRequest(user_id="u1")))
    assert (code, detail[:7]) == (grpc.StatusCode.INVALID_ARGUMENT, "item_id")
    published = pb.PublishBehaviorsRequest(events=[event(), event(action=ACTION_ERASE_ITEM)])
    code, detail, _ = refused(lambda: rig.stub.PublishBehaviors(published))
    assert (code, detail) == (
        grpc.StatusCode.INVALID_ARGUMENT, "events[1].action: erases an item: call EraseItem"
    )  # fmt: skip
    assert len(rig.log.records[TOPIC][at.partition]) == 1


def test_texts_are_taken_by_a_bundle_of_string_ids(rig: Rig, tmp_path: Path) -> None:
    text = pb.PublishBehaviorsRequest(events=[event(item_id=0, item_text="sku-1")])
    erasure = pb.EraseItemRequest(user_id="u1", item_text="sku-1")
    code, detail, _ = refused(lambda: rig.stub.PublishBehaviors(text))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.startswith("events[0].item_text: is a text, and the bundle was trained on numbers")
    assert refused(lambda: rig.stub.EraseItem(erasure))[1].startswith("item_text: is a text")
    other = Rig(load_bundle(again(tmp_path, TINY, ids="string")))
    [position] = other.stub.PublishBehaviors(text).positions
    assert other.log.records[TOPIC][position.partition][0][1] == text.events[0].SerializeToString()
    at = other.stub.EraseItem(erasure).position
    value = other.log.records[TOPIC][at.partition][at.offset][1]
    assert value is not None
    assert BehaviorEvent.FromString(value).item_id == code_of("sku-1")
    both = pb.EraseItemRequest(user_id="u1", item_text="sku-1", item_id=1)
    assert refused(lambda: other.stub.EraseItem(both))[1].startswith("item_text: stands beside the number")
    other.close()


@pytest.mark.parametrize("user", ["", "x" * 129])
def test_a_bad_user_id_is_refused_everywhere(rig: Rig, user: str) -> None:
    for call in (
        lambda: rig.stub.GetUserState(pb.GetUserStateRequest(user_id=user)),
        lambda: rig.stub.EraseUser(pb.EraseUserRequest(user_id=user)),
        lambda: rig.stub.EraseItem(pb.EraseItemRequest(user_id=user, item_id=1)),
    ):
        code, detail, _ = refused(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert detail.startswith("user_id: ")


def test_no_answer_names_a_user(rig: Rig) -> None:
    user = "private-person"
    for call in (
        lambda: rig.stub.GetUserState(pb.GetUserStateRequest(user_id=user)),
        lambda: rig.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=[event(user, item_id=0)])),
    ):
        assert user not in refused(call)[1]


def test_calls_beyond_the_limit_are_refused_while_health_answers() -> None:
    rig = Rig(max_calls=2)
    rig.states.gate = threading.Event()
    get = pb.GetUserStateRequest(user_id="u1")
    waiting = []
    for _ in range(2):
        rig.states.waiting.clear()
        waiting.append(rig.stub.GetUserState.future(get))
        assert rig.states.waiting.wait(60)
    code, _, hints = refused(lambda: rig.stub.GetUserState(get))
    assert (code, hints["retriable"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "true")
    assert health(rig, "") == health_pb2.HealthCheckResponse.SERVING
    rig.states.gate.set()
    assert [call.code() for call in waiting] == [grpc.StatusCode.NOT_FOUND] * 2
    assert refused(lambda: rig.stub.GetUserState(get))[0] is grpc.StatusCode.NOT_FOUND
    rig.close()


def test_an_error_without_a_class_is_internal_and_tells_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("private-person")

    monkeypatch.setattr(rig.states, "stored_values", fail)
    code, detail, _ = refused(lambda: rig.stub.GetUserState(pb.GetUserStateRequest(user_id="u1")))
    assert code is grpc.StatusCode.INTERNAL
    assert "private-person" not in detail
    labels = {"method": "GetUserState", "code": "INTERNAL"}
    assert rig.metrics.registry.get_sample_value("uic_rpcs_total", labels) == 1


def health(rig: Rig, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(rig.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=service)).status
    return status


def test_a_port_that_is_taken_is_refused_by_name(rig: Rig) -> None:
    second = GrpcServer(rig.service, GrpcSettings(port=rig.port), lambda: True)
    with pytest.raises(StartRefused, match=r"\(Address already in use\): free the port, or set .* UIC_GRPC__PORT"):
        rig.loop.run(second.start())


def test_a_host_that_is_not_this_machines_is_told_as_that_and_not_as_a_port_that_is_taken(rig: Rig) -> None:
    elsewhere = GrpcServer(rig.service, GrpcSettings(host="[2001:db8::1]", port=0), lambda: True)
    with pytest.raises(StartRefused) as refused:
        rig.loop.run(elsewhere.start())
    assert "[2001:db8::1]:0 (Cannot assign requested address)" in str(refused.value)
    assert "UIC_GRPC__HOST" in str(refused.value)


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "[::]"])
def test_the_service_listens_on_ipv6(host: str) -> None:
    rig = Rig(host=host)
    try:
        with grpc.insecure_channel(f"[::1]:{rig.port}") as channel:
            asked = pb.PublishBehaviorsRequest(events=[event()])
            assert UserInterestCenterStub(channel).PublishBehaviors(asked, timeout=10).positions
    finally:
        rig.close()


def subclasses(kind: type[UicError]) -> Iterator[type[UicError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_class_has_a_status() -> None:
    assert UicError not in STATUS
    for kind in subclasses(UicError):
        error = kind.__new__(kind)
        code = status_of(error)
        assert code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
        if kind.retriable:
            assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), kind


def test_a_damaged_log_is_no_outage_that_ends_by_itself() -> None:
    error = UnreadableLog("the batch at offset 7 cannot be read")
    assert (status_of(error), error.retriable) == (grpc.StatusCode.DATA_LOSS, False)


def test_a_request_id_is_the_callers_or_a_new_one_and_comes_back(rig: Rig) -> None:
    def answered(*sent: tuple[str, str]) -> str:
        _, call = rig.stub.PublishBehaviors.with_call(
            pb.PublishBehaviorsRequest(events=[event()]), metadata=sent, timeout=10
        )
        return str(dict(call.trailing_metadata())["x-request-id"])

    assert answered(("x-request-id", "abc-1")) == "abc-1"
    assert len(answered()) == 16
    assert "\x07" not in answered(("x-request-id", "a b"))
    assert answered(("x-request-id", "x" * 200)) != "x" * 200
