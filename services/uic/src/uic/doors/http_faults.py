"""What is wrong with bytes that are no HTTP request, and what to do: the parser's reasons in words for people.

The parser (h11) says why it refuses a request in words for its developers, some with the caller's own bytes. They are
recognized by their beginning; one that is not known here gets a text that is true of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MAX_HEAD_BYTES: Final = 16 << 10
"""Request target and headers. No request of the admin port has a body, and none is read."""


@dataclass(frozen=True, slots=True)
class HttpFault:
    """How a request that cannot be read is answered."""

    status: HTTPStatus
    code: str
    detail: str


TOO_LARGE: Final = HttpFault(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    f"request line and headers are limited to {MAX_HEAD_BYTES} bytes: send fewer or shorter headers",
)
_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of one; no request begins with it."""
_TLS: Final = (
    "this is a TLS handshake, and this port speaks plain HTTP: call it by http://, or set UIC_ADMIN__TLS_CERT_FILE and "
    "UIC_ADMIN__TLS_KEY_FILE"
)
_HOST: Final = "send exactly one Host header, with a host name and perhaps a port"
_LENGTH: Final = "send one Content-Length, a whole number, or none: no request of this port needs a body"
_CODING: Final = "of transfer codings there is `chunked` alone: send no Transfer-Encoding, as no request needs a body"
_LINE: Final = "this is no request line: send one such as `GET /readyz HTTP/1.1`"
_HEADER: Final = "a header is malformed: send `name: value`, without NUL and other control characters"
_ANY: Final = "this is no HTTP/1.1 request: send one such as `GET /readyz HTTP/1.1`, with a Host header and no body"
_DETAILS: Final = {
    "Missing mandatory Host": _HOST,
    "Found multiple Host": _HOST,
    "illegal request line": _LINE,
    "no request line": _LINE,
    "illegal header line": _HEADER,
    "continuation line": _HEADER,
    "bad Content-Length": _LENGTH,
    "conflicting Content-Length": _LENGTH,
    "multiple Transfer-Encoding": _CODING,
    "Only Transfer-Encoding": _CODING,
}
"""By the beginning of the parser's reason."""


def http_fault(reason: str, hint: int, unread: bytes) -> HttpFault:
    """How to answer.

    Args:
        reason: the parser's.
        hint: the status that it suggests.
        unread: what it has not taken of what was sent.
    """
    if hint == TOO_LARGE.status:
        return TOO_LARGE
    if unread[:1] == _TLS_HANDSHAKE:
        detail = _TLS
    else:
        detail = next((text for begin, text in _DETAILS.items() if reason.startswith(begin)), _ANY)
    return HttpFault(HTTPStatus(hint), "malformed", detail)
