"""Fields of a described data set as rows and numbers: vocabularies and scales from the train part alone.

`fit_fields` decides what each field's values mean (`mimn.bundle.fields.FieldSpec`) by what the train impressions
showed; `EncodedFields` holds every user's, item's and impression's values by those meanings. Validation, test and
serving only look up: a value that training did not see is the unknown row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import read_array
from mimn.bundle.fields import (
    FIRST,
    MAX_EXAMPLE,
    MAX_EXAMPLES,
    MAX_LIST,
    MISSING,
    FieldEncoder,
    FieldSpec,
    code_of,
    crossed_rows,
)
from mimn.data.column_values import list_of_text
from mimn.data.description import POSITION, SOURCES, Field, Source
from mimn.data.events import DataError
from mimn.data.labelled import Labelled
from mimn.data.number_bounds import usual_bounds
from mimn.data.number_intervals import interval_edges
from mimn.data.prepared import Prepared, Side
from mimn.data.split import PARTS

Ints = NDArray[np.int64]
Column = NDArray[np.uint64] | NDArray[np.float64]
"""Codes of values, 0 for none; or numbers, NaN for none."""
POSITIONS = 1024
"""Positions from here on share the unknown row."""
FILE = "fields.json"
NO_RATES: Mapping[str, NDArray[np.float64]] = MappingProxyType({})
"""Of a data set without past rates."""


@dataclass(frozen=True)
class Values:
    """n rows of some fields' values; `mimn.nn.fields.FieldValues` on the side of the data."""

    rows: NDArray[np.int32]
    """[n, S]: one column a tabled field with one value."""
    lists: tuple[NDArray[np.int32], ...]
    """[n, M] each, -1 behind the end."""
    numbers: NDArray[np.float32]
    """[n, Q]"""

    def at(self, rows: Ints) -> Values:
        """Some of the rows, in any order. [k] → [k]"""
        return Values(self.rows[rows], tuple(of[rows] for of in self.lists), self.numbers[rows])


@dataclass(frozen=True)
class FittedFields:
    """What the fields mean."""

    specs: tuple[FieldSpec, ...]
    """User fields, context fields, then item fields, each in the description's order, crosses behind their source's."""
    codes: Mapping[str, NDArray[np.uint64]]
    """Of listed fields: the codes of their values, rising."""

    def encoder(self, spec: FieldSpec) -> FieldEncoder:
        """What turns the field's values into rows or numbers."""
        return FieldEncoder(spec, self.codes.get(spec.name))

    def of(self, *sources: Source) -> tuple[FieldSpec, ...]:
        """The fields of some sources, in order."""
        return tuple(spec for spec in self.specs if spec.source in sources)

    def save(self, folder: Path) -> None:
        """Write the specs as JSON and the codes as plain arrays."""
        (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self.specs)))
        for name, codes in self.codes.items():
            np.save(folder / f"field.{name}.codes.npy", codes, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> FittedFields:
        """What `save` wrote.

        Raises:
            DataError: a file is missing or damaged.
        """
        try:
            specs = msgspec.json.decode((folder / FILE).read_bytes(), type=tuple[FieldSpec, ...])
            listed = [spec.name for spec in specs if spec.listed]
            return cls(specs, {n: read_array(folder / f"field.{n}.codes.npy") for n in listed})
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no fields of a run: {error}") from error


def fit_fields(data: Prepared, labelled: Labelled, rates: Mapping[str, NDArray[np.float64]] = NO_RATES) -> FittedFields:
    """The meaning of every field, by the train impressions. `rates`: `PastRates.of_impressions`.

    Raises:
        DataError: a field has no usable value there.
    """
    train = labelled.part == PARTS.index("train")
    specs: list[FieldSpec] = []
    codes: dict[str, NDArray[np.uint64]] = {}
    for source in ("user", "context", "item"):
        described: dict[str, Field] = getattr(data.description.fields, source)
        for name, field in sorted(described.items(), key=lambda entry: entry[1].kind == "cross"):
            if field.kind == "cross":
                _check_parts(name, field, source, data)
                buckets = field.buckets or 0
                specs.append(
                    FieldSpec(name=name, source=source, kind="cross", rows=buckets + FIRST, hashed=True, of=field.of)
                )
                continue
            if field.kind == "past_rate":
                blank = FieldSpec(name=name, source=source, kind="numeric", transform="log", past_rate=True)
                specs.append(_fit_numeric(blank, f"fields.{source}.{name}", field, rates[name], train.astype(np.int64)))
                continue
            column, weight = _column_of(data, labelled, source, name, train)
            said = f"fields.{source}.{name}"
            if source != "context" and not bool(weight.any()):
                raise DataError(
                    f"`{said}`: no train impression is of a {source} with a row in `[{source}s]`, so the field has no "
                    f"value: write the same ids in both (`python -m mimn.data check` shows some), or remove the field"
                )
            blank = FieldSpec(name=name, source=source, kind=field.kind, transform=field.transform)
            if field.kind == "numeric":
                specs.append(_fit_numeric(blank, said, field, column.astype(np.float64), weight))
                continue
            spec, listed = _fit_values(
                blank, said, field, _counts(field, column, weight, data.texts[name]), data.texts[name]
            )
            specs.append(spec)
            if listed is not None:
                codes[name] = listed
        if source == "context" and data.description.impressions and data.description.impressions.position:
            specs.append(
                FieldSpec(
                    name=POSITION,
                    source="context",
                    kind="categorical",
                    rows=POSITIONS + FIRST,
                    whole=True,
                    training_only=True,
                )
            )
    return FittedFields(tuple(specs), codes)


def _column_of(
    data: Prepared, labelled: Labelled, source: Source, name: str, train: NDArray[np.bool_]
) -> tuple[Column, Ints]:
    """A field's values and how many train impressions showed each."""
    shown = labelled.impressions
    if source == "context":
        return shown.context[name], train.astype(np.int64)
    side = data.side(source)
    rows = side.rows(shown.user_id if source == "user" else shown.item_id)
    seen = rows[train & (rows >= 0)]
    return side.fields[name], np.bincount(seen, minlength=len(side.key))


def _fit_numeric(spec: FieldSpec, said: str, field: Field, column: NDArray[np.float64], weight: Ints) -> FieldSpec:
    """A number's bounds and its scale within them, or its intervals of equal mass, over the train impressions."""
    x = FieldEncoder(spec).transformed(column)
    real = np.isfinite(x) & (weight > 0)
    if not bool(real.any()):
        raise DataError(f"`{said}`: no train impression has a number: fill the column, or remove the field")
    x, weight = x[real], weight[real]
    if field.buckets:
        edges = interval_edges(x, weight, field.buckets)
        return msgspec.structs.replace(spec, rows=len(edges) + 1 + FIRST, edges=tuple(edges.tolist()))
    low, high = usual_bounds(x, weight)
    x = np.clip(x, low, high)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.average(x, weights=weight))
        deviation = float(np.sqrt(np.average((x - mean) ** 2, weights=weight)))
    if not np.isfinite(deviation):
        furthest = float(x[np.argmax(np.abs(x))])
        raise DataError(
            f"`{said}`: its numbers reach {furthest:g}, too far to be scaled: correct them, or set `buckets`"
        )
    deviation = deviation if deviation > 0 else 1.0
    return msgspec.structs.replace(spec, mean=mean, deviation=deviation, bounds=(low, high))


def _fit_values(
    spec: FieldSpec, said: str, field: Field, counts: Mapping[int, int], texts: Mapping[int, str]
) -> tuple[FieldSpec, NDArray[np.uint64] | None]:
    """A field's table, and the codes of its values if they are listed."""
    if field.vocabulary is not None:
        return msgspec.structs.replace(spec, rows=field.vocabulary + FIRST, whole=True), None
    if field.buckets is not None:
        return msgspec.structs.replace(spec, rows=field.buckets + FIRST, hashed=True), None
    if not counts:
        raise DataError(f"`{said}`: no train impression has a value: fill the column, or remove the field")
    kept = np.array(sorted(code for code, n in counts.items() if n >= field.min_count), np.uint64)
    if not len(kept):
        raise DataError(f"`{said}`: no value stands in {field.min_count} train impressions: lower `min_count`")
    return msgspec.structs.replace(spec, rows=len(kept) + FIRST, examples=_examples(field, counts, texts)), kept


def _examples(field: Field, counts: Mapping[int, int], texts: Mapping[int, str]) -> tuple[str, ...]:
    """The most frequent values that have a row, as texts."""
    of_code = texts
    if field.kind == "multi":
        of_code = {code_of(part): part for text in texts.values() for part in _first_values(text)}
    known = [code for code, n in counts.items() if n >= field.min_count and len(of_code[code]) <= MAX_EXAMPLE]
    return tuple(of_code[code] for code in sorted(known, key=lambda code: (-counts[code], code))[:MAX_EXAMPLES])


def _counts(field: Field, column: Column, weight: Ints, texts: Mapping[int, str]) -> dict[int, int]:
    """How many train impressions showed each value, by code."""
    counts: dict[int, int] = {}
    found, place = np.unique(column, return_inverse=True)
    for code, n in zip(found.tolist(), np.bincount(place, weight, len(found)).tolist(), strict=True):
        for value in _values_of(int(code), field, texts) if n else ():
            counts[value] = counts.get(value, 0) + int(n)
    return counts


def _values_of(code: int, field: Field, texts: Mapping[int, str]) -> Iterable[int]:
    if code == 0:
        return ()
    if field.kind != "multi":
        return (code,)
    return {code_of(part) for part in _first_values(texts[code])}


def _first_values(text: str) -> list[str]:
    """The values of a list that are read: as many as a request may have."""
    return list_of_text(text)[:MAX_LIST]


def _check_parts(name: str, field: Field, source: Source, data: Prepared) -> None:
    of = {part: next(s for s in SOURCES if part in getattr(data.description.fields, s)) for part in field.of}
    if source == "item" and set(of.values()) != {"item"}:
        raise DataError(f"`fields.item.{name}.of`: a cross of the item takes fields of the item alone")
    if source != "item" and "item" in of.values():
        raise DataError(
            f"`fields.{source}.{name}.of`: a cross of the request takes fields of user and context; what a user and an "
            "item have in common is read from the state"
        )


def encode(
    fitted: FittedFields,
    specs: Iterable[FieldSpec],
    columns: Mapping[str, Column],
    data: Prepared,
    others: Mapping[str, Ints] | None = None,
) -> Values:
    """The values of n rows, by columns of that length; `others` gives rows of other fields that crosses name."""
    n = len(next(iter(columns.values()))) if columns else 0
    rows: list[NDArray[np.int32]] = []
    lists: list[NDArray[np.int32]] = []
    numbers: list[NDArray[np.float32]] = []
    row_of = dict(others or {})
    for spec in specs:
        encoder = fitted.encoder(spec)
        if spec.kind == "cross":
            made = crossed_rows([row_of[part] for part in spec.of], spec.rows - FIRST)
        elif spec.kind == "numeric":
            values = columns[spec.name].astype(np.float64)
            if not spec.tabled:
                numbers.append(encoder.numbers(values).astype(np.float32))
                continue
            made = encoder.intervals(values)
        elif spec.kind == "multi":
            lists.append(_lists(encoder, columns[spec.name], data.texts[spec.name]))
            continue
        elif spec.name == POSITION and spec.training_only:
            made = _positions(columns[POSITION], spec)
        else:
            made = encoder.rows(columns[spec.name].astype(np.uint64), data.texts[spec.name])
        row_of[spec.name] = made
        rows.append(made.astype(np.int32))
    return Values(
        np.stack(rows, -1) if rows else np.zeros((n, 0), np.int32),
        tuple(lists),
        np.stack(numbers, -1) if numbers else np.zeros((n, 0), np.float32),
    )


def _positions(positions: Column, spec: FieldSpec) -> Ints:
    known = np.isfinite(positions)
    place = np.where(known, positions, 0).astype(np.int64)
    inside = (place >= 0) & (place < spec.rows - FIRST)
    return np.where(known, np.where(inside, place + FIRST, 0), MISSING)


def _lists(encoder: FieldEncoder, codes: Column, texts: Mapping[int, str]) -> NDArray[np.int32]:
    """Rows of lists, -1 behind the end; a missing or empty list is the missing row. [n] → [n, M]"""
    found, place = np.unique(codes, return_inverse=True)
    of_found = [
        [encoder.row(part) for part in _first_values(texts[int(code)])] if code else [] for code in found.tolist()
    ]
    width = max((len(rows) for rows in of_found), default=1) or 1
    out = np.full((len(found), width), -1, np.int32)
    for at, rows in enumerate(of_found):
        out[at, : len(rows) or 1] = rows or [MISSING]
    return out[place]


@dataclass(frozen=True)
class EncodedFields:
    """The values of a data set by their meanings: users and items at once, impressions as they are asked for.

    There are far more impressions than users or items, and a batch reads few of them: their columns stay on disk.
    """

    fitted: FittedFields
    users: Values
    """[users + 1]: the last row is a user without one."""
    items: Values
    """[items + 1]: the last row is an item without one."""
    item_key: Ints
    """[items], rising: whose rows."""
    _data: Prepared
    _labelled: Labelled
    _user: Side
    _rates: Mapping[str, NDArray[np.float64]]

    def of(self, impressions: Ints) -> tuple[Values, Values]:
        """The values of user and context fields of impressions. [n] → [n], [n]"""
        shown = self._labelled.impressions
        at = self._user.rows(shown.user_id[impressions])
        of_user = self.users.at(np.where(at >= 0, at, len(self._user.key)))
        dated = [spec.past_rate for spec in self.fitted.of("user") if not spec.tabled]
        of_user.numbers[:, dated] = self.rates("user", impressions)
        columns: dict[str, Column] = {name: column[impressions] for name, column in shown.context.items()}
        columns[POSITION] = shown.position[impressions].astype(np.float64)
        columns |= {
            spec.name: self._rates[spec.name][impressions] for spec in self.fitted.of("context") if spec.past_rate
        }
        single = [spec.name for spec in self.fitted.of("user") if spec.tabled and spec.kind != "multi"]
        others = {name: of_user.rows[:, k].astype(np.int64) for k, name in enumerate(single)}
        return of_user, encode(self.fitted, self.fitted.of("context"), columns, self._data, others)

    def rates(self, source: Source, impressions: Ints) -> NDArray[np.float32]:
        """The past rates of a source as of impressions, as a model reads them, in the fields' order. [n] → [n, Q]"""
        specs = [spec for spec in self.fitted.of(source) if spec.past_rate]
        numbers = [self.fitted.encoder(spec).numbers(self._rates[spec.name][impressions]) for spec in specs]
        return np.stack(numbers, -1).astype(np.float32) if numbers else np.zeros((len(impressions), 0), np.float32)


def encode_fields(
    data: Prepared, labelled: Labelled, fitted: FittedFields, rates: Mapping[str, NDArray[np.float64]] = NO_RATES
) -> EncodedFields:
    """Every user's and item's values, and where those of impressions are. `rates`: `PastRates.of_impressions`."""
    of_user, of_item = fitted.of("user"), fitted.of("item")
    users, items = data.side("user"), data.side("item")
    return EncodedFields(
        fitted,
        encode(fitted, of_user, _with_none(users.fields, len(users.key), of_user), data),
        encode(fitted, of_item, _with_none(items.fields, len(items.key), of_item), data),
        items.key,
        data,
        labelled,
        users,
        rates,
    )


def _with_none(fields: Mapping[str, Column], rows: int, specs: Iterable[FieldSpec]) -> dict[str, Column]:
    """The columns with one more row, whose values are missing; a field without a column is missing everywhere."""
    longer: dict[str, Column] = {"": np.zeros(rows + 1)}
    for spec in specs:
        if spec.name in fields:
            values = fields[spec.name]
            none = np.nan if values.dtype == np.float64 else 0
            longer[spec.name] = np.concatenate([values, np.array([none], values.dtype)])
        elif spec.kind == "numeric":
            longer[spec.name] = np.full(rows + 1, np.nan)
    return longer
