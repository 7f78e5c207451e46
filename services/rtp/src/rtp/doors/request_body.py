"""JSON to `ScoreRequest`.

The models of `rtp.doors.schemas` define what is accepted. A typed decoder takes a request straight from the body's
bytes; where it refuses a body, the models name the faults, each with its field.
Invariant: the decoder accepts exactly what the models accept, with the same result.

Most bodies are plain: compiled code (`mimn.rows.candidate_list`) reads their candidates, and the decoder the rest. A
body that is not, or in which anything is wrong, is decoded from the beginning as if nothing had been read.

An id may be written as any whole JSON number, such as 19113.0 or 1.9113e4: JSON Schema counts these as integers, and
some callers' libraries write them. Such bodies are rare and take a second decoding.

Decoders keep the last of two members with one name, so the first would go unread: a name that is repeated, by the
request, a candidate, `user` or `context`, is a fault, too (`_repeats`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mimn.bundle.fields import MAX_FIELDS, MAX_FIELDS_BYTES
from mimn.rows.candidate_list import candidate_list
from rtp.core.request import (
    MAX_CANDIDATES,
    MAX_ID,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_USER_ID_BYTES,
    FieldValue,
    ScoreRequest,
    field_fault,
)
from rtp.doors.schemas import ID, Candidate, PredictRequest, is_id
from rtp.errors import MAX_FAULTS, FieldFault, InvalidRequest, MalformedBody

_NO_FIELDS = msgspec.Raw(b"{}")


class _WireCandidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    item_id: int | str
    category_id: int | str


class _WireRequest(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str
    candidates: list[_WireCandidate]
    request_id: str | None = None
    user: msgspec.Raw = _NO_FIELDS
    context: msgspec.Raw = _NO_FIELDS
    require_state: bool = False


class _WireRest(msgspec.Struct, forbid_unknown_fields=True):
    """As `_WireRequest`, with the candidates cut out."""

    user_id: str
    candidates: None
    request_id: str | None = None
    user: msgspec.Raw = _NO_FIELDS
    context: msgspec.Raw = _NO_FIELDS
    require_state: bool = False


class _TokenCandidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    item_id: msgspec.Raw
    category_id: msgspec.Raw


class _TokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """As `_WireRequest`, with ids as they are written."""

    user_id: str
    candidates: list[_TokenCandidate]
    request_id: str | None = None
    user: msgspec.Raw = _NO_FIELDS
    context: msgspec.Raw = _NO_FIELDS
    require_state: bool = False


NAMED_WITHIN_BYTES = 2048
"""For a longer body only one fault is named. Finding them all can take a hundred times as long, and all other requests
wait for the one thread."""


_FRACTION = 0.5
"""Stands for a fraction that a float64 shows as a whole number, such as 9007199254740993.5 or 1e-400."""


def _number_of(text: str) -> float | int:
    """A number that is not written as an integer: as one, with all its digits, if it is whole and may be an id."""
    value = float(text)
    if not value.is_integer() or abs(value) > MAX_ID + 1:
        return value
    if not value:
        return _FRACTION if text.lower().partition("e")[0].strip("-0.") else 0
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else _FRACTION


# msgspec's own parser of floats takes 8 µs for one such as 1e308, Python's 0.2 µs: a body of them would take 0.1 s. It
# can be replaced for untyped values alone.
_decode_strictly = msgspec.json.Decoder(_WireRequest).decode
_decode_rest = msgspec.json.Decoder(_WireRest).decode
_decode_tokens = msgspec.json.Decoder(_TokenRequest).decode
_decode_any = msgspec.json.Decoder(float_hook=_number_of).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any], float_hook=float).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder(float_hook=float).decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_INT = {int}


def decode_request(body: bytes | bytearray) -> ScoreRequest:
    """The request that `body` holds.

    Raises:
        MalformedBody: not JSON in UTF-8.
        InvalidRequest: JSON, but not a request; names up to `MAX_FAULTS` faults, each with its field, or only the first
            if the body is longer than `NAMED_WITHIN_BYTES`.
    """
    if (plain := _plain(body)) is not None:
        return plain
    try:
        wire = _decode(body)
        if _repeats(body, len(wire.candidates)) and (names := _repeated(body)):
            raise InvalidRequest([FieldFault(name, _MESSAGES["repeated"]) for name in names[:MAX_FAULTS]])
        user, context = _fields("user", wire.user), _fields("context", wire.context)
    except msgspec.ValidationError as error:
        raise _refusal(body, error) from error
    except _NOT_JSON as error:
        raise _malformed(error, body) from error
    ids = _candidates(wire)
    if user is not None and context is not None and ids is not None and not _has_fault(wire, user, context):
        return _request(wire, user, context, *ids)
    most = MAX_FAULTS if len(body) <= NAMED_WITHIN_BYTES else 1
    raise InvalidRequest(_faults(_shown(wire, user, context, most))[:most])


def _plain(body: bytes | bytearray) -> ScoreRequest | None:
    """The request, if the body is plain and nothing is wrong with it."""
    if type(body) is not bytes or (ids := candidate_list(MAX_CANDIDATES)) is None or (found := ids.read(body)) is None:
        return None
    try:
        wire = _decode_rest(found.rest)
        user, context = _fields("user", wire.user), _fields("context", wire.context)
    except (InvalidRequest, *_NOT_JSON):
        return None
    if user is None or context is None or _has_fault(wire, user, context) or _repeats(found.rest, 0):
        return None
    return _request(wire, user, context, found.item_ids, found.category_ids)


def _decode(body: bytes | bytearray) -> _WireRequest:
    """Raises what msgspec raises. An id may turn out to be neither an integer nor a string: `_ids` checks them."""
    try:
        return _decode_strictly(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    wire = _decode_tokens(body)
    few = wire.candidates[: MAX_CANDIDATES + 1]  # one more than allowed is refused like all of them
    tokens = b",".join(token for one in few for token in (one.item_id, one.category_id))
    ids = iter(_decode_any(b"[" + tokens + b"]"))
    candidates = list(map(_WireCandidate, ids, ids))
    return _WireRequest(wire.user_id, candidates, wire.request_id, wire.user, wire.context, wire.require_state)


def _repeats(text: bytes | bytearray, candidates: int) -> bool:
    """Whether the request or one of its candidates may have a name more than once. Each member has one colon beside
    those of its value, and a decoder shows the last one of each name: if any is left out, colons are left over. A
    candidate has two members, and no colon in an id."""
    members = {name: bytes(value).count(b":") for name, value in _decode_members(text).items()}
    return text.count(b":") != len(members) + sum(members.values()) or members["candidates"] != 2 * candidates


def _repeated(text: bytes | bytearray) -> list[str]:
    """The names that the request or one of its candidates has more than once, in their order."""
    # An object as the tuple of its members, a list as a list.
    members = json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str)
    found = [*_twice(members)]
    for name, value in members:
        if name == "candidates":
            found += [f"{name}[{i}].{one}" for i, each in enumerate(value) for one in _twice(each)]
    return found


def _twice(members: Iterable[tuple[str, Any]]) -> list[str]:
    return [_shown_name(name) for name, count in Counter(name for name, _ in members).items() if count > 1]


_Fields = dict[str, FieldValue]


def _fields(which: str, value: msgspec.Raw) -> _Fields | None:
    """None if it is not an object. Raises InvalidRequest if it is longer than is read."""
    if value is _NO_FIELDS:
        return {}
    text = memoryview(value)
    if len(text) > MAX_FIELDS_BYTES:
        raise InvalidRequest([FieldFault(which, f"must have at most {MAX_FIELDS_BYTES} bytes")])
    try:
        fields: _Fields = _decode_fields(text)
    except msgspec.ValidationError:
        try:
            members = _decode_members(text)
        except msgspec.ValidationError:
            return None
        fields = {name: _value(member) for name, member in members.items()}
    if bytes(text).count(b":") != len(fields):  # a text has a colon, or a name is repeated
        members_of = json.loads(bytes(text), object_pairs_hook=tuple, parse_int=str, parse_float=str)
        if names := _twice(members_of):
            raise InvalidRequest([FieldFault(f"{which}.{name}", _MESSAGES["repeated"]) for name in names[:MAX_FAULTS]])
    return fields


def _value(member: msgspec.Raw) -> FieldValue:
    """Infinity for one with a whole number that is too large to be read."""
    try:
        value: FieldValue = _decode_value(memoryview(member))
    except msgspec.ValidationError:
        return math.inf
    return value


def _has_fault(wire: _WireRequest | _WireRest, user: _Fields, context: _Fields) -> bool:
    """Whether anything is wrong besides the candidates."""
    return (
        not 1 <= len(wire.user_id.encode()) <= MAX_USER_ID_BYTES
        or max(len(user), len(context)) > MAX_FIELDS
        or any(map(field_fault, (*user.values(), *context.values())))
        or (wire.request_id is not None and not 1 <= len(wire.request_id) <= MAX_REQUEST_ID_CHARACTERS)
    )


def _candidates(wire: _WireRequest) -> tuple[NDArray[np.uint64], NDArray[np.uint64]] | None:
    """Ids of items and of their categories; None if there is a fault."""
    if not 1 <= len(wire.candidates) <= MAX_CANDIDATES:
        return None
    item_ids = _ids([candidate.item_id for candidate in wire.candidates])
    category_ids = _ids([candidate.category_id for candidate in wire.candidates])
    if item_ids is None or category_ids is None or np.count_nonzero(item_ids) < len(item_ids):
        return None
    return item_ids, category_ids


def _request(
    wire: _WireRequest | _WireRest,
    user: _Fields,
    context: _Fields,
    item_ids: NDArray[np.uint64],
    category_ids: NDArray[np.uint64],
) -> ScoreRequest:
    return ScoreRequest(
        user_id=wire.user_id,
        item_ids=item_ids,
        category_ids=category_ids,
        request_id=wire.request_id,
        user=user,
        context=context,
        require_state=wire.require_state,
    )


def _ids(values: list[int | str]) -> NDArray[np.uint64] | None:
    """None if one of the values is not an id."""
    if set(map(type, values)) != _INT:
        if not all(type(value) is int or (type(value) is str and ID.fullmatch(value)) for value in values):
            return None
        values = list(map(int, values))
    try:
        return np.array(values, np.uint64)
    except OverflowError:
        return None


def _shown(wire: _WireRequest, user: _Fields | None, context: _Fields | None, most: int) -> dict[str, Any]:
    """What the models are shown of a request whose types are right (except perhaps in its fields), to find `most`
    faults."""
    shown = {name: getattr(wire, name) for name in wire.__struct_fields__} | {"user": user, "context": context}
    if len(wire.candidates) <= MAX_CANDIDATES:
        each = ({"item_id": one.item_id, "category_id": one.category_id} for one in wire.candidates)
        shown["candidates"] = _enough(each, most)
    return shown


def _refusal(body: bytes | bytearray, error: msgspec.ValidationError) -> InvalidRequest | MalformedBody:
    """Why a body is refused that the decoder did not take."""
    faults = [_first_fault(error)]
    try:
        if len(body) > NAMED_WITHIN_BYTES:
            _skip(body)
        else:
            value = _decode_any(body)
            if type(value) is dict and type(candidates := value.get("candidates")) is list:
                value["candidates"] = _enough(candidates, MAX_FAULTS)
            # The models may find none: of a name that is repeated they see the last value only.
            faults = _faults(value) or faults
    except msgspec.ValidationError:
        pass
    except _NOT_JSON as malformed:
        return _malformed(malformed, body)
    return InvalidRequest(faults)


def _malformed(error: Exception, body: bytes | bytearray) -> MalformedBody:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    if reason == _TRUNCATED:
        reason = _at_the_end(body)
    if isinstance(error, UnicodeDecodeError):  # it counts from the beginning of a string
        try:
            body.decode()
        except UnicodeDecodeError as whole:
            reason = f"a text is not UTF-8 (byte {whole.start})"
    return MalformedBody(f"the body is not JSON in UTF-8: {reason}")


_TRUNCATED = "Input data was truncated"
_ESCAPE = b" " * 12
"""As long as an escape of two halves, and no part of one."""
_HALF = re.compile(r".*unexpected end of hex escape (\(byte \d+\))")


def _at_the_end(body: bytes | bytearray) -> str:
    """Why a body is malformed that the decoder says is truncated. It also says so of one that has its end, if an escape
    near the end lacks digits or its other half: then it finds the fault within the body once more follows."""
    try:
        _skip(bytes(body) + _ESCAPE)
    except _NOT_JSON as error:
        reason = str(error)
        if (place := re.search(r"\(byte (\d+)\)$", reason)) is not None and int(place[1]) < len(body):
            return _HALF.sub(r"half of a surrogate pair \1: escape both halves, or write the character itself", reason)
    return _TRUNCATED


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_TYPE = re.compile(r"Expected `(.*)`, got `(.*)`")
_PLACE = re.compile(r" - at `\$\.?([\w.\[\]]*)`$")


def _first_fault(error: msgspec.ValidationError) -> FieldFault:
    """In the words of `_message` where it has any."""
    message, place = str(error), ""
    if found := _PLACE.search(message):
        message, place = message[: found.start()], found[1]
    for pattern, kind in ((_UNKNOWN, "extra_forbidden"), (_MISSING, "missing")):
        if named := pattern.fullmatch(message):
            return FieldFault(f"{place}.{_shown_name(named[1])}" if place else _shown_name(named[1]), _MESSAGES[kind])
    if message == "Integer value out of range":
        message = f"must be an integer up to {MAX_ID}"
    message = _TYPE.sub(lambda found: f"must be {_kinds(found[1])}, not {_kinds(found[2])}", message)
    return FieldFault(place or "(body)", message[:1].lower() + message[1:])


def _faults(value: Any) -> list[FieldFault]:
    """The faults that the models find in a value."""
    try:
        PredictRequest.model_validate(value)
    except ValidationError as error:
        return [
            FieldFault(_path(fault["loc"]), _message(fault["type"], fault["msg"], fault.get("ctx", {})))
            for fault in error.errors(include_url=False, include_input=False)
        ]
    return []


_FIELDS = Candidate.model_fields.keys()


def _enough(candidates: Iterable[Any], most: int) -> list[Any]:
    """The first candidates, up to the last one whose faults are named, or one more than are allowed: to check all 512
    takes the models 2 ms."""
    shown: list[Any] = []
    faulty = 0
    for candidate in candidates:
        shown.append(candidate)
        faulty += not (
            type(candidate) is dict
            and candidate.keys() == _FIELDS
            and is_id(candidate["item_id"], 1)
            and is_id(candidate["category_id"], 0)
        )
        if faulty == most or len(shown) > MAX_CANDIDATES:
            break
    return shown


def _path(location: Sequence[str | int]) -> str:
    """`candidates[3].item_id` for ("candidates", 3, "item_id")."""
    path = ""
    for part in location:
        name = f"[{part}]" if isinstance(part, int) else _shown_name(part)
        path += f".{name}" if path and not isinstance(part, int) else name
    return path or "(body)"


def _shown_name(name: str) -> str:
    """A member's name; the empty one in quotes, because nothing would stand for the whole body."""
    return name or '""'


_KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
}


def _kinds(types: str) -> str:
    """msgspec's names of types as people say them."""
    return " or ".join(_KINDS.get(name, name) for name in types.split(" | "))


_MESSAGES = {
    "extra_forbidden": "unknown field: remove it",
    "missing": "required",
    "repeated": "given more than once: keep one",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a string",
    "bool_type": "must be a boolean",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}
"""By pydantic's names of faults, and `repeated`, which the models cannot see; those of our own validators have their
message."""


def _message(kind: str, message: str, limits: Mapping[str, Any]) -> str:
    if kind not in _MESSAGES:
        return message.removeprefix("Value error, ")
    return _MESSAGES[kind].format_map(limits)
