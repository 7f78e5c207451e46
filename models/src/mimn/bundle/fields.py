"""Fields: what a model reads of the user, the item and the request beside ids and history.

One definition for training, export and serving. A value becomes text (`text_of`), the text a 64-bit code, and the code
a row of the field's table; a number is transformed and standardized. Row 0 is a value that training did not know, row 1
a value that is missing.

    request vector [K] = the fields of user and context in the order of the manifest, E floats each, a scalar number 1
    item vector    [W] = the same of the item's fields, joined at export: one gather a candidate
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import copysign, inf, isclose, isfinite, isnan
from typing import Annotated, Literal

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Rows of a field's table: unknown, missing (the default), and the first value."""
MAX_FIELDS = 256
MAX_ROWS = 1 << 31
MAX_NAME = 100
MAX_EXAMPLES = 8
MAX_LIST = 64
"""Most values of a multi-valued field in a request."""
MAX_FIELDS_BYTES = 8192
"""Of a request's `user`, and of its `context`, as JSON: the one bound of a text in them."""
MAX_EXAMPLE = 256
"""Characters of an example."""
SAME_FLOAT32 = 2.0**-23
"""Numbers that differ by no more, relative to the larger one, may be one number that float32 has rounded."""
SEPARATOR = "|"
"""Between the values of a multi-valued field that are written as one text."""
Source = Literal["user", "item", "context"]
Kind = Literal["categorical", "multi", "numeric", "cross"]
Transform = Literal["none", "log1p", "log"]
Value = str | int | float | bool | None


class FieldSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One field as the manifest describes it."""

    name: str
    source: Source
    kind: Kind
    rows: int = 0
    """Rows of its table, unknown and missing included; 0: a scalar number without a table."""
    hashed: bool = False
    """Codes become rows by a remainder, and none is unknown."""
    whole: bool = False
    """Values are the whole numbers 0 to rows - 3, and row v + 2 is that of v."""
    transform: Transform = "none"
    mean: float = 0.0
    deviation: float = 1.0
    bounds: tuple[float, float] | None = None
    """numeric without intervals: the transformed value is clipped to these; None, as in older bundles: it is not."""
    edges: tuple[float, ...] = ()
    """numeric with intervals: row 2 + the number of edges at or below the transformed value."""
    of: tuple[str, ...] = ()
    """cross: the fields that it crosses, of one source or of user and context."""
    training_only: bool = False
    """Its value is the missing one whenever the model is served: the position on the page."""
    past_rate: bool = False
    """A rate of past labels, which changes with time: the user's and the context's come with the request, the item's is
    what it was at export."""
    examples: tuple[str, ...] = ()
    """Some of a listed field's values, the most frequent of training first: for documents, and for golden cases."""

    @property
    def tabled(self) -> bool:
        """Whether it has a table of vectors."""
        return self.rows > 0

    @property
    def listed(self) -> bool:
        """Whether its codes are a list that the bundle holds."""
        return self.tabled and not (self.hashed or self.whole or self.edges)

    def width(self, embedding_dim: int) -> int:
        """Floats that it takes in the request's or the item's vector."""
        return embedding_dim if self.tabled else 1


def text_of(value: Value) -> str | None:
    """A value as text: whole numbers in decimal, true and false as 1 and 0; None is missing.

    Raises:
        ValueError: a fraction, which has no one text.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("a categorical value is a string or a whole number")
        value = int(value)
    return str(int(value))


def values_of(value: Value | Sequence[Value]) -> list[Value]:
    """The values of a multi-valued field: those of a list, of which none is split, or of one text with separators.

    Nulls and empty texts are no values.
    """
    if isinstance(value, str):
        value = value.split(SEPARATOR)
    every = value if isinstance(value, Sequence) else [value]
    return [one for one in every if one is not None and one != ""]


def whole_of(text: str) -> int | None:
    """The whole number from 0 that a text is, or None. `21.0` is 21: so tables with gaps are written as CSV."""
    found = _WHOLE.fullmatch(text)
    digits = found[1].lstrip("0") if found else ""
    return None if found is None or len(digits) > _MOST_DIGITS else int(digits or "0")


_MOST_DIGITS = 20
_WHOLE = re.compile(r"([0-9]++)(?:\.0++)?")
"""It looks at a character once, so that a long text of zeros costs no more than another one."""


MAX_ID_BYTES = 128
"""Longest text of an id in UTF-8: in training data, and in events."""


def code_of(text: str) -> int:
    """The 64-bit code of a text, and the id of a string, 1 to 2^64 - 1: XXH64 of its UTF-8, 1 in place of 0."""
    return xxhash.xxh64_intdigest(text.encode()) or 1


def crossed_rows(rows: Sequence[NDArray[np.int64]], buckets: int) -> NDArray[np.int64]:
    """The rows of a cross from the rows of its parts: their hash modulo `buckets`, behind the two special rows.

    [n] each → [n]. Multiply and shift by the finalizer of MurmurHash3, so that training and serving agree everywhere.
    """
    mixed = np.zeros(len(rows[0]), np.uint64)
    for part in rows:
        mixed = _mix(mixed * np.uint64(0x9E3779B97F4A7C15) + part.astype(np.uint64) + np.uint64(1))
    return (mixed % np.uint64(buckets)).astype(np.int64) + FIRST


def crossed_row(rows: Iterable[int], buckets: int) -> int:
    """`crossed_rows` for one row of each part, in whole numbers: a request pays no array for it."""
    mixed = 0
    for part in rows:
        x = (mixed * 0x9E3779B97F4A7C15 + part + 1) & _BITS
        x = ((x ^ (x >> 33)) * 0xFF51AFD7ED558CCD) & _BITS
        x = ((x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53) & _BITS
        mixed = x ^ (x >> 33)
    return mixed % buckets + FIRST


_BITS = (1 << 64) - 1


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


class FieldEncoder:
    """Codes and numbers of one field to rows of its table, or to standardized numbers.

    Training encodes columns, serving single values; both are one rule.
    """

    def __init__(self, spec: FieldSpec, codes: NDArray[np.uint64] | None = None) -> None:
        """`codes`: [rows - 2] uint64, rising: the values of a listed field."""
        self.spec = spec
        self._codes = np.empty(0, np.uint64) if codes is None else codes
        self._row_of = {code: FIRST + at for at, code in enumerate(self._codes.tolist())} if spec.listed else {}

    def rows(self, codes: NDArray[np.uint64], texts: Mapping[int, str]) -> NDArray[np.int64]:
        """Rows of a categorical column. Codes [n] uint64, 0 where missing; `texts` gives their texts → [n] int64

        Only whole numbers need the texts: a code is the hash of its text, which is what a table is found by.
        """
        if self.spec.hashed:
            rows = FIRST + (codes % np.uint64(self.spec.rows - FIRST)).astype(np.int64)
        elif self.spec.listed:
            at = np.searchsorted(self._codes, codes)
            rows = np.where(np.append(self._codes, np.uint64(0))[at] == codes, FIRST + at, UNKNOWN)
        else:
            found, place = np.unique(codes, return_inverse=True)
            of_found = [MISSING if code == 0 else self.row(texts[code]) for code in found.tolist()]
            return np.array(of_found, np.int64)[place]
        return np.where(codes == 0, MISSING, rows)

    def row(self, value: Value) -> int:
        """The row of one value.

        Raises:
            ValueError: a fraction.
        """
        text = text_of(value)
        if text is None:
            return MISSING
        spec = self.spec
        if spec.whole:
            number = whole_of(text)
            return UNKNOWN if number is None or number >= spec.rows - FIRST else FIRST + number
        code = code_of(text)
        return FIRST + code % (spec.rows - FIRST) if spec.hashed else self._row_of.get(code, UNKNOWN)

    def numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transformed, clipped and standardized numbers; a missing or infinite one is 0, the mean. [n] → [n]"""
        x = self.transformed(values)
        if (bounds := self.spec.bounds) is not None:
            x = np.where(np.isfinite(values), np.clip(x, *bounds), np.nan)
        x = (x - self.spec.mean) / self.spec.deviation
        return np.where(np.isfinite(x), x, 0.0)

    def intervals(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows of a number's interval, `MISSING` where there is none. [n] → [n]"""
        x = self.transformed(values)
        return np.where(np.isfinite(values), FIRST + np.searchsorted(self.spec.edges, x, "right"), MISSING)

    def number(self, value: float) -> float:
        """`numbers` of one value."""
        return self.number_within(value)[0]

    def number_within(self, value: float) -> tuple[float, bool]:
        """`numbers` of one value, and whether it is missing, or was read as itself: within the field's bounds, and not
        as the mean because the field has no bounds and the number has no finite reading."""
        if not isfinite(value):
            return 0.0, True
        x = self._transformed_one(value)
        within = True
        if (bounds := self.spec.bounds) is not None:
            clipped = min(max(x, bounds[0]), bounds[1])
            x, within = clipped, isclose(clipped, x, rel_tol=SAME_FLOAT32)
        x = (x - self.spec.mean) / self.spec.deviation
        return (x, within) if isfinite(x) else (0.0, False)

    def interval(self, value: float) -> int:
        """`intervals` of one value."""
        return FIRST + bisect_right(self.spec.edges, self._transformed_one(value)) if isfinite(value) else MISSING

    def _transformed_one(self, value: float) -> float:
        if self.spec.transform == "none":
            return value
        if self.spec.transform == "log":
            return float(np.log(value)) if value > 0 or isnan(value) else -inf
        return copysign(float(np.log1p(abs(value))), value)

    def transformed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers after the field's transform: log1p keeps the sign, and log is -inf, below every bound, where there is
        none: at 0 and below. [n] → [n]

        NumPy's functions here and for one value: those of `math` differ from them in the last bit.
        """
        if self.spec.transform == "none":
            return values
        if self.spec.transform == "log":
            return np.log(values, out=np.full(len(values), -np.inf), where=(values > 0) | np.isnan(values))
        return np.sign(values) * np.log1p(np.abs(values))


Specs = Annotated[tuple[FieldSpec, ...], msgspec.Meta(max_length=MAX_FIELDS)]


def check_fields(specs: Sequence[FieldSpec]) -> None:
    """Whether these are fields that a program can encode.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    before: dict[str, FieldSpec] = {}
    for spec in specs:
        if fault := next((text for wrong, text in _faults(spec, before) if wrong), None):
            raise ValueError(f"{spec.source}.{spec.name[:MAX_NAME]}: {fault}")
        before[spec.name] = spec


def _faults(spec: FieldSpec, before: Mapping[str, FieldSpec]) -> Iterable[tuple[bool, str]]:
    yield not 1 <= len(spec.name) <= MAX_NAME, f"a name has 1 to {MAX_NAME} characters"
    yield spec.name in before, "there are two fields of this name"
    yield spec.rows != 0 and not FIRST < spec.rows <= MAX_ROWS, f"a table has {FIRST + 1} to {MAX_ROWS} rows"
    finite = all(map(isfinite, (spec.mean, spec.deviation, *spec.edges)))
    yield not finite or spec.deviation <= 0.0, "`mean`, `deviation` and `edges` are finite, and `deviation` is above 0"
    if spec.bounds is not None:
        low, high = spec.bounds
        yield not (isfinite(low) and isfinite(high) and low <= high), "`bounds` are finite, the lower one first"
        yield spec.kind != "numeric" or spec.tabled, "`bounds` are for numbers without intervals"
    intervals = len(spec.edges) + 1 + FIRST if spec.edges else 0
    yield any(a >= b for a, b in pairwise(spec.edges)), "`edges` rise"
    yield spec.kind == "numeric" and spec.rows != intervals, "a number has a row for each interval, or no table"
    yield (
        spec.kind != "numeric" and (bool(spec.edges) or not spec.tabled),
        "`edges` are for numbers, others have a table",
    )
    yield spec.hashed + spec.whole + bool(spec.edges) > 1, "a table is `hashed`, `whole` or of intervals"
    yield (spec.kind == "cross") != bool(spec.of), "a cross names its parts in `of`, and no other field does"
    yield spec.kind == "cross" and not spec.hashed, "a cross is `hashed`"
    parts = [before[part] for part in spec.of if part in before]
    yield len(parts) < len(spec.of), "`of` names fields that stand before it"
    yield any(not part.tabled or part.kind == "multi" for part in parts), "`of` names fields with one row each"
    yield any((part.source == "item") != (spec.source == "item") for part in parts), "`of` mixes item and request"
    long = len(spec.examples) > MAX_EXAMPLES or any(len(example) > MAX_EXAMPLE for example in spec.examples)
    yield long, f"at most {MAX_EXAMPLES} `examples` of {MAX_EXAMPLE} characters"
