"""A small asynchronous HTTP client over kept-alive connections: as little work a request as Python allows, because the
generator shares the machine with what it measures. POSTs bodies, reads whole answers, reconnects when told to close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast
from urllib.parse import urlsplit

JSON = {"content-type": "application/json"}


class Unanswered(ConnectionError):
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""
        self.open = False
        self.head = b""
        """Status line and headers of the last answer, in lower case."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # what a TCP protocol is given, by uvloop too
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unanswered("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._received = self._received + data if self._received else data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower()
        at = fields.find(b"content-length:")
        end = fields.find(b"\r\n", at)
        length = int(fields[at + 15 : end if end > 0 else None]) if at >= 0 else 0
        if len(rest) < length:
            return
        self._received = b""
        self.head = fields
        if b"connection: close" in fields:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), rest))

    async def post(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to `request`, a whole HTTP request.

        Raises:
            Unanswered: the connection ended first.
        """
        if self._transport is None or not self.open:
            raise Unanswered("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close it."""
        self.open = False
        if self._transport is not None:
            self._transport.close()


class Target:
    """Where requests go, with which headers, and within which deadline (None leaves it to the server)."""

    def __init__(
        self, url: str, deadline_ms: int | None = None, headers: Mapping[str, str] = MappingProxyType(JSON)
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not a plain http:// URL")
        self.host, self.port, self.path = parts.hostname, parts.port or 80, parts.path or "/"
        told = {**headers, **({"x-request-deadline-ms": deadline_ms} if deadline_ms else {})}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in told.items())

    def request(self, body: bytes) -> bytes:
        """A whole HTTP request that posts `body`."""
        return (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\n{self._headers}content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def connect(self) -> Connection:
        """A new connection. Raises OSError when there is none to be had."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return connection
