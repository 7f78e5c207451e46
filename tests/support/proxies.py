"""The variables of a company's proxy, which cannot reach a server on this machine's loopback."""

from __future__ import annotations

import os


def none_named() -> None:
    """Take the developer's own proxies from the environment: what tests start asks this machine only."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


def naming(address: str) -> dict[str, str]:
    """The variables for a proxy at `address`, and one of SOCKS, for which httpx needs a package that is not here."""
    url = f"http://{address}"
    of_http = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), url)
    return {**of_http, "ALL_PROXY": f"socks5://{address}", "all_proxy": f"socks5://{address}"}
