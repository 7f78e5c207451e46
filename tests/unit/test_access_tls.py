"""From when until when a listener's certificate is valid: as another reader of certificates says, and told at start. A
client CA that is none is told, too."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from access import BadTls, ListenerTls
from access.certificate import key_kind, validity
from support.certificates import Certificates

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def certificate(begins: datetime, ends: datetime, *, name: str = "localhost", serial: int = 1) -> bytes:
    """PEM, signed by its own key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(subject, subject, KEY.public_key(), serial, begins, ends)
    return made.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def listener(folder: Path, pem: bytes) -> tuple[Path, Path]:
    """The files of a listener."""
    (folder / "server.pem").write_bytes(pem)
    (folder / "server.key").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "server.pem", folder / "server.key"


TIMES = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


@given(TIMES, TIMES, st.text("abc", min_size=1, max_size=64), st.integers(1, 2**158))
def test_the_dates_are_those_that_cryptography_reads(one: datetime, other: datetime, name: str, serial: int) -> None:
    pem = certificate(*sorted((one, other)), name=name, serial=serial)
    expected = x509.load_pem_x509_certificate(pem)
    read = validity(b"a comment\n" + pem + certificate(NOW, NOW + DAY))
    assert read.begins == expected.not_valid_before_utc.timestamp()
    assert read.ends == expected.not_valid_after_utc.timestamp()


@given(st.binary(max_size=60), st.integers(0, 300))
def test_damage_is_told_by_one_error(junk: bytes, at: int) -> None:
    der = x509.load_pem_x509_certificate(certificate(NOW - DAY, NOW + DAY)).public_bytes(Encoding.DER)
    damaged = der[:at] + junk
    pem = b"-----BEGIN CERTIFICATE-----\n" + b64encode(damaged) + b"\n-----END CERTIFICATE-----\n"
    for read, what in ((validity, "dates that"), (key_kind, "a key that")):
        said = ""
        try:
            read(pem)
        except ValueError as error:
            said = str(error)
        assert said in ("", f"has {what} cannot be read", "has no certificate")


@pytest.mark.parametrize(
    ("begins", "ends", "told"),
    [(-10 * DAY, -DAY, "expired at "), (DAY, 10 * DAY, "is not valid before "), (-DAY, DAY, "")],
)
def test_a_certificate_that_clients_refuse_for_its_dates_is_logged_and_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begins: timedelta, ends: timedelta, told: str
) -> None:
    cert, key = listener(tmp_path, certificate(NOW + begins, NOW + ends))
    tls = ListenerTls.of(cert, key, None)
    assert tls is not None
    assert tls.validity().ends == (NOW + ends).timestamp()
    assert len(caplog.records) == bool(told)
    if told:
        assert f"certificate {cert} {told}" in caplog.text
        assert "Replace its files and restart" in caplog.text


def test_a_client_ca_that_is_none_is_logged_and_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    issued = Certificates.issue(tmp_path)
    assert ListenerTls.of(issued.server, issued.server_key, issued.ca) is not None
    assert not caplog.records
    assert ListenerTls.of(issued.server, issued.server_key, issued.client) is not None
    assert f"client CA {issued.client} holds no CA certificate" in caplog.text


def test_a_file_that_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    cert, key = listener(tmp_path, b"nothing")
    with pytest.raises(BadTls, match=r"server\.pem"):
        ListenerTls.of(cert, key, None)
    with pytest.raises(BadTls, match=r"server\.pem: has no certificate"):
        ListenerTls(cert, key).validity()
