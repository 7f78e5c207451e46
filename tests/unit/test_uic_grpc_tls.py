"""Which certificates the gRPC door takes, and what a start says of the others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from access import ListenerTls
from localstack.wait import until
from support.uic_doors import open_loop, uic_service
from uic.doors.grpc import KEY_KINDS, GrpcServer
from uic.doors.loop import DoorLoop
from uic.errors import StartRefused
from uic.settings import GrpcSettings

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAKES: dict[str, Callable[[], Any]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
OTHERS: dict[str, Callable[[], Any]] = {
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "brainpool": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
}


def files(folder: Path, key: Any) -> tuple[Path, Path]:
    """A certificate for localhost that `key` has signed itself, and the key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    begins, ends = now - timedelta(1), now + timedelta(1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begins, ends).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
    )
    signed = made.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    (folder / "server.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "server.pem", folder / "server.key"


def door(tls: ListenerTls | None, port: int = 0) -> GrpcServer:
    settings = GrpcSettings(port=port)
    return GrpcServer(uic_service(settings, SimpleNamespace()), settings, lambda: True, tls=tls)


@pytest.fixture(scope="module")
def loop() -> Iterator[DoorLoop]:
    loop = open_loop()
    yield loop
    loop.close()


def connects(loop: DoorLoop, tls: ListenerTls) -> bool:
    """Whether a client of the gRPC library connects that trusts the certificate."""
    server = door(tls)
    seen: list[grpc.ChannelConnectivity] = []
    final = {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE}
    trusted = grpc.ssl_channel_credentials(tls.cert_file.read_bytes())
    with grpc.secure_channel(f"localhost:{loop.run(server.start())}", trusted) as channel:
        channel.subscribe(seen.append, try_to_connect=True)
        until(lambda: bool(final & set(seen)), "it connects, or fails", within_s=60)
        channel.unsubscribe(seen.append)
    loop.run(server.drain(1))
    return grpc.ChannelConnectivity.READY in seen


@pytest.mark.parametrize("kind", MAKES)
def test_a_key_with_which_grpcs_own_clients_cannot_connect_is_logged(
    loop: DoorLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    cert, key = files(tmp_path, MAKES[kind]())
    tls = ListenerTls.of(cert, key, None)
    assert tls is not None
    assert not caplog.records, "other doors take all"
    assert connects(loop, tls) is (kind in KEY_KINDS)
    assert ListenerTls.of(cert, key, None, KEY_KINDS) == tls
    assert (f"has a key that not all clients of this port can use ({kind})" in caplog.text) is (kind not in KEY_KINDS)


@pytest.mark.parametrize("kind", OTHERS)
def test_keys_with_which_the_library_cannot_listen_are_refused_with_those_that_it_can_use(
    loop: DoorLoop, tmp_path: Path, kind: str
) -> None:
    cert, key = files(tmp_path, OTHERS[kind]())
    with pytest.raises(StartRefused, match=r"server\.pem, .*: the key must be one of RSA, P-256, P-384"):
        loop.run(door(ListenerTls.of(cert, key, None, KEY_KINDS)).start())


def _marked(file: Path) -> None:
    file.write_bytes(BYTE_ORDER_MARK + file.read_bytes())


def _trusted(file: Path) -> None:
    command = ["openssl", "x509", "-trustout", "-in", str(file)]
    file.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("spoil", "which"),
    [(_marked, "server.pem"), (_marked, "server.key"), (_trusted, "server.pem"), (_marked, "clients.pem")],
)
def test_files_that_the_library_alone_refuses_are_named_and_not_the_address(
    loop: DoorLoop, tmp_path: Path, spoil: Callable[[Path], None], which: str
) -> None:
    cert, key = files(tmp_path, MAKES["P-256"]())
    clients = tmp_path / "clients.pem"
    clients.write_bytes(cert.read_bytes())
    spoil(tmp_path / which)
    tls = ListenerTls.of(cert, key, clients, KEY_KINDS)
    with pytest.raises(StartRefused) as refused:
        loop.run(door(tls).start())
    said = str(refused.value)
    for name, file in (("CERT", cert), ("KEY", key), ("CLIENT_CA", clients)):
        assert f"UIC_GRPC__TLS_{name}_FILE={file}" in said
    assert "UIC_GRPC__PORT" not in said
