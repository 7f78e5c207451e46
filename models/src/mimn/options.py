"""Numbers on the command line: the types of options for argparse, so that other numbers are wrong usage."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number, `least` or more; it raises ArgumentTypeError for other texts."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return read


def positive(text: str) -> float:
    """A finite number above 0.

    Raises:
        ArgumentTypeError: the text is not one.
    """
    if (value := _number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0.

    Raises:
        ArgumentTypeError: the text is not one.
    """
    if (value := _number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _number(text: str) -> float:
    """Below 0 if it is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0
