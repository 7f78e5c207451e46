"""Whether the address of a store can be read, before anything is started with it."""

from __future__ import annotations

import math
import re
from urllib.parse import parse_qsl, urlsplit

_DATABASE = re.compile(r"/?|/\d+")
WHOLE = {"db", "health_check_interval", "max_connections", "protocol", "socket_read_size"}
"""Options of redis-py's URLs that are whole numbers."""
SECONDS = {"socket_connect_timeout", "socket_timeout", "timeout"}
OTHERS = {
    *("client_name", "decode_responses", "encoding", "encoding_errors", "legacy_responses", "lib_name", "lib_version"),
    *("password", "retry_on_error", "retry_on_timeout", "socket_keepalive", "username"),
    *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname"),
    *("ssl_ciphers", "ssl_exclude_verify_flags", "ssl_include_verify_flags", "ssl_keyfile", "ssl_min_version"),
    *("ssl_password",),
}
"""Those that are texts or truth."""
_OPTIONS = WHOLE | SECONDS | OTHERS


def check_store_url(url: str) -> None:
    """Make sure that `url` (`redis://`, `rediss://` or `unix://`) says what it means. Errors never quote it, because it
    may hold a password.

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
        raise ValueError("must end with /N (N is the database number) or have no path (database 0)")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"has the option {name[:40]!r} in its query; there are {', '.join(sorted(_OPTIONS))}")
        if (name in WHOLE and not re.fullmatch(r"\d+", value)) or (name in SECONDS and not _is_seconds(value)):
            raise ValueError(f"has a value of the option {name} in its query that is no number")


def _is_seconds(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) >= 0
    except ValueError:
        return False
