"""Trailing metadata of the gRPC port's answers: a call's name in the log, and what a program does about an error.

Every refusal of ours has it, also one before the request has arrived. Without it a caller cannot know whether anything
was written.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

import grpc

from uic.errors import NotAcknowledged, UicError

REQUEST_ID: Final = "x-request-id"
"""Metadata entry that names a call in the log; a caller may choose it, and every answer has it."""
_SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
Trailers = tuple[tuple[str, str], ...]


def request_id(context: Any) -> str:
    """The caller's request id, or a new one if it sent none that is safe to log."""
    sent = next((str(value) for name, value in context.invocation_metadata() if name == REQUEST_ID), "")
    return sent if _SANE_REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)


def hints(error: UicError) -> Trailers:
    """For programs: whether to retry, and which events a retry should contain."""
    hints = [("retriable", "true" if error.retriable else "false")]
    if isinstance(error, NotAcknowledged):
        hints.append(("unacknowledged", ",".join(map(str, error.positions))))
    return tuple(hints)


def refuse(context: Any, code: grpc.StatusCode, error: UicError) -> None:
    """End a call before its handler runs, with the same trailing metadata as an answer of the handler: once its
    coroutine returns.

    `context.abort` raises an error that the library keeps with all frames that it has passed until a collection of
    cycles, which are rare in UIC: none of them may hold a request.
    """
    context.set_code(code)
    context.set_details(error.detail)
    context.set_trailing_metadata(((REQUEST_ID, request_id(context)), *hints(error)))
