"""`/livez` and `/readyz`, the same on both doors."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from rtp.errors import NotReady


def add_health(app: FastAPI, unready: Callable[[], str | None], details: Callable[[], str] = str) -> None:
    """Add both routes. `unready` says why the process should get no requests, None if it should; `details`, what is
    not as it should be all the same, such as a release that could not be loaded."""

    # HEAD, which load balancers send, is what GET is (RFC 9110), so the document names GET alone.
    @app.head("/livez", include_in_schema=False)
    @app.get("/livez", summary="Whether the process is alive; looks at nothing else", tags=["health"])
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether the process should get requests", tags=["health"])
    async def readyz() -> dict[str, str]:
        if reason := unready():
            raise NotReady(reason)
        about = details()
        return {"status": "ready", "detail": about} if about else {"status": "ready"}
