"""gRPC's standard health protocol: the library's own servicer, with bounds.

`Health/Watch` needs no key, so the number of open streams is limited. The library writes to one stream after the other
while it holds a lock, so that a client that takes no answer would keep each change from all others. Here it writes to a
place that never makes it wait, and each stream sends what lies there.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio  # type: ignore[attr-defined]  # the stubs lack it

from uic.doors.servicer import SERVICE
from uic.doors.trailers import refuse
from uic.errors import InvalidField, Overloaded

SERVICE_NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
NAMES: Final = ("", SERVICE)
"""What has a health: the whole server, and the service. It is the same for both."""
UNKNOWN: Final = "?"
"""Stands for every other name."""
TOO_MANY_WATCHES: Final = "too many streams follow the health: retry with exponential backoff, or call Check"
ENDS: Final = "the server ends: connect to another one"


class HealthService(aio.HealthServicer):  # type: ignore[misc]  # it has no stubs
    """The library's servicer, with a limit on open streams, an end to them, and `List`."""

    def __init__(self, most: int) -> None:
        """`most`: how many `Watch` calls may be open at once."""
        super().__init__()
        self._most = most
        self._streams: set[asyncio.Task[Any]] = set()
        self._ends = False
        self._shown: bool | None = None

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def show(self, serving: bool) -> None:
        """The health from now on."""
        if serving is self._shown:
            return
        self._shown = serving
        answer = health_pb2.HealthCheckResponse
        for name in NAMES:
            await self.set(name, answer.SERVING if serving else answer.NOT_SERVING)

    def end_streams(self) -> None:
        """End all streams."""
        self._ends = True
        for stream in self._streams:
            stream.cancel()

    async def Check(  # noqa: N802  # the protocol's names
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> Any:
        """The health of one name; NOT_FOUND if it is not served."""
        if request.service in NAMES:
            return await super().Check(request, context)
        error = InvalidField(f"service: there is no such one, but {' or '.join(map(repr, NAMES))}")
        return refuse(context, grpc.StatusCode.NOT_FOUND, error)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> None:
        """The health of one name now and at each change."""
        if len(self._streams) >= self._most:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded(TOO_MANY_WATCHES))
            return
        stream = asyncio.current_task()
        assert stream is not None  # noqa: S101  # a coroutine runs in a task
        self._streams.add(stream)
        latest = _Latest()
        name = request.service if request.service in NAMES else UNKNOWN
        request.Clear()  # a name may be long, and a stream may be open for days
        following = asyncio.create_task(super().Watch(health_pb2.HealthCheckRequest(service=name), latest))
        try:
            while True:
                await context.write(await latest.get())
        except asyncio.CancelledError:
            if not self._ends:  # its client has gone
                raise
            refuse(context, grpc.StatusCode.UNAVAILABLE, Overloaded(ENDS))
        finally:
            following.cancel()
            self._streams.discard(stream)

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        """The health of every name."""
        named = {name: await self.Check(health_pb2.HealthCheckRequest(service=name), context) for name in NAMES}
        return health_pb2.HealthListResponse(statuses=named)


class _Latest(asyncio.Queue[Any]):
    """What a stream is to send next. The library's `Watch` takes it for the stream."""

    def __init__(self) -> None:
        super().__init__(1)

    async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
        if self.full():
            self.get_nowait()
        self.put_nowait(answer)
