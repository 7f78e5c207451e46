"""The JSON form of a behavior event: proto3 JSON, as docs/formats/event.md says, and nothing that has to be guessed.

protobuf's own parser for Python takes more, by the rules of Python's `int`: both names of a field, `true` and `1.5` and
`"05"` for an action, `"1_000"` and digits of other scripts for a number, and fractions that have lost digits. Such a
record is rather a mistake of its producer than the event that it would be taken for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Final, NamedTuple

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent

SHOWN_NAME: Final = 64
"""Characters of an unknown field's name that a fault repeats."""
EXACT_BELOW: Final = 2**53
"""Numbers with a fraction or an exponent go through floating point in many languages: from here on digits may be lost.
"""


class Fault(NamedTuple):
    """Why a value is no event in JSON. It repeats no value of a field."""

    where: str
    """The field, as the value names it; `value` for the whole."""
    rule: str
    only_the_action: bool = False
    """The value is sound but for the action, whose name the enum does not have."""

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}"


class _Refused(Exception):
    """What a field holds is not allowed; the message is the rule."""


class _UnknownAction(Exception):
    """A name that the enum does not have; a later version may."""


class _Real(str):
    """A number with a fraction or an exponent, as it is written."""

    __slots__ = ()


class _Field(NamedTuple):
    name: str
    """As the message names it."""
    names: str
    """What JSON may call it, in words."""
    read: Callable[[Any], str | int]
    """Its value, by what JSON holds. Raises `_Refused` and `_UnknownAction`."""


def read_json(value: bytes) -> BehaviorEvent | Fault:
    """The event that `value` holds, or what is wrong with it."""
    try:
        pairs: Any = _DECODER.decode(value.decode())
    except RecursionError:
        return Fault("value", "is nested too deep: fields hold strings and numbers")
    except (json.JSONDecodeError, UnicodeDecodeError):
        return Fault("value", "is not JSON in UTF-8 without a byte order mark")
    except ValueError:  # Python's bound on the digits of an integer
        return Fault("value", "holds a number with too many digits")
    if type(pairs) is not tuple:
        return Fault("value", "is not a JSON object")
    fields: dict[str, Any] = {}
    unknown_action = None
    for name, content in pairs:
        field = _FIELDS.get(name)
        if field is None:
            shown = name[:SHOWN_NAME] if name.isprintable() else ascii(name)[:SHOWN_NAME]
            return Fault(shown, f"is not a field; the fields are {', '.join(_FIELDS)}")
        if field.name in fields:
            return Fault(name, f"is there twice, as {field.names}")
        try:
            fields[field.name] = None if content is None else field.read(content)
        except _Refused as refused:
            return Fault(name, str(refused))
        except _UnknownAction:
            fields[field.name] = None
            unknown_action = Fault(name, "is not an action", only_the_action=True)
    return unknown_action or BehaviorEvent(**fields)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_float=_Real)
"""Objects are tuples of pairs, so that a name that is there twice is seen."""
_NUMBER: Final = re.compile(r"-?[0-9]+((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
"""As in JSON, but zeros may lead; the group is the fraction and the exponent."""


def _text(content: Any) -> str:
    if type(content) is not str:
        raise _Refused("is not a string")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise _Refused("is not a string of Unicode: it has half of a surrogate pair") from None
    return content


def _integer(least: int, most: int, kind: str, content: Any) -> int:
    """The integer of a field that takes those from `least` to `most`; `kind` says so."""
    if type(content) is str or type(content) is _Real:
        content = _exact(content, kind)
    if type(content) is not int or not least <= content <= most:  # a bool is an int for `isinstance`
        raise _Refused(f"is not {kind}")
    return content


def _exact(text: str, kind: str) -> int:
    """The integer that a decimal string, or a number with a fraction or an exponent, is."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise _Refused(f"is not {kind}; in a string: ASCII digits alone, without spaces and _")
    try:
        if not number[1]:
            return int(text)
        exact = Decimal(text)
    except (ValueError, InvalidOperation):  # bounds on digits and exponents
        raise _Refused(f"is not {kind}") from None
    if exact != exact.to_integral_value():
        raise _Refused(f"is not {kind}")
    if not -EXACT_BELOW < exact < EXACT_BELOW:
        raise _Refused("has a fraction or an exponent, and such a number may have lost digits from 2^53 on")
    return int(exact)


def _action(content: Any) -> int:
    if type(content) is not str:
        return _integer(-(2**31), 2**31 - 1, _ACTION, content)
    number = _NUMBERS.get(content)
    if number is not None:
        return number
    try:
        int(_text(content))
    except ValueError:
        raise _UnknownAction from None
    raise _Refused("is a number in quotes: write the action's name, or its number without quotes")


_NUMBERS: Final = dict(Action.items())
_ACTION: Final = f"one of {', '.join(_NUMBERS)}, or its number"
_READERS: Final[dict[int, Callable[[Any], str | int]]] = {
    BehaviorEvent.DESCRIPTOR.fields_by_name["user_id"].type: _text,
    BehaviorEvent.DESCRIPTOR.fields_by_name["item_id"].type: partial(
        _integer, 0, 2**64 - 1, "an integer from 0 to 2^64 - 1 (a text goes in itemText or categoryText)"
    ),
    BehaviorEvent.DESCRIPTOR.fields_by_name["event_time"].type: partial(
        _integer, -(2**63), 2**63 - 1, "an integer from -2^63 to 2^63 - 1"
    ),
    BehaviorEvent.DESCRIPTOR.fields_by_name["action"].type: _action,
}
"""By protobuf type."""


def _fields() -> dict[str, _Field]:
    """Both names of each field."""
    named: dict[str, _Field] = {}
    for told in BehaviorEvent.DESCRIPTOR.fields:
        names = list(dict.fromkeys((told.json_name, told.name)))
        named |= dict.fromkeys(names, _Field(told.name, " or ".join(names), _READERS[told.type]))
    return named


_FIELDS: Final = _fields()
