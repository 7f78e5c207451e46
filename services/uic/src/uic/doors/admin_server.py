"""The listening admin server: uvicorn on a thread of its own, with bounds that it lacks.

Each connection has one request, with `ARRIVAL_S` for the TLS handshake, as long for the request, and as long for the
client to take the answer. At most `MAX_CONNECTIONS` are open, including those still in their handshake.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from ssl import SSLContext
from typing import Final

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from access import ListenerTls
from process.listening import bind
from uic.doors.admin import PROBLEM_JSON, problem
from uic.doors.http_faults import MAX_HEAD_BYTES, http_fault
from uic.doors.listening import cannot_listen
from uic.errors import StartRefused
from uic.settings import AdminSettings

log = logging.getLogger(__name__)

ARRIVAL_S: Final = 10.0
MAX_CONNECTIONS: Final = 64
CLOSED: Final = -1
"""The file number of a socket that is closed."""
STOP_S: Final = 1.5
"""With UIC's drain of at most 8 s, the process ends within 10 s of SIGTERM."""
ACCEPT_PAUSE_S: Final = 0.5
"""After a failure to accept, such as too many open files."""
ACCEPT_TOLD_S: Final = 60.0
"""How often such failures are logged."""


class AdminServer:
    """The server; it listens from the start and answers once `start` is called."""

    def __init__(
        self,
        app: ASGIApp,
        settings: AdminSettings,
        tls: ListenerTls | None = None,
        malformed: Callable[[], None] = lambda: None,
    ) -> None:
        """`malformed` is called for every request that is not HTTP; such requests are not logged.

        Raises:
            StartRefused: the address is taken or not this machine's.
        """
        try:
            self._listener = _listen(settings.host, settings.port)
        except OSError as error:
            raise StartRefused(cannot_listen(settings.host, settings.port, error, "UIC_ADMIN")) from error
        self.port = int(self._listener.getsockname()[1])
        self._server = _Server(app, tls.context() if tls else None, malformed)
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests that are being answered, and close."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))


def _listen(host: str, port: int) -> socket.socket:
    listener = bind(host, port)
    try:
        listener.listen()
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class _Server(Server):
    """Accepts connections itself, so that TLS handshakes are counted and timed too."""

    def __init__(self, app: ASGIApp, tls: SSLContext | None, malformed: Callable[[], None]) -> None:
        super().__init__(
            Config(
                app,
                loop="asyncio",
                http=type("Connection", (_Connection,), {"malformed": staticmethod(malformed)}),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                headers=[("connection", "close")],
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_graceful_shutdown=1,
            )
        )
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._beginning: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept on the one socket."""
        await super().startup([])
        assert sockets  # noqa: S101  # `AdminServer` passes it
        self._accepting = asyncio.create_task(self._accept(sockets[0]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let answers that are under way finish."""
        self._accepting.cancel()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Cut connections that are late; uvicorn calls this ten times a second."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            assert isinstance(connection, _Connection)  # noqa: S101  # the configured protocol
            connection.cut_if_late(now)
        return await super().on_tick(counter)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tell_at = loop.time()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                if loop.time() >= tell_at:
                    tell_at = loop.time() + ACCEPT_TOLD_S
                    log.error("the admin port cannot accept: %s", error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._open = {connection for connection in self._open if connection.fileno() != CLOSED}
            if len(self._open) >= MAX_CONNECTIONS:
                accepted.close()
                continue
            self._open.add(accepted)
            task = loop.create_task(self._begin(accepted))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, accepted: socket.socket) -> None:
        timeout_s = None if self._tls is None else ARRIVAL_S
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection, accepted, ssl=self._tls, ssl_handshake_timeout=timeout_s
            )
        except OSError:  # the client left or failed the handshake; TLS errors are OSErrors
            accepted.close()
            log.debug("an admin connection ended early", exc_info=True)

    def _connection(self) -> asyncio.Protocol:
        connection: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection


class _Connection(H11Protocol):
    """One connection, with the time by which the client must have sent its request, or taken the answer."""

    malformed: Callable[[], None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """See asyncio."""
        super().connection_made(transport)
        self._late_at = self.loop.time() + ARRIVAL_S

    def cut_if_late(self, now: float) -> None:
        """Close the connection if its client is late at `now` (the loop's time)."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_started:  # the app's time is not the client's
            self._late_at = now + ARRIVAL_S
        elif now > self._late_at:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, or a head that is too large. `msg` is uvicorn's and the same for all."""
        self.malformed()
        error = sys.exception()  # the parser's, which uvicorn handles here
        hint = getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST)
        fault = http_fault(str(error), hint, self.conn.trailing_data[0])
        status, content = fault.status, bytes(problem(fault.status, fault.code, fault.detail).body)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {PROBLEM_JSON}\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()
