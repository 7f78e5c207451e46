"""A real Apache Kafka with a second listener that can be cut off, so that one worker loses all brokers and others none.

Behind it is a TCP proxy. The broker names the proxy's address to the clients of that listener, so all their connections
go through it.
"""

from __future__ import annotations

import socket
import termios
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from pathlib import Path

from localstack.apache_kafka import ApacheKafka
from localstack.ports import LOOPBACK
from support.kafka_home import kafka_home

CHUNK = 1 << 16


class Cut:
    """Forwards connections to a port, unless it is told not to."""

    def __init__(self) -> None:
        self._listening = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listening.getsockname()[1]
        self.upstream = 0
        """The port on this machine that is forwarded to."""
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self) -> None:
        """From now on nothing is forwarded, and connections stay open: as behind a firewall that drops packets."""
        self._flows.clear()

    def refuse(self) -> None:
        """End all connections, and each new one at once: as behind a firewall that resets them."""
        self._refuses = True
        for end in list(self._open):
            _end(end)

    def restore(self) -> None:
        """Forward again, also what was held back."""
        self._refuses = False
        self._flows.set()

    @property
    def holds(self) -> bool:
        """Whether something that was received is not forwarded yet."""
        return any(_unread(end) for end in list(self._open))

    def close(self) -> None:
        """End all of it."""
        _end(self._listening)
        self.refuse()
        self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                if self._refuses:
                    client.close()
                    continue
                try:
                    server = socket.create_connection((LOOPBACK, self.upstream))
                except OSError:
                    client.close()
                    continue
                self._open |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            # Taken only after it is sent, so that `holds` sees it until then.
            while data := source.recv(CHUNK, socket.MSG_PEEK):
                self._flows.wait()
                target.sendall(data)
                source.recv(len(data))
        for end in (source, target):
            self._open.discard(end)
            _end(end)


def _unread(end: socket.socket) -> int:
    """How many bytes the kernel has received for this socket and the proxy has not taken; none of a closed one."""
    count = array("i", [0])
    with suppress(OSError, ValueError):  # closed meanwhile
        ioctl(end.fileno(), termios.FIONREAD, count)
    return count[0]


def _end(end: socket.socket) -> None:
    with suppress(OSError):  # not connected any more
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class CutOffKafka(ApacheKafka):
    """One node. `address` is for the test and for workers that keep their broker, `cut_address` for the one that does
    not."""

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__(home, folder)
        self.ports["behind"] = 0
        self._free.append("behind")
        self.cut = Cut()

    @property
    def cut_address(self) -> str:
        """A bootstrap address through the proxy."""
        return f"{LOOPBACK}:{self.cut.port}"

    def settings(self) -> dict[str, str]:
        """Its `server.properties`."""
        self.cut.upstream = self.ports["behind"]
        ours = super().settings()
        return ours | {
            "listeners": f"{ours['listeners']},CUT://{LOOPBACK}:{self.ports['behind']}",
            "advertised.listeners": f"{ours['advertised.listeners']},CUT://{self.cut_address}",
            "listener.security.protocol.map": f"{ours['listener.security.protocol.map']},CUT:PLAINTEXT",
            "group.min.session.timeout.ms": "1000",
        }


@contextmanager
def cut_off_kafka(folder: Path) -> Iterator[CutOffKafka]:
    """Start it (about 5 s), and stop it afterwards. Skips the test where there is no Kafka or no Java."""
    kafka = CutOffKafka(kafka_home(), folder / "kafka")
    try:
        with kafka:
            yield kafka
    finally:
        kafka.cut.close()
