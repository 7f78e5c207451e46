"""Why a connection to the store fails for want of TLS, and which setting or file to correct: see `tls_causes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from process.tls_causes import Cause, TlsSettings, cause_behind, check_tls_files, no_passphrase


def check_store_tls(group: str, url: str, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> None:
    """Make sure that the files of connections to the store can be used.

    Args:
        group:     the settings that name them, such as `RTP_REDIS`.
        url:       of the store; it may hold the key's passphrase.
        ca_file:   CA of the store's certificate, or None.
        cert_file: our certificate, or None.
        key_file:  its key, or None.

    Raises:
        BadTlsFiles: one cannot be read, is no PEM, or they do not fit together.
    """
    check_tls_files(_settings(group), ca_file, cert_file, key_file, _passphrase(url))


def tls_options(url: str, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> dict[str, Any]:
    """The files, as options of redis-py's connections over TLS. Arguments are those of `check_store_tls`."""
    return {
        "ssl_ca_certs": ca_file and str(ca_file),
        "ssl_certfile": cert_file and str(cert_file),
        "ssl_keyfile": key_file and str(key_file),
        "ssl_password": _passphrase(url) or no_passphrase,
    }


def _passphrase(url: str) -> str:
    """Of the key, as the URL has it; empty if it has none."""
    return parse_qs(urlsplit(url).query).get("ssl_password", [""])[-1]


def cause_of(error: BaseException | None, group: str) -> Cause | None:
    """What OpenSSL or the system says behind an error of a client of the store; None if they say nothing.

    Args:
        error: as the client raised it.
        group: the settings of the store, such as `RTP_REDIS`.
    """
    return cause_behind(error, _settings(group))


def _settings(group: str) -> TlsSettings:
    return TlsSettings(
        ca_file=f"{group}__TLS_CA_FILE",
        cert_file=f"{group}__TLS_CERT_FILE",
        key_file=f"{group}__TLS_KEY_FILE",
        address=f"{group}__URL",
        # It may have refused our certificate with an alert that is lost, because we have sent a command already.
        at_each_try="if each try ends so, only one side speaks TLS, or, with rediss://, that server refuses the "
        f"certificate of {group}__TLS_CERT_FILE: see its log",
        other_files=", or the socket of a unix:// URL",
        passphrase=f"ssl_password in the query of {group}__URL",
    )
