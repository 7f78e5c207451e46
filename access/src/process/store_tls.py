"""TLS to the store: whom its connections trust, why one fails, and which setting or file to correct (`tls_causes`)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
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


class RenewedContext:
    """The TLS context of connections with the same options of redis-py, in place of the one that redis-py makes: that
    trusts the system's CAs beside those that are named, and is made, from all of them, for each connection."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options` may hold others than those of TLS."""
        given: dict[str, Any] = {name: options[name] for name in _Options._fields if name in options}
        for name in ("ssl_include_verify_flags", "ssl_exclude_verify_flags"):
            given[name] = tuple(given.get(name) or ())
        self._options = _Options(**given)

    def get(self) -> ssl.SSLContext:
        """The context. Its files are looked at each time, and read if they have changed.

        Raises:
            OSError: one cannot be read or used.
        """
        if self._options.ssl_ca_path:  # a context keeps what it has looked up in a folder, and reads nothing when made
            return _made(self._options)
        return _kept(self._options, tuple(map(_version, self._options.files())))


class _Options(NamedTuple):
    """Those of redis-py's connections, with its defaults."""

    ssl_ca_certs: str | None = None
    ssl_ca_path: str | None = None
    ssl_ca_data: str | bytes | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: str | Callable[[], str] | None = None
    ssl_cert_reqs: str | ssl.VerifyMode | None = "required"
    ssl_check_hostname: bool = True
    ssl_include_verify_flags: tuple[ssl.VerifyFlags, ...] = ()
    ssl_exclude_verify_flags: tuple[ssl.VerifyFlags, ...] = ()
    ssl_min_version: ssl.TLSVersion | None = None
    ssl_ciphers: str | None = None

    def files(self) -> list[str]:
        """All that a context is made of."""
        authorities = [self.ssl_ca_certs, self.ssl_ca_path]
        if not self.names_authorities():
            of_system = ssl.get_default_verify_paths()
            folders = os.environ.get(of_system.openssl_capath_env, of_system.openssl_capath)
            authorities = [of_system.cafile, *folders.split(os.pathsep)]
        return [file for file in (*authorities, self.ssl_certfile, self.ssl_keyfile) if file]

    def names_authorities(self) -> bool:
        """Whether there are CAs that are trusted in place of the system's."""
        return bool(self.ssl_ca_certs or self.ssl_ca_path or self.ssl_ca_data)

    def show_certificate(self, context: ssl.SSLContext) -> None:
        """Have `context` show our certificate, if there is one."""
        if self.ssl_certfile:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, self.ssl_password)

    def verify_mode(self) -> ssl.VerifyMode:
        """Whether the server's certificate is verified."""
        if isinstance(self.ssl_cert_reqs, ssl.VerifyMode):
            return self.ssl_cert_reqs
        return ssl.VerifyMode[f"CERT_{(self.ssl_cert_reqs or 'none').upper()}"]


def _version(file: str) -> tuple[int, ...] | None:
    """Another one after each change of a file; None if it is not there."""
    try:
        found = Path(file).stat()
    except OSError:  # reading it says why
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size  # a copy may bring its time of change


@lru_cache(maxsize=4)
def _kept(options: _Options, _versions: tuple[object, ...]) -> ssl.SSLContext:
    """Made once for files of these versions; what fails is tried again."""
    return _made(options)


def _made(options: _Options) -> ssl.SSLContext:
    # First, because one that cannot be used should not cost the reading of all of the system's CAs at each try.
    options.show_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    made = ssl.create_default_context(
        cafile=options.ssl_ca_certs, capath=options.ssl_ca_path, cadata=options.ssl_ca_data
    )
    options.show_certificate(made)
    mode = options.verify_mode()
    made.check_hostname = options.ssl_check_hostname and mode is not ssl.CERT_NONE
    made.verify_mode = mode
    if options.names_authorities():
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # each that is named counts, also without its issuer
    for flag in options.ssl_include_verify_flags:
        made.verify_flags |= flag
    for flag in options.ssl_exclude_verify_flags:
        made.verify_flags &= ~flag
    if options.ssl_min_version is not None:
        made.minimum_version = options.ssl_min_version
    if options.ssl_ciphers:
        made.set_ciphers(options.ssl_ciphers)
    return made


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
        at_each_try="that server may have been stopped; if each try ends so while it runs, only one side speaks TLS, "
        f"or, with rediss://, it refuses the certificate of {group}__TLS_CERT_FILE: see its log",
        other_files=", or the socket of a unix:// URL",
        passphrase=f"ssl_password in the query of {group}__URL",
    )
