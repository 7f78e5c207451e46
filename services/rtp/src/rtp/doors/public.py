"""The public door: `/predict`, health, and the description of both. For callers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

from fastapi import FastAPI

from rtp.doors.health import Readiness, add_health
from rtp.doors.openapi import describe
from rtp.doors.predict import HINT, PREDICT_PATHS, PredictApp, PredictDoor
from rtp.doors.problems import add_problems
from rtp.release import InService


def create_public_app(
    door: PredictDoor,
    in_service: InService,
    readiness: Readiness,
    *,
    max_deadline_ms: int,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> PredictApp:
    """`/predict`, `/v1/predict`, `/livez`, `/readyz`, `/openapi.json` and its pages. `lifespan` is the background work,
    from before the first request until after the last."""
    app = PredictApp(
        door,
        title="Real-Time Prediction",
        description="How likely is this user to click each of these candidates?",
        version=version("rtp"),
        redirect_slashes=False,
        lifespan=lifespan,
    )
    add_problems(app, "metrics are on the admin port", dict.fromkeys(PREDICT_PATHS, HINT))
    add_health(app, readiness)
    describe(app, max_deadline_ms, lambda: in_service.current.model.request)
    return app
