"""The listening admin server: uvicorn, which closes connections that bring no request.

Each connection has one request, with `ARRIVAL_S` for its head. Where more than `MAX_CONNECTIONS` are open, those
without a request are closed at once: no key is needed to open one, and each takes a file.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import Server

from access import ListenerTls
from process.listening import bind
from uic.doors.listening import cannot_listen
from uic.errors import StartRefused
from uic.settings import AdminSettings

ARRIVAL_S: Final = 10.0
MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16 << 10
"""Of a head that arrives in parts. No request of the admin port has a body, and none is read."""
STOP_S: Final = 1
"""For requests that are being answered at the end."""


class AdminServer:
    """The server; it listens from the start and answers once `start` is called. Its coroutines run on one loop."""

    def __init__(self, app: ASGIApp, settings: AdminSettings, tls: ListenerTls | None = None) -> None:
        """
        Raises:
            StartRefused: the address is taken or not this machine's.
        """
        try:
            self._listener = _listen(settings.host, settings.port)
        except OSError as error:
            raise StartRefused(cannot_listen(settings.host, settings.port, error, "UIC_ADMIN")) from error
        self.port = int(self._listener.getsockname()[1])
        self._server = _Server(
            Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                headers=[("connection", "close")],
                backlog=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_graceful_shutdown=STOP_S,
                ssl_context_factory=None if tls is None else lambda *_: tls.context(),
            )
        )

    async def start(self) -> None:
        """Answer from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def stop(self) -> None:
        """Finish the requests that are being answered, and close."""
        self._server.should_exit = True
        await self._serving


def _listen(host: str, port: int) -> socket.socket:
    listener = bind(host, port)
    try:
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class _Server(Server):
    """uvicorn, with the limits that the module names."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._since: dict[Any, float] = {}
        """When each open connection was seen first (the loop's time)."""

    async def on_tick(self, counter: int) -> bool:
        """Close the connections that are late; uvicorn calls this ten times a second."""
        now = asyncio.get_running_loop().time()
        self._since = {one: self._since.get(one, now) for one in self.server_state.connections}
        patience_s = ARRIVAL_S if len(self._since) <= MAX_CONNECTIONS else 0.0
        for one, since in self._since.items():
            if one.cycle is None and now - since > patience_s:
                one.transport.abort()
        return await super().on_tick(counter)
