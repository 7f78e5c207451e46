"""Keeps calls whose request does not arrive from holding the gRPC server's threads.

The gRPC library assigns a thread to a call before its message has arrived, and waits for the message forever. Here the
wait has a time limit, and each kind of call has a maximum number that may wait at once, so that callers of our methods,
of health and of reflection cannot take each other's threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from uic.doors.trailers import refuse
from uic.errors import InvalidField, Overloaded

ARRIVAL_S: Final = 5.0
"""Time limit for the arrival of a call's request; with a stream of answers, until the first one is taken; with a stream
of requests, in total."""
LAST_ARRIVAL_S: Final = 0.5
"""The same once the server ends."""
TOO_MANY_CALLS: Final = "too many concurrent calls: retry with exponential backoff"


def parse_request(
    parse: Callable[[bytes], Any],
    data: bytes,
    context: grpc.ServicerContext,
    malformed: Callable[[], None] = lambda: None,
) -> Any:
    """The message in `data`. Bytes that are not a message end the call as the caller's mistake, after a call of
    `malformed`; the gRPC library would report and log them as an error of the server."""
    try:
        return parse(data)
    except DecodeError:
        malformed()
        error = InvalidField("the request is not the message that the method takes")
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, error)


class SlowRequestLimit(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Reads each call's request itself, until `cut_late` ends the call."""

    def __init__(
        self,
        at_once: Callable[[str], threading.Semaphore],
        refused: Callable[[str], None],
        malformed: Callable[[], None],
    ) -> None:
        """
        Args:
            at_once: for a method's full name, how many calls like it may wait at once.
            refused: called with the method of each call that exceeds the limit.
            malformed: called for each call whose bytes are not the method's message.
        """
        self._at_once = at_once
        self._refused = refused
        self._malformed = malformed
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[grpc.ServicerContext, float]] = {}
        self._changed = threading.Condition()
        self._under_way = 0
        """Calls with one request, from before it has arrived until they are answered, or get the first answer."""

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The handler, changed so that it is called before the request has arrived."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if handler.request_streaming:
            return self._streams(handler, method)

        def parsed(data: bytes, context: grpc.ServicerContext) -> Any:
            return parse_request(handler.request_deserializer, data, context, self._malformed)

        def unary(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with self._counted():
                with self._bounded(context, method):
                    data = _first(requests, context)
                return handler.unary_unary(parsed(data, context), context)

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext, *callback: Any) -> Any:
            with self._counted(), self._bounded(context, method):  # its first answer, too, waits for the client
                return handler.unary_stream(parsed(_first(requests, context), context), context, *callback)

        coding = None, handler.response_serializer
        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, *coding)
        for name in ("experimental_non_blocking", "experimental_thread_pool"):
            setattr(stream, name, getattr(handler.unary_stream, name, None))
        return grpc.stream_stream_rpc_method_handler(stream, *coding)

    def cut_late(self, now: float) -> None:
        """End the calls whose request should have arrived before `now` (monotonic)."""
        with self._lock:
            late = [context for context, cut_at in self._waiting.values() if now > cut_at]
        for context in late:
            context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it bare

    def finish(self, within_s: float) -> None:
        """Return once no call is under way but streams that have had an answer, or `within_s` seconds are over. A call
        whose request has not arrived yet is ended after `LAST_ARRIVAL_S`, and so is a stream whose first answer is not
        taken."""
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, min(LAST_ARRIVAL_S, within_s))
        self.cut_late(math.inf)
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, within_s - (time.monotonic() - began))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _streams(self, handler: Any, method: str) -> Any:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._bounded(context, method):
                yield from handler.stream_stream(requests, context)

        return grpc.stream_stream_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    @contextmanager
    def _bounded(self, context: grpc.ServicerContext, method: str) -> Iterator[None]:
        permits = self._at_once(method)
        if not permits.acquire(blocking=False):
            self._refused(method)
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded(TOO_MANY_CALLS))
        with self._lock:
            self._waiting[id(context)] = context, time.monotonic() + ARRIVAL_S
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[id(context)]
            permits.release()


def _first(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    if (request := next(requests, None)) is None:
        refuse(context, grpc.StatusCode.UNIMPLEMENTED, InvalidField("the call has no request"))
    return request
