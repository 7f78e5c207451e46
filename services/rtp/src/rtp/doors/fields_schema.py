"""The fields that a model reads, as JSON Schema: what a caller may send under `user` and `context`."""

from __future__ import annotations

from math import exp
from typing import Any

from mimn.bundle.fields import FIRST, MAX_LIST, SEPARATOR, FieldSpec
from mimn.bundle.request_fields import FLOAT32_MAX, RequestFields, asked_for
from rtp.doors.schemas import AT_MOST

_NULL = {"type": "null"}
_CATEGORY = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}]}


def fields_schema(fields: RequestFields, source: str) -> dict[str, Any]:
    """What `user` or `context` may hold."""
    named = {spec.name: _schema(spec) for spec in fields.specs if spec.source == source and asked_for(spec)}
    return {"properties": dict(sorted(named.items())), "additionalProperties": False}


def example(fields: RequestFields, source: str) -> dict[str, Any]:
    """Values that a request could have."""
    specs = sorted((s for s in fields.specs if s.source == source and asked_for(s)), key=lambda spec: spec.name)
    return {spec.name: _example(spec) for spec in specs}


def _schema(spec: FieldSpec) -> dict[str, Any]:
    if spec.kind == "numeric":
        lowest, highest = (0.0, 1.0) if spec.past_rate else (-FLOAT32_MAX, FLOAT32_MAX)
        number = {"type": "number", "minimum": lowest, "maximum": highest}
        default = "0" if not spec.tabled and spec.mean == 0.0 and spec.transform == "none" else "the mean of training"
        if spec.tabled:
            default = "a value of its own"
        clipped = " Beyond what training showed: the nearest number that it did." if spec.bounds is not None else ""
        what = "A past rate, as a share" if spec.past_rate else "A number"
        return {"description": f"{what}. Missing: {default}.{clipped}", "anyOf": [number, _NULL]}
    if spec.whole:
        known = f"A whole number from 0 to {spec.rows - FIRST - 1}"
    elif spec.hashed:
        known = f"Any value, hashed to {spec.rows - FIRST} rows"
    else:
        such = f", such as {', '.join(f'`{value}`' for value in spec.examples)}" if spec.examples else ""
        known = f"One of {spec.rows - FIRST} values{such}"
    if spec.kind != "multi":
        return {"description": f"{known}.", "anyOf": [*_CATEGORY["anyOf"], _NULL]}
    several = {"type": "array", "items": _CATEGORY} | AT_MOST
    return {
        "description": f"{known}, a list of up to {MAX_LIST} of them, or one text with `{SEPARATOR}` between them.",
        "anyOf": [several, *_CATEGORY["anyOf"], _NULL],
    }


def _example(spec: FieldSpec) -> Any:
    if spec.past_rate:
        return float(f"{exp(min(spec.mean, 0.0)):.2g}")  # the mean of their logarithms in training
    if spec.kind == "numeric":
        return 1.5
    value: Any = 1 if spec.whole or not spec.examples else spec.examples[0]
    return [value] if spec.kind == "multi" else value
