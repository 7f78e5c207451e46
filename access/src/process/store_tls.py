"""Why a connection to the store fails for want of TLS, and which setting or file to correct.

The libraries wrap what OpenSSL and the system say, two or three errors deep, and name neither files nor settings.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

MOST: Final = 160
"""Characters of a cause: a library's words, which may repeat what a server has sent."""
RESET: Final = "Connection reset by peer"
_DEPTH: Final = 8
"""How many errors behind an error are looked at."""
_DATES: Final = {9, 10}
"""OpenSSL's codes for a certificate that is not valid yet, or no longer."""
_ISSUERS: Final = {2, 18, 19, 20, 21}
"""Those for a certificate whose issuer is not known."""
_NAMES: Final = {62, 64}
"""Those for a certificate that does not hold the host's name or address."""
_FILES: Final = {errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR}
_OUR_CERTIFICATE: Final = ("CERTIFICATE", "UNKNOWN_CA")
"""In the names of alerts by which a server refuses its client's certificate, or the lack of one."""
_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "UNSUPPORTED_PROTOCOL"}


class BadStoreTls(ValueError):
    """TLS files for connections to the store that cannot be used. Names the setting, the file and the reason."""


class Cause(NamedTuple):
    """Why there is no connection."""

    said: str
    """In the words of OpenSSL or the system."""
    fix: str
    """What to correct; empty if that is not known."""

    def __str__(self) -> str:
        return "; ".join(filter(None, self))


def check_store_tls(group: str, url: str, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> None:
    """Make sure that the files of connections to the store can be used.

    Args:
        group:     the settings that name them, such as `RTP_REDIS`.
        url:       of the store; it may hold the key's passphrase.
        ca_file:   CA of the store's certificate, or None.
        cert_file: our certificate, or None.
        key_file:  its key, or None.

    Raises:
        BadStoreTls: one cannot be read, is no PEM, or they do not fit together.
    """
    if ca_file is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
        except OSError as error:
            raise BadStoreTls(f"{group}__TLS_CA_FILE={ca_file}: {_of_file(error)}") from error
    if cert_file is None or key_file is None:
        return
    for name, file in (("TLS_CERT_FILE", cert_file), ("TLS_KEY_FILE", key_file)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise BadStoreTls(f"{group}__{name}={file}: {_of_file(error)}") from error
    passphrase = parse_qs(urlsplit(url).query).get("ssl_password", [""])[-1]
    try:
        # Without a password OpenSSL would ask for it at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password=passphrase)
    except OSError as error:
        raise BadStoreTls(
            f"{group}__TLS_CERT_FILE={cert_file} with {group}__TLS_KEY_FILE={key_file}: {_of_file(error)}; do they "
            "belong together, and has the key no passphrase?"
        ) from error


def _of_file(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"cannot be used ({getattr(error, 'reason', None) or 'no PEM'})"
    return error.strerror or str(error)


def cause_of(error: BaseException | None, group: str) -> Cause | None:
    """What OpenSSL or the system says behind an error of a client of the store; None if they say nothing.

    Args:
        error: as the client raised it.
        group: the settings of the store, such as `RTP_REDIS`.
    """
    for _ in range(_DEPTH):
        match error:
            case None:
                return None
            case ssl.SSLError():
                said, fix = _of_tls(error, group)
                return Cause(_bounded(said), fix)
            case TimeoutError():
                return Cause("timed out", "")
            case OSError() if error.errno in _FILES:
                return Cause(os.strerror(error.errno), f"see {_files(group)}, or the socket of a unix:// URL")
            case ConnectionResetError() | BrokenPipeError():
                return Cause(RESET, _at_each_try(group))
            case OSError() if error.errno is not None and error.errno > 0:
                return Cause(os.strerror(error.errno), "")
            case OSError():  # a name that is not known, or several addresses that each failed
                return Cause(_bounded(error.strerror or str(error)), "")
        error = error.__cause__ or error.__context__
    return None


def by_cause(failed: Iterable[tuple[str, str]]) -> list[str]:
    """Servers that failed, given as address and reason, with each reason once: `a:1, b:1 (Connection refused)`."""
    addresses: dict[str, list[str]] = {}
    for address, reason in failed:
        addresses.setdefault(reason, []).append(address)
    return [f"{', '.join(some)} ({reason})" for reason, some in addresses.items()]


def _of_tls(error: ssl.SSLError, group: str) -> tuple[str, str]:
    # Those that OpenSSL did not raise lack its attributes.
    if (code := getattr(error, "verify_code", None)) is not None:
        said = f"certificate verify failed: {getattr(error, 'verify_message', code)}".rstrip(".")
        if code in _DATES:
            return said, "give that server a certificate that is valid now, or correct this machine's clock"
        if code in _ISSUERS:
            return said, f"{group}__TLS_CA_FILE must name the CA that issued that server's certificate"
        if code in _NAMES:
            return said, "that server's certificate must hold the address by which it is reached"
        return said, ""
    library = getattr(error, "library", None)
    reason = getattr(error, "reason", None) or str(error)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or library == "SYS":
        return RESET, _at_each_try(group)
    if reason in _NO_TLS:
        return reason, f"that server speaks no TLS at this port: correct {group}__URL, or the port"
    if "ALERT" in reason and any(name in reason for name in _OUR_CERTIFICATE):
        return reason, f"that server refuses the certificate of {group}__TLS_CERT_FILE, or asks for one"
    if library in ("X509", "PEM"):
        return reason, f"see {_files(group)}"
    return reason, ""


def _files(group: str) -> str:
    return f"the files of {group}__TLS_CA_FILE, {group}__TLS_CERT_FILE and {group}__TLS_KEY_FILE"


def _at_each_try(group: str) -> str:
    """What may be wrong if a server ends connections without a word: it may have refused our certificate with an alert
    that is lost, because we have sent a command already."""
    return (
        f"if each try ends so, that server refuses the certificate of {group}__TLS_CERT_FILE, or only one side speaks "
        "TLS: see its log"
    )


def _bounded(said: str) -> str:
    return "".join(filter(str.isprintable, said[:MOST]))
