"""What schemathesis changes in a request before it sends it: two things that no schema can say. It loads this file."""

from __future__ import annotations

from typing import Any

import schemathesis

DEADLINE = "X-Request-Deadline-Ms"
ENOUGH_MS = "5000"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """A valid deadline becomes one that can be kept, else most answers would say that it was not. And integers are
    written as such: JSON Schema takes 241.0 for one, and RTP does not, because ids beyond 2^53 are others then."""
    deadline = str((case.headers or {}).get(DEADLINE, ""))
    if deadline.isascii() and deadline.isdigit() and int(deadline) > 0:
        case.headers[DEADLINE] = ENOUGH_MS
    case.body = integers(case.body)


def integers(value: Any) -> Any:
    """`value` with whole floats as integers, in whatever it is made of."""
    if isinstance(value, dict):
        return {name: integers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [integers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
