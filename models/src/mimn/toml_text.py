"""TOML that its owner wrote: what is wrong with it is said with what to do."""

from __future__ import annotations

import tomllib
from typing import Any

_CUT = "(at end of document)"
"""What the library says where the text ends too early."""


class NotToml(ValueError):
    """A text that is not TOML; the message says where, and what to do."""


def parsed(text: str) -> dict[str, Any]:
    """What a text of TOML holds.

    Raises:
        NotToml: it is none.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fix = "the file may be cut short: complete its end" if _CUT in str(error) else "correct it there"
        raise NotToml(f"{error}: no TOML: {fix}") from error
