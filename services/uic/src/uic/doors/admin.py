"""The admin app: metrics, health, the partitions of this process, and an operator's decisions about broken ones.

For loopback or a private network, with keys or without. It refuses requests that a browser sends for a web page, so
that no web site can decide about a partition through an operator's browser. `uic.doors.admin_server` runs it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from access import Door, check_rules
from mimn.state import Progress
from uic import errors
from uic.core.status import Action, PartitionStatus, Phase, Status
from uic.doors.guard import ADMIN_RULES, Guard
from uic.errors import UicError
from uic.metrics import Metrics

PROBLEM_JSON: Final = "application/problem+json"
SHOWN_CHARACTERS: Final = 100
"""An answer repeats so much of a caller's own words."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered."""

    status: HTTPStatus
    code: str


TABLE: Final[Mapping[type[UicError], Row]] = {
    errors.StartRefused: Row(HTTPStatus.CONFLICT, "unsuitable_deployment"),
    errors.StoreUnavailable: Row(HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
    errors.LogUnavailable: Row(HTTPStatus.SERVICE_UNAVAILABLE, "log_unavailable"),
    errors.NotAcknowledged: Row(HTTPStatus.GATEWAY_TIMEOUT, "not_acknowledged"),
    errors.TopicRefused: Row(HTTPStatus.CONFLICT, "topic_refused"),
    errors.LogRefused: Row(HTTPStatus.CONFLICT, "log_refused"),
    errors.UnreadableLog: Row(HTTPStatus.INTERNAL_SERVER_ERROR, "unreadable_log"),
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
"""The one table from errors to answers. A class without a row of its own uses its nearest base's."""


class Operable(Protocol):
    """What the app needs of the worker. Both may be called from any thread."""

    @property
    def status(self) -> Status:
        """The worker's status as of a moment ago."""

    def resolve(self, partition: int, action: Action, from_offset: int | None = None) -> Progress:
        """Decide about a broken partition, and return the progress that was stored.

        Raises:
            NotOurs, NotBroken, InvalidField: as the names say.
            TimeoutError: not done in time; it may still happen.
        """


def row_of(error: UicError) -> Row:
    """The table's row for `error`."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def problem(status: HTTPStatus, code: str, detail: str) -> Response:
    """An answer that says what is wrong, to programs by `code` and to people by `detail`."""
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "code": code, "detail": detail}
    return _answer(json.dumps(body).encode() + b"\n", PROBLEM_JSON, status)


class _Partition(Convertor[int]):
    """A partition's number in a path."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


def admin_app(
    worker: Operable,
    metrics: Metrics,
    alive: Callable[[], bool],
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    guard: Guard | None = None,
) -> ASGIApp:
    """The app. `alive` turns False once a thread that folds has died, so that a supervisor restarts the process.
    Without a `guard` no authentication is required. Each scrape of `metrics` says what /readyz says."""
    register_url_convertor("partition", _Partition())
    metrics.ready.set_function(lambda: worker.status.serving)
    views = _Views(worker, metrics, alive, now_ms)
    routes = [
        Route("/metrics", views.metrics),
        Route("/livez", views.livez),
        Route("/readyz", views.readyz),
        Route("/partitions", views.partitions),
        Route("/partitions/{p:partition}/continue", views.continue_broken, methods=["POST"]),
        Route("/partitions/{p:partition}/rebuild", views.rebuild, methods=["POST"]),
    ]
    check_rules([route.path.replace("{p:partition}", "<p>") for route in routes], ADMIN_RULES, "uic.doors.guard")
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Gate, guard=guard)],
        exception_handlers={
            HTTPException: _not_offered,
            UicError: _refused,
            Exception: _failed,  # uvicorn logs it
        },
    )
    app.router.redirect_slashes = False
    return app


class _Gate:
    """Before any route: no browsers, and a key with the path's scope."""

    def __init__(self, app: ASGIApp, guard: Guard | None) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (self._app if answer is None else answer)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        headers, scope = request.headers, request.scope
        if headers.get("Origin", "") or headers.get("Sec-Fetch-Site", "none") != "none":
            return problem(HTTPStatus.FORBIDDEN, "browser", "web pages may not call this port; use curl or `ctr`")
        if self._guard is None:
            return None
        route = re.sub(r"^/partitions/[0-9]{1,9}/", "/partitions/<p>/", scope["path"])
        try:
            self._guard.check(headers.get("Authorization", "") or None, ADMIN_RULES.get(route, Door.ANY_KEY))
        except UicError as error:
            return _refused(request, error)
        return None


class _Views:
    """What each path answers."""

    def __init__(
        self, worker: Operable, metrics: Metrics, alive: Callable[[], bool], now_ms: Callable[[], int]
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._alive = alive
        self._now_ms = now_ms

    async def metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return _answer(encode(self._metrics.registry), content_type)

    async def livez(self, _: Request) -> Response:
        if not self._alive():
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "dead", "a thread that folds has ended: restart the process")
        return _json({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        status = self._worker.status
        if not status.serving:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "not_serving", "; ".join(status.reasons))
        return _json({"status": "ready", "degraded": list(status.reasons)})

    async def partitions(self, request: Request) -> Response:
        _parameters(request)
        status = self._worker.status
        stores_ms = self._now_ms() - status.ahead_ms  # the clock that RTP's answers agree with
        return _json(
            {
                "serving": status.serving,
                "reasons": list(status.reasons),
                "workers": list(status.workers),
                "partitions": [_view(partition, stores_ms) for partition in status.partitions],
            }
        )

    def continue_broken(self, request: Request) -> Response:
        return self._resolve("continue", request)

    def rebuild(self, request: Request) -> Response:
        return self._resolve("rebuild", request)

    def _resolve(self, action: Action, request: Request) -> Response:
        """Waits for the worker, so it runs on a thread of Starlette's pool."""
        partition: int = request.path_params["p"]
        offset = _parameters(request, "offset").get("offset")
        if offset is not None and not re.fullmatch(r"[0-9]{1,18}", offset):
            raise errors.InvalidField(
                f"offset: {_begin(offset)!r} is not an offset of the log: give a number of at least 0"
            )
        try:
            progress = self._worker.resolve(partition, action, None if offset is None else int(offset))
        except TimeoutError:
            return self._not_done(partition)
        return _json(
            {
                "partition": partition,
                "next_offset": progress.next_offset,
                "base": progress.base,
                "era": progress.era,
                "lineage": f"{progress.lineage:016x}",
            }
        )

    def _not_done(self, partition: int) -> Response:
        """Why a decision was not carried out in time. A reason of one that is still broken is what it is about."""
        held = self._worker.status.partitions
        waits = next((one.reason for one in held if one.partition == partition and one.phase is not Phase.BROKEN), "")
        so_far = f": {waits}; when /readyz no longer says so, " if waits else ": "
        detail = (
            f"not done in time, and it may still be done{so_far}look at /partitions, and repeat this only if the "
            "partition is broken"
        )
        return problem(HTTPStatus.GATEWAY_TIMEOUT, "timeout", detail)


def _parameters(request: Request, *known: str) -> dict[str, str]:
    """The query's parameters by name.

    Raises:
        InvalidField: one is unknown, or given more than once.
    """
    given = request.query_params
    for name in given:
        if name not in known:
            there = f"there is `{known[0]}`" if known else "there is none here: remove it"
            raise errors.InvalidField(f"query parameter {_begin(name)!r} is unknown; {there}")
        if (times := len(given.getlist(name))) > 1:
            raise errors.InvalidField(f"query parameter `{name}` is given {times} times: keep one")
    return dict(given)


def _begin(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _answer(body: bytes, content_type: str = "application/json", status: HTTPStatus = HTTPStatus.OK) -> Response:
    headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(body, status, headers)


def _json(content: Any) -> Response:
    return _answer(json.dumps(content).encode() + b"\n")


def _view(partition: PartitionStatus, stores_ms: int) -> dict[str, Any]:
    return {
        "partition": partition.partition,
        "phase": partition.phase.value,
        "reason": partition.reason,
        "next_offset": partition.next_offset,
        "end_offset": partition.end_offset,
        "lag": partition.lag,
        "as_of_age_s": None if not partition.as_of_ms else max(0, stores_ms - partition.as_of_ms) / 1000,
        "lineage": None if partition.lineage is None else f"{partition.lineage:016x}",
        "era": partition.era,
        "base": partition.base,
        "gaps": partition.gaps,
    }


def _not_offered(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is registered for
    path = _begin(request.scope["path"])
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        detail = f"{_begin(request.method)} {path} is not allowed: send {allowed}"
        answer = problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        answer.headers["Allow"] = allowed
        return answer
    paths = ", ".join(path for path in ADMIN_RULES if "<p>" not in path)
    detail = f"{path}: there are {paths} and POST /partitions/<p>/continue or /rebuild"
    return problem(HTTPStatus.NOT_FOUND, "not_found", detail)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, UicError)  # noqa: S101  # what it is registered for
    row = row_of(error)
    return problem(row.status, row.code, error.detail)


def _failed(_: Request, error: Exception) -> Response:
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "an error in UIC itself; see its log")
