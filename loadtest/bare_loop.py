"""The least code that could serve a prediction: an ASGI function with the same JSON, the same GET and the same head.

No validation, deadline, admission, metrics, padding, user check or degraded answer: what it does for a request is what
other engines are given to do (`loadtest.peers.work`). RTP's request rate is compared with its rate, both measured in
turn.

    uvicorn --factory loadtest.bare_loop:create_app        (PEER_REDIS_URL, PEER_BUNDLE, PEER_PREFIX)
    python -m loadtest.bare_loop --rtp http://127.0.0.1:8000 --redis redis://127.0.0.1:6379/0
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import uvloop

from loadtest.client import JSON, Target
from loadtest.peers.service import Service
from loadtest.population import Population, measured_bundle
from localstack.ports import accepts, free_port
from localstack.signals import signals_unwind
from localstack.wait import until

Message = MutableMapping[str, Any]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
ROUNDS = 5
CONNECTIONS = 8


class Where(Protocol):
    """The parts of a running stack's addresses that are needed here."""

    @property
    def predict(self) -> str:
        """URL of RTP."""

    @property
    def redis_url(self) -> str:
        """URL of the store."""

    @property
    def prefix(self) -> str:
        """First part of every key."""

    @property
    def bundle(self) -> str:
        """Directory of the bundle."""


def create_app() -> Asgi:
    """The bare application, set by PEER_REDIS_URL, PEER_BUNDLE and PEER_PREFIX."""
    service = Service()

    async def app(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        answer = await service.predict((await receive())["body"])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


@contextmanager
def serving(where: Where) -> Iterator[str]:
    """The bare application as a process; yields its URL once it accepts."""
    port = free_port()
    environment = {
        **os.environ, "PEER_BUNDLE": where.bundle, "PEER_PREFIX": where.prefix, "PEER_REDIS_URL": where.redis_url,
    }  # fmt: skip
    options = "--loop uvloop --http httptools --no-access-log --lifespan off --log-level error"
    command = [sys.executable, "-m", "uvicorn", "--factory", "loadtest.bare_loop:create_app", "--port", str(port)]
    process = subprocess.Popen([*command, *options.split()], env=environment)
    try:
        until(lambda: accepts(port), "the bare loop accepts", within_s=30)
        yield f"http://127.0.0.1:{port}/predict"
    finally:
        process.terminate()
        process.wait(10)


async def saturate(
    url: str,
    bodies: Sequence[bytes],
    seconds: float,
    connections: int = CONNECTIONS,
    *,
    headers: Mapping[str, str] = MappingProxyType(JSON),
) -> float:
    """Answers a second when each connection sends its next request as soon as it has its answer.

    Raises:
        OSError: nothing listens there.
        RuntimeError: an answer was not 200.
    """
    target = Target(url, 1000, headers)  # this measures how much gets done, not how fast one request is
    requests = [target.request(body) for body in bodies]
    until = time.perf_counter() + seconds
    answered = 0

    async def one(start: int) -> None:
        nonlocal answered
        connection = await target.connect()
        at = start
        while time.perf_counter() < until:
            status, answer = await connection.post(requests[at % len(requests)])
            if status != 200:
                raise RuntimeError(f"{url} answered {status}: {answer[:200]!r}")
            answered += 1
            at += connections
        connection.close()

    await asyncio.gather(*(one(i) for i in range(connections)))
    return answered / seconds


def rates(where: Where, body: bytes | Sequence[bytes], seconds: float) -> tuple[list[float], list[float]]:
    """Request rates of RTP and of the bare loop on one store, in `ROUNDS` rounds that take `seconds` together."""
    bodies = [body] if isinstance(body, bytes) else body
    each = seconds / ROUNDS / 2
    rtp: list[float] = []
    bare: list[float] = []
    with serving(where) as bare_url:
        urls = {f"{where.predict}/predict": rtp, bare_url: bare}
        for url in urls:
            uvloop.run(saturate(url, bodies, 0.5))  # warm
        for _ in range(ROUNDS):
            for url, found in urls.items():
                found.append(uvloop.run(saturate(url, bodies, each)))
    return rtp, bare


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a running RTP against the bare loop."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bare_loop", description=main.__doc__)
    parser.add_argument("--rtp", dest="predict", default="http://127.0.0.1:8000")
    parser.add_argument("--redis", dest="redis_url", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--prefix", default="uic")
    parser.add_argument("--bundle", default=str(measured_bundle()))
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args(arguments)
    population = Population(bundle=Path(given.bundle))
    with signals_unwind():
        rtp, bare = rates(given, population.bodies(200), given.seconds)
    each = [a / b for a, b in zip(rtp, bare, strict=True)]
    print(f"RTP {statistics.median(rtp):.0f}/s, bare loop {statistics.median(bare):.0f}/s")
    print(f"ratio {statistics.median(each):.3f} (rounds: {', '.join(f'{ratio:.3f}' for ratio in each)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
