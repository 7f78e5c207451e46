"""Why the body of a request is refused, for the caller: each fault with its field.

The models of `rtp.doors.schemas` find the faults; msgspec's words stand where they cannot be asked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict
from pydantic import ValidationError

from rtp.core.request import MAX_CANDIDATES, MAX_ID
from rtp.doors.json_values import NOT_JSON, decode_any, skip
from rtp.doors.schemas import Candidate, PredictRequest, is_id
from rtp.errors import MAX_FAULTS, FieldFault, InvalidRequest, MalformedBody

NAMED_WITHIN_BYTES = 2048
"""For a longer body only one fault is named. Finding them all can take a hundred times as long, and all other requests
wait for the one thread."""


def invalid(
    wire: msgspec.Struct, user: Mapping[str, object] | None, context: Mapping[str, object] | None, size: int
) -> InvalidRequest:
    """Why a request is refused whose types are right, except perhaps in its fields.

    Args:
        wire:    the request, as it was decoded.
        user:    its fields of the user; None if they are no object.
        context: those of the context.
        size:    of the body, in bytes.
    """
    most = MAX_FAULTS if size <= NAMED_WITHIN_BYTES else 1
    shown = asdict(wire) | {"user": user, "context": context}
    if len(shown["candidates"]) <= MAX_CANDIDATES:
        shown["candidates"] = _enough(map(asdict, shown["candidates"]), most)
    return InvalidRequest(_faults(shown)[:most])


def repeated_in_request(body: bytes | bytearray) -> list[FieldFault]:
    """The names that a request or one of its candidates has more than once, in their order."""
    members = _members(body)
    found = [*_twice(members)]
    for name, value in members:
        if name == "candidates":
            found += [f"{name}[{i}].{one}" for i, each in enumerate(value) for one in _twice(each)]
    return [FieldFault(name, _MESSAGES["repeated"]) for name in found[:MAX_FAULTS]]


def repeated_in_fields(which: str, text: bytes) -> list[FieldFault]:
    """The names that the object `which`, written as `text`, has more than once."""
    return [FieldFault(f"{which}.{name}", _MESSAGES["repeated"]) for name in _twice(_members(text))[:MAX_FAULTS]]


def _members(text: bytes | bytearray) -> Any:
    """Each object as the tuple of its members, a list as a list."""
    return json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str)


def _twice(members: Iterable[tuple[str, Any]]) -> list[str]:
    return [_shown_name(name) for name, count in Counter(name for name, _ in members).items() if count > 1]


def refusal(body: bytes | bytearray, error: msgspec.ValidationError) -> InvalidRequest | MalformedBody:
    """Why a body is refused that the decoder did not take."""
    faults = [_first_fault(error)]
    try:
        if len(body) > NAMED_WITHIN_BYTES:
            skip(body)
        else:
            value = decode_any(body)
            if type(value) is dict and type(candidates := value.get("candidates")) is list:
                value["candidates"] = _enough(candidates, MAX_FAULTS)
            # The models may find none: of a name that is repeated they see the last value only.
            faults = _faults(value) or faults
    except msgspec.ValidationError:
        pass
    except NOT_JSON as not_json:
        return malformed(not_json, body)
    return InvalidRequest(faults)


def malformed(error: Exception, body: bytes | bytearray) -> MalformedBody:
    """Why a body is refused that is not JSON in UTF-8."""
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
        skip(bytes(body) + _ESCAPE)
    except NOT_JSON as error:
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
