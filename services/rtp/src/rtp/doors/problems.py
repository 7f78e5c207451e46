"""Errors to answers: one table from `rtp.errors` to HTTP, and every error body a problem (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from rtp import errors
from rtp.doors.answer_body import encode_problem
from rtp.doors.request_id import HEADER, given_id
from rtp.errors import FieldFault, InvalidRequest, RtpError

log = structlog.stdlib.get_logger(__name__)

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers without the length, body."""

PROBLEM_JSON = "application/problem+json"
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
    errors.MalformedHead: Row(400, "malformed_head"),
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
"""Every error that a caller can meet. A test checks that it has every leaf of `RtpError`."""
INTERNAL = Row(500, "internal")
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def problem(row: Row, error: RtpError | None, detail: str = "") -> bytes:
    """The body of an error answer."""
    faults = error.faults if isinstance(error, InvalidRequest) else ()
    text = error.detail if error else detail or "an unexpected error; the service's log has it under this request's id"
    return encode_problem(row.status, HTTPStatus(row.status).phrase, row.code, text, faults)


def headers_of(row: Row) -> list[tuple[bytes, bytes]]:
    """The headers of an error answer, without its length."""
    return [_PROBLEM_HEADER, _MORE_HEADERS[row.status]] if row.status in _MORE_HEADERS else [_PROBLEM_HEADER]


AT_ONCE = "rtp.at_once"
"""Where the ASGI scope has a function that writes a whole answer (status, headers without its length, body), or returns
False when it cannot now. With another server there is none."""


async def send_answer(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer."""
    if (at_once := scope.get(AT_ONCE)) is not None and at_once(status, headers, body):
        return
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_response(row: Row, error: RtpError | None = None, detail: str = "") -> Response:
    """An error answer of the routes other than `/predict`."""
    response = Response(problem(row, error, detail), row.status, media_type=PROBLEM_JSON)
    if more := _MORE_HEADERS.get(row.status):
        response.raw_headers.append(more)
    return response


def add_problems(app: FastAPI, elsewhere: str, hints: dict[str, str] | None = None) -> None:
    """Make every error of `app`, the framework's own included, a problem. `elsewhere`: what may be looked for on a path
    that there is not. `hints`: what to do instead on a path whose method is not allowed."""

    async def rtp_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RtpError)  # noqa: S101 (the type it is registered for)
        return problem_response(STATUS_TABLE[type(error)], error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 (the type it is registered for)
        code = HTTP_CODES.get(error.status_code, "http_error")
        detail = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            detail += f" is not allowed: {(hints or {}).get(request.url.path, 'see the header Allow')}"
        elif error.status_code == 404:
            detail += f": there is no such path; /openapi.json lists them, and {elsewhere}"
        response = problem_response(Row(error.status_code, code), detail=detail)
        response.headers.update(error.headers or {})
        return response

    async def bad_parameter(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 (the type it is registered for)
        faults = [FieldFault(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        return problem_response(STATUS_TABLE[InvalidRequest], InvalidRequest(faults))

    async def unexpected(request: Request, error: Exception) -> Response:
        given = given_id(request.scope["headers"])
        # The traceback follows from uvicorn.
        log.error("request failed", path=request.url.path, error=type(error).__name__, request_id=given)
        response = problem_response(INTERNAL)
        if given:
            response.headers[HEADER] = given
        return response

    app.add_exception_handler(RtpError, rtp_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, bad_parameter)
    app.add_exception_handler(Exception, unexpected)
