"""`make beside`: how much healthy traffic waits beside hostile clients, on one RTP, in turn with and without.

The hostile ones are a process of their own, so that the healthy client's times are the server's. Each round gives one
ratio of p99s; the verdict is their median, which must be at most `ALLOWED`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, cast

import redis

from fuzz.targets import BUNDLE, TINY
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from support.hostile_clients import Healthy, HostileClients
from support.stored import Stored

ALLOWED: Final = 1.5


def attack(port: int, begun: Event, over: Event) -> None:
    """Be hostile until it is over. Raises RuntimeError if a client was not turned away as it should be."""
    with HostileClients(port) as hostile:
        begun.set()
        over.wait()
    if hostile.wrong:
        raise RuntimeError(f"not turned away as expected: {hostile.wrong[:5]}")


def p99_s(times_s: list[float]) -> float:
    """Of a hundred requests at least."""
    return statistics.quantiles(times_s, n=100)[98]


def measure(port: int, rounds: int, requests: int) -> list[tuple[float, float]]:
    """p99 without and beside hostile clients, in seconds, round by round."""
    healthy = Healthy(port)
    healthy.times_s(requests)
    spawn = multiprocessing.get_context("spawn")
    found = []
    for _ in range(rounds):
        quiet = p99_s(healthy.times_s(requests))
        begun, over = spawn.Event(), spawn.Event()
        hostile = spawn.Process(target=attack, args=(port, begun, over))
        hostile.start()
        begun.wait()
        beside = p99_s(healthy.times_s(requests))
        over.set()
        hostile.join()
        if hostile.exitcode:
            raise RuntimeError("the hostile clients say that they were treated wrongly; see above")
        found.append((quiet, beside))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say with the exit status whether it held."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.beside", description="p99 beside hostile clients.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=2000, help="in each phase (default %(default)s)")
    told = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="beside-") as folder,
        Valkey(Path(folder) / "store") as server,
    ):
        stored = Stored(BUNDLE)
        stored.state("u", events=7)
        with redis.Redis.from_url(server.address, protocol=2) as client:
            client.mset(cast("dict[str | bytes, bytes]", stored.values))
        settings = {"RTP_STATE__STALE_AFTER_S": "86400"}
        with RtpProcess("rtp", Path(folder) / "rtp", Surroundings("", server.address, TINY, rtp=settings)) as rtp:
            found = measure(rtp.ports["http"], told.rounds, told.requests)
    ratios = sorted(beside / quiet for quiet, beside in found)
    median = statistics.median(ratios)
    print(json.dumps({"p99 ms without, beside": [[round(1000 * t, 3) for t in pair] for pair in found],
                      "ratio": [round(r, 2) for r in ratios], "median": round(median, 2)}))  # fmt: skip
    return 0 if median <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
