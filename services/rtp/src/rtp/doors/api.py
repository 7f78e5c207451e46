"""The public door: HTTP to `Scorer` and back. One table turns errors into answers; nothing else here decides anything.

`/predict` is handed its ASGI call as it is, because a general framework's request object, dependency injection and
response validation would cost more than all the rest that is not the model.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rtp import errors
from rtp.doors.schemas import decode_request, encode_answer, encode_problem
from rtp.errors import FieldFault, InvalidRequest, NotReady, RtpError
from rtp.metrics import Metrics
from rtp.scorer import Scored, Scorer

log = logging.getLogger(__name__)

PREDICT_PATHS = ("/predict", "/v1/predict")
DEADLINE_HEADER = "X-Request-Deadline-Ms"
_DEADLINE = DEADLINE_HEADER.lower().encode()
ARRIVED = "rtp.arrived"
"""Where the ASGI scope says when a request's first byte was seen, in seconds of `time.monotonic`."""
WHOLE = "rtp.whole"
"""Where it says that all of a request is there, so that its body needs no timer."""
PROBLEM_JSON = "application/problem+json"
_JSON_HEADER = (b"content-type", b"application/json")
_PROBLEM_HEADER = (b"content-type", PROBLEM_JSON.encode())
_MORE_HEADERS = {
    401: (b"www-authenticate", b"Bearer"),
    403: (b"www-authenticate", b'Bearer error="insufficient_scope"'),
    503: (b"retry-after", b"1"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered."""

    status: int
    code: str


STATUS_TABLE: dict[type[RtpError], Row] = {
    errors.Unauthenticated: Row(401, "unauthenticated"),
    errors.Forbidden: Row(403, "forbidden"),
    errors.HeadTooLarge: Row(431, "head_too_large"),
    errors.MalformedBody: Row(400, "malformed_body"),
    errors.SlowBody: Row(408, "slow_body"),
    errors.BodyTooLarge: Row(413, "body_too_large"),
    errors.UnsupportedMediaType: Row(415, "unsupported_media_type"),
    errors.InvalidRequest: Row(422, "invalid_request"),
    errors.ScoringFailed: Row(500, "scoring_failed"),
    errors.Overloaded: Row(503, "overloaded"),
    errors.Draining: Row(503, "draining"),
    errors.NotReady: Row(503, "not_ready"),
    errors.StateUnavailable: Row(503, "state_unavailable"),
    errors.DeadlineMissed: Row(504, "deadline_missed"),
}
"""Every error that a caller can meet. A test holds it total over the leaves of `RtpError`."""
INTERNAL = Row(500, "internal")
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


Headers = Iterable[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed its connection before its request was complete; nobody reads an answer."""


class PredictDoor:
    """`POST /predict` as a bare ASGI application."""

    def __init__(
        self,
        scorer: Scorer,
        metrics: Metrics,
        *,
        default_deadline_ms: int,
        max_deadline_ms: int,
        max_body_bytes: int,
        log_every: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` must be the scorer's."""
        self._scorer = scorer
        self._metrics = metrics
        self._default_deadline_s = default_deadline_ms / 1000
        self._max_deadline_ms = max_deadline_ms
        self._max_body_bytes = max_body_bytes
        self._log_every = log_every
        self._clock = clock
        self._count = itertools.count(1)
        self._boot = secrets.token_hex(6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        arrived: float = scope.get(ARRIVED) or self._clock()
        number = next(self._count)
        status, headers = 200, [_JSON_HEADER]
        scored: Scored | None = None
        try:
            deadline, declared_bytes = self._headers(scope, arrived)
            body = await self._body(receive, declared_bytes, None if WHOLE in scope else deadline)
            request = decode_request(body)
            scored = await self._scorer.score(request, deadline)
            answer = encode_answer(
                request.request_id or f"{self._boot}-{number:x}",
                scored.model.name,
                scored.model.version,
                scored.scores,
                scored.report,
            )
            self._metrics.ok.inc()
        except RtpError as error:
            row = STATUS_TABLE[type(error)]
            status, headers, answer = row.status, headers_of(row), problem(row, error)
            self._metrics.answers.labels(str(status), row.code).inc()
        except ClientGone:
            return
        except Exception:
            log.exception("a request failed for a reason that nobody foresaw")
            status, headers, answer = INTERNAL.status, headers_of(INTERNAL), problem(INTERNAL, None)
            self._metrics.answers.labels(str(status), INTERNAL.code).inc()
        took_s = self._clock() - arrived
        await _send(send, status, [*headers, server_timing(took_s)], answer)
        self._metrics.request_seconds.observe(took_s)
        if self._log_every and number % self._log_every == 0:
            log.info(
                "predict status=%d ms=%.2f candidates=%s state=%s",
                status,
                took_s * 1000,
                len(scored.scores) if scored else "-",
                scored.report.status.value if scored else "-",
            )

    def shed(self, headers: Headers, arrived: float) -> RtpError | None:
        """Why a request with these headers is not worth reading now; None if it is, or if a header has a fault."""
        try:
            self._scorer.expect(self._deadline(headers, arrived))
        except errors.Overloaded as overloaded:
            return overloaded
        except RtpError:
            return None
        return None

    def _deadline(self, headers: Headers, arrived: float) -> float:
        for name, value in headers:
            if name == _DEADLINE:
                return arrived + self._deadline_ms(value) / 1000
        return arrived + self._default_deadline_s

    def _headers(self, scope: Scope, arrived: float) -> tuple[float, int | None]:
        """When the answer is due, and how many bytes the body has (None if the client does not say)."""
        deadline = arrived + self._default_deadline_s
        declared_bytes = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared_bytes = int(value)
            elif name == b"content-type":
                if value != b"application/json":
                    _check_media_type(value)
            elif name == _DEADLINE:
                deadline = arrived + self._deadline_ms(value) / 1000
            elif name == b"content-encoding" and value != b"identity":
                raise errors.UnsupportedMediaType("the body is compressed: send it plain, without Content-Encoding")
        return deadline, declared_bytes

    def _deadline_ms(self, value: bytes) -> int:
        if not value.isdigit() or not value.strip(b"0"):
            raise InvalidRequest(
                [FieldFault(f"header {DEADLINE_HEADER}", "must be a whole number of milliseconds, at least 1")]
            )
        return min(int(value[:10]), self._max_deadline_ms)

    async def _body(self, receive: Receive, declared_bytes: int | None, deadline: float | None) -> bytes:
        """The whole body, never more of it in memory than is allowed and one read of the socket. Without a deadline it
        must be there already."""
        limit = self._max_body_bytes
        if declared_bytes is not None and declared_bytes > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        received = 0

        async def read() -> None:
            nonlocal received
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                received += len(chunk)
                if received > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
                more = message.get("more_body", False)

        if deadline is None:
            await read()
        else:
            try:
                async with asyncio.timeout(deadline - self._clock()):
                    await read()
            except TimeoutError as error:
                raise errors.SlowBody(f"only {received} bytes of the body arrived within the deadline") from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> errors.BodyTooLarge:
    return errors.BodyTooLarge(f"the body is larger than {limit} bytes: send fewer candidates")


def _check_media_type(value: bytes) -> None:
    kind, _, parameters = value.decode("latin-1").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() != "application/json" or charset not in ("", "utf-8"):
        raise errors.UnsupportedMediaType("send Content-Type: application/json, in UTF-8")


def problem(row: Row, error: RtpError | None, detail: str = "") -> bytes:
    """The body of an error answer."""
    faults = error.faults if isinstance(error, InvalidRequest) else ()
    text = error.detail if error else detail or "an error that nobody foresaw; the service's log has it"
    return encode_problem(row.status, HTTPStatus(row.status).phrase, row.code, text, faults)


def server_timing(took_s: float) -> tuple[bytes, bytes]:
    """The header that says how long an answer took by this process's clock, from the request's first byte."""
    return b"server-timing", b"rtp;dur=%.2f" % (took_s * 1000)


def headers_of(row: Row) -> list[tuple[bytes, bytes]]:
    """The headers of an error answer, but for its length."""
    return [_PROBLEM_HEADER, _MORE_HEADERS[row.status]] if row.status in _MORE_HEADERS else [_PROBLEM_HEADER]


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """A whole answer."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_response(row: Row, error: RtpError | None = None, detail: str = "") -> Response:
    """An error answer of the routes that are not `/predict`."""
    response = Response(problem(row, error, detail), row.status, media_type=PROBLEM_JSON)
    if more := _MORE_HEADERS.get(row.status):
        response.raw_headers.append(more)
    return response


def add_problems(app: FastAPI) -> None:
    """Make every error of `app`, the framework's own included, a problem."""

    async def rtp_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RtpError)  # noqa: S101 (the type it is registered for)
        return problem_response(STATUS_TABLE[type(error)], error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 (the type it is registered for)
        code = HTTP_CODES.get(error.status_code, "http_error")
        response = problem_response(Row(error.status_code, code), detail=f"{request.method} {request.url.path}")
        response.headers.update(error.headers or {})
        return response

    async def unforeseen(_: Request, error: Exception) -> Response:
        return problem_response(INTERNAL)

    app.add_exception_handler(RtpError, rtp_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unforeseen)


def add_health(app: FastAPI, unready: Callable[[], str | None]) -> None:
    """`/livez` and `/readyz`. `unready` says why the process should get no requests, None if it should."""

    @app.get("/livez", summary="Whether the process is alive; asks nothing else", tags=["health"])
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether the process should get requests", tags=["health"])
    async def readyz() -> dict[str, str]:
        if reason := unready():
            raise NotReady(reason)
        return {"status": "ready"}


class GuardedApp(FastAPI):
    """FastAPI that answers only whom its guard lets in; everybody, while it has none."""

    guard: Callable[[Scope], RtpError | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self.guard is not None and scope["type"] == "http" and (error := self.guard(scope)):
            row = STATUS_TABLE[type(error)]
            await _send(send, row.status, headers_of(row), problem(row, error))
        else:
            await self.admitted(scope, receive, send)

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for those who are let in."""
        await super().__call__(scope, receive, send)


class PredictApp(GuardedApp):
    """An app with `/predict` and `/v1/predict` in front of its middleware and router, which need 50 µs a request.

    Whatever those are to do for a prediction must therefore be done by the door. `openapi` documents the paths.
    """

    def __init__(self, door: PredictDoor, **options: Any) -> None:
        super().__init__(**options)
        self._door = door
        # For the other methods' 405, and as the door of an application that this one is mounted in.
        self.router.routes[:0] = [
            Route(path, door, methods=["POST"], include_in_schema=False) for path in PREDICT_PATHS
        ]

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `GuardedApp`."""
        if scope["type"] == "http" and scope["path"] in PREDICT_PATHS and scope["method"] == "POST":
            await self._door(scope, receive, send)
        else:
            await super().admitted(scope, receive, send)
