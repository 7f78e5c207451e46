"""Whether the address of a store can be read, before anything is started with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_DATABASE = re.compile(r"/?|/\d+")
_TLS = ("ca_certs", "ca_data", "ca_path", "cert_reqs", "certfile", "ciphers", "keyfile", "password")
_TEXTS = {"client_name", "password", "username", *(f"ssl_{name}" for name in _TLS)}
"""Options whose values are any text."""


def check_store_url(url: str, options: Mapping[str, Any]) -> None:
    """Make sure that `url` says what it means. Errors never quote it, because it may hold a password.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        options: what its query may name besides texts, and how the client reads each value.

    Raises:
        ValueError: it cannot be taken apart, or a part of it would be dropped; the message goes on behind the setting's
            name.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no port
    except ValueError:
        raise ValueError(
            "is not a URL: its port must be a number up to 65535, and in user and password / ? # [ ] @ : and % must be "
            "written as %2F %3F %23 %5B %5D %40 %3A and %25"
        ) from None
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ValueError("must end with /N, N the number of a database, or with nothing, which is 0")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _TEXTS:
            continue
        if name not in options:
            known = ", ".join(sorted({*options, *_TEXTS}))
            raise ValueError(f"has the option {name[:40]!r} in its query; there are {known}")
        try:
            options[name](value)
        except (ValueError, TypeError):
            raise ValueError(f"has a value of the option {name} in its query that is none of its values") from None
