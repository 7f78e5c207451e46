"""What the groups of both services' settings have in common."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """A group of settings: frozen. Unknown names and numbers that are not finite are refused: an infinite limit would
    be none, and an infinite interval would switch off what is done each time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TlsListener(Group):
    """TLS of a listener; plain text without a certificate."""

    tls_cert_file: Path | None = None
    """Certificate, followed by those up to its CA, PEM."""
    tls_key_file: Path | None = None
    """Private key of the certificate, PEM, without a passphrase."""
    tls_client_ca_file: Path | None = None
    """Clients must present a certificate signed by this CA (mTLS), and still need an API key."""
