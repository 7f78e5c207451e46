"""The gRPC service: publish behaviors to the log, read a stored state, erase a user.

It translates and decides nothing. Publishing ends in the log (`Publisher`), never in a state; a state is read from the
store each time, never from the fold's memory. Contract: proto/ctr/uic/v1/uic_service.proto. `uic.doors.grpc` serves it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from structlog.contextvars import bound_contextvars

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterServicer
from mimn.bundle import Bundle
from mimn.bundle.fields import code_of
from mimn.state import Block, CorruptState, StateError, WrongUser, decode_state, partition_of, user_hash
from uic.core.event import (
    ERASE_ITEM,
    MAX_VALUE_BYTES,
    RULES,
    Reason,
    check_event,
    check_key,
    event_text_fault,
    text_fault,
)
from uic.doors.arrival import TOO_MANY_CALLS
from uic.doors.publisher import Publisher
from uic.doors.trailers import REQUEST_ID, Trailers, hints, request_id
from uic.errors import (
    DeadLetterUnavailable,
    DeadlineTooShort,
    Forbidden,
    ForeignState,
    InvalidField,
    LogRefused,
    LogUnavailable,
    NoState,
    NotAcknowledged,
    Overloaded,
    RequestRefused,
    StartRefused,
    StoreUnavailable,
    TopicRefused,
    UicError,
    Unauthenticated,
    UnreadableLog,
    UnreadableState,
    WrongClock,
)
from uic.log.producer import Position
from uic.metrics import Metrics
from uic.settings import GrpcSettings

log = logging.getLogger(__name__)

SERVICE: Final = pb.DESCRIPTOR.services_by_name["UserInterestCenter"].full_name
MAX_EVENTS: Final = 1000
TIME_BOUNDS: Final = "is out of bounds: milliseconds since 1970, from 2000-01-01 to a day from now"
"""For `event_time` of an event that is published now."""
DEADLINE_MARGIN_S: Final = 0.05
"""Part of the caller's deadline that is kept for the way back, so that it gets our answer and not its own timeout."""
LEAST_S: Final = 0.01
"""Without this much time in front of the margin nothing is sent to the brokers: they would hardly acknowledge it, and
what came of it would not be known."""
SHORTEST_DEADLINE_S: Final = 0.1
"""What callers are told to allow: both of the above, and as much for the way here."""

STATUS: Final[Mapping[type[UicError], grpc.StatusCode]] = {
    StartRefused: grpc.StatusCode.FAILED_PRECONDITION,
    StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    LogUnavailable: grpc.StatusCode.UNAVAILABLE,
    TopicRefused: grpc.StatusCode.FAILED_PRECONDITION,
    # Not UNAVAILABLE: many clients and proxies repeat such calls by themselves, and some of the events are in the log.
    NotAcknowledged: grpc.StatusCode.DEADLINE_EXCEEDED,
    # Not PERMISSION_DENIED, which is for the caller's own key: here the right is missing that UIC itself has at Kafka.
    LogRefused: grpc.StatusCode.FAILED_PRECONDITION,
    UnreadableLog: grpc.StatusCode.DATA_LOSS,
    DeadLetterUnavailable: grpc.StatusCode.UNAVAILABLE,
    UnreadableState: grpc.StatusCode.DATA_LOSS,
    ForeignState: grpc.StatusCode.FAILED_PRECONDITION,
    RequestRefused: grpc.StatusCode.FAILED_PRECONDITION,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    # Not UNAVAILABLE or DEADLINE_EXCEEDED: the same call with the same deadline would be refused again.
    DeadlineTooShort: grpc.StatusCode.INVALID_ARGUMENT,
    NoState: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""The one table from errors to status codes. A class without a row of its own uses its nearest base's."""

Answer = TypeVar("Answer", bound=Message)


class StateReader(Protocol):
    """What reading a state needs of the store."""

    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        """The stored values of users of a partition now; None where nothing is stored.

        Raises:
            StoreUnavailable: no answer.
        """


def status_of(error: UicError) -> grpc.StatusCode:
    """The status code that a caller gets for `error`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


class UserInterestCenter(UserInterestCenterServicer):
    """The service's four calls, on an event loop. They wait for the log and the store on threads, one for each call."""

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
        ahead_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """`partitions` is N, the topic's partition count; `ahead_ms` our clock less the store's, as last measured."""
        self._publisher = publisher
        self._states = states
        self._bundle = bundle
        self._partitions = partitions
        self._metrics = metrics
        self._timeout_s = settings.timeout_s
        self._calls = threading.Semaphore(settings.max_calls)
        self._threads = ThreadPoolExecutor(settings.max_calls, thread_name_prefix="grpc-call")
        self._now_ms = now_ms
        self._ahead_ms = ahead_ms

    async def PublishBehaviors(  # noqa: N802  # the contract's names
        self, request: pb.PublishBehaviorsRequest, context: Any
    ) -> pb.PublishBehaviorsResponse:
        """Validates all events, then appends all; returns the position of each."""

        def publish(ends: float) -> pb.PublishBehaviorsResponse:
            records = validated(request.events, self._now_ms(), self._bundle, self._ahead_ms())
            positions = self._publisher.publish(records, self._time_left_s(ends))
            self._metrics.published.inc(len(positions))
            return pb.PublishBehaviorsResponse(positions=[_position(p) for p in positions])

        return await self._answer("PublishBehaviors", context, publish)

    async def GetUserState(  # noqa: N802
        self, request: pb.GetUserStateRequest, context: Any
    ) -> pb.GetUserStateResponse:
        """The user's stored state, decoded."""

        def get(_: float) -> pb.GetUserStateResponse:
            key = validated_user(request.user_id)
            partition = partition_of(key, self._partitions)
            [value] = self._states.stored_values(partition, [request.user_id])
            if value is None:
                raise NoState(f"no state is stored for this user (partition {partition})")
            return self._decoded(value, partition, request.user_id)

        return await self._answer("GetUserState", context, get)

    async def EraseUser(  # noqa: N802
        self, request: pb.EraseUserRequest, context: Any
    ) -> pb.EraseUserResponse:
        """Appends the erasure to the log, and the note for rebuilds."""

        def erase(ends: float) -> pb.EraseUserResponse:
            validated_user(request.user_id)
            return pb.EraseUserResponse(
                position=_position(self._publisher.erase(request.user_id, self._time_left_s(ends)))
            )

        return await self._answer("EraseUser", context, erase)

    async def EraseItem(  # noqa: N802
        self, request: pb.EraseItemRequest, context: Any
    ) -> pb.EraseItemResponse:
        """Appends the erasure of one item of a user to the log."""

        def erase(ends: float) -> pb.EraseItemResponse:
            validated_user(request.user_id)
            if fault := text_fault(request.item_text, request.item_id, self._bundle.text_ids):
                raise InvalidField(f"item_text: {fault}")
            item_id = code_of(request.item_text) if request.item_text else request.item_id
            if not item_id:
                raise InvalidField(f"item_id: {RULES[Reason.ITEM_ZERO][1]}")
            position = self._publisher.erase_item(request.user_id, item_id, self._now_ms(), self._time_left_s(ends))
            return pb.EraseItemResponse(position=_position(position))

        return await self._answer("EraseItem", context, erase)

    def count_refused(self, method: str) -> None:
        """Count a call of `method` (full name) that was refused before its request arrived."""
        service, _, name = method.strip("/").partition("/")
        if service == SERVICE:
            self._metrics.rpcs.labels(name, grpc.StatusCode.RESOURCE_EXHAUSTED.name).inc()

    def count_malformed(self) -> None:
        """Count a call whose bytes are not the message that its method takes."""
        self._metrics.malformed.labels("grpc").inc()

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
                    name=block.name, shape=block.shape, dtype=block.dtype, **_values(block, named[block.name])
                )
                for block in layout.blocks
            ],
        )

    def _time_left_s(self, ends: float) -> float:
        """For how long a call may write whose deadline is `ends` (monotonic).

        Raises:
            DeadlineTooShort: hardly at all.
        """
        remaining = ends - time.monotonic()
        left_s = remaining - DEADLINE_MARGIN_S
        if left_s < LEAST_S:
            raise DeadlineTooShort(
                f"{max(remaining, 0) * 1000:.0f} ms of the call's deadline were left, of which "
                f"{DEADLINE_MARGIN_S * 1000:.0f} ms are kept for the answer: nothing was written; give the call at "
                f"least {SHORTEST_DEADLINE_S * 1000:.0f} ms"
            )
        return min(self._timeout_s, left_s)

    async def _answer(self, method: str, context: Any, work: Callable[[float], Answer]) -> Answer:
        """Run `work` with the call's deadline, count it, and turn its error into a status."""
        remaining: float | None = context.time_remaining()
        ends = math.inf if remaining is None else time.monotonic() + remaining
        answer: Answer | None = None
        code, detail = grpc.StatusCode.OK, ""
        called = request_id(context)
        told: Trailers = ((REQUEST_ID, called),)
        with bound_contextvars(request_id=called), self._metrics.rpc_seconds.labels(method).time():
            try:
                answer = await self._on_a_thread(lambda: work(ends))
            except UicError as error:
                code, detail = status_of(error), error.detail
                told += hints(error)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception:
                log.exception("%s failed with an unexpected error", method)
                code, detail = grpc.StatusCode.INTERNAL, "an error in UIC itself; its log has it"
            finally:
                self._metrics.rpcs.labels(method, code.name).inc()
        context.set_code(code)
        context.set_details(detail)
        context.set_trailing_metadata(told)
        return answer  # type: ignore[return-value]  # with another status than OK the library sends none

    async def _on_a_thread(self, work: Callable[[], Answer]) -> Answer:
        """The result of `work`. At most `max_calls` run at once, also those whose caller has left.

        Raises:
            Overloaded: as many run already.
        """
        if not self._calls.acquire(blocking=False):
            raise Overloaded(TOO_MANY_CALLS)
        return await asyncio.wrap_future(self._begun(work))

    def _begun(self, work: Callable[[], Answer]) -> Future[Answer]:
        running = self._threads.submit(contextvars.copy_context().run, work)
        running.add_done_callback(lambda _: self._calls.release())
        return running


def validated(events: Any, now_ms: int, bundle: Bundle, ahead_ms: int = 0) -> list[tuple[bytes, bytes]]:
    """Record keys and values of the request's events: all of them, or none.

    Args:
        events: the request's.
        now_ms: by our clock, which gives the records their times.
        bundle: whose actions and kind of ids the events must have.
        ahead_ms: our clock less the store's.

    Raises:
        InvalidField: names the event by its index, and the field.
        WrongClock: an event is too far in the future by our clock, and not by the store's.
    """
    if not 1 <= len(events) <= MAX_EVENTS:
        raise InvalidField(f"events: there are {len(events)}; send 1 to {MAX_EVENTS} in a call")
    return [_record(event, i, now_ms, bundle, ahead_ms) for i, event in enumerate(events)]


def validated_user(user_id: str) -> bytes:
    """The record key of `user_id`.

    Raises:
        InvalidField: empty or too long.
    """
    key = user_id.encode()
    if wrong := check_key(key):
        raise InvalidField(f"user_id: {RULES[wrong][1]}")
    return key


def _record(event: BehaviorEvent, index: int, now_ms: int, bundle: Bundle, ahead_ms: int) -> tuple[bytes, bytes]:
    key = event.user_id.encode()
    value = event.SerializeToString()
    actions, text_ids = bundle.actions, bundle.text_ids
    wrong = check_key(key) or check_event(event, event.user_id, now_ms, text_ids=text_ids)
    before_ms = now_ms - ahead_ms
    if wrong is Reason.BAD_TIME and check_event(event, event.user_id, before_ms, text_ids=text_ids) is not wrong:
        # The record would have our time, by which the fold would find the event bad as well.
        raise WrongClock(
            f"nothing was written: the clock of this UIC worker is {-ahead_ms / 1000:.0f} s behind the store's, so "
            f"that events[{index}].event_time lies more than a day ahead of it: set the one that is wrong "
            "(docs/runbooks/clocks.md); if that is the store's, the event is of the future"
        )
    if wrong is None and event.action == ERASE_ITEM:
        raise InvalidField(f"events[{index}].action: erases an item: call EraseItem")
    if wrong is None and actions is not None and not actions.named[event.action]:
        wrong = Reason.UNKNOWN_ACTION
    if wrong is None and len(value) > MAX_VALUE_BYTES:
        wrong = Reason.TOO_LARGE
    if wrong is not None:
        field, rule = RULES[wrong]
        if wrong is Reason.BAD_TIME:
            rule = TIME_BOUNDS
        if wrong is Reason.TEXT_ID:
            field, rule = event_text_fault(event, text_ids) or (field, rule)
        field = {"": "", "key": ".user_id"}.get(field, f".{field}")
        raise InvalidField(f"events[{index}]{field}: {rule}")
    return key, value


def _position(position: Position) -> pb.LogPosition:
    return pb.LogPosition(partition=position.partition, offset=position.offset)


def _values(block: Block, tensor: NDArray[np.float32]) -> dict[str, Any]:
    """The field of a `StateBlock` that holds a block's numbers."""
    if block.dtype == "uint32":
        return {"words": tensor.ravel().view(np.uint32).tolist()}
    return {"values": tensor.ravel().tolist()}
