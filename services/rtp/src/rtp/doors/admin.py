"""The admin door: metrics, health, and the bundle. For operators, never for callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

from rtp.doors.api import GuardedApp, Row, add_health, add_problems, problem_response
from rtp.errors import ReloadRefused
from rtp.metrics import CONTENT_TYPE, Metrics
from rtp.reload import Reloader
from rtp.serving import Holder, Serving

REFUSED = Row(409, "reload_refused")


def create_admin_app(
    holder: Holder, reloader: Reloader, metrics: Metrics, unready: Callable[[], str | None]
) -> GuardedApp:
    """`/metrics`, `/livez`, `/readyz`, `GET /bundle`, `POST /bundle/reload`."""
    app = GuardedApp(title="RTP admin", redirect_slashes=False)
    add_problems(app)
    add_health(app, unready)

    @app.get("/metrics", response_class=Response)
    async def render() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/bundle")
    async def bundle() -> dict[str, Any]:
        return _served(holder.current)

    @app.post("/bundle/reload")
    async def reload() -> dict[str, Any]:
        return _served(await reloader.reload())

    @app.exception_handler(ReloadRefused)
    async def refused(_: Request, error: ReloadRefused) -> Response:
        return problem_response(REFUSED, detail=str(error))

    return app


def _served(serving: Serving) -> dict[str, Any]:
    model = serving.model
    return {
        "name": model.name,
        "version": model.version,
        "fingerprint": model.fingerprint.hex(),
        "namespace": serving.keys.namespace,
        "context": list(model.context),
        "partitions": serving.standing.partitions if serving.standing else None,
    }
