"""Health on UIC's gRPC port: what it says of each name, and that streams which follow it take bounded room and time."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.wait import until
from support.uic_doors import uic_service
from uic.core.watches import Health
from uic.doors import health as health_door
from uic.doors import slow_requests
from uic.doors.grpc import HEALTH_WORKERS, GrpcServer
from uic.doors.servicer import SERVICE
from uic.settings import GrpcSettings

MOST = 24
"""More than the server has threads, and fewer than one connection may have streams."""
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


class Rig:
    """A listening server whose store has no states."""

    def __init__(self) -> None:
        settings = GrpcSettings(port=0, max_calls=2, max_watches=MOST)
        self.serving = True
        self.door = GrpcServer(uic_service(settings, self), settings, lambda: self.serving)
        self.port = self.door.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.stub = UserInterestCenterStub(self.channel)

    def stored_values(self, partition: int, users: Any) -> list[bytes | None]:
        return [None for _ in users]

    def watch(self, service: str = "") -> Any:
        """A call that follows the health."""
        call: Any = self.health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=120)
        return call

    def close(self) -> None:
        self.channel.close()
        self.door.drain(0)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(slow_requests, "ARRIVAL_S", 6.0)  # longer than a busy machine needs to fill the door
    rig = Rig()
    yield rig
    rig.close()


def failure(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details(), dict(error.trailing_metadata())


# What is to be told to whom


# Over a channel


def test_list_says_the_health_of_every_name_and_logs_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answer = rig.health.List(health_pb2.HealthListRequest(), timeout=10)
    assert {name: one.status for name, one in answer.statuses.items()} == {"": SERVING, SERVICE: SERVING}
    assert not caplog.records


def test_a_name_that_is_not_served_is_told_as_that(rig: Rig) -> None:
    code, detail, hints = failure(lambda: rig.health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10))
    assert code is grpc.StatusCode.NOT_FOUND
    assert SERVICE in detail
    assert hints["retriable"] == "false"
    watch = rig.watch("other")
    assert next(watch).status == SERVICE_UNKNOWN
    assert watch.is_active(), "as the protocol has it"
    watch.cancel()


def test_names_that_are_not_served_leave_nothing_in_memory(rig: Rig) -> None:
    """Each was kept forever, and no key is needed to send one."""

    def ask(n: int) -> None:
        for i in range(n):
            watch = rig.watch(f"{i}-{n}-" + "x" * 100_000)
            assert next(watch).status == SERVICE_UNKNOWN
            watch.cancel()
            until(lambda: len(rig.door._health._watches) == 0, "it has left", within_s=60)

    ask(5)
    tracemalloc.start()
    try:
        ask(50)  # 5 MB of names
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


def test_so_many_streams_may_follow_and_none_has_a_thread(rig: Rig) -> None:
    watches = []
    for i in range(MOST):
        watches.append(rig.watch("" if i % 2 else "other"))
        next(watches[-1])
    code, detail, hints = failure(lambda: next(rig.watch()))
    assert (code, detail) == (grpc.StatusCode.RESOURCE_EXHAUSTED, health_door.TOO_MANY_WATCHES)
    assert hints["retriable"] == "true"
    code, _, _ = failure(lambda: rig.stub.GetUserState(pb.GetUserStateRequest(user_id="u"), timeout=10))
    assert code is grpc.StatusCode.NOT_FOUND, "there is no such user"
    assert rig.health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING
    watches[0].cancel()
    until(lambda: len(rig.door._health._watches) < MOST, "a place is free", within_s=60)
    again = rig.watch()
    assert next(again).status == SERVING
    rig.serving = False
    assert [next(watch).status for watch in [*watches[1::2], again]] == [NOT_SERVING] * (MOST // 2 + 1)
    for watch in [*watches, again]:
        watch.cancel()


def test_a_drain_tells_not_serving_and_ends_the_streams(rig: Rig) -> None:
    watches = [rig.watch(name) for name in ("", SERVICE, "other")]
    for watch in watches:
        next(watch)
    drained = threading.Thread(target=rig.door.drain, args=(60,))
    drained.start()
    drained.join(60)
    assert not drained.is_alive(), "it does not wait for streams that follow"
    assert [[one.status for one in rest(watch)] for watch in watches] == [[NOT_SERVING], [NOT_SERVING], []]
    assert {watch.code() for watch in watches} == {grpc.StatusCode.UNAVAILABLE}
    until(lambda: not rig.door._health._teller.is_alive(), "its thread has ended", within_s=60)


def rest(watch: Any) -> Iterator[Any]:
    with contextlib.suppress(grpc.RpcError):
        yield from watch


# Clients that do not take what they are sent


def follow(rig: Rig, window: int) -> socket.socket:
    """A stream that follows the health and takes so many bytes of answers; one answer has 7."""

    def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def field(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    head = b"".join(
        field(*one)
        for one in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/grpc.health.v1.Health/Watch"),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    line = socket.create_connection(("127.0.0.1", rig.port), timeout=60)
    line.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"\x00\x04" + window.to_bytes(4, "big"))
        + frame(1, 4, 1, head)
        + frame(0, 1, 1, b"\x00\x00\x00\x00\x00")
    )
    return line


def test_streams_whose_first_answer_is_not_taken_are_ended_and_take_no_more_than_their_threads(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(HEALTH_WORKERS):
            stack.enter_context(follow(rig, 0))
        until(lambda: len(rig.door._health._watches) == HEALTH_WORKERS, "they wait", within_s=60)
        code, _, _ = failure(lambda: rig.stub.GetUserState(pb.GetUserStateRequest(user_id="u"), timeout=10))
        assert code is grpc.StatusCode.NOT_FOUND, "there is no such user"
        until(lambda: len(rig.door._health._watches) == 0, "they are ended", within_s=60)
        assert rig.health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING


def test_a_stream_that_takes_no_change_keeps_it_from_the_others_for_a_moment_only(rig: Rig) -> None:
    first = rig.watch()
    assert next(first).status == SERVING
    with contextlib.ExitStack() as stack:
        for i in range(3):
            stack.enter_context(follow(rig, 7))
            until(lambda i=i: len(rig.door._health._watches) == i + 2, "it follows", within_s=60)  # type: ignore[misc]
        behind = rig.watch()
        assert next(behind).status == SERVING
        rig.serving = False
        assert next(first).status == NOT_SERVING
        code, _, _ = failure(lambda: next(behind))
        assert code is grpc.StatusCode.CANCELLED
        until(lambda: len(rig.door._health._watches) == 1, "the others are ended", within_s=60)
        again = rig.watch()
        assert next(again).status == NOT_SERVING
        rig.serving = True
        assert [next(watch).status for watch in (first, again)] == [SERVING] * 2
        first.cancel()
        again.cancel()


def test_only_the_stream_that_takes_no_change_is_ended_where_the_health_changes_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others were ended instead, and it stayed, so that they were not told of later changes either."""
    monkeypatch.setattr(health_door, "TELL_S", 8.0)  # the health is back long before
    begun = []
    tell = health_door._Stream.tell

    def noted(stream: Any, health: Health) -> None:
        begun.append(health)
        tell(stream, health)

    monkeypatch.setattr(health_door._Stream, "tell", noted)
    first = rig.watch()
    assert next(first).status == SERVING
    with contextlib.closing(follow(rig, 7)):
        until(lambda: len(rig.door._health._watches) == 2, "it follows", within_s=60)
        behind = rig.watch()
        assert next(behind).status == SERVING
        rig.serving = False
        assert next(first).status == NOT_SERVING
        until(lambda: begun.count(Health.NOT_SERVING) == 2, "it is told, and does not take it", within_s=60)
        rig.serving = True
        assert next(first).status == SERVING
        assert rig.door.watches() == 2, "it is ended"
        rig.serving = False
        assert [next(watch).status for watch in (first, behind)] == [NOT_SERVING] * 2
        first.cancel()
        behind.cancel()


def test_a_stream_that_takes_nothing_holds_up_no_end(rig: Rig) -> None:
    with contextlib.closing(follow(rig, 7)):
        until(lambda: len(rig.door._health._watches) == 1, "it follows", within_s=60)
        drained = threading.Thread(target=rig.door.drain, args=(60,))
        drained.start()
        drained.join(60)
        assert not drained.is_alive()
