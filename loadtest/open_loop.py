"""Load by an arrival schedule: requests are sent when they are due, whatever the server does.

Each one's time counts from when it was due. A server that stalls cannot hide it, because nobody waits for it before
sending more.

    python -m loadtest.open_loop --url http://127.0.0.1:8000/predict --rate 500 --seconds 20
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import uvloop
from numpy.typing import NDArray

from loadtest.client import Connection, Target
from loadtest.population import Population

LEAST_ACHIEVED = 0.99
"""Below this share of the offered rate a run is saturated: its times say nothing about latency."""
GIVE_UP_S = 10.0


@dataclass(frozen=True)
class Schedule:
    """When requests are due."""

    per_s: float
    seconds: float
    poisson: bool = False
    """Arrivals at random, rather than evenly spaced."""
    seed: int = 0

    def due_s(self) -> NDArray[np.float64]:
        """Seconds from the start at which each request is due, in order."""
        count = int(self.per_s * self.seconds)
        if not self.poisson:
            return np.arange(count) / self.per_s
        return np.cumsum(np.random.default_rng(self.seed).exponential(1 / self.per_s, count))


@dataclass
class Result:
    """What came of a run."""

    offered_per_s: float
    seconds: float = 0.0
    """From the first due request to the last answer."""
    latencies_s: list[float] = field(default_factory=list)
    """Of every request that was answered 200, from when it was due."""
    errors: int = 0
    """Requests that were answered otherwise, or not at all."""
    cpu_share: float = 0.0
    """Of one core, that the generator itself used."""

    @property
    def count(self) -> int:
        """Requests answered 200."""
        return len(self.latencies_s)

    @property
    def achieved_per_s(self) -> float:
        """Answers a second."""
        return self.count / self.seconds if self.seconds else 0.0

    @property
    def saturated(self) -> bool:
        """Whether the server, or the generator, did not keep up."""
        return self.achieved_per_s < LEAST_ACHIEVED * self.offered_per_s

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` of the answered requests did not exceed, in milliseconds."""
        return float(np.quantile(self.latencies_s, q)) * 1000

    def __str__(self) -> str:
        lines = [
            f"offered {self.offered_per_s:.1f}/s, achieved {self.achieved_per_s:.1f}/s over {self.seconds:.1f} s"
            + (" — saturated, not a latency" if self.saturated else ""),
            f"{self.count} answered, {self.errors} failed, generator {self.cpu_share:.0%} of a core",
        ]
        if self.latencies_s:
            quantiles = (0.5, 0.9, 0.99, 0.999, 1.0)
            lines.append(", ".join(f"p{100 * q:g} {self.quantile_ms(q):.2f} ms" for q in quantiles))
        return "\n".join(lines)


def drive(url: str, bodies: Sequence[bytes], schedule: Schedule, *, connections: int = 64) -> Result:
    """Post `bodies`, in turn, to `url` by `schedule`, over at most so many connections.

    Raises:
        OSError: nothing listens there.
    """
    return uvloop.run(_drive(Target(url), bodies, schedule, connections))


async def _drive(target: Target, bodies: Sequence[bytes], schedule: Schedule, most: int) -> Result:
    requests = [target.request(body) for body in bodies]
    due_s = schedule.due_s()
    # The rate that the arrivals really have: a Poisson schedule's is not exactly the one asked for.
    span_s = float(due_s[-1]) + 1 / schedule.per_s if len(due_s) else 0.0
    result = Result(len(due_s) / span_s if span_s else 0.0)
    idle = deque([await target.connect()])
    slots = asyncio.Semaphore(most)
    running: set[asyncio.Task[None]] = set()
    cpu_s, began = time.process_time(), time.perf_counter()

    async def one(request: bytes, due: float) -> None:
        connection: Connection | None = None
        async with slots:
            try:
                connection = idle.pop() if idle else await target.connect()
                async with asyncio.timeout(GIVE_UP_S):
                    status, _ = await connection.post(request)
                if status == 200:
                    result.latencies_s.append(time.perf_counter() - due)
                else:
                    result.errors += 1
            except OSError:  # TimeoutError is one
                result.errors += 1
                if connection is not None:
                    connection.close()
            if connection is not None and connection.open:
                idle.append(connection)

    for i, offset in enumerate(due_s):
        due = began + float(offset)
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(requests[i % len(requests)], due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    result.seconds = max(time.perf_counter() - began, span_s)
    result.cpu_share = (time.process_time() - cpu_s) / result.seconds
    for connection in idle:
        connection.close()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive a running service and print what came of it; status 1 if it was saturated or a request failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.open_loop", description=main.__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/predict")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--poisson", action="store_true", help="arrivals at random rather than evenly spaced")
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args(arguments)
    try:
        bodies = Population.from_environment().bodies(1000)
        schedule = Schedule(given.rate, given.seconds, poisson=given.poisson)
        result = drive(given.url, bodies, schedule, connections=given.connections)
    except (ValueError, OSError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    print(result)
    return 1 if result.saturated or result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
