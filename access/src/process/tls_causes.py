"""Why a connection to a server fails for want of TLS, and which setting or file to correct.

The libraries wrap what OpenSSL and the system say, two or three errors deep, and name neither files nor settings.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

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
_PEM_IN_SSL: Final = "PEM lib"
"""All that OpenSSL says of a key that the passphrase does not open, and of a file that is no PEM."""
_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "UNSUPPORTED_PROTOCOL"}


class KeyHasPassphrase(OSError):
    """A private key has a passphrase, and none is set. It is an `OSError`, as all else that OpenSSL and the system say,
    because the libraries take nothing else for a connection that failed."""


def no_passphrase() -> str:
    """For `load_cert_chain`, as its password. With None OpenSSL would ask the terminal of the process, if it has one,
    and its thread would wait there for good.

    Raises:
        KeyHasPassphrase: always; it is called for a key that has a passphrase alone.
    """
    raise KeyHasPassphrase("the key has a passphrase")


class BadTlsFiles(ValueError):
    """TLS files for connections to a server that cannot be used. Names the setting, the file and the reason."""


class Cause(NamedTuple):
    """Why there is no connection."""

    said: str
    """In the words of OpenSSL or the system."""
    fix: str
    """What to correct; empty if that is not known."""

    def __str__(self) -> str:
        return "; ".join(filter(None, self))


class TlsSettings(NamedTuple):
    """The settings of connections to a server, by their names, such as `RTP_REDIS__TLS_CA_FILE`."""

    ca_file: str
    cert_file: str
    key_file: str
    address: str
    """What to correct if the server speaks no TLS."""
    at_each_try: str = ""
    """What may be wrong if a server ends each connection without a word."""
    other_files: str = ""
    """Which file besides these three may be meant if one is not there."""
    passphrase: str = ""
    """Where the passphrase of the key can be set; empty if nowhere."""

    def files(self) -> str:
        """The three, in words."""
        return f"the files of {self.ca_file}, {self.cert_file} and {self.key_file}"

    def and_passphrase(self) -> str:
        """The setting with which a key that has a passphrase must fit."""
        return f", and whether {self.passphrase} opens the key" if self.passphrase else ""

    def without_passphrase(self) -> str:
        """What to do about a key that has one."""
        or_set = f", or set {self.passphrase}" if self.passphrase else ""
        return f"store the key of {self.key_file} without one, readable by the service alone{or_set}"


def check_tls_files(
    names: TlsSettings,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
    passphrase: str = "",
) -> None:
    """Make sure that the files of connections to a server can be used.

    Args:
        names:      the settings that name them.
        ca_file:    CA of the server's certificate, or None.
        cert_file:  our certificate, or None.
        key_file:   its key, or None.
        passphrase: the key's.

    Raises:
        BadTlsFiles: one cannot be read, is no PEM, or they do not fit together.
    """
    if ca_file is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
        except OSError as error:
            raise BadTlsFiles(f"{names.ca_file}={ca_file}: {_of_file(error)}") from error
    if cert_file is None or key_file is None:
        return
    for name, file in ((names.cert_file, cert_file), (names.key_file, key_file)):
        try:
            Path(file).open("rb").close()
        except OSError as error:
            raise BadTlsFiles(f"{name}={file}: {_of_file(error)}") from error
    try:
        password = passphrase or no_passphrase
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password=password)
    except KeyHasPassphrase as error:
        raise BadTlsFiles(f"{names.key_file}={key_file}: {error}; {names.without_passphrase()}") from error
    except OSError as error:
        raise BadTlsFiles(
            f"{names.cert_file}={cert_file} with {names.key_file}={key_file}: {_of_file(error)}; do they belong "
            f"together{', and is the passphrase right' if passphrase else ''}?"
        ) from error


def _of_file(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"cannot be used ({getattr(error, 'reason', None) or 'no PEM'})"
    return error.strerror or str(error)


def cause_behind(error: BaseException | None, names: TlsSettings) -> Cause | None:
    """What OpenSSL or the system says behind an error of a client; None if they say nothing.

    Args:
        error: as the client raised it.
        names: the settings of its server.
    """
    for _ in range(_DEPTH):
        match error:
            case None:
                return None
            case KeyHasPassphrase():
                return Cause(str(error), names.without_passphrase())
            case ssl.SSLError():
                said, fix = _of_tls(error, names)
                return Cause(bounded(said), fix)
            case TimeoutError():
                return Cause("timed out", "")
            case OSError() if error.errno in _FILES:
                return Cause(os.strerror(error.errno), f"see {names.files()}{names.other_files}")
            case ConnectionResetError() | BrokenPipeError():
                return Cause(RESET, names.at_each_try)
            case OSError() if error.errno is not None and error.errno > 0:
                return Cause(os.strerror(error.errno), "")
            case OSError():  # a name that is not known, or several addresses that each failed
                return Cause(bounded(error.strerror or str(error)), "")
        error = error.__cause__ or error.__context__
    return None


def by_cause(failed: Iterable[tuple[str, str]]) -> list[str]:
    """Servers that failed, given as address and reason, with each reason once: `a:1, b:1 (Connection refused)`."""
    addresses: dict[str, list[str]] = {}
    for address, reason in failed:
        addresses.setdefault(reason, []).append(address)
    return [f"{', '.join(some)} ({reason})" for reason, some in addresses.items()]


def _of_tls(error: ssl.SSLError, names: TlsSettings) -> tuple[str, str]:
    # Those that OpenSSL did not raise lack its attributes.
    if (code := getattr(error, "verify_code", None)) is not None:
        said = f"certificate verify failed: {getattr(error, 'verify_message', code)}".rstrip(".")
        if code in _DATES:
            return said, "give that server a certificate that is valid now, or correct this machine's clock"
        if code in _ISSUERS:
            return said, f"{names.ca_file} must name the CA that issued that server's certificate"
        if code in _NAMES:
            return said, "that server's certificate must hold the address by which it is reached"
        return said, ""
    library = getattr(error, "library", None)
    reason = getattr(error, "reason", None) or str(error)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or library == "SYS":
        return RESET, names.at_each_try
    if reason in _NO_TLS:
        return reason, f"that server speaks no TLS at this port: correct {names.address}, or the port"
    if "ALERT" in reason and any(name in reason for name in _OUR_CERTIFICATE):
        return reason, f"that server refuses the certificate of {names.cert_file}, or asks for one"
    if library in ("X509", "PEM"):
        return reason, f"see {names.files()}"
    if _PEM_IN_SSL in reason:
        return "a key or certificate cannot be read (PEM lib)", f"see {names.files()}{names.and_passphrase()}"
    return reason, ""


def bounded(said: str) -> str:
    """The first characters of `said`, without those that a terminal would obey."""
    return "".join(filter(str.isprintable, said[:MOST]))
