"""Through which proxy the commands reach UIC's gRPC port: gRPC's, but never to this machine, and as `NO_PROXY` says."""

from __future__ import annotations

import ipaddress
import os
from typing import Final
from urllib.request import proxy_bypass

from access import is_loopback

NAMES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables that gRPC reads, the first that is set."""
DIRECT: Final = (("grpc.enable_http_proxy", 0),)
"""Options of a channel that asks no proxy."""


def proxy_variable(address: str) -> str:
    """The variable that names the proxy which gRPC asks for a connection to `address`; empty if it is direct.

    gRPC itself asks the proxy also for loopback, which no proxy can reach, and knows `NO_PROXY` only as `no_proxy`.
    """
    host = address.rpartition(":")[0].strip("[]")
    if _this_machine(host) or proxy_bypass(host):
        return ""
    return next((name for name in NAMES if os.environ.get(name)), "")


def _this_machine(host: str) -> bool:
    """Whether `host` is loopback, or the address by which a service listens everywhere: UIC_GRPC__HOST may name it."""
    try:
        return is_loopback(host) or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
