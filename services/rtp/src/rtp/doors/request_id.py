"""The id under which an answer, a log line and a caller's own records are about the same request.

`X-Request-Id` of an answer is the request's own header; else its body's `request_id`; else made up. A value that cannot
stand in a header is passed over: an id must neither fail a request nor be a way to write into logs.
"""

from __future__ import annotations

from collections.abc import Iterable

from rtp.core.request import MAX_REQUEST_ID_CHARACTERS

HEADER = "X-Request-Id"
NAME = HEADER.lower().encode()


def is_plain(value: str) -> bool:
    """Whether an id can stand in a header and a log line: 1 to 128 visible ASCII characters."""
    return 0 < len(value) <= MAX_REQUEST_ID_CHARACTERS and value.isascii() and value.isprintable() and " " not in value


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id that a request's headers give; None if there is none or it is not plain."""
    for name, value in headers:
        if name == NAME:
            return plain(value)
    return None


def plain(value: bytes) -> str | None:
    """A header's value as an id; None if it is not plain."""
    text = value.decode("latin-1")
    return text if is_plain(text) else None
