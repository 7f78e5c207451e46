"""The socket of a door."""

from __future__ import annotations

import errno
import socket


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that a port in use is found before anything is loaded.

    Raises:
        OSError: the address is taken or not this machine's, or the host cannot be a name.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:  # a name with an empty label, or one of more than 63 characters
        raise OSError(errno.EINVAL, "no host can have this name") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
