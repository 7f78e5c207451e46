"""The admin door: metrics, health, and the bundle. For operators, not for callers.

It may be open on loopback, where an operator's browser reaches it as well. So it refuses requests that browsers send
for web pages, as UIC's does: no web site reloads a bundle.
"""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request, Response

from mimn.release import size
from rtp.core.ports import Model
from rtp.doors.guard import GuardedApp
from rtp.doors.health import Readiness, add_health
from rtp.doors.problems import PROBLEM_JSON, Answer, Headers, Row, add_problems, problem, problem_response
from rtp.doors.schemas import Problem
from rtp.errors import FieldFault, InvalidRequest, ReloadRefused
from rtp.metrics import CONTENT_TYPE, Metrics
from rtp.release import Arm, InService, Release
from rtp.reload import Reloader
from rtp.rollout_follower import RolloutFollower

REFUSED = Row(409, "reload_refused")
_BROWSER = Row(403, "browser")
_DESCRIPTION = "/openapi.json"
"""Read by the page /docs, and the same for everyone."""
_PROBLEM = {"model": Problem, "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}

_UNKNOWN: dict[int | str, dict[str, Any]] = {422: {"description": "A parameter of the query is unknown.", **_PROBLEM}}


def parameters(*known: str) -> Any:
    """What a route depends on that takes these parameters in its query, each at most once, and no other: a parameter
    that is misspelled would be ignored, and of two equal ones the last would count."""

    def check(request: Request) -> None:
        faults = []
        for name in (given := request.query_params):
            if name not in known:
                there = f"there is `{known[0]}`" if known else "remove it"
                faults.append(FieldFault(f"query.{name}", f"unknown parameter: {there}"))
            elif len(given.getlist(name)) > 1:
                faults.append(FieldFault(f"query.{name}", "given more than once: keep one"))
        if faults:
            raise InvalidRequest(faults)

    return Depends(check)


class AdminApp(GuardedApp):
    """Does nothing for web pages, with keys or without."""

    def denial(self, path: str, headers: Headers) -> Answer | None:
        """See `GuardedApp`."""
        if path == _DESCRIPTION or not any(map(_is_of_a_page, headers)):
            return super().denial(path, headers)
        body = problem(_BROWSER, None, "web pages may not call this port; use curl")
        return _BROWSER.status, [(b"content-type", PROBLEM_JSON.encode())], body


def _is_of_a_page(header: tuple[bytes, bytes]) -> bool:
    """Whether browsers send the header only when a page, not the person, makes the request."""
    name, value = header
    return (name == b"origin" and value != b"") or (name == b"sec-fetch-site" and value != b"none")


def create_admin_app(
    in_service: InService,
    reloader: Reloader,
    follower: RolloutFollower,
    metrics: Metrics,
    readiness: Readiness,
) -> GuardedApp:
    """`/metrics`, `/livez`, `/readyz`, `GET /bundle`, `POST /bundle/reload`, `GET /releases`, `POST /releases/look`."""
    app = AdminApp(title="RTP admin", redirect_slashes=False)
    add_problems(app, "POST /predict is on the public port")
    add_health(app, readiness)

    @app.get("/metrics", response_class=Response)
    async def render() -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/bundle", dependencies=[parameters()], responses=_UNKNOWN)
    async def bundle() -> dict[str, Any]:
        return _served(in_service.current)

    @app.post(
        "/bundle/reload",
        dependencies=[parameters("force")],
        responses={
            409: {"description": "Refused; the bundle before goes on serving. `detail` says why.", **_PROBLEM},
            422: {
                "description": "`force` is neither true nor false, or given twice; or there is another parameter.",
                **_PROBLEM,
            },
        },
    )
    async def reload(force: bool = False) -> dict[str, Any]:
        """Serve the bundle that lies under RTP_BUNDLE__PATH now; with `force` even if users lose their states."""
        return _served(await reloader.reload(force=force))

    @app.get("/releases", dependencies=[parameters()], responses=_UNKNOWN)
    async def releases() -> dict[str, Any]:
        """Every release that is loaded or was refused, by arm, and the revision of the rollout record."""
        return _releases(in_service, follower)

    @app.post("/releases/look", dependencies=[parameters()], responses=_UNKNOWN)
    async def look() -> dict[str, Any]:
        """Read the rollout record now, and look again for bundles and manifests that were not here."""
        follower.retry()
        await follower.look()
        await follower.settled()
        return _releases(in_service, follower)

    @app.exception_handler(ReloadRefused)
    async def refused(_: Request, error: ReloadRefused) -> Response:
        return problem_response(REFUSED, detail=str(error))

    return app


def _releases(in_service: InService, follower: RolloutFollower) -> dict[str, Any]:
    traffic, record = in_service.traffic, follower.record
    return {
        "revision": None if record is None else record.revision,
        "arms": [_arm(arm) for arm in traffic.arms],
        "shadows": [_arm(arm) for arm in traffic.shadows],
        "standby": [_bundle(release) for release in in_service.standby],
        "refused": [
            {"bundle": one.bundle, "reason": refusal.reason, "passes": refusal.passes}
            for one, refusal in follower.refused.items()
        ],
        "trouble": follower.trouble,
        "unread": follower.unread,
    }


def _arm(arm: Arm) -> dict[str, Any]:
    return {"arm": arm.name, "buckets": size(arm.buckets) if arm.buckets else None, **_bundle(arm.release)}


def _bundle(release: Release) -> dict[str, Any]:
    return {
        "bundle": release.bundle,
        "manifest": release.model.sha256,
        "namespace": release.keys.namespace,
        "head": _head(release.model),
    }


def _head(model: Model) -> str:
    """What runs the model's head."""
    return "compiled" if model.compiled else "onnxruntime"


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
        "head": _head(model),
        "partitions": len(release.progress.partitions) if release.progress else None,
    }
