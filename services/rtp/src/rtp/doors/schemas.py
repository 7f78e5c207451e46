"""The wire: JSON to `ScoreRequest`, answers and problems to JSON, and the schemas that OpenAPI shows.

The pydantic models are the truth about what is accepted. A typed decoder takes a request straight from the body's
bytes; of what it does not take, the models name the faults, each with its field.
Invariant: the decoder takes what the models take, with the same result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
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
    MAX_CONTEXT_BYTES,
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


def _is_id(value: object, least: int) -> bool:
    try:
        _id(value, least)
    except ValueError:
        return False
    return True


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


def _not_too_many(value: object) -> object:
    """Said before the items are looked at."""
    if type(value) is list and len(value) > MAX_CANDIDATES:
        raise ValueError(f"must have at most {MAX_CANDIDATES} items")
    return value


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
    candidates: Annotated[
        list[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES), BeforeValidator(_not_too_many)
    ]
    request_id: Annotated[StrictStr, Field(min_length=1, max_length=MAX_REQUEST_ID_CHARACTERS)] | None = Field(
        None, description="Given back in the answer; made up if absent."
    )
    context: dict[str, Annotated[float, Field(strict=True, allow_inf_nan=False)]] = Field(
        default={},
        max_length=MAX_CONTEXT_FEATURES,
        description=(
            "Numeric features of the request, by the manifest's names. One that is left out is 0. At most "
            f"{MAX_CONTEXT_BYTES} bytes of JSON."
        ),
    )
    require_state: StrictBool = Field(
        False, description="Answer 503 rather than score without the stored state when the store does not give it."
    )


_NO_CONTEXT = msgspec.Raw(b"{}")


class _WireCandidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    item_id: int | str
    category_id: int | str


class _WireRequest(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str
    candidates: list[_WireCandidate]
    request_id: str | None = None
    context: msgspec.Raw = _NO_CONTEXT
    require_state: bool = False


NAMED_WITHIN_BYTES = 2048
"""Of a longer body one fault is named. To find the others takes a thread that others wait for up to a hundred times as
long."""

# msgspec's own parser of floats takes 8 µs for one such as 1e308, Python's 0.2 µs: a body of them would take 0.1 s. It
# can be replaced for untyped values alone.
_decode_strictly = msgspec.json.Decoder(_WireRequest).decode
_decode_any = msgspec.json.Decoder(float_hook=float).decode
_decode_context = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_INT = {int}


def decode_request(body: bytes | bytearray) -> ScoreRequest:
    """The request that `body` holds.

    Raises:
        MalformedBody: not JSON in UTF-8.
        InvalidRequest: JSON, but not a request; names up to `MAX_FAULTS` faults, each with its field, or one if the
            body is longer than `NAMED_WITHIN_BYTES`.
    """
    try:
        wire = _decode_strictly(body)
        context = _context(wire.context)
    except msgspec.ValidationError as error:
        raise _refusal(body, error) from error
    except _NOT_JSON as error:
        raise _malformed(error) from error
    request = None if context is None else _request(wire, context)
    if request is None:
        most = MAX_FAULTS if len(body) <= NAMED_WITHIN_BYTES else 1
        raise InvalidRequest(_faults(_shown(wire, context, most))[:most])
    return request


_Context = dict[str, float | None]
"""None in place of what is no number."""


def _context(value: msgspec.Raw) -> _Context | None:
    """None if it is no object. Raises InvalidRequest if it is too long to be looked at."""
    if value is _NO_CONTEXT:
        return {}
    text = memoryview(value)
    if len(text) > MAX_CONTEXT_BYTES:
        raise InvalidRequest([FieldFault("context", f"must have at most {MAX_CONTEXT_BYTES} bytes")])
    try:
        context = _decode_context(text)
    except msgspec.ValidationError:
        return None
    return {name: _number(value) for name, value in context.items()}


def _number(value: msgspec.Raw) -> float | None:
    """None for JSON that is no number, infinity for one that is too large."""
    token = memoryview(value)
    if token[0] not in b"-0123456789":
        return None
    try:
        return float(_decode_any(token))
    except (msgspec.ValidationError, OverflowError):
        return math.inf


def _request(wire: _WireRequest, context: _Context) -> ScoreRequest | None:
    """None if there is a fault."""
    if (
        not 1 <= len(wire.candidates) <= MAX_CANDIDATES
        or not 1 <= len(wire.user_id.encode()) <= MAX_USER_ID_BYTES
        or len(context) > MAX_CONTEXT_FEATURES
        or (wire.request_id is not None and not 1 <= len(wire.request_id) <= MAX_REQUEST_ID_CHARACTERS)
    ):
        return None
    numbers = {name: value for name, value in context.items() if value is not None and math.isfinite(value)}
    item_ids = _ids([candidate.item_id for candidate in wire.candidates])
    category_ids = _ids([candidate.category_id for candidate in wire.candidates])
    if len(numbers) < len(context) or item_ids is None or category_ids is None or not item_ids.all():
        return None
    return ScoreRequest(
        user_id=wire.user_id,
        item_ids=item_ids,
        category_ids=category_ids,
        request_id=wire.request_id,
        context=numbers,
        require_state=wire.require_state,
    )


def _ids(values: list[int | str]) -> NDArray[np.uint64] | None:
    """None if one of the values is no id."""
    if set(map(type, values)) != _INT:
        if not all(isinstance(value, int) or _ID.fullmatch(value) for value in values):
            return None
        values = list(map(int, values))
    try:
        return np.array(values, np.uint64)
    except OverflowError:
        return None


def _shown(wire: _WireRequest, context: _Context | None, most: int) -> dict[str, Any]:
    """What the models see of a request whose types are right, the context's aside, to name so many faults."""
    shown = {name: getattr(wire, name) for name in wire.__struct_fields__} | {"context": context}
    if len(wire.candidates) <= MAX_CANDIDATES:
        each = ({"item_id": one.item_id, "category_id": one.category_id} for one in wire.candidates)
        shown["candidates"] = _enough(each, most)
    return shown


def _refusal(body: bytes | bytearray, error: msgspec.ValidationError) -> InvalidRequest | MalformedBody:
    """What there is to say of a body that the decoder refused."""
    faults = [_first_fault(error)]
    try:
        if len(body) > NAMED_WITHIN_BYTES:
            _skip(body)
        else:
            value = _decode_any(body)
            if type(value) is dict and type(candidates := value.get("candidates")) is list:
                value["candidates"] = _enough(candidates, MAX_FAULTS)
            # There may be none: the last value of a name that is given twice is the one that counts here.
            faults = _faults(value) or faults
    except msgspec.ValidationError:
        pass
    except _NOT_JSON as malformed:
        return _malformed(malformed)
    return InvalidRequest(faults)


def _malformed(error: Exception) -> MalformedBody:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return MalformedBody(f"the body is not JSON in UTF-8: {reason}")


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_TYPE = re.compile(r"Expected `(.*)`, got `(.*)`")
_PLACE = re.compile(r" - at `\$\.?([\w.\[\]]*)`$")


def _first_fault(error: msgspec.ValidationError) -> FieldFault:
    """In the words of `_message`, as far as it has some."""
    message, place = str(error), ""
    if found := _PLACE.search(message):
        message, place = message[: found.start()], found[1]
    for pattern, kind in ((_UNKNOWN, "extra_forbidden"), (_MISSING, "missing")):
        if named := pattern.fullmatch(message):
            return FieldFault(f"{place}.{named[1]}" if place else named[1], _message(kind, ""))
    message = _TYPE.sub(r"must be \1, not \2", message)
    return FieldFault(place or "(body)", message[:1].lower() + message[1:])


def _faults(value: Any) -> list[FieldFault]:
    """What the models have against a value."""
    try:
        PredictRequest.model_validate(value)
    except ValidationError as error:
        return [
            FieldFault(_path(fault["loc"]), _message(fault["type"], fault["msg"]))
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    return []


_FIELDS = Candidate.model_fields.keys()


def _enough(candidates: Iterable[Any], most: int) -> list[Any]:
    """The candidates up to the last whose faults are named, if so many are, or to one too many: to find the faults of
    all 512 takes the models 2 ms."""
    shown: list[Any] = []
    faulty = 0
    for candidate in candidates:
        shown.append(candidate)
        faulty += not (
            type(candidate) is dict
            and candidate.keys() == _FIELDS
            and _is_id(candidate["item_id"], 1)
            and _is_id(candidate["category_id"], 0)
        )
        if faulty == most or len(shown) > MAX_CANDIDATES:
            break
    return shown


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
    errors: list[ProblemField] | None = Field(None, description="The faults of the request, each with its field.")


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
