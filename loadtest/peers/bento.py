"""The peer on BentoML: `bentoml serve loadtest.peers.bento:Predict`, or `:PredictBatch`.

The first is a mounted ASGI application, BentoML's shortest way for a body of one's own; the second its adaptive
batching, whose API takes a list of requests and answers with a list.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest.peers.service import Service

QUIET: dict[str, Any] = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}
BATCH = 16
BATCH_MS = 1000
"""A request that would wait longer is refused; how long a batch waits is learned, and does not depend on it."""
service = cache(Service)
"""Opened by the worker; the supervisor imports this module too."""


async def predict(request: Request) -> Response:
    """Body to answer."""
    return Response(await service().predict(await request.body()), media_type="application/json")


@bentoml.asgi_app(Starlette(routes=[Route("/predict", predict, methods=["POST"])]))
@bentoml.service(workers=1, **QUIET)
class Predict:
    """One request at a time."""

    def __init__(self) -> None:
        service()


@bentoml.service(workers=1, **QUIET)
class PredictBatch:
    """Requests that wait together."""

    def __init__(self) -> None:
        self._service = service()

    @bentoml.api(route="/predict", batchable=True, max_batch_size=BATCH, max_latency_ms=BATCH_MS)
    async def predict(self, requests: list[dict[str, Any]], /) -> list[dict[str, Any]]:
        """Bodies to answers."""
        return await self._service.predict_decoded(requests)
