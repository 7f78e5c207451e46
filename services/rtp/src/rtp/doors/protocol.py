"""uvicorn's HTTP with what it lacks: a limit for a request's head, a limit for the time it takes to arrive, exactly one
Host, and the refusal of a request as soon as its headers are there when the process is overloaded.

All of it comes before routes and keys, because a head of a gigabyte, or one byte a minute, needs neither, and because
refusing must cost next to nothing: at five times the load that can be served, four of five requests are refused.
`rtp.doors.listeners` looks for late connections about once a second; a request in time costs a comparison and a sum.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rtp.doors.predict import ARRIVED, PREDICT_PATHS, WHOLE, Headers, server_timing
from rtp.doors.problems import STATUS_TABLE, headers_of, problem
from rtp.doors.request_id import NAME, given_id
from rtp.errors import HeadTooLarge, MalformedHead, RtpError, SlowBody

_PREDICT_URLS = frozenset(path.encode() for path in PREDICT_PATHS)
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[\w.~!$&'()*+,;=:%-]+\])?(?::\d*)?", re.ASCII)
"""RFC 3986, `host [":" port]`, of which RFC 9112 asks exactly one in HTTP/1.1. It may be empty."""


class JoinedWrites:
    """A connection's transport that sends an answer's head together with the first piece of its body: one call to the
    system, and one packet, where uvicorn makes two."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        """Keep a head until what follows it."""
        if not self._head and data.startswith(b"HTTP/1.1 "):
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Nothing follows the head."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Send what is kept, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._transport.is_closing()


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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """See asyncio."""
        super().connection_made(transport)
        self._joined = JoinedWrites(transport)
        self.late_at = self.loop.time() + self.arrival_s
        self._heads = 0
        self._in_head = False
        self._head_bytes = 0
        self._over = False
        self._shed: RtpError | None = None
        self._arrived = 0.0

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._over:
            return
        # The data counts if all of it belongs to a head: to one that has begun before, or begins with it.
        head = self._heads if self._in_head else self._heads + 1
        whole = self._in_head or self._between
        super().data_received(data)
        if whole and self._in_head and head == self._heads:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(self._too_large())

    def send_400_response(self, msg: str) -> None:
        """What arrived is not HTTP; uvicorn has logged it (`rtp.logs` keeps that to a line a second)."""
        if not self._over:
            self._over = True
            error = MalformedHead("this is not an HTTP/1.1 request, or its body's length is ambiguous")
            self._answer(error, keep=False, asked=[])

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """The client sends no more. A request that has arrived whole is still answered before the connection ends; in
        all other cases it ends now. (uvicorn always ends it now, and logs an error for each answer not sent yet.)"""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if (
            self.late_at == math.inf and self.transport.get_extra_info("sslcontext") is None
        ):  # TLS cannot be half closed
            self.cycle.keep_alive = False
            return True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return False

    @property
    def _between(self) -> bool:
        """Whether no request is in progress."""
        return self._heads == 0 or self.late_at == math.inf

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._arrived = self.scope[ARRIVED] = monotonic()  # type: ignore[literal-required]  # a key of our own
        self.late_at = self.loop.time() + self.arrival_s
        self._heads += 1
        self._in_head = True
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
        elif not self._over and not self._sheds():
            super().on_headers_complete()
            if not self.expect_100_continue:  # "100 Continue" is a head that must go out by itself
                self.cycle.transport = self._joined  # type: ignore[assignment]  # all that a cycle calls of it

    def _has_host(self, hosts: list[bytes]) -> bool:
        if len(hosts) == 1:
            return _HOST.fullmatch(hosts[0]) is not None
        return not hosts and self.parser.get_http_version() == "1.0"

    def _sheds(self) -> bool:
        """Whether the request is refused because of the load. Its body is not kept, and the answer is sent when the
        body has arrived, so that the connection can go on."""
        if (
            self.url not in _PREDICT_URLS
            or self.parser.get_method() != b"POST"
            or self.expect_100_continue
            or (self.cycle is not None and not self.cycle.response_complete)
        ):
            return False
        self._shed = self.shed(self.headers, self._arrived)
        return self._shed is not None

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if not self._over and self._shed is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived whole."""
        self.late_at = math.inf
        if self._over:
            return
        if self._shed is None:
            self.scope[WHOLE] = True  # type: ignore[literal-required]  # a key of our own
            super().on_message_complete()
            return
        error, self._shed = self._shed, None
        keep = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        self._answer(error, keep=keep, asked=self.headers)
        if keep:
            self.on_response_complete()

    def on_response_complete(self) -> None:
        """An answer has been written."""
        self._joined.flush()  # it had no body, as those to HEAD
        super().on_response_complete()

    def cut(self) -> None:
        """The request is late: say so if its head has not arrived, and close."""
        if self._in_head:
            self._refuse(SlowBody(f"the request did not arrive within {self.arrival_s:g} s"))
        else:
            self.transport.abort()

    def _too_large(self) -> RtpError:
        return HeadTooLarge(f"request line and headers are larger than {self.max_head_bytes} bytes")

    def _refuse(self, error: RtpError) -> None:
        self._over = True
        self._answer(error, keep=False, asked=self.headers)

    def _answer(self, error: RtpError, *, keep: bool, asked: Headers) -> None:
        """Refuse the request with the headers `asked`."""
        row = STATUS_TABLE[type(error)]
        body = problem(row, error)
        now = monotonic()
        timing = server_timing(now - (self._arrived or now))
        headers = [*headers_of(row), (b"content-length", b"%d" % len(body)), timing]
        if (given := given_id(asked)) is not None:
            headers.append((NAME, given.encode()))
        if not keep:
            headers.append((b"connection", b"close"))
        elif self.server_state.default_headers:  # with which a draining process tells its clients to close
            headers += self.server_state.default_headers
            keep = (b"connection", b"close") not in headers
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
) -> type[BoundedProtocol]:
    """The protocol with these bounds, as a class, because uvicorn makes the instances."""
    members: dict[str, Any] = {"max_head_bytes": max_head_bytes, "arrival_s": arrival_s}
    members |= {"refused": staticmethod(refused), "shed": staticmethod(shed)}
    return type("Protocol", (BoundedProtocol,), members)


def cut_late(connections: Iterable[Any], now: float) -> None:
    """End those whose request should have arrived before `now` (the loop's time)."""
    for connection in list(connections):
        if now > connection.late_at:
            connection.cut()
