"""The admin door: metrics, health, and the bundle. For operators, not for callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

from rtp.doors.guard import GuardedApp
from rtp.doors.health import add_health
from rtp.doors.problems import PROBLEM_JSON, Row, add_problems, problem_response
from rtp.doors.schemas import Problem
from rtp.errors import ReloadRefused
from rtp.metrics import CONTENT_TYPE, Metrics
from rtp.release import InService, Release
from rtp.reload import Reloader

REFUSED = Row(409, "reload_refused")
_PROBLEM = {"model": Problem, "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def create_admin_app(
    in_service: InService, reloader: Reloader, metrics: Metrics, unready: Callable[[], str | None]
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
        return _served(in_service.current)

    @app.post(
        "/bundle/reload",
        responses={
            409: {"description": "Refused; the bundle before goes on serving. `detail` says why.", **_PROBLEM},
            422: {"description": "`force` is neither true nor false.", **_PROBLEM},
        },
    )
    async def reload(force: bool = False) -> dict[str, Any]:
        """Serve the bundle that lies under RTP_BUNDLE__PATH now; with `force` even if users lose their states."""
        return _served(await reloader.reload(force=force))

    @app.exception_handler(ReloadRefused)
    async def refused(_: Request, error: ReloadRefused) -> Response:
        return problem_response(REFUSED, detail=str(error))

    return app


def _served(release: Release) -> dict[str, Any]:
    model = release.model
    return {
        "name": model.name,
        "version": model.version,
        "fingerprint": model.fingerprint.hex(),
        "namespace": release.keys.namespace,
        "user": list(model.request.names["user"]),
        "context": list(model.request.names["context"]),
        "calibrated": model.calibrated,
        "partitions": len(release.progress.partitions) if release.progress else None,
    }
