"""The wire: JSON to `ScoreRequest`, answers and problems to JSON, and the schemas that OpenAPI shows.

The pydantic models are the truth about what is accepted. A typed decoder takes the usual request straight from the
body's bytes, and whatever it does not take, the models judge, so that an error names every fault with its field.
Invariant: what the fast decoder takes, the models take too, with the same result.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    WithJsonSchema,
)

from rtp.core.request import (
    MAX_CANDIDATES,
    MAX_CONTEXT_FEATURES,
    MAX_ID,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_USER_ID_BYTES,
    ScoreRequest,
)
from rtp.core.standing import StateReport
from rtp.errors import MAX_FAULTS, FieldFault, InvalidRequest, MalformedBody

# What is accepted


def _decimal(limit: int) -> str:
    """A pattern of the decimal numbers from 1 to `limit` without leading zeros."""
    digits = str(limit)
    below = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"]
    for i, digit in enumerate(digits):
        least = 0 if i else 1
        if int(digit) > least:
            below.append(f"{digits[:i]}[{least}-{int(digit) - 1}][0-9]{{{len(digits) - i - 1}}}")
    return "|".join([*below, digits])


_ID = re.compile(f"0|{_decimal(MAX_ID)}")


def _id(value: object, least: int) -> int:
    if type(value) is str and _ID.fullmatch(value):
        value = int(value)
    if type(value) is not int:
        raise ValueError(
            f"must be an integer up to {MAX_ID}, as a JSON number or as a decimal string without leading zeros"
        )
    if not least <= value <= MAX_ID:
        raise ValueError(f"must be from {least} to {MAX_ID}")
    return value


def _id_schema(least: int, description: str) -> WithJsonSchema:
    pattern = _decimal(MAX_ID) if least else _ID.pattern
    return WithJsonSchema(
        {
            "description": description,
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": MAX_ID},
                {"type": "string", "pattern": f"^({pattern})$"},
            ],
        }
    )


def _user_id(value: str) -> str:
    if not 1 <= len(value.encode()) <= MAX_USER_ID_BYTES:
        raise ValueError(f"must be 1 to {MAX_USER_ID_BYTES} bytes in UTF-8")
    return value


ItemId = Annotated[int, BeforeValidator(partial(_id, least=1)), _id_schema(1, "Unknown items are scored as unknown.")]
CategoryId = Annotated[int, BeforeValidator(partial(_id, least=0)), _id_schema(0, "0 if there is none.")]


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
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES)]
    request_id: Annotated[StrictStr, Field(min_length=1, max_length=MAX_REQUEST_ID_CHARACTERS)] | None = Field(
        None, description="Given back in the answer; made up if absent."
    )
    context: dict[str, Annotated[float, Field(strict=True, allow_inf_nan=False)]] = Field(
        default={},
        max_length=MAX_CONTEXT_FEATURES,
        description="Numeric features of the request, by the manifest's names. One that is left out is 0.",
    )
    require_state: StrictBool = Field(
        False, description="Answer 503 rather than score without the stored state when the store does not give it."
    )


class _WireCandidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    item_id: int | str
    category_id: int | str


class _WireRequest(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str
    candidates: list[_WireCandidate]
    request_id: str | None = None
    context: dict[str, Any] = {}
    require_state: bool = False


# msgspec's own parser of floats takes 8 µs for one such as 1e308, Python's 0.2 µs: a body of them would take 0.1 s. It
# can be replaced for untyped values alone.
_decode_usual = msgspec.json.Decoder(_WireRequest, float_hook=float).decode
_decode_any = msgspec.json.Decoder(float_hook=float).decode
_INT = {int}
_NUMBERS = {int, float}


def decode_request(body: bytes | bytearray) -> ScoreRequest:
    """The request that `body` holds.

    Raises:
        MalformedBody: not JSON in UTF-8.
        InvalidRequest: JSON, but not a request; names up to `MAX_FAULTS` faults, each with its field.
    """
    try:
        wire = _decode_usual(body)
        request = _usual(wire)
    except (msgspec.ValidationError, OverflowError):
        request = None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    return _judge(body) if request is None else request


def _usual(wire: _WireRequest) -> ScoreRequest | None:
    """The request, or None if the models must judge it. Raises OverflowError for an id out of range."""
    candidates = wire.candidates
    count = len(candidates)
    if (
        not 1 <= count <= MAX_CANDIDATES
        or not 1 <= len(wire.user_id.encode()) <= MAX_USER_ID_BYTES
        or len(wire.context) > MAX_CONTEXT_FEATURES
        or (wire.request_id is not None and not 1 <= len(wire.request_id) <= MAX_REQUEST_ID_CHARACTERS)
    ):
        return None
    context = wire.context
    if context:
        if not _NUMBERS.issuperset(map(type, context.values())):
            return None
        context = {name: float(value) for name, value in context.items()}
        if not all(map(math.isfinite, context.values())):
            return None
    items = [candidate.item_id for candidate in candidates]
    categories = [candidate.category_id for candidate in candidates]
    if set(map(type, items)) != _INT or set(map(type, categories)) != _INT:
        return None
    item_ids = np.array(items, np.uint64)
    if not item_ids.all():
        return None
    return ScoreRequest(
        user_id=wire.user_id,
        item_ids=item_ids,
        category_ids=np.array(categories, np.uint64),
        request_id=wire.request_id,
        context=context,
        require_state=wire.require_state,
    )


def _judge(body: bytes | bytearray) -> ScoreRequest:
    try:
        value = _decode_any(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest([_number_fault(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    try:
        request = PredictRequest.model_validate(_enough(value))
    except ValidationError as error:
        raise InvalidRequest(_faults(error)) from None
    count = len(request.candidates)
    return ScoreRequest(
        user_id=request.user_id,
        item_ids=np.fromiter((candidate.item_id for candidate in request.candidates), np.uint64, count),
        category_ids=np.fromiter((candidate.category_id for candidate in request.candidates), np.uint64, count),
        request_id=request.request_id,
        context=request.context,
        require_state=request.require_state,
    )


_TOP = frozenset(PredictRequest.model_fields)
_ONE = frozenset(Candidate.model_fields)


def _enough(value: Any) -> Any:
    """What of `value` an answer can be made from: the models name every fault of what they are shown, an answer names
    few, and a body of nothing but faults would cost a hundred times what a sound one costs.

    Invariant: a request without faults is shown whole, and one with faults is shown with one at least.
    """
    if type(value) is not dict:
        return value
    value, unknown = _few_unknown(value, _TOP, 0)
    if type(context := value.get("context")) is dict:
        value["context"] = dict(itertools.islice(context.items(), MAX_CONTEXT_FEATURES + 1))
    if type(candidates := value.get("candidates")) is list:
        shown = value["candidates"] = []
        for candidate in candidates[: MAX_CANDIDATES + 1]:
            if type(candidate) is dict:
                candidate, unknown = _few_unknown(candidate, _ONE, unknown)  # noqa: PLW2901
            shown.append(candidate)
            if unknown >= MAX_FAULTS:
                break
    return value


def _few_unknown(members: dict[str, Any], known: frozenset[str], unknown: int) -> tuple[dict[str, Any], int]:
    """`members` with as many unknown names as make `MAX_FAULTS` with the `unknown` before; how many there are then."""
    if len(members) <= len(known) and members.keys() <= known:
        return members, unknown
    kept = set(itertools.islice((name for name in members if name not in known), MAX_FAULTS - unknown))
    return {name: members[name] for name in members if name in known or name in kept}, unknown + len(kept)


def _malformed(error: Exception) -> MalformedBody:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return MalformedBody(f"the body is not JSON in UTF-8: {reason}")


def _number_fault(error: msgspec.ValidationError) -> FieldFault:
    """Well-formed JSON with a number that no field could take."""
    message = str(error)
    place = re.search(r" - at `\$\.?(.*)`$", message)
    return FieldFault(place[1] if place else "(body)", message.partition(" - at ")[0].lower())


def _faults(error: ValidationError) -> list[FieldFault]:
    return [
        FieldFault(_path(fault["loc"]), _message(fault["type"], fault["msg"]))
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _path(location: Sequence[str | int]) -> str:
    """`candidates[3].item_id` for ("candidates", 3, "item_id")."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "(body)"


def _message(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field: remove it"
    if kind == "missing":
        return "required"
    if kind == "model_type":
        return "must be an object"
    if kind == "too_long":
        message = message.partition(" after validation")[0]
    return message.removeprefix("Value error, ").replace("Input should be", "must be").replace("Dictionary", "Object")


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
        description="How long ago the user's partition was last known to be folded to the log's end; null if unknown."
    )
    partial: bool = Field(description="Events of the user may be missing from the state.")


class PredictResponse(_Model):
    """The click probability of each candidate, in the order of the request."""

    request_id: str
    model: ModelName
    scores: list[Annotated[float, Field(ge=0, le=1)]]
    state: StateAnswer


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
    errors: list[ProblemField] | None = Field(None, description="Every fault of the request, with its field.")


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
    scores: list[float]
    state: _WireState


_encode = msgspec.json.Encoder().encode


def encode_answer(request_id: str, name: str, version: str, scores: NDArray[np.float32], report: StateReport) -> bytes:
    """The body of an answer: `PredictResponse` as JSON."""
    state = _WireState(report.status.value, report.events, report.age_ms, report.partial)
    return _encode(_WireAnswer(request_id, _WireModel(name, version), scores.tolist(), state))


def encode_problem(status: int, title: str, code: str, detail: str, faults: Sequence[FieldFault] = ()) -> bytes:
    """The body of an error: `Problem` as JSON."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}
    if faults:
        body["errors"] = [{"field": fault.field, "message": fault.message} for fault in faults]
    return _encode(body)
