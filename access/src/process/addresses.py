"""Addresses as settings and options give them: of servers, `host:port`, several separated by commas; of a listener, the
host alone."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

_ADDRESS: Final = re.compile(r"[^\s;@]+:([0-9]{1,5})")
_MOST: Final = 65535
"""Highest port."""


def check_addresses(text: str) -> str:
    """The text itself, if it names servers.

    Raises:
        ValueError: it names none, or a part of it is no address. It is quoted, but for a login before an @.
    """
    for address in text.split(","):
        match = _ADDRESS.fullmatch(address.strip())
        if match is None or not 1 <= int(match[1]) <= _MOST:
            shown = text.rpartition("@")[2]  # a password may be before it
            raise ValueError(
                f"{shown!r} is not host:port, or several of them separated by commas, with ports from 1 to {_MOST}"
            )
    return text


def check_addresses_if_any(text: str) -> str:
    """The text itself, if it is empty or names servers.

    Raises:
        ValueError: as `check_addresses`.
    """
    return text and check_addresses(text)


def hosts_and_ports(addresses: str) -> list[tuple[str, int]]:
    """Host and port of each address of a text that `check_addresses_if_any` lets pass."""
    parts = (address.rpartition(":") for address in addresses.split(",") if address.strip())
    return [(host.strip().strip("[]"), int(port)) for host, _, port in parts]


def plain_host(host: str) -> str:
    """The host itself; of an IPv6 address in brackets, as it stands in URLs, what is between them.

    Raises:
        ValueError: what is between brackets is no IPv6 address.
    """
    if not host.startswith("[") and not host.endswith("]"):
        return host
    bare = host[1:-1]
    try:
        IPv6Address(bare)
        if host != f"[{bare}]":
            raise ValueError
    except ValueError:
        raise ValueError(f"{host!r} is no IPv6 address in brackets") from None
    return bare


def joined(host: str, port: int | str) -> str:
    """`host:port`, with an IPv6 address in brackets: its own colons could not be told from the one before the port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bracketed(address: str) -> str:
    """`host:port` itself, and with the brackets that an IPv6 address lacks."""
    host, _, port = address.rpartition(":")
    try:
        return joined(str(IPv6Address(host)), port)
    except ValueError:
        return address


_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "addresses"})
Addresses = Annotated[str, AfterValidator(check_addresses), _SCHEMA]
"""A setting that names at least one server."""
AddressesIfAny = Annotated[str, AfterValidator(check_addresses_if_any), _SCHEMA]
"""A setting that may be empty."""
Host = Annotated[str, AfterValidator(plain_host), WithJsonSchema({"type": "string", "format": "host"})]
"""A setting that names the host of a listener; IPv6 with or without brackets, and the value has none."""
