"""What `/predict` accepts and what it answers, as models: OpenAPI shows them.

`rtp.doors.request_body` decodes by them, `rtp.doors.body_faults` names the faults that they find, and
`rtp.doors.answer_body` encodes by them.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    WithJsonSchema,
)

from mimn.bundle.fields import MAX_FIELDS, MAX_FIELDS_BYTES, MAX_LIST
from rtp.core.request import (
    MAX_CANDIDATES,
    MAX_ID,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_USER_ID_BYTES,
    field_fault,
)

# What is accepted


_HIGHEST = str(MAX_ID)
_FROM_1 = "|".join(
    [
        f"[1-9][0-9]{{0,{len(_HIGHEST) - 2}}}",  # fewer digits
        *(  # as many: the first one that differs is below that of `MAX_ID`, which begins with 1
            f"{_HIGHEST[:i]}[0-{int(digit) - 1}][0-9]{{{len(_HIGHEST) - i - 1}}}"
            for i, digit in enumerate(_HIGHEST)
            if i > 0 and digit > "0"
        ),
        _HIGHEST,
    ]
)
"""A pattern of the decimal numbers from 1 to `MAX_ID` without leading zeros."""
ID = re.compile(f"0|{_FROM_1}")


def _id(value: object, least: int) -> int:
    if type(value) is str and ID.fullmatch(value):
        value = int(value)
    if type(value) is float and abs(value) <= MAX_ID and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError(
            f"must be an integer up to {MAX_ID}, as a whole JSON number or as a decimal string without leading zeros"
        )
    if not least <= value <= MAX_ID:
        raise ValueError(f"must be from {least} to {MAX_ID}")
    return value


def is_id(value: object, least: int) -> bool:
    """Whether a decoded JSON value is an id of at least `least`."""
    try:
        _id(value, least)
    except ValueError:
        return False
    return True


def _id_schema(least: int, description: str) -> WithJsonSchema:
    pattern = _FROM_1 if least else ID.pattern
    return WithJsonSchema(
        {
            "description": description,
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": MAX_ID},
                {"type": "string", "pattern": f"^({pattern})$"},
            ],
        }
    )


def _not_too_many(value: object) -> object:
    """Checked before the items are."""
    if type(value) is list and len(value) > MAX_CANDIDATES:
        raise ValueError(f"must have at most {MAX_CANDIDATES} items")
    return value


def _user_id(value: str) -> str:
    if not 1 <= len(value.encode()) <= MAX_USER_ID_BYTES:
        raise ValueError(f"must be 1 to {MAX_USER_ID_BYTES} bytes in UTF-8")
    return value


ItemId = Annotated[int, BeforeValidator(partial(_id, least=1)), _id_schema(1, "Unknown items are scored as unknown.")]
CategoryId = Annotated[int, BeforeValidator(partial(_id, least=0)), _id_schema(0, "0 if there is none.")]


def _field(value: object) -> object:
    if fault := field_fault(value):
        raise ValueError(fault)
    return value


VALUE_SCHEMA = {"type": ["string", "number", "boolean"]}
AT_MOST = {"contains": {"not": {"const": ""}}, "minContains": 0, "maxContains": MAX_LIST}
"""Of a list: how many values it may have. An empty text is none."""
FieldInput = Annotated[
    Any,
    BeforeValidator(_field),
    WithJsonSchema(
        {
            "anyOf": [
                VALUE_SCHEMA,
                {"type": "null"},
                {"type": "array", "items": VALUE_SCHEMA} | AT_MOST,
            ]
        }
    ),
]
_FIELDS = (
    "A value that training did not see is read as unknown; one that is left out, or null, as missing. A name that the "
    f"model does not read is refused. At most {MAX_FIELDS_BYTES} bytes of JSON."
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(_Model):
    """One ad that could be shown."""

    item_id: ItemId
    category_id: CategoryId


class PredictRequest(_Model):
    """How likely is this user to click each of these candidates?"""

    user_id: Annotated[
        StrictStr,
        AfterValidator(_user_id),
        Field(
            description=f"1 to {MAX_USER_ID_BYTES} bytes in UTF-8.",
            json_schema_extra={"minLength": 1, "maxLength": MAX_USER_ID_BYTES},
        ),
    ]
    candidates: Annotated[
        list[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES), BeforeValidator(_not_too_many)
    ]
    request_id: Annotated[StrictStr, Field(min_length=1, max_length=MAX_REQUEST_ID_CHARACTERS)] | None = Field(
        None, description="Given back in the answer; made up if absent."
    )
    user: dict[str, FieldInput] = Field(
        default={},
        max_length=MAX_FIELDS,
        description=f"What the model reads of the user beside the state, by name. {_FIELDS}",
    )
    context: dict[str, FieldInput] = Field(
        default={},
        max_length=MAX_FIELDS,
        description=f"What the model reads of this request, by name. {_FIELDS}",
    )
    require_state: StrictBool = Field(
        False, description="Answer 503 rather than score without the stored state when the store does not give it."
    )


# What is answered


class ModelName(_Model):
    """Which model scored."""

    name: str
    version: str


class StateAnswer(_Model):
    """What the scores rest on."""

    status: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": ["warm", "stale", "cold", "unavailable"]}),
        Field(
            description=(
                "`warm`: the stored state. `stale`: the stored state, newer events may be missing. `cold`: no event of "
                "this user is known. `unavailable`: the store is away or late, or the value cannot be used; the scores "
                "are the cold ones."
            )
        ),
    ]
    events: int | None = Field(description="Events folded into the state; null when unavailable.")
    age_ms: int | None = Field(
        description="How long ago the user's partition was last known to be folded to the log's end; null if it never "
        "was, or if that is unknown."
    )
    partial: bool = Field(description="Events of the user may be missing from the state.")


class PredictResponse(_Model):
    """The score of each candidate, in the order of the request."""

    request_id: str
    model: ModelName
    arm: str = Field(
        description="Of the user: `serving`, unless a rollout tries another release on some users. A user keeps it for "
        "as long as the arms stay."
    )
    scores: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        description="Higher is likelier to be clicked. Whether a score is a click probability, `calibrated` says."
    )
    state: StateAnswer
    calibrated: bool = Field(
        description=(
            "true: a score is the probability that the user clicks the candidate if it is shown, by a calibrator that "
            "was fitted on impressions which the model did not learn from. false: scores order candidates, and one "
            "alone says nothing about how often it is clicked."
        )
    )


class ProblemField(_Model):
    """One fault of the request."""

    field: str = Field(description="Where, such as `candidates[3].item_id`.")
    message: str


class Problem(_Model):
    """Why there is no answer (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str = Field(description="Stable: programs should look at this.")
    detail: str = Field(description="For people.")
    errors: list[ProblemField] | None = Field(None, description="The faults of the request, each with its field.")
