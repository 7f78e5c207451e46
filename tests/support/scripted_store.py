"""A store that answers a GET as its key says: whole, in pieces, too late, or wrongly. For the tests of RTP's reads, and
of what UIC sends to a store that refuses a command."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Self

from hiredis import Reader

from support.listening import end_accepting

BIG = 300_000
"""Bytes of a big value: more than one read of a socket brings."""
PATIENT_S = 30.0


def value_of(key: str) -> bytes:
    """What the store has under a key: other bytes for every key."""
    return key.encode() * (BIG // len(key) if key.startswith("big") else 3)


def bulk(value: bytes | None) -> bytes:
    """A value as it is sent."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


REPLIES: dict[str, Callable[[str], list[bytes]]] = {
    "whole": lambda key: [bulk(value_of(key))],
    "cut": lambda key: [bytes([byte]) for byte in bulk(value_of(key))],
    "big": lambda key: [bulk(value_of(key))],
    "nil": lambda key: [bulk(None)],
    "held": lambda key: [bulk(value_of(key))],
    "refused": lambda key: [b"-WRONGTYPE not a string\r\n"],
    "loading": lambda key: [b"-LOADING the data set\r\n"],
    "twice": lambda key: [bulk(value_of(key)) + bulk(value_of("another"))],
    "noise": lambda key: [b"HTTP/1.1 400\r\n"],
    "number": lambda key: [b":5\r\n"],
    "array": lambda key: [b"*0\r\n"],
    "upstream": lambda key: [b"-upstream failure\r\n"],
    "closing": lambda key: [bulk(value_of(key))],
    "closed": lambda key: [],
}
"""By the first word of a key, the pieces of the reply. `held` waits for `release`; `closing` closes the connection
behind the reply, `closed` in its place. An MGET gets them in turn: nothing for a key that is `refused`, because MGET
passes over what is no string; one error for all if one is `loading`; an error in the
place of a value that is `upstream`, as from a proxy; behind the array what is too much if one is
`twice`."""
_IN_MANY = {"refused": "nil", "twice": "whole"}


class ScriptedStore:
    """Listens on loopback, with a thread for each connection; a context manager."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.holds = 0
        """How many replies are held now."""
        self.sent = threading.Event()
        """Set once a reply that was held is sent."""
        self.connections = 0
        """How many there are now."""
        self.asked: list[tuple[str, list[str]]] = []
        """The commands for keys that came, and their keys."""
        self.opened = 0
        """How many connections were accepted."""
        self.holds_handshakes = False
        """Whether the end of a handshake waits for `release`."""
        self.behind_handshake = b""
        """What it says unasked after a handshake."""
        self.refuses = b""
        """The name of a command that it answers with an error."""
        self.others: list[bytes] = []
        """The names of the commands that came and read no key."""

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        end_accepting(self._listener, self._accepting)
        self.release()

    def release(self) -> None:
        """Send the replies that are held."""
        with self._lock:
            released, self._released = self._released, threading.Event()
            self.holds = 0
        released.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self.opened += 1
        try:
            with contextlib.suppress(OSError):
                connection = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
                commands: Reader = Reader(notEnoughData=None)
                with connection:
                    while data := connection.recv(1 << 16):
                        commands.feed(data)
                        while (command := commands.gets()) is not None:
                            if not self._answer(connection, command):
                                return
        finally:
            with self._lock:
                self.connections -= 1

    def _answer(self, connection: socket.socket, command: list[bytes]) -> bool:
        """Whether the connection stays."""
        if command[0] not in (b"GET", b"MGET"):
            last_of_handshake = b"LIB-VER" in command
            if last_of_handshake and self.holds_handshakes:
                self._hold()
            with self._lock:
                self.others.append(command[0])
            if command[0] == self.refuses:
                connection.sendall(b"-NOPERM no permission for %b\r\n" % command[0])
                return True
            connection.sendall(b"+OK\r\n" + (self.behind_handshake if last_of_handshake else b""))
            return True
        keys = [key.decode() for key in command[1:]]
        kinds = [key.split()[0] for key in keys]
        with self._lock:
            self.asked.append((command[0].decode(), keys))
        many = command[0] == b"MGET"
        if many and "loading" in kinds:
            connection.sendall(b"".join(REPLIES["loading"]("")))
            return True
        pieces = [b"*%d\r\n" % len(keys)] if many else []
        for key, kind in zip(keys, kinds, strict=True):
            if kind == "held":
                self._hold()
            pieces += REPLIES[_IN_MANY.get(kind, kind) if many else kind](key)
            if kind == "closed":
                break
        if many and "twice" in kinds and "closed" not in kinds:
            pieces[-1] += bulk(value_of("another"))
        for piece in pieces:
            connection.sendall(piece)
        if "held" in kinds:
            self.sent.set()
        return kind not in ("closing", "closed")

    def _hold(self) -> None:
        with self._lock:
            self.holds += 1
            released = self._released
        released.wait(PATIENT_S)
