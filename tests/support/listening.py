"""How a listener of a test's own server ends."""

from __future__ import annotations

import socket
import threading


def end_accepting(listener: socket.socket, accepting: threading.Thread) -> None:
    """Close a listener, and return when the thread that waits in its `accept` has ended.

    To close it alone does not wake that thread. It takes one more connection then, or one of the next listener that has
    the same descriptor.
    """
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join(60)
    assert not accepting.is_alive()
