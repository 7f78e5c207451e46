"""Whom connections to the store trust, what is found behind an error of its client, and which TLS files are refused."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from process.store_tls import RenewedContext, cause_of, check_store_tls, tls_options
from process.tls_causes import MOST, BadTlsFiles, Cause, KeyHasPassphrase, by_cause, no_passphrase
from rtp.settings import RedisSettings as RtpRedis
from rtp.store import _commands
from support.certificates import Certificates, TlsFront
from uic.redis_client import open_client
from uic.settings import RedisSettings as UicRedis
from uic.store_failures import MOST_OF_REPLY, describe


def wrapped(error: Exception, times: int) -> Exception:
    """As a client raises it that says it in its own words, `times` deep."""
    for i in range(times):
        outer = redis.ConnectionError(f"Error {i} connecting to h:1")
        outer.__context__ = error
        error = outer
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: " + "x" * 999), ("Multiple exceptions: " + "x" * 999)[:MOST]),
        (OSError("\x1b[31mred"), "[31mred"),
        (TimeoutError(), "timed out"),
    ],
)
def test_the_systems_words_are_found_behind_the_clients_and_bounded(error: Exception, said: str) -> None:
    assert cause_of(wrapped(error, 3), "RTP_REDIS") == Cause(said, "")


def test_without_words_of_the_system_there_is_no_cause() -> None:
    assert cause_of(wrapped(ValueError("a user's key"), 2), "RTP_REDIS") is None
    endless = redis.ConnectionError("a")
    endless.__cause__ = endless
    assert cause_of(endless, "RTP_REDIS") is None


def test_a_server_that_ends_connections_without_a_word_is_told_with_what_may_be_wrong() -> None:
    for error in (
        ConnectionResetError("Connection lost"),
        BrokenPipeError(32, "Broken pipe"),
        ssl.SSLEOFError(8, "EOF"),
    ):
        cause = cause_of(wrapped(error, 1), "UIC_REDIS")
        assert cause is not None
        assert cause.said == "Connection reset by peer"
        assert cause.fix.startswith(
            "that server may have been stopped; if each try ends so while it runs, only one side"
        )
        assert "UIC_REDIS__TLS_CERT_FILE" in cause.fix


def test_servers_that_fail_alike_are_told_together() -> None:
    failed = [("a:1", "Connection refused"), ("b:1", "timed out"), ("c:1", "Connection refused")]
    assert by_cause(failed) == ["a:1, c:1 (Connection refused)", "b:1 (timed out)"]


def test_a_key_with_a_passphrase_is_refused_and_asks_no_terminal_unless_the_url_has_it(tmp_path: Path) -> None:
    issued = Certificates.issue(tmp_path)
    key = load_pem_private_key(issued.client_key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    with pytest.raises(BadTlsFiles, match=r"RTP_REDIS__TLS_KEY_FILE=.*locked\.key: .*passphrase"):
        check_store_tls("RTP_REDIS", "rediss://h", issued.ca, issued.client, locked)
    check_store_tls("RTP_REDIS", "rediss://h?ssl_password=open", issued.ca, issued.client, locked)
    with pytest.raises(BadTlsFiles, match="is the passphrase right"):
        check_store_tls("RTP_REDIS", "rediss://h?ssl_password=wrong", issued.ca, issued.client, locked)


# The context


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts the contexts that are made: each reads all CAs that it trusts."""
    counted = Mock(side_effect=ssl.create_default_context)
    monkeypatch.setattr(ssl, "create_default_context", counted)
    return counted


@pytest.fixture
def issued(tmp_path: Path) -> Certificates:
    return Certificates.issue(tmp_path / "issued")


@pytest.fixture
def foreign(tmp_path: Path) -> Certificates:
    return Certificates.issue(tmp_path / "foreign")


def context_of(ca: Path | None, shown: Certificates) -> RenewedContext:
    return RenewedContext(tls_options("rediss://h", ca, shown.client, shown.client_key))


@pytest.mark.parametrize("of_system", [False, True], ids=["a CA file", "the system's CAs"])
def test_a_context_is_made_once_until_a_file_is_another(
    of_system: bool, issued: Certificates, foreign: Certificates, made: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.ca if of_system else foreign.ca))

    def get() -> ssl.SSLContext:
        """As each connection does, which has a context of its own."""
        return context_of(None if of_system else issued.ca, issued).get()

    first = get()
    assert get() is first
    assert made.call_count == 1
    authority = first.get_ca_certs()
    assert len(authority) == 1
    foreign.ca.rename(issued.ca)
    assert get().get_ca_certs() != authority
    assert get() is get()
    assert made.call_count == 2
    for file in ("client_key", "client"):
        shutil.copyfile(getattr(foreign, file), getattr(issued, file))
    assert get() is get()
    assert made.call_count == 3


def test_a_certificate_that_cannot_be_used_costs_no_reading_of_cas_and_is_used_once_it_can(
    issued: Certificates, foreign: Certificates, made: Mock
) -> None:
    opened = context_of(None, replace(issued, client_key=foreign.client_key))
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
            opened.get()
    assert made.call_count == 0
    issued.client_key.rename(foreign.client_key)
    assert opened.get() is opened.get()
    assert made.call_count == 1


def test_the_cas_that_are_named_are_trusted_in_place_of_the_systems(
    issued: Certificates, foreign: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(foreign.ca))
    [authority] = issued.trust().get_ca_certs()
    pem = issued.ca.read_text()
    for named in ({"ssl_ca_certs": str(issued.ca)}, {"ssl_ca_data": pem}):
        assert RenewedContext(named).get().get_ca_certs() == [authority]
    assert RenewedContext({"ssl_ca_path": str(issued.ca.parent)}).get().get_ca_certs() == [], "looked up when needed"
    assert RenewedContext({}).get().get_ca_certs() == foreign.trust().get_ca_certs()


def greets(named: dict[str, Any], port: int) -> bool:
    """Whether a connection verifies the server."""
    with socket.create_connection(("localhost", port)) as opened:
        try:
            RenewedContext(named).get().wrap_socket(opened, server_hostname="localhost").close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_a_ca_in_a_folder_that_is_another_behind_its_link_is_trusted_no_longer(
    issued: Certificates, foreign: Certificates, front: TlsFront, tmp_path: Path
) -> None:
    hashed = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(issued.ca)]
    name = subprocess.run(hashed, capture_output=True, text=True, check=True).stdout.strip()
    folder = tmp_path / "cas"
    folder.mkdir()
    (folder / f"{name}.0").symlink_to(issued.ca)
    assert greets({"ssl_ca_path": str(folder)}, front.port)
    foreign.ca.rename(issued.ca)
    assert not greets({"ssl_ca_path": str(folder)}, front.port)


def test_a_ca_counts_without_the_one_above_it(issued: Certificates, tmp_path: Path) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("above", "below", "localhost")]
    now = datetime.now(UTC)

    def signed(at: int) -> bytes:
        """The certificate of one, by the one above it."""
        issuer, subject, key = names[at - 1], names[at], keys[at].public_key()
        made = x509.CertificateBuilder(issuer, subject, key, at, now - timedelta(1), now + timedelta(1))
        made = made.add_extension(x509.BasicConstraints(ca=at == 1, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return made.sign(keys[at - 1], hashes.SHA256()).public_bytes(Encoding.PEM)

    below, server, key = tmp_path / "below.pem", tmp_path / "server.pem", tmp_path / "server.key"
    below.write_bytes(signed(1))
    server.write_bytes(signed(2))
    key.write_bytes(keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with TlsFront(replace(issued, server=server, server_key=key), 1) as front:
        assert greets({"ssl_ca_certs": str(below)}, front.port)
        assert not greets({}, front.port)


@pytest.fixture
def front(issued: Certificates) -> Iterator[TlsFront]:
    """With nothing behind it."""
    with TlsFront(issued, 1) as front:
        yield front


@pytest.mark.parametrize("service", ["UIC", "RTP"])
def test_connections_that_fail_read_the_cas_once(
    service: str, foreign: Certificates, front: TlsFront, made: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTP's would otherwise hold up all requests: it opens as many as its pool has while the store is away."""
    monkeypatch.setenv("SSL_CERT_FILE", str(foreign.ca))
    url, tries = f"rediss://localhost:{front.port}", 5

    async def by_rtp() -> None:
        commands = _commands(RtpRedis(url=url, connect_timeout_ms=20_000))  # type: ignore[arg-type]
        for _ in range(tries):
            with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
                await commands.time_ms(20)
        await commands.close()

    if service == "RTP":
        asyncio.run(by_rtp())
    else:
        client = open_client(UicRedis(url=url, timeout_s=20))
        for _ in range(tries):
            with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
                client.ping()
    assert front.connections == tries
    assert made.call_count == 1


def test_a_key_with_a_passphrase_is_told_with_the_settings_at_a_later_connection() -> None:
    with pytest.raises(KeyHasPassphrase) as raised:
        no_passphrase()
    cause = cause_of(wrapped(raised.value, 2), "UIC_REDIS")
    assert cause is not None
    assert cause.said == "the key has a passphrase"
    assert "UIC_REDIS__TLS_KEY_FILE" in cause.fix
    assert "ssl_password in the query of UIC_REDIS__URL" in cause.fix


def test_an_error_reply_is_cut_as_ever_though_a_failure_lies_behind_it() -> None:
    reply = redis.ResponseError("NOPERM " + "k" * 999)
    reply.__context__ = ConnectionRefusedError(111, "x")
    assert describe(reply) == f"ResponseError: {str(reply)[: MOST_OF_REPLY - 1]}…"
