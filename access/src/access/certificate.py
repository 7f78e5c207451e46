"""From when until when a certificate is valid, and of which kind its key is, read from its file.

The standard library reads the dates only of CA certificates (`SSLContext.get_ca_certs`), and of a server's that a
client has verified, which an expired one is not; and the kind of a key of none. They stand at a fixed place in every
X.509 certificate, so they are read there.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_KINDS: Final = {
    "RSA": bytes.fromhex("06092a864886f70d010101"),
    "P-256": bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107"),
    "P-384": bytes.fromhex("06072a8648ce3d020106052b81040022"),
    "P-521": bytes.fromhex("06072a8648ce3d020106052b81040023"),
    "Ed25519": bytes.fromhex("06032b6570"),
}
"""How the algorithm of a key begins: its object identifier, and that of the curve."""
_SEQUENCE, _INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """Unix times, s."""

    begins: float
    ends: float

    def trouble(self, now: float) -> str | None:
        """Why clients refuse the certificate at `now` (Unix time, s); None if they do not for its dates."""
        if now > self.ends:
            return f"expired at {_shown(self.ends)}"
        if now < self.begins:
            return f"is not valid before {_shown(self.begins)}"
        return None


def validity(pem: bytes) -> Validity:
    """Of the first certificate in `pem`, which is the listener's own.

    Raises:
        ValueError: there is none, or its dates are not as RFC 5280 wants them.
    """
    encoded = _encoded(pem)
    try:
        dates, _ = _dates_and_rest(encoded)
        kind, begins, dates = _element(dates, _UTC_TIME, _GENERALIZED_TIME)
        began = _time(kind, begins)
        kind, ends, _ = _element(dates, _UTC_TIME, _GENERALIZED_TIME)
        return Validity(began, _time(kind, ends))
    except (ValueError, IndexError) as error:
        raise ValueError("has dates that cannot be read") from error


def key_kind(pem: bytes) -> str:
    """Of the first certificate in `pem`: RSA, P-256, P-384, P-521 or Ed25519; empty for another kind.

    Raises:
        ValueError: there is no certificate, or it is not as RFC 5280 wants it.
    """
    encoded = _encoded(pem)
    try:
        _, rest = _dates_and_rest(encoded)
        _, _, rest = _element(rest, _SEQUENCE)  # subject
        _, key, _ = _element(rest, _SEQUENCE)
        _, algorithm, _ = _element(key, _SEQUENCE)
    except (ValueError, IndexError) as error:
        raise ValueError("has a key that cannot be read") from error
    return next((kind for kind, begin in _KINDS.items() if algorithm.startswith(begin)), "")


def _encoded(pem: bytes) -> bytes:
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("has no certificate")
    return found[1]


def _dates_and_rest(encoded: bytes) -> tuple[bytes, bytes]:
    """The two dates, and what follows them."""
    _, certificate, _ = _element(base64.b64decode(encoded), _SEQUENCE)
    _, rest, _ = _element(certificate, _SEQUENCE)
    if rest[:1] == bytes([_VERSION]):  # left out by certificates of version 1
        _, _, rest = _element(rest, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, algorithm, issuer
        _, _, rest = _element(rest, tag)
    _, dates, rest = _element(rest, _SEQUENCE)
    return dates, rest


def _element(der: bytes, *tags: int) -> tuple[int, bytes, bytes]:
    """The tag of the element that `der` begins with, its content, and what follows it."""
    tag, length, begin = der[0], der[1], 2
    if tag not in tags:
        raise ValueError(f"tag {tag:#x}")
    if length >= 0x80:  # so many bytes of length follow
        begin += length - 0x80
        length = int.from_bytes(der[2:begin])
    end = begin + length
    if end > len(der):
        raise ValueError("ends early")
    return tag, der[begin:end], der[end:]


def _time(kind: int, text: bytes) -> float:
    digits = text.decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year, 1950 to 2049
        digits = ("19" if digits >= "50" else "20") + digits
    if not re.fullmatch(r"\d{14}Z", digits):
        raise ValueError("no time")
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _shown(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
