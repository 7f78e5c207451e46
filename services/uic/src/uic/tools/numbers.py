"""Numbers on the command line: what argparse calls for the type of an option, so that others are wrong usage."""

from __future__ import annotations

import argparse
import math


def positive(text: str) -> float:
    """A finite number above 0."""
    return _number(text, 0, exclusive=True)


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    return _number(text, 0, exclusive=False)


def count(text: str) -> int:
    """A whole number from 0 on."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return value


def count_from_one(text: str) -> int:
    """A whole number from 1 on."""
    if (value := count(text)) == 0:
        raise argparse.ArgumentTypeError("0 is too few")
    return value


def _number(text: str, least: float, *, exclusive: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < least or (exclusive and value == least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {'above' if exclusive else 'from'} {least:g}")
    return value
