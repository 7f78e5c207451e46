"""JSON values whose types are not known: how a request's body is looked at where the typed decoder does not take it."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from rtp.core.request import MAX_ID

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
decode_any = msgspec.json.Decoder(float_hook=_number_of).decode
"""Any value; a number that is whole and may be an id as an integer, however it is written."""
skip = msgspec.json.Decoder(msgspec.Raw).decode
"""Reads a value only to see whether it is JSON."""
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoders raise."""
