"""The client by which servers of this machine are asked over HTTP."""

from __future__ import annotations

from functools import cache

import httpx


@cache
def web() -> httpx.Client:
    """One client for all requests: `httpx.get` makes one each time, and to read the CA certificates takes longer than
    the request. No connection is kept, because servers restart."""
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
