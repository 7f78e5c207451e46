"""Where a record came from, in a header: `<name>/<lane or partition>/<number or offset>`.

All who may write to the topic can write such a header, of any length. So only what is written here is read.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = rb"(0|[1-9][0-9]{0,18})"
"""Of no more digits than an offset has, which is a number of 63 bits."""
_PLACE: Final = re.compile(rb"([0-9A-Za-z._-]+)/" + _NUMBER + rb"/" + _NUMBER)


def write_place(name: str, part: int, number: int) -> bytes:
    """The header's value.

    Args:
        name: a topic, or a source that is named like one: ASCII letters, digits and `._-`.
        part: the partition, or the lane; 0 or more.
        number: the offset, or the number in the lane; 0 or more.
    """
    return f"{name}/{part}/{number}".encode()


def read_place(value: bytes) -> tuple[str, int, int] | None:
    """Name, part and number; None if it is nothing that `write_place` writes."""
    found = _PLACE.fullmatch(value)
    return None if found is None else (found[1].decode(), int(found[2]), int(found[3]))
