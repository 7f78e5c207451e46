"""Scores and errors to JSON, as `rtp.doors.schemas` describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rtp.core.fold_progress import StateReport
from rtp.errors import FieldFault


class _WireState(msgspec.Struct, gc=False):
    status: str
    events: int | None
    age_ms: int | None
    partial: bool


class _WireModel(msgspec.Struct, gc=False):
    name: str
    version: str


class _WireAnswer(msgspec.Struct, gc=False):
    request_id: str
    model: _WireModel
    arm: str
    scores: list[float]
    state: _WireState
    calibrated: bool


_encode = msgspec.json.Encoder().encode


def encode_answer(
    request_id: str,
    name: str,
    version: str,
    scores: NDArray[np.float32],
    report: StateReport,
    *,
    arm: str,
    calibrated: bool,
) -> bytes:
    """The body of an answer: `PredictResponse` as JSON."""
    state = _WireState(report.status.value, report.events, report.age_ms, report.partial)
    return _encode(_WireAnswer(request_id, _WireModel(name, version), arm, scores.tolist(), state, calibrated))


def encode_problem(status: int, title: str, code: str, detail: str, faults: Sequence[FieldFault] = ()) -> bytes:
    """The body of an error: `Problem` as JSON."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}
    if faults:
        body["errors"] = [{"field": fault.field, "message": fault.message} for fault in faults]
    return _encode(body)
