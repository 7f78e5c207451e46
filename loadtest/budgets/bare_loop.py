"""How much of a bare loop's request rate is left to RTP?"""

from __future__ import annotations

import statistics

from loadtest.bare_loop import rates
from loadtest.budgets import Figure, Sizes, budget
from loadtest.stacks import NotMeasured, predict_body, publish, running
from mimn.bundle import load_bundle


@budget("request rate against a bare ASGI loop", "x", at_least=0.7)
def bare_loop(sizes: Sizes) -> Figure:
    """Closed-loop request rate of RTP over that of a bare ASGI app with the same JSON, GET and head."""
    with running() as stack:
        bundle = load_bundle(stack.options.bundle)
        if bundle.sketch is not None or bundle.reads is not None:
            raise NotMeasured("the bare loop serves heads that read neither a sketch nor a ledger")
        publish(stack, [("reader", 100)])
        rtp, bare = rates(stack.addresses, predict_body(stack, "reader"), sizes.seconds)
    each = [a / b for a, b in zip(rtp, bare, strict=True)]
    return Figure(
        statistics.median(each), f"{statistics.median(rtp):.0f} against {statistics.median(bare):.0f} requests/s"
    )
