"""The peer on Ray Serve: `python -m loadtest.peers.ray_serve PORT [--batch]`. Ends with SIGTERM."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.service import Service

CONCURRENT = 200
"""Requests that the replica takes at once: more than the generator has under way."""
BATCH = 16
BATCH_WAIT_S = 0.001


@serve.deployment(num_replicas=1, max_ongoing_requests=CONCURRENT, ray_actor_options={"num_cpus": 1})
class Predict:
    """One request at a time."""

    def __init__(self) -> None:
        self._service = Service()

    async def __call__(self, request: Request) -> Response:
        """Body to answer."""
        return Response(await self._service.predict(await request.body()), media_type="application/json")


@serve.deployment(num_replicas=1, max_ongoing_requests=CONCURRENT, ray_actor_options={"num_cpus": 1})
class PredictBatch:
    """Requests that wait together."""

    def __init__(self) -> None:
        self._service = Service()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _answers(self, bodies: list[bytes]) -> list[bytes]:
        return await self._service.predict_all(bodies)

    async def __call__(self, request: Request) -> Response:
        """Body to answer."""
        return Response(await self._answers(await request.body()), media_type="application/json")


def main(port: int, *, batch: bool) -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    serve.start(
        http_options={"host": "127.0.0.1", "port": port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    chosen: Any = PredictBatch if batch else Predict
    serve.run(chosen.bind(), route_prefix="/predict")
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), batch="--batch" in sys.argv[2:])
