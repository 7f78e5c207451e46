"""The gRPC door: publish behaviors to the log, inspect a stored state, erase a user; health and reflection beside them.

It translates and decides nothing. Publishing ends in the log (`Publisher`), never in a state; inspection reads the
store afresh and never the fold's memory. Contract: proto/ctr/uic/v1/uic_service.proto.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from access import Door, ListenerTls, check_rules
from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterServicer, add_UserInterestCenterServicer_to_server
from mimn.bundle import Bundle
from mimn.state import CorruptState, StateError, WrongUser, decode_state, partition_of, user_hash
from uic.core.event import MAX_VALUE_BYTES, Reason, check_event, check_key
from uic.doors.guard import GRPC_RULES, Guard
from uic.doors.publisher import Position, Publisher
from uic.doors.slow_requests import REFUSAL, Arrivals
from uic.errors import (
    DeadLetterUnavailable,
    Forbidden,
    ForeignState,
    InvalidField,
    LogUnavailable,
    NoState,
    NotAcknowledged,
    Overloaded,
    RequestRefused,
    StartRefused,
    StoreUnavailable,
    UicError,
    Unauthenticated,
    UnreadableState,
)
from uic.metrics import Metrics
from uic.settings import GrpcSettings

log = logging.getLogger(__name__)

SERVICE: Final = pb.DESCRIPTOR.services_by_name["UserInterestCenter"].full_name
MAX_EVENTS: Final = 1000
MAX_METADATA_BYTES: Final = 16 << 10
DEADLINE_MARGIN_S: Final = 0.05
"""Of the caller's deadline, kept for the way back, so that it gets our answer and not its own timeout."""
HEALTH_INTERVAL_S: Final = 0.2
LAST_WORDS_S: Final = 0.2
"""For answers and health changes that are on their way when the last call has ended."""
HEALTH_WORKERS: Final = 4
"""Threads beyond those of our own calls, so that a health check is answered while all of them wait for a broker."""
REST_WORKERS: Final = 2
"""Threads for reflection."""

STATUS: Final[Mapping[type[UicError], grpc.StatusCode]] = {
    StartRefused: grpc.StatusCode.FAILED_PRECONDITION,
    StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    LogUnavailable: grpc.StatusCode.UNAVAILABLE,
    DeadLetterUnavailable: grpc.StatusCode.UNAVAILABLE,
    UnreadableState: grpc.StatusCode.DATA_LOSS,
    ForeignState: grpc.StatusCode.FAILED_PRECONDITION,
    RequestRefused: grpc.StatusCode.FAILED_PRECONDITION,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    NoState: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""The one table from what happened to a status. A class without a row of its own has its nearest base's."""

RULES: Final[Mapping[Reason, tuple[str, str]]] = {
    Reason.MISSING_KEY: ("user_id", "is empty: 1 to 128 bytes of UTF-8"),
    Reason.MISSING_USER: ("user_id", "is empty: 1 to 128 bytes of UTF-8"),
    Reason.BAD_KEY: ("user_id", "is too long: 1 to 128 bytes of UTF-8"),
    Reason.ITEM_ZERO: ("item_id", "is 0: name the item, ids begin at 1"),
    Reason.BAD_EVENT_ID: ("event_id", "is too long: at most 64 bytes of UTF-8"),
    Reason.BAD_TIME: ("event_time", "is out of bounds: milliseconds since 1970, from 2000-01-01 to a day from now"),
    Reason.TOO_LARGE: ("", f"is too large: at most {MAX_VALUE_BYTES} bytes, unknown fields included"),
}
"""What a caller reads for each reason that an event without a record around it can have: the field, and the rule."""

Answer = TypeVar("Answer", bound=Message)


class StateReader(Protocol):
    """The one thing that inspection needs of the store."""

    def load(self, wanted: Sequence[tuple[int, Sequence[str]]]) -> list[list[bytes | None]]:
        """The values of users as they are now, by (partition, user ids); None where there is none.

        Raises:
            StoreUnavailable: no answer.
        """


def status_of(error: UicError) -> grpc.StatusCode:
    """The status code that a caller gets for `error`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


class UserInterestCenter(UserInterestCenterServicer):
    """The service's three calls. Safe to call from several threads."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        states: StateReader,
        bundle: Bundle,
        partitions: int,
        metrics: Metrics,
        settings: GrpcSettings,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`partitions` is N, the topic's partition count."""
        self._publisher = publisher
        self._states = states
        self._bundle = bundle
        self._partitions = partitions
        self._metrics = metrics
        self._timeout_s = settings.timeout_s
        self._max_calls = settings.max_calls
        self._calls = threading.Semaphore(settings.max_calls)
        self._now_ms = now_ms

    def PublishBehaviors(  # noqa: N802  # the contract's names
        self, request: pb.PublishBehaviorsRequest, context: grpc.ServicerContext
    ) -> pb.PublishBehaviorsResponse:
        """All events validated, then all appended; answers where each one landed."""

        def publish() -> pb.PublishBehaviorsResponse:
            records = validated(request.events, self._now_ms())
            positions = self._publisher.publish(records, self._time_left_s(context))
            self._metrics.published.inc(len(positions))
            return pb.PublishBehaviorsResponse(positions=[_position(p) for p in positions])

        return self._answer("PublishBehaviors", context, publish)

    def GetUserState(  # noqa: N802
        self, request: pb.GetUserStateRequest, context: grpc.ServicerContext
    ) -> pb.GetUserStateResponse:
        """The user's stored state, decoded."""

        def get() -> pb.GetUserStateResponse:
            key = validated_user(request.user_id)
            partition = partition_of(key, self._partitions)
            [[value]] = self._states.load([(partition, [request.user_id])])
            if value is None:
                raise NoState(f"no state is stored for this user (partition {partition})")
            return self._decoded(value, partition, request.user_id)

        return self._answer("GetUserState", context, get)

    def EraseUser(  # noqa: N802
        self, request: pb.EraseUserRequest, context: grpc.ServicerContext
    ) -> pb.EraseUserResponse:
        """The erasure is in the log, and noted for rebuilds."""

        def erase() -> pb.EraseUserResponse:
            validated_user(request.user_id)
            return pb.EraseUserResponse(
                position=_position(self._publisher.erase(request.user_id, self._time_left_s(context)))
            )

        return self._answer("EraseUser", context, erase)

    def count_refused(self, method: str) -> None:
        """A call of `method` (full name) was one too many before its request was there."""
        service, _, name = method.strip("/").partition("/")
        if service == SERVICE:
            self._metrics.rpcs.labels(name, grpc.StatusCode.RESOURCE_EXHAUSTED.name).inc()

    def finish(self, within_s: float) -> None:
        """Admit no call any more, and return once none runs or `within_s` are over."""
        deadline = time.monotonic() + within_s
        for _ in range(self._max_calls):
            self._calls.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def _decoded(self, value: bytes, partition: int, user_id: str) -> pb.GetUserStateResponse:
        layout = self._bundle.layout
        try:
            state = decode_state(value, self._bundle.fingerprint, layout, user_hash(user_id))
        except (CorruptState, WrongUser) as error:
            raise UnreadableState(f"{type(error).__name__}: {error}") from error
        except StateError as error:
            raise ForeignState(f"{type(error).__name__}: {error}") from error
        header = state.header
        named = layout.view(state.tensors)
        return pb.GetUserStateResponse(
            partition=partition,
            fingerprint=self._bundle.fingerprint[:16].hex(),
            lineage=header.lineage,
            era=header.era,
            last_offset=header.last_offset,
            event_count=header.event_count,
            last_event_time=header.last_event_time,
            digest=header.digest,
            partial=header.partial,
            blocks=[
                pb.StateBlock(
                    name=block.name, shape=block.shape, dtype=block.dtype, values=named[block.name].ravel().tolist()
                )
                for block in layout.blocks
            ],
        )

    def _time_left_s(self, context: grpc.ServicerContext) -> float:
        remaining: float | None = context.time_remaining()  # the stubs forget that there may be no deadline
        if remaining is None:
            return self._timeout_s
        return max(0.0, min(self._timeout_s, remaining - DEADLINE_MARGIN_S))

    def _answer(self, method: str, context: grpc.ServicerContext, work: Callable[[], Answer]) -> Answer:
        """Run `work`, count it, and turn what it raises into a status; at most `max_calls` run at once."""
        code, detail = grpc.StatusCode.OK, ""
        admitted = self._calls.acquire(blocking=False)
        with self._metrics.rpc_seconds.labels(method).time():
            try:
                if not admitted:
                    raise Overloaded(REFUSAL)
                answer = work()
            except UicError as error:
                code, detail = status_of(error), error.detail
                context.set_trailing_metadata(_hints(error))
            except Exception:
                log.exception("%s failed in a way that no error class names", method)
                code, detail = grpc.StatusCode.INTERNAL, "an error in UIC itself; its log has it"
            finally:
                if admitted:
                    self._calls.release()
        self._metrics.rpcs.labels(method, code.name).inc()
        if code is not grpc.StatusCode.OK:
            context.abort(code, detail)
        return answer


def methods() -> list[str]:
    """The full name of every method that the door has, health and reflection included."""
    served = (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    return [
        f"/{service.full_name}/{method.name}"
        for file in served
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def validated(events: Any, now_ms: int) -> list[tuple[bytes, bytes]]:
    """Record keys and values of the request's events: all of them, or none.

    Raises:
        InvalidField: names the event by its index, and the field.
    """
    if not 1 <= len(events) <= MAX_EVENTS:
        raise InvalidField(f"events: {len(events)} of them; send 1 to {MAX_EVENTS} in a call")
    return [_record(event, i, now_ms) for i, event in enumerate(events)]


def validated_user(user_id: str) -> bytes:
    """The record key of `user_id`.

    Raises:
        InvalidField: empty or too long.
    """
    key = user_id.encode()
    if wrong := check_key(key):
        field, rule = RULES[wrong]
        raise InvalidField(f"{field}: {rule}")
    return key


def _record(event: BehaviorEvent, index: int, now_ms: int) -> tuple[bytes, bytes]:
    key = event.user_id.encode()
    value = event.SerializeToString()
    wrong = check_key(key) or check_event(event, event.user_id, now_ms)
    if wrong is None and len(value) > MAX_VALUE_BYTES:
        wrong = Reason.TOO_LARGE
    if wrong is not None:
        field, rule = RULES[wrong]
        raise InvalidField(f"events[{index}]{'.' + field if field else ''}: {rule}")
    return key, value


def _position(position: Position) -> pb.LogPosition:
    return pb.LogPosition(partition=position.partition, offset=position.offset)


def _hints(error: UicError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata for programs: whether to try again, and which events a repeat should have."""
    hints = [("retriable", "true" if error.retriable else "false")]
    if isinstance(error, NotAcknowledged):
        hints.append(("unacknowledged", ",".join(map(str, error.positions))))
    return tuple(hints)


class GrpcGuard(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Ends a call that may not pass, before a byte of its request is read."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The handler of the call, or one that refuses it. A method that nobody has needs a key of any scope."""
        rule = GRPC_RULES.get(handler_call_details.method, Door.ANY_KEY)
        brought = [str(value) for name, value in handler_call_details.invocation_metadata if name == "authorization"]
        try:
            self._guard.check(",".join(brought) if brought else None, rule)
        except UicError as refusal:
            return _refusing(refusal)
        return continuation(handler_call_details)


def _refusing(error: UicError) -> Any:
    """A handler that refuses a call of any kind: as one of streams it need not wait for the request."""

    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata(_hints(error))
        context.abort(status_of(error), error.detail)

    return grpc.stream_stream_rpc_method_handler(refuse)


class GrpcDoor:
    """The listening server: the service, its health and reflection.

    Health is SERVING while `serving()` says so, for the whole server ("") and for the service by name, and
    NOT_SERVING for good from `drain` on.
    """

    def __init__(
        self,
        service: UserInterestCenter,
        settings: GrpcSettings,
        serving: Callable[[], bool],
        guard: Guard | None = None,
        tls: ListenerTls | None = None,
    ) -> None:
        """Nothing listens yet. Without a `guard` everybody may call everything."""
        check_rules(methods(), GRPC_RULES, "uic.doors.guard")
        self._service = service
        self._address = f"{settings.host}:{settings.port}"
        self._tls = tls
        self._serving = serving
        self._stopping = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="grpc-health", daemon=True)
        self._health = health.HealthServicer()
        ours, health_calls, rest = (threading.Semaphore(n) for n in (settings.max_calls, HEALTH_WORKERS, REST_WORKERS))

        def at_once(method: str) -> threading.Semaphore:
            service = method.split("/")[1]
            return {SERVICE: ours, health.SERVICE_NAME: health_calls}.get(service, rest)

        self._arrivals = Arrivals(at_once, service.count_refused)
        # As many again of ours may wait for their request as may run.
        workers = 2 * settings.max_calls + HEALTH_WORKERS + REST_WORKERS
        self._server = grpc.server(
            ThreadPoolExecutor(workers, thread_name_prefix="grpc"),
            maximum_concurrent_rpcs=4 * workers,
            interceptors=[*([] if guard is None else [GrpcGuard(guard)]), self._arrivals],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", 4 * workers),
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.so_reuseport", 0),  # else a second process on the port takes half of the calls, unnoticed
            ],
        )
        add_UserInterestCenterServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            StartRefused: the address is taken or not this machine's.
        """
        self._show(self._serving())
        try:
            port = self._listen()
        except RuntimeError as error:
            raise StartRefused(
                f"cannot listen on {self._address}: free the port, or set UIC_GRPC__HOST and UIC_GRPC__PORT"
            ) from error
        self._server.start()
        self._follower.start()
        return port

    def _listen(self) -> int:
        if self._tls is None:
            return self._server.add_insecure_port(self._address)
        key, chain, authority = self._tls.pem()
        credentials = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=authority, require_client_auth=authority is not None
        )
        return self._server.add_secure_port(self._address, credentials)

    def drain(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no new call, let those that run end within `grace_s`, then close.

        Streams that watch the health never end by themselves, so they are not waited for.
        """
        self._stopping.set()
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(grace_s)
        self._service.finish(grace_s)
        self._server.stop(min(grace_s, LAST_WORDS_S))
        stopped.wait()

    def _follow(self) -> None:
        shown = self._serving()
        self._show(shown)
        while not self._stopping.wait(HEALTH_INTERVAL_S):
            self._arrivals.cut_late(time.monotonic())
            if (now := self._serving()) is not shown:
                self._show(now)
                shown = now

    def _show(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (health.OVERALL_HEALTH, SERVICE):
            self._health.set(name, status)
