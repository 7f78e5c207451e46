"""Two encodings of a request's fields must agree before a bundle is written: serving's, and the model's own tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimn.bundle import FieldData
from mimn.bundle.fields import FIRST, FieldEncoder, FieldSpec, crossed_rows
from mimn.nn.fields import FieldValues
from mimn.nn.model import ClickModel
from mimn.parity import TOLERANCE, ParityError

SHOWN = 4
"""Numbers of a vector that an error shows."""


def check_fields_parity(model: ClickModel, data: FieldData, requests: Sequence[dict[str, dict[str, Any]]]) -> None:
    """Encode requests as serving does, and by the model's own tables as training does, and compare the vectors.

    Raises:
        ParityError: they differ; the message names the field, its value and both readings.
    """
    fields = data.request
    for request in requests if fields.specs else ():
        served = fields.vector(**request).values
        with torch.no_grad():
            trained = model.request_vector(field_values(fields.specs, data.codes, request))
        if trained is None:
            raise ParityError("the model has no fields, and its bundle has")
        for spec in fields.specs:
            place = fields.places[spec.name]
            ours, theirs = served[place], trained.numpy()[place]
            if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
                value = request[spec.source].get(spec.name)
                raise ParityError(
                    f"field {spec.source}.{spec.name}: {'no value' if value is None else repr(value)} is "
                    f"{_shown(ours)} in serving and {_shown(theirs)} in training. That is a defect of the program: "
                    "report this message; a model that is trained without the field can be exported"
                )


def _shown(vector: NDArray[np.float32]) -> str:
    """The first numbers of a vector."""
    return f"[{', '.join(f'{x:.6g}' for x in vector[:SHOWN])}{', …' if len(vector) > SHOWN else ''}]"


def field_values(
    specs: Sequence[FieldSpec], codes: Mapping[str, NDArray[np.uint64]], request: dict[str, dict[str, Any]]
) -> FieldValues:
    """A request's values as the training code takes them: columns of one row, without the axis of rows."""
    rows: dict[str, int] = {}
    lists: list[torch.Tensor] = []
    numbers: list[float] = []
    for spec in specs:
        encoder, value = FieldEncoder(spec, codes.get(spec.name)), request[spec.source].get(spec.name)
        column = np.array([np.nan if value is None or spec.kind != "numeric" else value])
        if spec.kind == "multi":
            lists.append(torch.tensor([encoder.row(one) for one in value or [None]]))
        elif spec.kind == "cross":
            parts = [np.array([rows[part]]) for part in spec.of]
            rows[spec.name] = int(crossed_rows(parts, spec.rows - FIRST)[0])
        elif spec.kind == "numeric" and not spec.tabled:
            numbers.append(float(encoder.numbers(column)[0]))
        else:
            rows[spec.name] = int(encoder.intervals(column)[0]) if spec.kind == "numeric" else encoder.row(value)
    return FieldValues(
        rows=torch.tensor(list(rows.values()), dtype=torch.int64),
        lists=tuple(lists),
        numbers=torch.tensor(numbers, dtype=torch.float32),
    )
