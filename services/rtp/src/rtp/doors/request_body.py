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

What is said of a body that is refused is in `rtp.doors.body_faults`.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.bundle.fields import MAX_FIELDS, MAX_FIELDS_BYTES
from mimn.rows.candidate_list import candidate_list
from rtp.core.request import (
    MAX_CANDIDATES,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_USER_ID_BYTES,
    FieldValue,
    ScoreRequest,
    field_fault,
)
from rtp.doors.body_faults import invalid, malformed, refusal, repeated_in_fields, repeated_in_request
from rtp.doors.json_values import NOT_JSON, decode_any
from rtp.doors.schemas import ID
from rtp.errors import FieldFault, InvalidRequest

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


_decode_strictly = msgspec.json.Decoder(_WireRequest).decode
_decode_rest = msgspec.json.Decoder(_WireRest).decode
_decode_tokens = msgspec.json.Decoder(_TokenRequest).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any], float_hook=float).decode  # why: `rtp.doors.json_values`
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder(float_hook=float).decode
_INT = {int}


def decode_request(body: bytes | bytearray) -> ScoreRequest:
    """The request that `body` holds.

    Raises:
        MalformedBody: not JSON in UTF-8.
        InvalidRequest: JSON, but not a request; names up to `MAX_FAULTS` faults, each with its field, or only the first
            if the body is longer than `NAMED_WITHIN_BYTES` of `rtp.doors.body_faults`.
    """
    if (plain := _plain(body)) is not None:
        return plain
    try:
        wire = _decode(body)
        if _repeats(body, len(wire.candidates)) and (faults := repeated_in_request(body)):
            raise InvalidRequest(faults)
        user, context = _fields("user", wire.user), _fields("context", wire.context)
    except msgspec.ValidationError as error:
        raise refusal(body, error) from error
    except NOT_JSON as error:
        raise malformed(error, body) from error
    ids = _candidates(wire)
    if user is not None and context is not None and ids is not None and not _has_fault(wire, user, context):
        return _request(wire, user, context, *ids)
    raise invalid(wire, user, context, len(body))


def _plain(body: bytes | bytearray) -> ScoreRequest | None:
    """The request, if the body is plain and nothing is wrong with it."""
    if type(body) is not bytes or (ids := candidate_list(MAX_CANDIDATES)) is None or (found := ids.read(body)) is None:
        return None
    try:
        wire = _decode_rest(found.rest)
        user, context = _fields("user", wire.user), _fields("context", wire.context)
    except (InvalidRequest, *NOT_JSON):
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
    ids = iter(decode_any(b"[" + tokens + b"]"))
    candidates = list(map(_WireCandidate, ids, ids))
    return _WireRequest(wire.user_id, candidates, wire.request_id, wire.user, wire.context, wire.require_state)


def _repeats(text: bytes | bytearray, candidates: int) -> bool:
    """Whether the request or one of its candidates may have a name more than once. Each member has one colon beside
    those of its value, and a decoder shows the last one of each name: if any is left out, colons are left over. A
    candidate has two members, and no colon in an id."""
    members = {name: bytes(value).count(b":") for name, value in _decode_members(text).items()}
    return text.count(b":") != len(members) + sum(members.values()) or members["candidates"] != 2 * candidates


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
    # More colons: a text has one, or a name is repeated.
    if bytes(text).count(b":") != len(fields) and (faults := repeated_in_fields(which, bytes(text))):
        raise InvalidRequest(faults)
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
