"""uvicorn's HTTP with what it lacks: a limit for a request's head, a limit for the time it takes to arrive, exactly one
Host, and the refusal of a request as soon as its headers are there when the process is overloaded.

All of it comes before routes and keys, because a head of a gigabyte, or one byte a minute, needs neither, and because
refusing must cost next to nothing: at five times the load that can be served, four of five requests are refused.
`rtp.doors.listeners` looks for late connections about once a second; a request in time costs a comparison and a sum.

A prediction that has arrived whole is answered here (`rtp.doors.direct`). All else goes to the application, by ASGI.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rtp.doors.direct import CLOSE, DirectCycle, Predict, compose
from rtp.doors.predict import ARRIVED, PREDICT_PATHS, server_timing
from rtp.doors.problems import AT_ONCE, INTERNAL, STATUS_TABLE, Headers, headers_of, problem
from rtp.doors.request_id import NAME, given_id
from rtp.errors import HeadTooLarge, MalformedHead, RtpError, SlowBody

_PREDICT_URLS = {path.encode(): path for path in PREDICT_PATHS}
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[\w.~!$&'()*+,;=:%-]+\])?(?::\d*)?", re.ASCII)
"""RFC 3986, `host [":" port]`, of which RFC 9112 asks exactly one in HTTP/1.1. It may be empty."""


def write_at_once(
    transport: asyncio.Transport, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes
) -> bool:
    """Write a whole answer to the request of `cycle`: head and body in one call to the system and one packet, where
    uvicorn makes two, and without its checks of headers that are the service's own. False, and nothing is written,
    while the client does not read what was sent before."""
    if cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    whole, cycle.keep_alive = compose(
        status, headers, body, default_headers=cycle.default_headers, keep_alive=cycle.keep_alive
    )
    cycle.response_started = cycle.response_complete = True
    transport.write(whole)
    cycle.message_event.set()
    if not cycle.keep_alive:
        transport.close()
    cycle.on_response()
    return True


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    max_head_bytes: int
    """Request line and headers, as they come over the wire without separators."""
    arrival_s: float
    """From a connection's beginning, or a request's first byte, to the request's last."""
    refused: Callable[[RtpError], None]
    """Called for each request that is refused here."""
    shed: Callable[[Headers, float], RtpError | None]
    """Why a prediction with these headers, arrived then, is not worth reading now."""
    predict: Predict | None
    """Answers predictions that have arrived whole; None where there are none. All else goes to the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """See asyncio."""
        super().connection_made(transport)
        self.late_at = self.loop.time() + self.arrival_s
        """When the connection is ended for what it waits for: the first request, the rest of one, or the next one."""
        self._heads = 0
        self._in_head = False
        self._arriving = False
        """Whether a request has begun to arrive, and is not there whole."""
        self._head_bytes = 0
        self._over = False
        self._shed: RtpError | None = None
        self._arrived = 0.0
        self._hosts: list[bytes] | None = None
        """The one Host of an earlier request."""
        self._body: list[bytes] | None = None
        """What is there of the body of a prediction that is not passed on to the application yet."""

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._over:
            return
        # The data counts if all of it belongs to a head: to one that has begun before, or begins with it.
        head = self._heads if self._in_head else self._heads + 1
        whole = self._in_head or not self._arriving
        super().data_received(data)
        if self._body is not None and not self._over:
            self._pass_on(self._body)
        if whole and self._in_head and head == self._heads:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(self._too_large())

    def send_400_response(self, msg: str) -> None:
        """What arrived is not HTTP; uvicorn has logged it (`rtp.logs` keeps that to a line a second)."""
        if not self._over:
            self._over = True
            error = MalformedHead("this is not an HTTP/1.1 request, or its body's length is ambiguous")
            self._refusal(error, keep=False, asked=[])

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """The client sends no more. A request that has arrived whole is still answered before the connection ends; in
        all other cases it ends now. (uvicorn always ends it now, and logs an error for each answer not sent yet.)"""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if not self._arriving and self.transport.get_extra_info("sslcontext") is None:  # TLS cannot be half closed
            self.cycle.keep_alive = False
            return True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return False

    def on_message_begin(self) -> None:
        """A request's first byte. uvicorn makes the scope here; `_by_asgi` does it for requests that need one."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._arrived = monotonic()
        self.late_at = self.loop.time() + self.arrival_s
        self._heads += 1
        self._in_head = self._arriving = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Its head has arrived whole."""
        self._in_head = False
        size, hosts = len(self.url), []
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts.append(value)
        if size > self.max_head_bytes:
            self._refuse(self._too_large())
        elif not self._has_host(hosts):
            self._refuse(MalformedHead("send exactly one Host header, with a host name and perhaps a port"))
        elif self._over:
            return
        elif not self._predicts():
            self._by_asgi()
        elif (error := self.shed(self.headers, self._arrived)) is not None:
            # Its body is not kept, and the answer is sent when the body has arrived, so that the connection can go on.
            self._shed = error
        elif self.predict is None or self.parser.should_upgrade():
            self._by_asgi()
        else:
            self._body = []

    def _has_host(self, hosts: list[bytes]) -> bool:
        if hosts == self._hosts:  # as in the request before
            return True
        if len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None:
            self._hosts = hosts
            return True
        return not hosts and self.parser.get_http_version() == "1.0"

    def _predicts(self) -> bool:
        """Whether this is a prediction, with no request in front of it, whose body comes without being asked for."""
        return (
            self.url in _PREDICT_URLS
            and self.parser.get_method() == b"POST"
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _by_asgi(self) -> None:
        """Hand the request to the application, as uvicorn does; its head is there."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        self.scope[ARRIVED] = self._arrived  # type: ignore[literal-required]  # a key of our own
        super().on_headers_complete()
        if self.parser.get_method() == b"POST":  # an answer to HEAD has no body
            self.scope[AT_ONCE] = partial(write_at_once, self.transport, self.cycle)  # type: ignore[literal-required]  # a key of our own

    def _pass_on(self, body: list[bytes]) -> None:
        """Have the application wait for the rest of a prediction: it knows what is too large, and what is too late."""
        self._body = None
        self._by_asgi()
        super().on_body(b"".join(body))

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if self._body is not None:
            self._body.append(body)
        elif not self._over and self._shed is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived whole."""
        self._arriving = False
        self.late_at = math.inf
        if self._over:
            return
        if self._body is not None:
            self._answer_directly(b"".join(self._body))
        elif self._shed is not None:
            error, self._shed = self._shed, None
            keep = self._keeps_alive()
            self._refusal(error, keep=keep, asked=self.headers)
            if keep:
                self.on_response_complete()
        else:
            super().on_message_complete()
            if self.cycle.response_complete:
                self._idle()

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()

    def _answer_directly(self, body: bytes) -> None:
        self._body = None
        cycle = DirectCycle(keep_alive=self._keeps_alive())
        self.cycle = cycle  # type: ignore[assignment]  # it has what is used of it
        task = self.loop.create_task(self._predict(cycle, _PREDICT_URLS[self.url], self.headers, self._arrived, body))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _predict(self, cycle: DirectCycle, path: str, headers: Headers, arrived: float, body: bytes) -> None:
        """Answer one prediction, as uvicorn's cycle does it."""
        try:
            status, about, answer = await self.predict(path, headers, arrived, body)  # type: ignore[misc]  # it is there
        except BaseException as error:  # one that is cancelled at the end of a drain, too
            self.logger.error("Exception in a prediction", exc_info=error)
            status, about, answer = INTERNAL.status, headers_of(INTERNAL), problem(INTERNAL, None)
            cycle.keep_alive = False
        if self.flow.write_paused:
            await self.flow.drain()
        if cycle.disconnected:
            return
        whole, keep = compose(
            status, about, answer, default_headers=self.server_state.default_headers, keep_alive=cycle.keep_alive
        )
        cycle.response_complete = True
        self.transport.write(whole)
        if not keep:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, which sets a timer for each answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._arriving:
            self._idle()

    def _idle(self) -> None:
        self.late_at = self.loop.time() + self.timeout_keep_alive

    def cut(self) -> None:
        """What the connection waits for is late: say so if it is the rest of a head, and close."""
        if self._in_head:
            self._refuse(SlowBody(f"the request did not arrive within {self.arrival_s:g} s"))
        elif self._arriving or self._heads == 0:
            self.transport.abort()
        else:
            self.transport.close()

    def _too_large(self) -> RtpError:
        return HeadTooLarge(f"request line and headers are larger than {self.max_head_bytes} bytes")

    def _refuse(self, error: RtpError) -> None:
        self._over = True
        self._refusal(error, keep=False, asked=self.headers)

    def _refusal(self, error: RtpError, *, keep: bool, asked: Headers) -> None:
        """Refuse the request with the headers `asked`."""
        row = STATUS_TABLE[type(error)]
        body = problem(row, error)
        now = monotonic()
        timing = server_timing(now - (self._arrived or now))
        headers = [*headers_of(row), (b"content-length", b"%d" % len(body)), timing]
        if (given := given_id(asked)) is not None:
            headers.append((NAME, given.encode()))
        if not keep:
            headers.append(CLOSE)
        elif self.server_state.default_headers:
            headers += self.server_state.default_headers
            keep = CLOSE not in headers
        lines = [b"HTTP/1.1 %d %s" % (row.status, HTTPStatus(row.status).phrase.encode())]
        lines += [b"%s: %s" % header for header in headers]
        self.refused(error)
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        if not keep:
            self.transport.close()


def bounded(
    max_head_bytes: int,
    arrival_s: float,
    refused: Callable[[RtpError], None],
    shed: Callable[[Headers, float], RtpError | None],
    predict: Predict | None = None,
) -> type[BoundedProtocol]:
    """The protocol with these bounds, as a class, because uvicorn makes the instances."""
    members: dict[str, Any] = {"max_head_bytes": max_head_bytes, "arrival_s": arrival_s}
    members |= {"refused": staticmethod(refused), "shed": staticmethod(shed)}
    members["predict"] = None if predict is None else staticmethod(predict)
    return type("Protocol", (BoundedProtocol,), members)


def cut_late(connections: Iterable[Any], now: float) -> None:
    """End those whose request should have arrived before `now` (the loop's time)."""
    for connection in list(connections):
        if now > connection.late_at:
            connection.cut()
