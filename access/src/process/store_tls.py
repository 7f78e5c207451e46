"""Why a connection to the store fails for want of TLS, and which setting or file to correct: see `tls_causes`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from process.tls_causes import Cause, TlsSettings, cause_behind, check_tls_files


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
    passphrase = parse_qs(urlsplit(url).query).get("ssl_password", [""])[-1]
    check_tls_files(_settings(group), ca_file, cert_file, key_file, passphrase)


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
    )
