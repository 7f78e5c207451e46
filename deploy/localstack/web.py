"""The clients by which servers of this machine are asked over HTTP, never through a proxy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import httpx


def open_client(
    *, base_url: str = "", timeout_s: float = 5, headers: Mapping[str, str] | None = None, kept: int = 20
) -> httpx.Client:
    """A client for addresses on loopback.

    It does not read the environment: the proxy that `HTTP_PROXY` or `ALL_PROXY` names cannot reach loopback.

    Args:
        base_url:  what its paths begin with.
        timeout_s: of each request, unless it has its own.
        headers:   of each request.
        kept:      how many connections stay open between requests.
    """
    limits = httpx.Limits(max_keepalive_connections=kept)
    return httpx.Client(base_url=base_url, timeout=timeout_s, headers=headers, limits=limits, trust_env=False)


@cache
def web() -> httpx.Client:
    """One client for all requests: `httpx.get` makes one each time, and to read the CA certificates takes longer than
    the request. No connection is kept, because servers restart."""
    return open_client(kept=0)
