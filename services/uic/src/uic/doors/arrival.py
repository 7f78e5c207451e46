"""Limits for calls whose request has not arrived.

A call costs memory from its beginning, and some need no key. So each kind of call has a maximum number that may wait
for their request at once, and the wait has a time limit. Callers of our methods, of health and of reflection cannot
take each other's places.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from uic.doors.trailers import refuse
from uic.errors import InvalidField, Overloaded

ARRIVAL_S: Final = 5.0
"""Time limit for the arrival of a call's request; with a stream of requests, for the whole call."""
TOO_MANY_CALLS: Final = "too many concurrent calls: retry with exponential backoff"


def parse_request(
    parse: Callable[[bytes], Any], data: bytes, context: Any, malformed: Callable[[], None] = lambda: None
) -> Any:
    """The message in `data`. Bytes that are not a message are refused as the caller's mistake, after a call of
    `malformed`, and None is returned; the gRPC library would report and log them as an error of the server."""
    try:
        return parse(data)
    except DecodeError:
        malformed()
        error = InvalidField("the request is not the message that the method takes")
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        return None


class ArrivalLimits(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Reads the request of each call itself, within the limits."""

    def __init__(
        self,
        at_once: Callable[[str], asyncio.Semaphore],
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

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler, changed so that it is called before the request has arrived."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        async def request(context: Any) -> Any:
            data = await self._within(method, context, context.read)
            if data is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
                return refuse(context, grpc.StatusCode.UNIMPLEMENTED, InvalidField("the call has no request"))
            return None if data is None else parse_request(handler.request_deserializer, data, context, self._malformed)

        async def answer(context: Any) -> Any:
            asked = await request(context)
            return None if asked is None else await handler.unary_unary(asked, context)

        async def unary(_: Any, context: Any) -> Any:
            answered = await answer(context)
            if answered is None:
                # Refused. Clients that repeat calls by themselves do so only after an abort.
                await context.abort(context.code())
            return answered

        async def stream(_: Any, context: Any) -> None:
            if (asked := await request(context)) is not None:
                await handler.unary_stream(asked, context)

        async def streams(requests: AsyncIterator[Any], context: Any) -> None:
            async def exchange() -> None:
                async for one in handler.stream_stream(requests, context):
                    await context.write(one)

            await self._within(method, context, exchange)

        coder = handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(streams, handler.request_deserializer, coder)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, None, coder)
        return grpc.stream_unary_rpc_method_handler(unary, None, coder)

    async def _within(self, method: str, context: Any, arrives: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `arrives`; None if the call is refused: too many wait, or it takes too long."""
        places = self._at_once(method)
        if places.locked():
            self._refused(method)
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded(TOO_MANY_CALLS))
            return None
        try:
            async with places, asyncio.timeout(ARRIVAL_S):
                return await arrives()
        except TimeoutError:
            late = Overloaded(f"the request has not arrived within {ARRIVAL_S:g} s: nothing was done")
            refuse(context, grpc.StatusCode.CANCELLED, late)
            return None
