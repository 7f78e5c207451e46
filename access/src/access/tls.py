"""TLS of a listener, from files: its certificate and key, and optionally the CA of its clients' certificates."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from access.certificate import Validity, key_kind, validity

log = logging.getLogger(__name__)


class BadTls(ValueError):
    """TLS files that cannot be used. Names the file and the fix."""


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """What a listener needs for TLS; the files were read and fit together."""

    cert_file: Path
    """Certificate chain, PEM."""
    key_file: Path
    """Private key of the certificate, PEM, without a passphrase."""
    client_ca_file: Path | None = None
    """Clients must present a certificate signed by this CA (mTLS). It permits the connection, and grants no scope."""

    @classmethod
    def of(
        cls,
        cert_file: Path | None,
        key_file: Path | None,
        client_ca_file: Path | None,
        key_kinds: Sequence[str] = (),
    ) -> Self | None:
        """TLS from these files, or None if none is given. What keeps clients out, and refuses no start, is logged: a
        certificate that is not valid now or whose key some of them cannot use, and a client CA that is none.

        Args:
            cert_file:      as in this class.
            key_file:       likewise.
            client_ca_file: likewise.
            key_kinds:      of keys that all clients of the listener can use, as `key_kind` names them; empty for all.

        Raises:
            BadTls: one is given without the other, or they cannot be used.
        """
        if cert_file is None and key_file is None:
            if client_ca_file is not None:
                raise BadTls("a client CA without TLS: set the certificate and the key as well")
            return None
        if cert_file is None or key_file is None:
            raise BadTls("a certificate and its key belong together: set both")
        tls = cls(cert_file, key_file, client_ca_file)
        context = tls.context()
        if key_kinds and (kind := tls._key_kind()) not in key_kinds:
            # Clients that can use it may be the only ones.
            log.warning(
                "certificate %s has a key that not all clients of this port can use (%s): one of %s is for all",
                cert_file,
                kind or "of another kind",
                ", ".join(key_kinds),
            )
        if (trouble := tls.validity().trouble(time.time())) is not None:
            # A refused start would help no client, and take the service from those that do not verify.
            log.warning("certificate %s %s: clients refuse it. Replace its files and restart", cert_file, trouble)
        if client_ca_file is not None and not context.get_ca_certs():
            # No refusal: clients whose own certificates are in the file may connect, and this may be meant.
            log.warning(
                "client CA %s holds no CA certificate: at most clients whose own certificate is in it can connect. "
                "Give it the certificate of the CA that issued theirs, and restart",
                client_ca_file,
            )
        return tls

    def context(self) -> ssl.SSLContext:
        """For servers that use Python's `ssl`: TLS 1.2 and newer.

        Raises:
            BadTls: as `of`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A password prompt at the terminal would block the start forever.
            context.load_cert_chain(self.cert_file, self.key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise BadTls(f"certificate {self.cert_file} with key {self.key_file}: {_why(error)}") from error
        if self.client_ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca_file)
            except OSError as error:
                raise BadTls(f"client CA {self.client_ca_file}: {_why(error)}") from error
        return context

    def validity(self) -> Validity:
        """From when until when the certificate is valid.

        Raises:
            BadTls: its file cannot be read.
        """
        try:
            return validity(self.cert_file.read_bytes())
        except (OSError, ValueError) as error:
            raise BadTls(f"certificate {self.cert_file}: {_why(error)}") from error

    def _key_kind(self) -> str:
        try:
            return key_kind(self.cert_file.read_bytes())
        except (OSError, ValueError) as error:
            raise BadTls(f"certificate {self.cert_file}: {_why(error)}") from error

    def pem(self) -> tuple[bytes, bytes, bytes | None]:
        """Key, certificate chain and client CA, as they are in the files."""
        authority = None if self.client_ca_file is None else self.client_ca_file.read_bytes()
        return self.key_file.read_bytes(), self.cert_file.read_bytes(), authority


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase: store it without one, readable by the service alone")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"cannot be used ({error.reason or 'no PEM'}); do they belong together?"
    return getattr(error, "strerror", None) or str(error)
