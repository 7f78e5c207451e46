"""What does DIEN, which reads the events in the request, cost next to MIMN: its head alone, and a whole request?"""

from __future__ import annotations

import statistics
from pathlib import Path

from loadtest.budgets import Figure, Sizes, budget
from loadtest.heads import in_turn, scoring
from loadtest.population import measured_bundle
from loadtest.stacks import CANDIDATES, predict_body, publish, running, server_cpu_in_turn

LONG = 1_000
"""Events of the user in question: as many as DIEN's bundle keeps."""


@budget("DIEN's head at history 1,000 over MIMN's, CPU", "x", at_least=100)
def dien_head(_: Sizes) -> Figure:
    """CPU time of one run of DIEN's head over one of MIMN's, a history of 1,000 events, in turn in one process."""
    bundles = measured_bundle(), _bundle_of_dien()
    mimn, dien = in_turn({str(path): scoring(path, LONG, CANDIDATES) for path in bundles}, rounds=50)
    spread = (f"{t.median * 1e3:.3f} [{t.low * 1e3:.3f}, {t.high * 1e3:.3f}]" for t in (dien, mimn))
    return Figure(dien.median / mimn.median, " over ".join(spread) + " ms")


@budget("the same of a whole request, server CPU, one at a time", "x", at_least=50)
def dien_request(sizes: Sizes) -> Figure:
    """RTP's CPU time for a whole request with DIEN's bundle over that with MIMN's: two stacks on one store, in turn."""
    return _request(max(10, sizes.requests // 100), connections=1)


@budget("the same under load, eight at a time", "x", at_least=50)
def dien_request_under_load(sizes: Sizes) -> Figure:
    """The same, eight requests at once: what a process pays for each when it has much to do."""
    return _request(max(10, sizes.requests // 300), connections=8)


def _bundle_of_dien() -> Path:
    return measured_bundle().parents[1] / "online-retail-dien" / "1"


def _request(requests: int, connections: int) -> Figure:
    patient = {"RTP_DEADLINE__DEFAULT_MS": "2000", "RTP_DEADLINE__MAX_MS": "2000"}  # DIEN's line is long
    with (
        running(rtp=patient) as mimn,
        running(bundle=_bundle_of_dien(), redis_url=mimn.addresses.redis_url, rtp=patient) as dien,
    ):
        for stack in (mimn, dien):
            publish(stack, [("reader", LONG)])
        asked = [(stack, predict_body(stack, "reader")) for stack in (mimn, dien)]
        taken = server_cpu_in_turn(asked, requests, turns=10, connections=connections)
    ratios = [slow / quick for quick, slow in zip(*taken, strict=True)]
    spent = " over ".join(f"{statistics.median(costs) * 1e3:.2f}" for costs in reversed(taken))
    return Figure(statistics.median(ratios), f"{min(ratios):.1f} to {max(ratios):.1f}, {spent} ms")
