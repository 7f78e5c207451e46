"""The OpenAPI document of the public door: what `/predict` takes and every answer that it gives, errors included."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from mimn.bundle.request_fields import RequestFields
from rtp.core.request import MAX_REQUEST_ID_CHARACTERS
from rtp.doors import request_id
from rtp.doors.body_faults import NAMED_WITHIN_BYTES
from rtp.doors.fields_schema import example as example_of
from rtp.doors.fields_schema import fields_schema
from rtp.doors.predict import DEADLINE_HEADER, PREDICT_PATHS
from rtp.doors.problems import INTERNAL, PROBLEM_JSON, STATUS_TABLE, Row
from rtp.doors.schemas import PredictRequest, PredictResponse, Problem
from rtp.errors import MAX_FAULTS

_REQUEST_EXAMPLE = {
    "user_id": "17850",
    "candidates": [{"item_id": 85123, "category_id": 7}, {"item_id": "71053", "category_id": "7"}],
    "request_id": "a1b2",
}
_RESPONSE_EXAMPLE = {
    "request_id": "a1b2",
    "model": {"name": "online-retail", "version": "1"},
    "arm": "serving",
    "scores": [0.0812, 0.0341],
    "state": {"status": "warm", "events": 312, "age_ms": 840, "partial": False},
    "calibrated": True,
}
_HEADERS = {
    "Server-Timing": {
        "description": "`rtp;dur=` and the milliseconds from the request's first byte to this answer, by RTP's clock.",
        "schema": {"type": "string"},
    },
    request_id.HEADER: {
        "description": "The request's header of this name; else its body's `request_id`, if it can stand in a header; "
        "else made up. Log lines about the request carry it. A refusal given before the body is read has it only if "
        "the request has.",
        "schema": {"type": "string"},
    },
}
_MEANING = {
    400: "The body is not JSON in UTF-8; or the head is not one of HTTP/1.1 with exactly one Host (or of HTTP/1.0 with "
    "at most one), has a method that HTTP does not know, or a transfer coding besides `chunked`.",
    401: "No key, or one that is not known. Never where no authentication is required.",
    403: "The key lacks the scope `predict`.",
    408: "The body did not arrive within the deadline.",
    413: "The body is too large.",
    415: "The body is declared as something else than plain JSON.",
    431: "Request line and headers are too large.",
    422: f"JSON, but not a request; `errors` names up to {MAX_FAULTS} faults, each with its field, or the first if the "
    f"body is longer than {NAMED_WITHIN_BYTES} bytes.",
    500: "A fault of the service.",
    503: "Not answered now: overloaded, shutting down, or without the state that the request requires.",
    504: "The deadline passed.",
}


def describe(app: FastAPI, max_deadline_ms: int, fields: Callable[[], RequestFields]) -> None:
    """Make `app.openapi()` complete about `/predict`, `/livez` and `/readyz`.

    `fields` gives what the model served now reads: others are refused, so the document names them. It is written out
    when that changes, because to write it takes longer than to answer a prediction.
    """
    document: dict[str, Any] | None = None
    named: RequestFields | None = None
    written = b""

    def openapi() -> dict[str, Any]:
        nonlocal document, named, written
        if document is None or named is not fields():
            named = fields()
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _, schemas = models_json_schema(
                [(PredictRequest, "validation"), (PredictResponse, "serialization"), (Problem, "serialization")],
                ref_template="#/components/schemas/{model}",
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(schemas["$defs"])
            asked = schemas["$defs"]["PredictRequest"]["properties"]
            example: dict[str, Any] = dict(_REQUEST_EXAMPLE)
            for source in ("user", "context"):
                asked[source] |= fields_schema(named, source)
                if values := example_of(named, source):
                    example[source] = values
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path in PREDICT_PATHS:
                document["paths"][path] = {"post": _predict(path, max_deadline_ms, example)}
            for path in ("/livez", "/readyz"):
                document["paths"][path]["get"]["responses"]["500"] = _problem(500, [INTERNAL])
            not_ready = [row for row in STATUS_TABLE.values() if row.code == "not_ready"]
            document["paths"]["/readyz"]["get"]["responses"]["503"] = _problem(503, not_ready)
            written = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return document

    async def whole(_: Request) -> Response:
        openapi()
        return Response(written, media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]
    assert app.openapi_url is not None  # noqa: S101 (it has its default)
    app.router.routes.insert(0, Route(app.openapi_url, whole, include_in_schema=False))  # before the framework's own


def _predict(path: str, max_deadline_ms: int, example: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in (*STATUS_TABLE.values(), INTERNAL) if row.code != "not_ready"]
    errors = {str(status): _problem(status, [r for r in rows if r.status == status]) for status in sorted(_MEANING)}
    for status, answer in errors.items():
        answer.setdefault("headers", {}).update(_HEADERS)
        if status in ("401", "403"):  # given before the door, which has the clock
            del answer["headers"]["Server-Timing"]
    return {
        "tags": ["score"],
        "summary": "Score of each candidate",
        "description": (
            "Scores each candidate by the user's stored state, in the order of the request. A store that is away or "
            "late degrades the answer (see `state.status`) rather than failing it. `calibrated` says whether a score "
            "is a click probability. A request in which the body, a candidate, `user` or `context` has a name more "
            "than once is refused."
        ),
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": [
            {
                "name": DEADLINE_HEADER,
                "in": "header",
                "required": False,
                "description": f"Milliseconds that the answer may take; more than {max_deadline_ms} is not granted.",
                "schema": {"type": "integer", "minimum": 1},
            },
            {
                "name": request_id.HEADER,
                "in": "header",
                "required": False,
                "description": "Given back in the answer's header of this name, and in log lines about the request. "
                f"1 to {MAX_REQUEST_ID_CHARACTERS} visible ASCII characters; other values are passed over.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(PredictRequest), "example": example}},
        },
        # Either a key or, where no authentication is required, nothing.
        "security": [{"key": []}, {}],
        "responses": {
            "200": {
                "description": "Scores.",
                "headers": _HEADERS,
                "content": {"application/json": {"schema": _ref(PredictResponse), "example": _RESPONSE_EXAMPLE}},
            },
            **errors,
        },
    }


def _ref(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _problem(status: int, rows: list[Row]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": f"{_MEANING[status]} Codes: {', '.join(f'`{row.code}`' for row in rows)}.",
        "content": {PROBLEM_JSON: {"schema": _ref(Problem)}},
    }
    if status in (401, 403):
        answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status == 503:
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answer
