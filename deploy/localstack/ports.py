"""Free loopback ports, and one listening socket that several processes share."""

from __future__ import annotations

import contextlib
import socket

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """`count` distinct loopback ports that are free now; another program may still take one first."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind((LOOPBACK, 0))
        return [listener.getsockname()[1] for listener in sockets]


def free_port() -> int:
    """One loopback port that is free now."""
    return free_ports(1)[0]


def accepts(port: int) -> bool:
    """Whether something listens on this loopback port.

    Raises:
        OSError: the connection was refused or timed out.
    """
    with socket.create_connection((LOOPBACK, port), timeout=1):
        return True


def shared_listener(port: int = 0) -> socket.socket:
    """A socket that listens on loopback, whose descriptor children inherit by number; port 0 takes a free one.

    The backlog holds connections while a process behind it restarts.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; name another port") from error
    return listener
