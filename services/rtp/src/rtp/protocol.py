"""uvicorn's HTTP with bounds that it lacks: how large a request's head may be, and how long a request may arrive.

Both hold before any route or key is looked at, because a head of a gigabyte, or one byte a minute, needs neither.
`rtp.server` looks for late connections about once a second; a request in time pays for a comparison and a sum.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rtp.api import PROBLEM_JSON, STATUS_TABLE, problem
from rtp.errors import HeadTooLarge, RtpError, SlowBody


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    max_head_bytes: int
    """Request line and headers, as they come over the wire without separators."""
    arrival_s: float
    """From a connection's beginning, or a request's first byte, to the request's last."""
    refused: Callable[[RtpError], None]
    """Hears of each request that is refused here."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """See asyncio."""
        super().connection_made(transport)
        self.late_at = self.loop.time() + self.arrival_s
        self._heads = 0
        self._in_head = False
        self._head_bytes = 0
        self._over = False

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._over:
            return
        # What of the data belongs to a head is known if all of it does: the head was there before, or is its beginning.
        head = self._heads if self._in_head else self._heads + 1
        whole = self._in_head or self._between
        super().data_received(data)
        if whole and self._in_head and head == self._heads:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(self._too_large())

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """The client sends no more. What it has asked for in full is answered, and the connection ends then; else it
        ends now. (The library ends it now in any case, and logs an error for each answer that is still on its way.)"""
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
        """Whether no request is under way."""
        return self._heads == 0 or self.late_at == math.inf

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self.late_at = self.loop.time() + self.arrival_s
        self._heads += 1
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.max_head_bytes:
            self._refuse(self._too_large())
        elif not self._over:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        if not self._over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self.late_at = math.inf
        if not self._over:
            super().on_message_complete()

    def cut(self) -> None:
        """The request is late: say so if nobody has answered it yet, and close."""
        if self._in_head:
            self._refuse(SlowBody(f"the request did not arrive within {self.arrival_s:g} s"))
        else:
            self.transport.abort()

    def _too_large(self) -> RtpError:
        return HeadTooLarge(f"request line and headers are larger than {self.max_head_bytes} bytes")

    def _refuse(self, error: RtpError) -> None:
        row = STATUS_TABLE[type(error)]
        body = problem(row, error)
        head = (
            f"HTTP/1.1 {row.status} {HTTPStatus(row.status).phrase}\r\ncontent-type: {PROBLEM_JSON}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self._over = True
        self.refused(error)
        self.transport.write(head.encode() + body)
        self.transport.close()


def bounded(max_head_bytes: int, arrival_s: float, refused: Callable[[RtpError], None]) -> type[BoundedProtocol]:
    """The protocol with these bounds, as uvicorn wants it: a class."""
    members = {"max_head_bytes": max_head_bytes, "arrival_s": arrival_s, "refused": staticmethod(refused)}
    return type("Protocol", (BoundedProtocol,), members)


def cut_late(connections: Iterable[Any], now: float) -> None:
    """End those whose request should have arrived before `now` (the loop's time)."""
    for connection in list(connections):
        if now > connection.late_at:
            connection.cut()
