"""gRPC's standard health protocol, in bounded memory: `Check`, `List`, and `Watch` for a limited number of streams.

An open `Watch` has no thread: one thread tells all streams of a change, one after the other. A client that takes what
it is sent too slowly would hold up the others, so this round may take `TELL_S`, and streams that were not told by then
are ended. Their clients watch again, and are told the health as it is then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from uic.core.watches import Health, Watches
from uic.doors.servicer import SERVICE
from uic.doors.trailers import refuse
from uic.errors import InvalidField, Overloaded

SERVICE_NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
WHOLE_SERVER: Final = ""
"""The name that stands for all services."""
TELL_S: Final = 1.0
"""The most that a round takes: from a change of the health until all streams know it."""
TOO_MANY_WATCHES: Final = "too many streams follow the health: retry with exponential backoff, or call Check"
ENDS: Final = "the server ends: connect to another one"


class _Stream:
    """One open `Watch`. `tell` and `end` are called by one thread at a time."""

    def __init__(self, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        self._context = context
        self._send = send

    def tell(self, health: Health) -> None:
        """Returns once the client takes it, or its call is over."""
        self._send(_response(health))

    def end(self) -> None:
        """Does not wait."""
        self._context.set_code(grpc.StatusCode.UNAVAILABLE)
        self._context.set_details(ENDS)
        self._send(None)  # the gRPC library's sign for the end

    def cut(self) -> None:
        """End it though it is being told something. Does not wait."""
        self._context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it bare


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no stubs
    """The health of the whole server and, by its name, of the service. Safe to call from several threads."""

    def __init__(self, most: int) -> None:
        """NOT_SERVING until `show` says otherwise. `most`: how many `Watch` calls may be open at once."""
        self._names = (WHOLE_SERVER, SERVICE)
        self._watches: Watches[_Stream] = Watches(self._names, most)
        self._changed = threading.Condition()
        """Guards `_watches` and what follows; never held while a stream is told."""
        self._round: set[_Stream] = set()
        """The streams that the teller has not passed yet."""
        self._late_at = 0.0
        """From then on, those that are left of the round are late (monotonic)."""
        self._closing = False
        self._over = False
        self._teller = threading.Thread(target=self._tell_all, name="grpc-watches", daemon=True)

    def __len__(self) -> int:
        """How many streams are open."""
        with self._changed:
            return len(self._watches)

    def start(self) -> None:
        """Tell streams of changes from now on."""
        self._teller.start()

    def show(self, serving: bool) -> None:
        """The health from now on; without effect after `end`."""
        with self._changed:
            shown = self._watches.of(WHOLE_SERVER)
            self._watches.show(serving)
            if self._watches.of(WHOLE_SERVER) is not shown:
                self._changed.notify_all()

    def end(self) -> None:
        """NOT_SERVING for good; streams stay open until `close`."""
        with self._changed:
            self._watches.end()
            self._changed.notify_all()

    def cut_late(self, now: float) -> None:
        """End the streams that should have been told before `now` (monotonic)."""
        with self._changed:
            # Not those that have nothing to be told any more, because the health has changed back.
            late = self._round.intersection(self._watches.waiting()) if now > self._late_at else ()
            for stream in late:
                self._watches.leave(stream)
        for stream in late:
            stream.cut()

    def close(self, within_s: float) -> None:
        """End all streams, once they were told what there is to tell, or `within_s` seconds are over."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._watches.waiting(), within_s)
            self._over = True
            late = set(self._watches.waiting())
            rest = [stream for stream in self._watches.streams() if stream not in late]
            for stream in (*late, *rest):
                self._watches.leave(stream)
            self._changed.notify_all()
        for stream in late:
            stream.cut()
        for stream in rest:
            stream.end()

    def Check(  # noqa: N802  # the protocol's names
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The health of one name; NOT_FOUND if it is not served."""
        with self._changed:
            health = self._watches.of(request.service)
        if health is Health.UNKNOWN:
            served = " or ".join(map(repr, self._names))
            refuse(context, grpc.StatusCode.NOT_FOUND, InvalidField(f"service: there is no such one, but {served}"))
        return _response(health)

    def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """The health of every name."""
        with self._changed:
            healths = self._watches.all()
        return health_pb2.HealthListResponse(statuses={name: _response(health) for name, health in healths.items()})

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        """The health of one name now and at each change; SERVICE_UNKNOWN, once, if it is not served. Returns when the
        client has taken the first answer; the stream stays open.

        Args:
            send: sends an answer and waits until it is taken, or ends the stream (None).
        """
        stream = _Stream(context, send)
        with self._changed:
            first = self._watches.join(stream, request.service)
        if first is None:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded(TOO_MANY_WATCHES))
        if not context.add_callback(lambda: self._leave(stream)):
            self._leave(stream)  # its client has gone already
            return
        stream.tell(first)
        with self._changed:
            self._watches.told(stream, first)
            if self._closing or self._watches.owed(stream) is not None:  # there was a change meanwhile
                self._changed.notify_all()

    # How the gRPC library knows that a stream is answered by calls of `send`, and not by an iterator with a thread.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def _leave(self, stream: _Stream) -> None:
        with self._changed:
            self._watches.leave(stream)
            if self._closing:
                self._changed.notify_all()

    def _tell_all(self) -> None:
        while True:
            with self._changed:
                self._changed.notify_all()  # for `close`
                self._changed.wait_for(lambda: self._over or any(map(self._watches.owed, self._watches.waiting())))
                if self._over:
                    return
                self._late_at = time.monotonic() + TELL_S
                waiting = self._watches.waiting()
                self._round = set(waiting)
            for stream in waiting:
                with self._changed:
                    health = self._watches.tell(stream)
                if health is not None:
                    stream.tell(health)
                with self._changed:
                    self._round.remove(stream)
                    if health is not None:
                        self._watches.told(stream, health)


def _response(health: Health) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse(status=health.value)
