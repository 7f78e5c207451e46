"""The limits of UIC's two ports: too many calls and connections, too large ones, and requests that do not arrive."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.wait import until
from mimn.state import Progress
from support.uic_doors import open_loop, uic_service
from uic.core.status import Status
from uic.doors import admin_server, arrival
from uic.doors import grpc as grpc_door
from uic.doors.admin import admin_app
from uic.doors.admin_server import AdminServer
from uic.doors.grpc import HEALTH_CALLS, REST_CALLS, GrpcServer
from uic.doors.servicer import SERVICE
from uic.errors import NotOurs
from uic.metrics import Metrics
from uic.settings import AdminSettings, GrpcSettings

CALLS = 2


class Empty:
    """A store without states, and a worker without partitions."""

    status = Status(True, (), ())

    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        return [None for _ in users]

    def resolve(self, partition: int, action: str, from_offset: int | None = None) -> Progress:
        raise NotOurs(f"partition {partition} is not assigned to this process")


class Rig:
    def __init__(self) -> None:
        settings = GrpcSettings(port=0, max_calls=CALLS, max_message_bytes=4096)
        self.metrics = Metrics()
        service = uic_service(settings, Empty(), metrics=self.metrics)
        self.door = GrpcServer(service, settings, lambda: True)
        self.loop = open_loop()
        self.port = self.loop.run(self.door.start())
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = UserInterestCenterStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def get(self, user: str = "u") -> grpc.StatusCode:
        try:
            self.stub.GetUserState(pb.GetUserStateRequest(user_id=user), timeout=10)
        except grpc.RpcError as error:
            failed: Any = error
            return grpc.StatusCode(failed.code())
        return grpc.StatusCode.OK

    def reached(self) -> bool:
        """Whether the port takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        except ConnectionRefusedError:
            return False
        return True

    def healthy(self) -> bool:
        answer = self.health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        self.channel.close()
        self.loop.run(self.door.drain(0))
        self.loop.close()


@pytest.fixture
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    # Time enough to begin a dozen calls, also where the machine stalls; as a parameter, where nothing waits for it.
    monkeypatch.setattr(arrival, "ARRIVAL_S", getattr(request, "param", 6.0))
    rig = Rig()
    yield rig
    rig.close()


class Stalled:
    """A call that is begun and never sends its request; `ended` has its status once it has one."""

    def __init__(self, channel: grpc.Channel, method: str) -> None:
        self._over = threading.Event()
        self.ended: grpc.StatusCode | None = None
        self.told: dict[str, str] = {}
        """The trailing metadata, by then."""
        call: Any = channel.stream_stream(method, None, None)(self._nothing(), timeout=120)
        threading.Thread(target=self._read, args=(call,), daemon=True).start()

    def _nothing(self) -> Iterator[bytes]:
        self._over.wait(120)
        yield from ()

    def _read(self, call: Any) -> None:
        with contextlib.suppress(grpc.RpcError):
            next(iter(call), None)
        self.told = dict(call.trailing_metadata())
        self.ended = call.code()
        self._over.set()


@pytest.mark.parametrize("rig", [120.0], indirect=True, ids=["long"])
def test_a_call_that_has_begun_is_answered_though_the_server_ends(rig: Rig) -> None:
    arrives, begun = threading.Event(), threading.Event()

    def late() -> Iterator[bytes]:
        begun.set()
        arrives.wait(60)
        yield pb.GetUserStateRequest(user_id="u").SerializeToString()

    call: Any = rig.channel.stream_unary(f"/{SERVICE}/GetUserState", None, None).future(late(), timeout=60)
    assert begun.wait(60)
    assert rig.get() is grpc.StatusCode.NOT_FOUND, "the same connection: the server has the call"
    ending = rig.loop.begin(rig.door.drain(60))
    until(lambda: not rig.reached(), "the server ends", within_s=60)
    arrives.set()
    assert call.code() is grpc.StatusCode.NOT_FOUND, "there is no such user"
    ending.result(60)


@pytest.mark.parametrize("rig", [120.0], indirect=True, ids=["long"])
def test_a_call_whose_message_does_not_come_ends_with_the_server(rig: Rig) -> None:
    stalled = Stalled(rig.channel, f"/{SERVICE}/GetUserState")
    assert rig.get() is grpc.StatusCode.NOT_FOUND
    rig.loop.begin(rig.door.drain(0.5)).result(60)
    until(lambda: stalled.ended, "the call is ended", within_s=60)


def test_calls_whose_message_does_not_come_are_ended_and_health_is_answered_beside_them(rig: Rig) -> None:
    assert rig.get() is grpc.StatusCode.NOT_FOUND
    stalled = [Stalled(rig.channel, f"/{SERVICE}/GetUserState") for _ in range(3 * CALLS)]
    until(lambda: sum(call.ended is grpc.StatusCode.RESOURCE_EXHAUSTED for call in stalled) == 2 * CALLS,
          "those above the number that may wait are refused", within_s=60)  # fmt: skip
    refused = [call.told for call in stalled if call.ended is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert [told["retriable"] for told in refused] == ["true"] * 2 * CALLS, "nothing of them was written"
    assert all(told["x-request-id"] for told in refused)
    assert rig.healthy()
    until(lambda: all(call.ended for call in stalled), "the others are ended", within_s=60)
    assert sorted(str(call.ended) for call in stalled) == sorted(
        ["StatusCode.CANCELLED"] * CALLS + ["StatusCode.RESOURCE_EXHAUSTED"] * 2 * CALLS
    )
    assert rig.get() is grpc.StatusCode.NOT_FOUND
    counted = rig.metrics.registry.get_sample_value(
        "uic_rpcs_total", {"method": "GetUserState", "code": "RESOURCE_EXHAUSTED"}
    )
    assert counted == 2 * CALLS


@pytest.mark.parametrize(
    ("method", "several"),
    [
        ("/grpc.health.v1.Health/Check", HEALTH_CALLS),
        ("/grpc.health.v1.Health/Watch", HEALTH_CALLS),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", REST_CALLS),
    ],
)
def test_stalled_calls_of_health_and_reflection_cost_our_own_methods_nothing(
    rig: Rig, method: str, several: int
) -> None:
    stalled = [Stalled(rig.channel, method) for _ in range(several + 3)]
    until(lambda: sum(call.ended is grpc.StatusCode.RESOURCE_EXHAUSTED for call in stalled) >= 3,
          "those above the number that may wait are refused", within_s=60)  # fmt: skip
    assert rig.get() is grpc.StatusCode.NOT_FOUND
    until(lambda: all(call.ended for call in stalled), "the others are ended", within_s=60)
    until(rig.healthy, "health is answered", within_s=60)


def test_a_watch_outlives_the_time_that_a_request_has(rig: Rig) -> None:
    watch: Any = rig.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=120)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    stalled = Stalled(rig.channel, f"/{SERVICE}/GetUserState")
    until(lambda: stalled.ended, "a stalled call's time is over", within_s=60)
    assert watch.is_active()
    watch.cancel()


def test_a_message_over_the_limit_is_refused_and_smaller_ones_go_on(rig: Rig) -> None:
    assert rig.get("u" * 5000) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rig.get("u" * 4000) is grpc.StatusCode.INVALID_ARGUMENT
    assert rig.get() is grpc.StatusCode.NOT_FOUND


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a connection begins, and empty settings."""


def strangers(stack: contextlib.ExitStack, rig: Rig, n: int) -> list[socket.socket]:
    """Connections that bring no call and no key."""
    opened = [stack.enter_context(socket.create_connection(("127.0.0.1", rig.port), timeout=60)) for _ in range(n)]
    for line in opened:
        line.sendall(PREFACE)
    return opened


def closed(line: socket.socket) -> bool:
    """Reads all that comes, until the server closes the connection."""
    try:
        while line.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_a_grpc_connection_without_calls_is_closed_and_one_with_a_call_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_door, "IDLE_MS", 1000)
    with contextlib.closing(Rig()) as rig, contextlib.ExitStack() as stack:
        watch: Any = rig.health.Watch(health_pb2.HealthCheckRequest(), timeout=120)
        next(watch)
        assert all(closed(line) for line in strangers(stack, rig, 3))
        assert watch.is_active()
        watch.cancel()


def test_strangers_cannot_take_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_door, "most_connections", lambda: 3)
    with contextlib.closing(Rig()) as rig, contextlib.ExitStack() as stack:
        assert rig.healthy()  # one connection
        kept = strangers(stack, rig, 2)
        assert all(line.recv(1) for line in kept), "they are accepted"
        assert all(closed(line) for line in strangers(stack, rig, 2))
        assert rig.healthy()


def test_connections_leave_files_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((1024, 768), (2**40, 2**31 - 1), (resource.RLIM_INFINITY, 2**31 - 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert grpc_door.most_connections() == most


# The admin port


@pytest.fixture
def admin_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(admin_server, "ARRIVAL_S", 6.0)
    monkeypatch.setattr(admin_server, "MAX_CONNECTIONS", 4)
    door, loop = AdminServer(admin_app(Empty(), Metrics(), lambda: True), AdminSettings(port=0)), open_loop()
    loop.run(door.start())
    yield door.port
    loop.run(door.stop())
    loop.close()


def ask(port: int, head: bytes = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n") -> int:
    """The status; 0 if the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line, line.makefile("rb") as stream:
        try:
            line.sendall(head)
            first = stream.readline()
            return int(first.split()[1]) if first else 0
        except ConnectionError:
            return 0


def test_admin_connections_that_bring_nothing_are_closed(admin_port: int) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", admin_port), timeout=60)) for _ in range(4)]
        assert ask(admin_port) == 200
        assert all(closed(line) for line in idle)


def test_many_silent_admin_connections_are_closed_at_once(admin_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "ARRIVAL_S", 600.0)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", admin_port), timeout=60)) for _ in range(5)]
        assert all(closed(line) for line in idle)
    assert ask(admin_port) == 200


def test_a_trickling_admin_request_is_cut(admin_port: int) -> None:
    with socket.create_connection(("127.0.0.1", admin_port), timeout=10) as line:
        line.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
        line.settimeout(0.1)
        sent = 0

        def cut() -> bool:
            nonlocal sent
            try:
                line.sendall(b"x: y\r\n")
                sent += 1
                return line.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(cut, "the connection is cut", within_s=60)
        assert sent > 2
    assert ask(admin_port) == 200
