"""Health on UIC's gRPC port: what it says of each name, and that streams which follow it take bounded room and time."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.wait import until
from support.uic_doors import open_loop, uic_service
from uic.doors import health as health_door
from uic.doors.grpc import GrpcServer
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
        self.loop = open_loop()
        self.port = self.loop.run(self.door.start())
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
        self.loop.run(self.door.drain(0))
        self.loop.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def failure(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details(), dict(error.trailing_metadata())


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
            until(lambda: rig.door.watches() == 0, "it has left", within_s=60)

    ask(5)
    tracemalloc.start()
    try:
        ask(50)  # 5 MB of names
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


def test_so_many_streams_may_follow_and_calls_are_answered(rig: Rig) -> None:
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
    until(lambda: rig.door.watches() < MOST, "a place is free", within_s=60)
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
    rig.loop.begin(rig.door.drain(60)).result(30)  # it does not wait for streams that follow
    assert [[one.status for one in rest(watch)] for watch in watches] == [[NOT_SERVING], [NOT_SERVING], []]
    assert {watch.code() for watch in watches} == {grpc.StatusCode.UNAVAILABLE}


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


@pytest.mark.parametrize("window", [0, 7])
def test_streams_that_take_nothing_keep_no_change_from_others(rig: Rig, window: int) -> None:
    """Of the first answer, or of the next one."""
    first = rig.watch()
    assert next(first).status == SERVING
    with contextlib.ExitStack() as stack:
        for i in range(3):
            stack.enter_context(follow(rig, window))
            until(lambda i=i: rig.door.watches() == i + 2, "it follows", within_s=60)  # type: ignore[misc]
        behind = rig.watch()
        assert next(behind).status == SERVING
        for serving, status in ((False, NOT_SERVING), (True, SERVING), (False, NOT_SERVING)):
            rig.serving = serving
            assert [next(watch).status for watch in (first, behind)] == [status] * 2
        assert rig.health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == NOT_SERVING
        first.cancel()
        behind.cancel()


def test_a_stream_that_takes_nothing_ends_with_the_server(rig: Rig) -> None:
    with contextlib.closing(follow(rig, 0)):
        until(lambda: rig.door.watches() == 1, "it follows", within_s=60)
        rig.loop.begin(rig.door.drain(0.5)).result(60)
