"""What a connection needs to answer a prediction without ASGI.

For ASGI, uvicorn makes a scope, a queue of the body's pieces, an event and a coroutine around the application's. A
prediction that has arrived whole needs none of them: its path is one of two, and its body is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from rtp.doors.problems import Answer, Headers

CLOSE = (b"connection", b"close")
Predict = Callable[[str, Headers, float, bytes], Awaitable[Answer]]
"""From path, headers, arrival (seconds of `time.monotonic`) and body of a prediction to its answer."""


class DirectCycle:
    """What uvicorn's connection looks at of the request in progress (`RequestResponseCycle`), and no more."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")

    message_event = asyncio.Event()
    """uvicorn wakes who waits for the body; here nothing does."""

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.disconnected = False
        """The client has gone."""
        self.response_complete = False


def compose(
    status: int, headers: Headers, body: bytes, *, default_headers: Headers, keep_alive: bool
) -> tuple[bytes, bool]:
    """An answer as it goes over the wire, and whether the connection is kept after it. Headers are not checked: they
    are the service's own. `default_headers` are the server's; a process that drains tells its clients there to close.
    """
    pieces = [STATUS_LINE[status]]
    for name, value in (*default_headers, *headers) if default_headers else headers:
        pieces += (name, b": ", value, b"\r\n")
    if CLOSE in default_headers:
        keep_alive = False
    elif not keep_alive:
        pieces.append(b"connection: close\r\n")
    pieces.append(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    return b"".join(pieces), keep_alive
