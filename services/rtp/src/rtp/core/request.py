"""A request as a value, after it was decoded and checked, and the limits that it was checked against."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.bundle.fields import MAX_LIST, Value

MAX_CANDIDATES = 512
MAX_USER_ID_BYTES = 128
MAX_REQUEST_ID_CHARACTERS = 128
MAX_ID = 2**64 - 1
FieldValue = Value | list[Value]


class ScoreRequest(msgspec.Struct, frozen=True):
    """A caller's question: how likely is this user to click each of these candidates?

    Invariant: 1 to `MAX_CANDIDATES` candidates, a user id of 1 to `MAX_USER_ID_BYTES` bytes, field values that
    `field_fault` has nothing against.
    """

    user_id: str
    item_ids: NDArray[np.uint64]
    """[C]"""
    category_ids: NDArray[np.uint64]
    """[C]"""
    request_id: str | None = None
    user: Mapping[str, FieldValue] = {}
    """Fields of the user, by the manifest's names."""
    context: Mapping[str, FieldValue] = {}
    """Fields of this request."""
    require_state: bool = False
    """Fail rather than score without the stored state."""


def field_fault(value: object) -> str | None:
    """Why a decoded JSON value cannot be one of a field of any model; None if it can.

    A text may be as long as `MAX_FIELDS_BYTES` lets it. Empty texts in a list are no values, as in training.
    """
    if not isinstance(value, list):
        return _fault(value)
    if len(value) > MAX_LIST and len(value) - value.count("") > MAX_LIST:
        return f"must have at most {MAX_LIST} items"
    if None in value:
        return "a list has no null"
    return next((fault for fault in map(_fault, value) if fault), None)


def _fault(value: object) -> str | None:
    if isinstance(value, float):
        return None if isfinite(value) else "must be a finite number"
    return (
        None
        if value is None or isinstance(value, str | int)
        else "must be a string, a number, true, false, null or a list of these"
    )
