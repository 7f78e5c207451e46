"""How much of a bare loop's request rate is left to RTP?"""

from __future__ import annotations

import statistics

from loadtest.bare_loop import rates
from loadtest.budgets import Figure, Sizes, budget
from loadtest.stacks import predict_body, publish, running


@budget("request rate against a bare ASGI loop", "x", at_least=0.7)
def bare_loop(sizes: Sizes) -> Figure:
    """Closed-loop request rate of RTP over that of a bare ASGI app with the same JSON, GET and head."""
    with running() as stack:
        publish(stack, [("reader", 100)])
        rtp, bare = rates(stack.addresses, predict_body(stack, "reader"), sizes.seconds)
    each = [a / b for a, b in zip(rtp, bare, strict=True)]
    return Figure(
        statistics.median(each), f"{statistics.median(rtp):.0f} against {statistics.median(bare):.0f} requests/s"
    )
