"""The address of a door: its socket, and why there is none."""

from __future__ import annotations

import errno

from process.addresses import joined
from process.listening import bind


def why_not(host: str, port: int) -> OSError | None:
    """Why no socket can be bound; None if one can, so that the cause was another one, or is over."""
    try:
        bind(host, port).close()
    except OSError as error:
        return error
    return None


def cannot_listen(host: str, port: int, error: Exception, group: str) -> str:
    """What a start says.

    Args:
        error: the cause.
        group: the beginning of the settings' names, as in `UIC_GRPC`.
    """
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    fix = "free the port, or set" if taken else "correct"
    return f"cannot listen on {joined(host, port)} ({cause}): {fix} {group}__HOST and {group}__PORT"
