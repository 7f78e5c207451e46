"""The admin door: metrics, health, and the operator's view of the partitions and word on a broken one.

For loopback or a private network, with keys or without. It refuses what a browser sends on behalf of a page, so that no
web site can decide about a partition through an operator's browser.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any, BinaryIO, Final, Literal, Protocol, get_args
from urllib.parse import parse_qs, urlsplit

from prometheus_client.exposition import choose_encoder

from access import Door, ListenerTls, check_rules
from mimn.state import Progress
from uic import errors
from uic.core.status import PartitionStatus, Status
from uic.doors.guard import ADMIN_RULES, Guard
from uic.errors import UicError
from uic.metrics import Metrics
from uic.settings import AdminSettings

log = logging.getLogger(__name__)

PROBLEM_JSON: Final = "application/problem+json"
RESOLVE: Final = re.compile(r"/partitions/([0-9]{1,9})/(continue|rebuild)")
ARRIVAL_S: Final = 10.0
"""A connection's handshake and request are here by then, or it is cut; and the answer is taken within this."""
MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16 << 10
"""Request line and headers. No request of this door has a body, and none is read."""
TICK_S: Final = 0.1

Action = Literal["continue", "rebuild"]


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered."""

    status: HTTPStatus
    code: str


TABLE: Final[Mapping[type[UicError], Row]] = {
    errors.StartRefused: Row(HTTPStatus.CONFLICT, "unsuitable_deployment"),
    errors.StoreUnavailable: Row(HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
    errors.LogUnavailable: Row(HTTPStatus.SERVICE_UNAVAILABLE, "log_unavailable"),
    errors.DeadLetterUnavailable: Row(HTTPStatus.SERVICE_UNAVAILABLE, "dead_letter_unavailable"),
    errors.Overloaded: Row(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    errors.UnreadableState: Row(HTTPStatus.INTERNAL_SERVER_ERROR, "unreadable_state"),
    errors.RequestRefused: Row(HTTPStatus.CONFLICT, "refused"),
    errors.Unauthenticated: Row(HTTPStatus.UNAUTHORIZED, "unauthenticated"),
    errors.Forbidden: Row(HTTPStatus.FORBIDDEN, "forbidden"),
    errors.InvalidField: Row(HTTPStatus.BAD_REQUEST, "invalid_field"),
    errors.NoState: Row(HTTPStatus.NOT_FOUND, "no_state"),
    errors.NotOurs: Row(HTTPStatus.MISDIRECTED_REQUEST, "not_ours"),
    errors.NotBroken: Row(HTTPStatus.CONFLICT, "not_broken"),
}
"""The one table from what happened to an answer. A class without a row of its own has its nearest base's."""


class Operable(Protocol):
    """What the door needs of the updater. Both may be called from any thread."""

    @property
    def status(self) -> Status:
        """As of a moment ago."""

    def resolve(self, partition: int, action: Action, from_offset: int | None = None) -> Progress:
        """Decide about a broken partition, and return the progress that was stored.

        Raises:
            NotOurs, NotBroken, InvalidField: as the names say.
            TimeoutError: not done in time; it may still be.
        """


class Headers(Protocol):
    """A request's headers, whose names have no case."""

    def get(self, name: str, default: str, /) -> str:
        """The value of a header, or `default`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


def row_of(error: UicError) -> Row:
    """The table's row for `error`."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


class AdminRoom:
    """The answers, without a socket. Safe to call from several threads."""

    def __init__(
        self,
        updater: Operable,
        metrics: Metrics,
        alive: Callable[[], bool],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        guard: Guard | None = None,
    ) -> None:
        """`alive` is False once the threads that fold have died, so that a supervisor restarts the process. Without a
        `guard` everybody may ask everything."""
        self._views: Mapping[str, Callable[[Headers], Answer]] = {
            "/metrics": self._scrape,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/partitions": self._partitions,
        }
        check_rules(
            [*self._views, *(f"/partitions/<p>/{action}" for action in get_args(Action))],
            ADMIN_RULES,
            "uic.doors.guard",
        )
        self._guard = guard
        self._updater = updater
        self._metrics = metrics
        self._alive = alive
        self._now_ms = now_ms

    def answer(self, method: str, target: str, headers: Headers) -> Answer:
        """The response to one request; never raises."""
        if headers.get("Origin", "") or headers.get("Sec-Fetch-Site", "none") != "none":
            return problem(HTTPStatus.FORBIDDEN, "browser", "this door answers no web page; use curl or `uic`")
        try:
            return self._route(method, target, headers)
        except UicError as error:
            row = row_of(error)
            return problem(row.status, row.code, error.detail)
        except TimeoutError:
            detail = "not done in time, and it may still be done: look at /partitions before repeating"
            return problem(HTTPStatus.GATEWAY_TIMEOUT, "timeout", detail)
        except Exception:
            log.exception("an admin call failed in a way that no error class names")
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "an error in UIC itself; its log has it")

    def _route(self, method: str, target: str, headers: Headers) -> Answer:
        url = urlsplit(target)
        match = RESOLVE.fullmatch(url.path)
        if self._guard is not None:
            route = f"/partitions/<p>/{match[2]}" if match else url.path
            self._guard.check(headers.get("Authorization", "") or None, ADMIN_RULES.get(route, Door.ANY_KEY))
        if match:
            if method != "POST":
                return problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"POST {url.path}")
            action: Action = "continue" if match[2] == "continue" else "rebuild"
            return self._resolve(int(match[1]), action, parse_qs(url.query, keep_blank_values=True))
        if url.path not in self._views:
            return problem(
                HTTPStatus.NOT_FOUND,
                "not_found",
                f"{url.path}: there are {', '.join(self._views)} and POST /partitions/<p>/continue or /rebuild",
            )
        if method not in ("GET", "HEAD"):
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"GET {url.path}")
        return self._views[url.path](headers)

    def _scrape(self, headers: Headers) -> Answer:
        encode, content_type = choose_encoder(headers.get("Accept", ""))
        return Answer(HTTPStatus.OK, encode(self._metrics.registry), content_type)

    def _livez(self, _: Headers) -> Answer:
        if not self._alive():
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "dead", "a thread that folds has ended: restart the process")
        return _json({"status": "alive"})

    def _readyz(self, _: Headers) -> Answer:
        status = self._updater.status
        if not status.serving:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "not_serving", "; ".join(status.reasons))
        return _json({"status": "ready", "degraded": list(status.reasons)})

    def _partitions(self, _: Headers) -> Answer:
        status = self._updater.status
        now_ms = self._now_ms()
        return _json(
            {
                "serving": status.serving,
                "reasons": list(status.reasons),
                "partitions": [_view(partition, now_ms) for partition in status.partitions],
            }
        )

    def _resolve(self, partition: int, action: Action, query: Mapping[str, list[str]]) -> Answer:
        if unknown := sorted(set(query) - {"offset"}):
            raise errors.InvalidField(f"query parameter {unknown[0]!r} is unknown; there is `offset`")
        offset = None
        if "offset" in query:
            text = query["offset"][-1]
            if not re.fullmatch(r"[0-9]{1,18}", text):
                raise errors.InvalidField(f"offset: {text!r} is not an offset of the log: give a number of at least 0")
            offset = int(text)
        progress = self._updater.resolve(partition, action, offset)
        return _json(
            {
                "partition": partition,
                "next_offset": progress.next_offset,
                "base": progress.base,
                "era": progress.era,
                "lineage": f"{progress.lineage:016x}",
            }
        )


def problem(status: HTTPStatus, code: str, detail: str) -> Answer:
    """An answer that says what is wrong, to programs by `code` and to people by `detail`."""
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "code": code, "detail": detail}
    return Answer(status, json.dumps(body).encode() + b"\n", PROBLEM_JSON)


def _json(content: Any) -> Answer:
    return Answer(HTTPStatus.OK, json.dumps(content).encode() + b"\n")


def _view(partition: PartitionStatus, now_ms: int) -> dict[str, Any]:
    return {
        "partition": partition.partition,
        "phase": partition.phase.value,
        "reason": partition.reason,
        "next_offset": partition.next_offset,
        "end_offset": partition.end_offset,
        "lag": partition.lag,
        "as_of_age_s": None if not partition.as_of_ms else max(0, now_ms - partition.as_of_ms) / 1000,
        "lineage": None if partition.lineage is None else f"{partition.lineage:016x}",
        "era": partition.era,
        "base": partition.base,
        "gaps": partition.gaps,
    }


class AdminDoor:
    """The listening server, on a thread of its own and one for each connection, of which there are few."""

    def __init__(self, room: AdminRoom, settings: AdminSettings, tls: ListenerTls | None = None) -> None:
        """Listens, but answers only after `start`.

        Raises:
            StartRefused: the address is taken or not this machine's.
        """
        try:
            self._server = _Server((settings.host, settings.port), _handler(room), tls.context() if tls else None)
        except OSError as error:
            raise errors.StartRefused(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): free the port, or set "
                "UIC_ADMIN__HOST and UIC_ADMIN__PORT"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(TICK_S,), name="admin", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Close."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """At most `MAX_CONNECTIONS` at once, each of which has `ARRIVAL_S` to bring its one request, handshake included."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: SSLContext | None) -> None:
        self._tls = tls
        self._lines: dict[Any, tuple[socket.socket, float]] = {}
        """By client address: the connection once more, which wrapping it in TLS leaves alone, and when it is cut."""
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take the connection, or close it if there are too many."""
        if len(self._lines) >= MAX_CONNECTIONS:
            self.shutdown_request(request)
            return
        request.settimeout(ARRIVAL_S)
        self._lines[client_address] = request.dup(), time.monotonic() + ARRIVAL_S
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, from its handshake to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            line, _ = self._lines.pop(client_address)
            line.close()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake is done here, on the connection's own thread, so that a slow one holds up nobody."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def arrived(self, client_address: Any) -> None:
        """The request is here; its answer may take longer."""
        line, _ = self._lines[client_address]
        self._lines[client_address] = line, math.inf

    def service_actions(self) -> None:
        """Cut connections whose request is late; called by `serve_forever` every tick."""
        now = time.monotonic()
        for line, cut_at in list(self._lines.values()):
            if now > cut_at:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle, or failed the handshake, is no news."""
        log.debug("an admin connection ended early", exc_info=True)


class _Head:
    """What `BaseHTTPRequestHandler` reads a request's head from, and no more than `MAX_HEAD_BYTES` of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_HEAD_BYTES

    def readline(self, size: int) -> bytes:
        line = self._stream.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("head")
        return line

    def close(self) -> None:
        self._stream.close()


def _handler(room: AdminRoom) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server: _Server
        timeout = ARRIVAL_S
        server_version = "uic"
        sys_version = ""

        def setup(self) -> None:
            super().setup()
            self.rfile: Any = _Head(self.rfile)

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except LineTooLong:  # of the request line; for headers the base class answers this itself
                self.requestline = self.request_version = self.command = ""
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

        def _reply(self) -> None:
            self.server.arrived(self.client_address)
            answer = room.answer(self.command, self.path, self.headers)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Cache-Control", "no-store")
            if answer.status is HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _reply  # noqa: N815  # names that the base class looks up

        def log_message(self, format: str, *args: Any) -> None:
            """No access log: scrapes and probes would be all of it."""

    return Handler
