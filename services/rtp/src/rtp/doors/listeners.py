"""Running the two doors in one process: sockets, signals, and an end that fails no request.

Public and admin listener are two uvicorn servers in one event loop. The end has five steps: not ready → stop accepting
→ still answer on open connections, telling each client to close → close idle connections, finish the rest → end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import structlog
from uvicorn.config import Config
from uvicorn.server import Server

from access import KeyRing, ListenerTls
from process.addresses import joined
from rtp.core.admission import Admission
from rtp.doors.direct import Predict
from rtp.doors.guard import GuardedApp
from rtp.doors.problems import Headers
from rtp.doors.protocol import bounded, cut_late
from rtp.doors.sharing import SharedListener
from rtp.errors import ReloadRefused, RtpError
from rtp.reload import Reloader
from rtp.settings import DrainSettings, RtpSettings

log = structlog.stdlib.get_logger(__name__)
_TICK_S = 0.02


@dataclass
class Lifecycle:
    """Where the process is between its start and its end."""

    admission: Admission
    started: bool = False
    draining: bool = False

    def announce_start(self) -> None:
        """Ready from now on, as far as the store and the releases are."""
        self.started = True

    def announce_drain(self) -> None:
        """Not ready from now on; requests are still answered."""
        self.draining = True

    def refuse_requests(self) -> None:
        """Requests that begin after this get 503."""
        self.admission.draining = True


@dataclass(frozen=True)
class Service:
    """The parts of a process that `run` needs; `rtp.app.create_service` makes them."""

    app: GuardedApp
    """The public door; its lifespan runs the background work."""
    admin: GuardedApp
    tls: ListenerTls | None
    """Of the public listener."""
    admin_tls: ListenerTls | None
    refused: Callable[[RtpError], None]
    """Called for each request that is refused before it reaches a door."""
    out_of_files: Callable[[], None]
    """Called each second in which connections cannot be accepted for lack of open files."""
    shed: Callable[[Headers, float], RtpError | None]
    """Called for each prediction as soon as its headers are there: why it is not worth reading now."""
    predict: Predict
    """Answers predictions that have arrived whole, in place of `app`."""
    reloader: Reloader
    keys: KeyRing | None
    lifecycle: Lifecycle


class _Server(Server):
    """A uvicorn server that leaves signals to `run`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 10 == 0:
            cut_late(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)


class PublicServer(_Server):
    """Says when connections cannot be accepted, and drains before it shuts down."""

    def __init__(
        self,
        config: Config,
        drain: DrainSettings,
        lifecycle: Lifecycle,
        out_of_files: Callable[[], None],
        *,
        shared: bool,
    ) -> None:
        """`out_of_files` is called each second in which no file is left. With `shared`, other processes accept on its
        socket as well."""
        super().__init__(config)
        self._drain = drain
        self._out_of_files = out_of_files
        self._lifecycle = lifecycle
        self._shared = shared

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second. The event loop silently closes connections that there is no file for,
        so we look whether one can be opened."""
        if counter % 10 == 0 and not file_is_left():
            self._out_of_files()
            log.error(
                "cannot accept connections: no open file is left; raise the limit (ulimit -n, LimitNOFILE)",
                limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                connections=len(self.server_state.connections),
            )
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        if not self._shared or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        for one in sockets:
            one.listen(self.config.backlog)
        connections = self.server_state.connections
        self.servers = [SharedListener(one, self._protocol, connections, self.config.ssl) for one in sockets]  # type: ignore[misc]  # it has what uvicorn calls

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The end, as the module says."""
        self._lifecycle.announce_drain()
        await asyncio.sleep(self._drain.announce_s)
        for server in self.servers:
            server.close()
        # uvicorn sends these with every answer, whatever route gives it.
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        until = monotonic() + self._drain.linger_s
        while (self.server_state.connections or self._beginning) and monotonic() < until:
            cut_late(self.server_state.connections, asyncio.get_running_loop().time())
            await asyncio.sleep(_TICK_S)
        self._lifecycle.refuse_requests()
        await super().shutdown(sockets)

    @property
    def _beginning(self) -> bool:
        return any(server.beginning for server in self.servers if isinstance(server, SharedListener))


async def run(
    service: Service, settings: RtpSettings, public: socket.socket, admin: socket.socket, *, shared: bool
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. SIGHUP reloads the bundle and the keys. `shared`: other processes
    accept on `public` as well."""
    loop = asyncio.get_running_loop()
    main = PublicServer(
        _config(service, settings, drain=True), settings.drain, service.lifecycle, service.out_of_files, shared=shared
    )
    side = _Server(_config(service, settings, drain=False))
    reloads: set[asyncio.Task[None]] = set()

    def end() -> None:
        main.should_exit = True
        if not main.started:  # the start waits for a bundle, which may hang
            service.reloader.close()

    def interrupt() -> None:
        main.force_exit = main.should_exit  # Ctrl-C twice: wait for no request
        end()

    def reload() -> None:
        log.info("SIGHUP: reload", bundle=str(settings.bundle.path), keys=service.keys is not None)
        if service.keys is not None:
            service.keys.look_now()
        task = asyncio.create_task(_reload(service))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGHUP, reload)
    log.info("listening", door="admin", address=_address(admin, service.admin_tls))
    side_task = asyncio.create_task(side.serve(sockets=[admin]))
    try:
        log.info("listening", door="public", address=_address(public, service.tls))
        await main.serve(sockets=[public])
    finally:
        service.reloader.close()
        side.should_exit = True
        await side_task


async def _reload(service: Service) -> None:
    try:
        await service.reloader.reload()
    except ReloadRefused:
        return  # logged and counted where it was refused


def _config(service: Service, settings: RtpSettings, *, drain: bool) -> Config:
    tls = service.tls if drain else service.admin_tls
    return Config(
        service.app if drain else service.admin,
        ssl_context_factory=None if tls is None else lambda *_: tls.context(),
        loop="uvloop",
        http=bounded(
            settings.http.max_head_bytes,
            settings.http.arrival_s,
            service.refused,
            service.shed if drain else lambda *_: None,
            service.predict if drain else None,
        ),
        ws="none",
        lifespan="on" if drain else "off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=settings.http.backlog,
        timeout_keep_alive=settings.http.keep_alive_s,
        timeout_graceful_shutdown=settings.drain.finish_s if drain else 1,  # type: ignore[arg-type]
    )


def file_is_left() -> bool:
    """Whether this process may open another file, or socket."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def inherited(descriptor: int) -> socket.socket:
    """The socket that a launcher passed on; several processes may accept on it.

    Raises:
        OSError: the descriptor is not an open stream socket.
    """
    handed = socket.socket(fileno=descriptor)
    if handed.type != socket.SOCK_STREAM:
        handed.detach()
        raise OSError(f"descriptor {descriptor} is not a stream socket")
    return handed


def _address(bound: socket.socket, tls: ListenerTls | None) -> str:
    name = bound.getsockname()
    scheme = "http" if tls is None else "https"
    return f"{scheme}://{joined(name[0], name[1])}" if isinstance(name, tuple) else f"unix:{name}"
