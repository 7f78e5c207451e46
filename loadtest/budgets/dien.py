"""What does DIEN, which reads the events in the request, cost next to MIMN: its head alone, and a whole request?"""

from __future__ import annotations

import statistics

from loadtest.budgets import Figure, Sizes, budget
from loadtest.cpu import cpu_s_of
from loadtest.heads import in_turn, scoring
from loadtest.population import BUNDLE
from loadtest.stacks import CANDIDATES, Client, NotMeasured, predict_body, publish, running

BUNDLE_OF_DIEN = BUNDLE.parents[1] / "online-retail-dien" / "1"
LONG = 1_000
"""Events of the user in question: as many as DIEN's bundle keeps."""


@budget("DIEN's head at history 1,000 over MIMN's, CPU", "x", at_least=100)
def dien_head(_: Sizes) -> Figure:
    """CPU time of one run of DIEN's head over one of MIMN's, a history of 1,000 events, in turn in one process."""
    mimn, dien = in_turn({str(path): scoring(path, LONG, CANDIDATES) for path in (BUNDLE, BUNDLE_OF_DIEN)}, rounds=50)
    spread = (f"{t.median * 1e3:.3f} [{t.low * 1e3:.3f}, {t.high * 1e3:.3f}]" for t in (dien, mimn))
    return Figure(dien.median / mimn.median, " over ".join(spread) + " ms")


@budget("the same of a whole request, server CPU", "x", at_least=50)
def dien_request(sizes: Sizes) -> Figure:
    """RTP's CPU time for a whole request with DIEN's bundle over that with MIMN's: two stacks on one store, in turn."""
    with running() as mimn, running(bundle=BUNDLE_OF_DIEN, redis_url=mimn.addresses.redis_url) as dien:
        asked = []
        for stack in (mimn, dien):
            publish(stack, [("reader", LONG)])
            child = stack.rtp[0].child
            if child is None:
                raise NotMeasured("RTP does not run")
            asked.append((Client(stack.addresses.predict), predict_body(stack, "reader"), cpu_s_of([child.pid])))
        taken: list[list[float]] = [[], []]
        for turn in range(11):
            for (client, body, cpu_s), costs in zip(asked, taken, strict=True):
                before, requests = cpu_s(), max(10, sizes.requests // 100)
                for _ in range(requests):
                    client.post(body)
                if turn:  # the first one warms
                    costs.append((cpu_s() - before) / requests)
    ratios = [slow / quick for quick, slow in zip(*taken, strict=True)]
    spent = " over ".join(f"{statistics.median(costs) * 1e3:.2f}" for costs in reversed(taken))
    return Figure(statistics.median(ratios), f"{min(ratios):.1f} to {max(ratios):.1f}, {spent} ms")
