"""uvicorn's HTTP with what it lacks: a limit for a request's head and trailers, limits for the time in which it arrives
and its answer is taken, exactly one Host, no other protocol, and the refusal of a request as soon as its headers are
there when the process is overloaded. A refusal waits for the answers to the requests before it. The file is long
because uvicorn's protocol is one class, and all of this is one connection's state.

While a request waits for the answer to the one before it, what its client has sent beyond it is neither parsed nor
read, because a request that waits takes up to a hundred times the memory of its bytes.

All of it comes before routes and keys, because a head of a gigabyte, or one byte a minute, needs neither, and because
refusing must cost next to nothing: at five times the load that can be served, four of five requests are refused.
`rtp.doors.listeners` looks for late connections about once a second; a request in time costs a comparison and a sum.

A prediction that has arrived whole is answered here (`rtp.doors.direct`). All else goes to the application, by ASGI.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rtp.doors.direct import DirectCycle, Predict, compose
from rtp.doors.predict import ARRIVED, PREDICT_PATHS, server_timing
from rtp.doors.problems import AT_ONCE, INTERNAL, STATUS_TABLE, Headers, headers_of, problem
from rtp.doors.request_id import NAME, given_id
from rtp.doors.upgrades import without_offer
from rtp.errors import HeadTooLarge, MalformedHead, RtpError, SlowBody

_PREDICT_URLS = {path.encode(): path for path in PREDICT_PATHS}
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[\w.~!$&'()*+,;=:%-]+\])?(?::\d*)?", re.ASCII)
"""RFC 3986, `host [":" port]`, of which RFC 9112 asks exactly one in HTTP/1.1. It may be empty."""
_VERSIONS = ("1.1", "1.0")
"""The older one is for health checks and proxies that speak no other. Its connections end with the answer."""
_PIECE = 512
"""Bytes that are parsed at once, and then as far as the next line's end: few requests, because the shortest has 25, and
nearly always all of a body. So a longer line is always the last one that is parsed at once, however it was cut, and its
length is known."""


_MOST_THROWN_AWAY = 32 << 20
"""Bytes that a client may send after the refusal of its request."""


class _Stage(Enum):
    """How far an incoming request has come, where nothing of it is kept here."""

    HEAD = "its head is arriving"
    OFFER = "its head is there, and is read again without the other protocol that it offers"
    HANDED = "the application has it, and gets its body"


_HEAD, _OFFER, _HANDED = _Stage.HEAD, _Stage.OFFER, _Stage.HANDED


class _Flow(FlowControl):
    """Pauses reading while bytes are held back, even if uvicorn asks to resume it."""

    def __init__(self, transport: asyncio.Transport, held: deque[bytes]) -> None:
        super().__init__(transport)
        self._held = held

    def resume_reading(self) -> None:
        """As uvicorn's."""
        if not self._held:
            super().resume_reading()


def write_at_once(cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
    """Write a whole answer to the request of `cycle`: head and body in one call to the system and one packet, where
    uvicorn makes two, and without its checks of headers that are the service's own. False, and nothing is written,
    while the client does not read what was sent before."""
    if cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    _end_unasked(cycle)
    whole, cycle.keep_alive = compose(
        status, headers, body, default_headers=cycle.default_headers, keep_alive=cycle.keep_alive
    )
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(whole)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def _end_unasked(cycle: RequestResponseCycle) -> None:
    """End the connection with an answer to a client that waits to be asked for the body: whether the body still comes,
    or the next request, is the client's choice (RFC 9110, 10.1.1)."""
    if cycle.waiting_for_100_continue and cycle.more_body:
        cycle.keep_alive = False


async def _send_unasked(cycle: RequestResponseCycle, send: Callable[[Any], Awaitable[None]], message: Any) -> None:
    """`send` an answer that does not go by `write_at_once`."""
    _end_unasked(cycle)
    await send(message)


class _Ending:
    """What uvicorn's cycle uses of a transport. Its end is the connection's own."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    max_head_bytes: int
    """Request line, headers and trailers, as they come over the wire without separators, and the line of a chunk's size
    with them."""
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
        self._held: deque[bytes] = deque()
        """What was read and is not parsed: empty if no request waits, except while it is parsed."""
        self.flow = _Flow(transport, self._held)
        self.late_at = self.loop.time() + self.arrival_s
        """When the connection is ended for what it waits for: the first request, the rest of one, or the next one."""
        self.take_by = math.inf
        """When the connection is ended because its client does not read what is sent to it."""
        self._incoming: _Stage | list[bytes] | RtpError | None = None
        """The request that has begun to arrive and is not there whole, if any. Once its head is there: of a prediction
        that is answered here, what is there of its body; of one that is shed, why (its body is not kept)."""
        self._arrived = 0.0
        """When the newest request's first byte came, in seconds of `monotonic`; 0 before the first request."""
        self._brought = False
        """Whether the data in hand brought the end of a request."""
        self._head_bytes = 0
        """Of data that brought no more than a part of a head, and of trailers."""
        self._around = False
        """Behind a head: whether what was parsed last is not the body, but around it: a chunk's size, or a trailer."""
        self._line = 0
        """Bytes of the line around the body that is being parsed."""
        self._unended = 0
        """Bytes read of a line whose end was not read."""
        self._over = False
        """What is read is thrown away."""
        self._thrown_away = 0
        """Bytes."""
        self._lingering = False
        """All is said, and the client still sends."""
        self._ended = False
        """The client sends no more."""
        self._due: Callable[[], None] | None = None
        """Refuses the last request once those before it are answered."""
        self._hosts: list[bytes] | None = None
        """The one Host of an earlier request."""
        self._answered: RequestResponseCycle | DirectCycle | None = None
        """The request that is being answered, or was last. (`cycle` is the newest, which may wait behind it.)"""

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio. The request that is being answered is told that its client has gone, as uvicorn tells the newest
        one; those between them are never begun."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._over:
            self._thrown_away += len(data)
            if self._thrown_away > _MOST_THROWN_AWAY:
                self.transport.abort()
            return
        begin, least = 0, max(0, _PIECE - self._unended)
        while end := data.find(b"\r", begin + least) + 1:
            self._held.append(data[begin:end])
            begin, least = end, _PIECE
        self._held.append(data[begin:])
        self._parse_held()
        if self._incoming is None and not self._held:
            self._unended = 0
        else:
            ended = data.rfind(b"\r") + 1
            self._unended = len(data) - ended + (0 if ended else self._unended)

    def _parse_held(self) -> None:
        """Parse what was read, until a request waits for the answer to the one before it."""
        self._brought, size = False, 0
        try:
            while self._held and not self.pipeline:
                piece = self._held.popleft()
                size += len(piece)
                self._parse(piece)
                self._measure(piece)
        except httptools.HttpParserError:
            if not self._over:
                self.logger.warning("Invalid HTTP request received.")  # `rtp.logs` keeps that to a line a second
                error = MalformedHead(
                    "this is no HTTP/1.1 request of a known method, or its body's length is ambiguous"
                )
                self._refuse(error, asked=[])
        if self._held:
            self.flow.pause_reading()
            self.late_at = math.inf  # it is not the client that is waited for
        elif self._incoming is not None:  # there is more to come
            if isinstance(self._incoming, list):
                self._pass_on(self._incoming)
            elif self._incoming is _HEAD and not self._brought:
                self._count(size)

    def _parse(self, data: bytes | memoryview) -> None:
        """Have the parser call this object for all that `data` holds, whatever protocol it offers."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._over:
                    return
                data = memoryview(data)[upgrade.args[0] :]
                parser = self.parser
                head = without_offer(parser.get_method(), self.url, parser.get_http_version(), self.headers)
                self.parser = httptools.HttpRequestParser(self)  # the other has ended; this one as uvicorn makes it
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
            else:
                return

    def _measure(self, piece: bytes) -> None:
        """Refuse a line around the body's chunks that is too long: the parser reads over it without a call."""
        if not self._around or self._incoming is None or self._incoming is _HEAD:
            self._line = 0
            return
        ended = piece.rfind(b"\r", 0, -1) + 1
        line = len(piece) - ended + (0 if ended else self._line)
        self._line = 0 if piece.endswith(b"\r") else line
        if line > _PIECE and self._head_bytes + line > self.max_head_bytes:
            self._refuse(self._too_large())

    def _count(self, size: int) -> None:
        """A part of a head that the parser keeps, or a trailer."""
        self._head_bytes += size
        if self._head_bytes > self.max_head_bytes and not self._over:
            self._refuse(self._too_large())

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """The client sends no more. A request that has arrived whole is still answered before the connection ends; in
        all other cases it ends now. (uvicorn always ends it now, and logs an error for each answer not sent yet.)"""
        if self._lingering or self.cycle is None or self.cycle.response_complete:
            return False
        if self._incoming is None and self.transport.get_extra_info("sslcontext") is None:  # TLS cannot be half closed
            self.cycle.keep_alive = False
            self._ended = True
            return True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._idle()
        return False

    def on_message_begin(self) -> None:
        """A request's first byte. uvicorn makes the scope here; `_by_asgi` does it for requests that need one."""
        if self._over:
            return
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        again, self._incoming = self._incoming is _OFFER, _HEAD
        if again:
            return
        self._arrived = monotonic()
        self.late_at = self.loop.time() + self.arrival_s
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its head, or a trailer: those are ignored, because what is said behind a body comes too late."""
        if self._incoming is not _HEAD:
            self._count(len(name) + len(value))
            return
        name = name.lower()  # as uvicorn does
        value = value.rstrip(b" \t")  # RFC 9112, 5.1; the parser takes away only what is in front
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = self.parser.get_http_version() != "1.0"  # RFC 9110, 10.1.1
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Its head has arrived whole."""
        if self._over:
            return
        self._head_bytes, self._around = 0, True
        size, hosts, coded = len(self.url), [], False
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding":
                coded |= value.lower() != b"chunked"
        if size > self.max_head_bytes:
            self._refuse(self._too_large())
        elif (version := self.parser.get_http_version()) not in _VERSIONS:
            self._refuse(MalformedHead(f"HTTP/{version} is not offered: send HTTP/1.1"))
        elif coded:
            self._refuse(MalformedHead("of transfer codings there is `chunked` alone: send the body plain"))
        elif not self._has_host(hosts):
            self._refuse(MalformedHead("send exactly one Host header, with a host name and perhaps a port"))
        elif self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._refuse(MalformedHead("this is no proxy: CONNECT is not offered"))
            else:
                self._incoming = _OFFER
        elif not self._predicts():
            self._by_asgi()
        elif (error := self.shed(self.headers, self._arrived)) is not None:
            # The answer is sent when its body has arrived, so that the connection can go on.
            self._incoming = error
        elif self.predict is None:
            self._by_asgi()
        else:
            self._incoming = []

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
        self._incoming = _HANDED
        if self.parser.get_method() == b"POST":  # an answer to HEAD has no body
            self.scope[AT_ONCE] = partial(write_at_once, self.cycle)  # type: ignore[literal-required]
        self.cycle.transport = _Ending(self.transport, self._close)  # type: ignore[assignment]  # it has what is used of it
        if expects:
            self.cycle.send = partial(_send_unasked, self.cycle, self.cycle.send)  # type: ignore[method-assign]

    def _pass_on(self, body: list[bytes]) -> None:
        """Have the application wait for the rest of a prediction: it knows what is too large, and what is too late."""
        self._by_asgi()
        super().on_body(b"".join(body))

    def on_chunk_header(self) -> None:
        """The size of a chunk of its body, 0 in front of the trailers."""
        self._head_bytes = 0

    def on_chunk_complete(self) -> None:
        """A chunk of its body has arrived whole."""
        self._around = True

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._around = False
        if isinstance(self._incoming, list):
            self._incoming.append(body)
        elif self._incoming is _HANDED:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived whole."""
        if self._over or self._incoming is _OFFER:
            return
        request, self._incoming = self._incoming, None
        self._brought = True
        self.late_at = math.inf
        if isinstance(request, list):
            self._answer_directly(b"".join(request))
        elif isinstance(request, RtpError):
            if self.flow.write_paused:  # its client asks on and on, and reads nothing
                self._over = True
                self.transport.abort()
                return
            keep = self._keeps_alive()
            self._refusal(request, keep=keep, asked=self.headers)
            if keep:  # no request is in front of it, and none waits
                self.server_state.total_requests += 1
                self._idle()
        else:
            super().on_message_complete()
            if self.cycle.response_complete:
                self._idle()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()

    def _answer_directly(self, body: bytes) -> None:
        cycle = DirectCycle(keep_alive=self._keeps_alive())
        self.cycle = self._answered = cycle  # type: ignore[assignment]  # it has what is used of it
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
        if self._lingering:
            return
        if self.transport.is_closing():
            self._idle()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._held and not self.pipeline:
                self._parse_on()
        elif self._due is not None:
            self._due()
        elif self._incoming is None:
            self._idle()

    def _parse_on(self) -> None:
        """Parse what was held back. The client has the whole time for what is still to come of a request in it."""
        self._parse_held()
        if not self._held and self._incoming is not None:
            self.late_at = self.loop.time() + self.arrival_s
        self.flow.resume_reading()

    def _idle(self) -> None:
        self.late_at = self.loop.time() + self.timeout_keep_alive

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered, or not at all."""
        super().pause_writing()
        self.take_by = self.loop.time() + self.timeout_keep_alive

    def resume_writing(self) -> None:
        """It reads on."""
        super().resume_writing()
        self.take_by = math.inf

    def cut(self) -> None:
        """What the connection waits for is late: say so if it is the rest of a head, and close."""
        if self._lingering or self.flow.write_paused or self.transport.is_closing():  # nothing more would be taken
            self.transport.abort()
        elif self._incoming is _HEAD:
            self._refuse(SlowBody(f"the request did not arrive within {self.arrival_s:g} s"))
        elif self._incoming is not None or not self._arrived:
            self.transport.abort()
        else:
            self._close()

    def shutdown(self) -> None:
        """See uvicorn: the process ends, and waits for no more than the answers."""
        if self._lingering:
            self.transport.close()
        else:
            super().shutdown()

    def _close(self) -> None:
        """End the connection once what was sent is taken; `cut` does not wait for that without end. A client that has
        not sent its whole request may send on for as long as a request may take: to close would reset the connection,
        and many clients that cannot send their request do not read the answer (RFC 9112, 9.6)."""
        unread = not self._ended and (self._over or self._incoming is not None)
        if unread and self.transport.can_write_eof() and not self.transport.is_closing():
            self._over = self._lingering = True
            self._held.clear()
            self.flow.resume_reading()
            self.transport.write_eof()
            self.late_at = self.loop.time() + self.arrival_s
        else:
            self.transport.close()
            self._idle()

    def _too_large(self) -> RtpError:
        return HeadTooLarge(
            f"request line and headers, or a chunk's extension or trailers, are larger than {self.max_head_bytes} bytes"
        )

    def _refuse(self, error: RtpError, *, asked: Headers | None = None) -> None:
        """Refuse the request that is arriving, after the answers to those before it, and read no more."""
        self._over = True
        self._held.clear()
        handed, self._incoming = self._incoming is _HANDED, None
        refusal = partial(self._refusal, error, keep=False, asked=self.headers if asked is None else asked)
        if not handed:
            behind = self.cycle is not None and not self.cycle.response_complete
        elif behind := bool(self.pipeline):
            self.pipeline.popleft()  # it is the last of those that wait
        elif self.cycle.response_started:
            self.cycle.disconnected = True
            self._close()
            return
        else:
            self.cycle.disconnected = True  # the application's answer would be a second one
            self.cycle.message_event.set()
        if behind:
            self.late_at, self._due = math.inf, refusal
        else:
            refusal()

    def _refusal(self, error: RtpError, *, keep: bool, asked: Headers) -> None:
        """Refuse the request with the headers `asked`."""
        row = STATUS_TABLE[type(error)]
        now = monotonic()
        headers = [*headers_of(row), server_timing(now - (self._arrived or now))]
        if (given := given_id(asked)) is not None:
            headers.append((NAME, given.encode()))
        whole, keep = compose(
            row.status, headers, problem(row, error), default_headers=self.server_state.default_headers, keep_alive=keep
        )
        self.refused(error)
        self.transport.write(whole)
        if not keep:
            self._close()


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
    """End those whose request should have arrived before `now` (the loop's time), or their answers been taken."""
    for connection in list(connections):
        if now > connection.late_at or now > connection.take_by:
            connection.cut()
