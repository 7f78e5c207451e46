"""The fields of a request, by name, as the vector that a bundle's head reads.

    {"user": {"age": "25-34"}, "context": {"hour": 20, "tags": ["a", "b"]}}  →  [K] float32

A value that training did not see has the unknown row, one that is left out (or null) the missing row, the field's
default; a number beyond the field's bounds is read as the nearer one. All three are told to the caller, who counts
them. A past rate is from 0 to 1. Another number is refused, because it comes from another formula and would be read as
the lowest or the highest rate of training. Training-only fields always have their default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.fields import (
    FIRST,
    MAX_LIST,
    MISSING,
    UNKNOWN,
    FieldEncoder,
    FieldSpec,
    Value,
    crossed_row,
    values_of,
)

FLOAT32_MAX = float(np.finfo(np.float32).max)


class FieldFaults(ValueError):
    """Fields of a request that a bundle cannot take: where, and what to send instead."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {message}" for name, message in faults))
        self.faults = faults


@dataclass(slots=True)
class RequestVector:
    """One request's fields, encoded."""

    values: NDArray[np.float32]
    """[K]"""
    unknown: list[str]
    """Fields with a value that training did not see."""
    missing: list[str]
    """Fields without a value."""
    beyond: list[str] = field(default_factory=list)
    """Fields with a number that was clipped, because it lies beyond what training showed."""
    ignored: list[str] = field(default_factory=list)
    """Fields with a value that was left out, because another release reads it and this one does not."""


class RequestFields:
    """The fields of user and context of a bundle. Immutable."""

    def __init__(
        self, specs: Iterable[FieldSpec], codes: Mapping[str, NDArray[np.uint64]], vectors: NDArray[np.float32]
    ) -> None:
        """
        Args:
            specs: of the manifest; those of the item are left out.
            codes: by listed field, [rows - 2] rising.
            vectors: [R, E], the tables of the fields that have one, behind one another in the fields' order.
        """
        self.specs = tuple(spec for spec in specs if spec.source != "item")
        self.codes = codes
        self.names = names_asked(self.specs)
        self._writers: list[tuple[FieldSpec, _Writer]] = []
        self.places: dict[str, slice] = {}
        """Where each field stands in the vector."""
        at = first = 0
        for spec in self.specs:
            end = at + spec.width(vectors.shape[1])
            self.places[spec.name] = slice(at, end)
            place = _Place(self.places[spec.name], vectors[first : first + spec.rows])
            encoder = FieldEncoder(spec, codes.get(spec.name))
            self._writers.append((spec, _writer(spec, encoder, place)))
            at, first = end, first + spec.rows
        self.width = at
        """K"""
        self._nothing = RequestVector(np.empty(0, np.float32), [], [])

    def vector(self, user: Mapping[str, Any], context: Mapping[str, Any]) -> RequestVector:
        """The request's vector. Values are strings, numbers, booleans, None, and lists of them for multi-valued fields.

        Raises:
            FieldFaults: names that the bundle does not know, values of the wrong type, and past rates below 0 or above
                1.
        """
        return self._vector(user, context, rates_checked=True)

    def golden_vector(self, user: Mapping[str, Any], context: Mapping[str, Any]) -> RequestVector:
        """`vector` of a golden case, whose past rates may be above 1: older programs drew such ones.

        Raises:
            FieldFaults: names that the bundle does not know, and values of the wrong type.
        """
        return self._vector(user, context, rates_checked=False)

    def _vector(self, user: Mapping[str, Any], context: Mapping[str, Any], *, rates_checked: bool) -> RequestVector:
        if not (self._writers or user or context):
            return self._nothing
        given = {"user": user, "context": context}
        faults = [
            (f"{source}.{name}", self._not_known(source, name))
            for source, names in self.names.items()
            for name in given[source]
            if name not in names
        ]
        made = _Made(np.empty(self.width, np.float32))
        for spec, write in self._writers:
            value = given[spec.source].get(spec.name) if asked_for(spec) else None
            try:
                if rates_checked and spec.past_rate:
                    _check_rate(value)
                write(made, value)
            except ValueError as error:
                faults.append((f"{spec.source}.{spec.name}", str(error)))
        if faults:
            raise FieldFaults(faults)
        return RequestVector(made.out, made.unknown, made.missing, made.beyond)

    def _not_known(self, source: str, name: str) -> str:
        other = "context" if source == "user" else "user"
        if name in self.names[other]:
            return f"this model reads it in `{other}`"
        known = ", ".join(self.names[source]) or "none"
        return f"not a field of this model; it reads {known}"


def names_asked(specs: Iterable[FieldSpec]) -> dict[str, tuple[str, ...]]:
    """What a request may give, by source: the names in order."""
    asked = [spec for spec in specs if asked_for(spec)]
    return {source: tuple(sorted(s.name for s in asked if s.source == source)) for source in ("user", "context")}


def asked_for(spec: FieldSpec) -> bool:
    """Whether a request may give the field's value: not of a cross, which follows from others, nor in training only."""
    return spec.kind != "cross" and not spec.training_only


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a field stands in the vector, and its table [rows, E]."""

    at: slice
    table: NDArray[np.float32]


@dataclass(slots=True)
class _Made:
    """A vector in the making."""

    out: NDArray[np.float32]
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def keep(self, spec: FieldSpec, place: _Place, row: int) -> None:
        """Write the row's vector, and remember what crosses and counts need."""
        self.rows[spec.name] = row
        self.out[place.at] = place.table[row]
        if row < FIRST and asked_for(spec):
            (self.unknown if row == UNKNOWN else self.missing).append(spec.name)


_Writer = Callable[[_Made, Any], None]


def _writer(spec: FieldSpec, encoder: FieldEncoder, place: _Place) -> _Writer:
    """The function that writes a value of the field."""

    def scalar(made: _Made, value: Any) -> None:
        number, within = encoder.number_within(_number(value))
        if abs(number) > FLOAT32_MAX:
            raise ValueError(f"must lie within ±{FLOAT32_MAX:.4g} (float32)")
        made.out[place.at] = number
        if value is None:
            made.missing.append(spec.name)
        if not within:
            made.beyond.append(spec.name)

    def interval(made: _Made, value: Any) -> None:
        made.keep(spec, place, encoder.interval(_number(value)))

    def cross(made: _Made, _: Any) -> None:
        if all(part in made.rows for part in spec.of):  # else one of them has a fault, which is told
            made.keep(spec, place, crossed_row([made.rows[part] for part in spec.of], spec.rows - FIRST))

    def several(made: _Made, value: Any) -> None:
        if isinstance(value, list) and None in value:
            raise ValueError("a list has no null")
        values = values_of(value)
        if len(values) > MAX_LIST:
            raise ValueError(f"at most {MAX_LIST} values, not {len(values)}")
        rows = [encoder.row(_one(one)) for one in values] or [MISSING]
        made.out[place.at] = place.table[rows[0]] if len(rows) == 1 else place.table[rows].mean(axis=0)
        if UNKNOWN in rows:
            made.unknown.append(spec.name)
        if not values:
            made.missing.append(spec.name)

    def single(made: _Made, value: Any) -> None:
        made.keep(spec, place, encoder.row(_one(value)))

    if spec.kind == "numeric":
        return interval if spec.tabled else scalar
    return {"cross": cross, "multi": several}.get(spec.kind, single)


def _check_rate(value: Any) -> None:
    """Raises ValueError for a number that no past rate is: `mimn.data.past_rates` makes numbers from 0 to 1."""
    if not 0.0 <= _number(0.0 if value is None else value) <= 1.0:
        raise ValueError("must lie between 0 and 1: a past rate is a share of impressions, and not per cent")


def _number(value: Any) -> float:
    """NaN for none."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise ValueError(f"must lie within ±{FLOAT32_MAX:.4g} (float32)")
    return number


def _one(value: Any) -> Value:
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
        return value
    raise ValueError("must be a string or a whole number")
