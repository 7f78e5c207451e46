"""What schemathesis, which loads this file, changes in a request before it sends it: two things no schema can say."""

from __future__ import annotations

from typing import Any

import schemathesis

from rtp.core.request import MAX_USER_ID_BYTES

DEADLINE = "X-Request-Deadline-Ms"
ENOUGH_MS = "5000"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """A valid deadline becomes one that can be kept, else most answers would say that it was not. And a user id that
    fits by its characters, which a schema counts, is cut to the bytes that its description allows."""
    deadline = str((case.headers or {}).get(DEADLINE, ""))
    if deadline.isascii() and deadline.isdigit() and int(deadline) > 0:
        case.headers[DEADLINE] = ENOUGH_MS
    case.body = fitting(case.body)


def fitting(body: Any) -> Any:
    """`body` with its user id cut to the limit in bytes if it keeps that in characters; a longer one stays too long."""
    user = body.get("user_id") if isinstance(body, dict) else None
    if not isinstance(user, str) or len(user) > MAX_USER_ID_BYTES:
        return body
    return {**body, "user_id": user.encode(errors="ignore")[:MAX_USER_ID_BYTES].decode(errors="ignore")}
