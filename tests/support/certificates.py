"""Real certificates from a test CA, as files, and a listener that terminates TLS in front of a plain server."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from support.listening import end_accepting


@dataclass(frozen=True)
class Certificates:
    """A CA, and the certificates that it issued for a server on loopback and for one client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def issue(cls, folder: Path) -> Self:
        """Create everything as PEM files in `folder`; keys are in PKCS #8, which Java also reads."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        for name, issued in (
            ("server", authority.issue_cert("localhost", "127.0.0.1")),
            ("client", authority.issue_cert("somebody@example.org")),
        ):
            chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
            (folder / f"{name}.pem").write_bytes(chain)
            key = load_pem_private_key(issued.private_key_pem.bytes(), None)
            (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cls.at(folder)

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Those that were issued into `folder`."""
        names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
        return cls(*(folder / name for name in names))

    def expires(self) -> float:
        """When the server's certificate ceases to be valid (Unix time)."""
        return load_pem_x509_certificate(self.server.read_bytes()).not_valid_after_utc.timestamp()

    def trust(self, *, as_client: bool = False) -> ssl.SSLContext:
        """Context for a client that trusts only this CA; `as_client`: it also presents the client's certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if as_client:
            context.load_cert_chain(self.client, self.client_key)
        return context


class TlsFront:
    """Listens with TLS on loopback and forwards everything to a plain port; a context manager."""

    def __init__(self, certificates: Certificates, port: int, *, ask_clients: bool = False) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificates.server, certificates.server_key)
        if ask_clients:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(certificates.ca)
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        """So far."""
        self.handshakes = 0
        """How many of them went through the handshake."""

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        end_accepting(self._listener, self._accepting)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as outer:
            self.handshakes += 1
            with socket.create_connection(("127.0.0.1", self._behind)) as inner:
                back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
                back.start()
                _pump(outer, inner)
                back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
