"""How long do requests take that come by a schedule, 500 a second?"""

from __future__ import annotations

from loadtest.budgets import Figure, Sizes, budget
from loadtest.population import Population
from loadtest.sending import send
from loadtest.stacks import CANDIDATES, NotMeasured, publish, running


@budget("500 requests/s of 100 candidates, open loop, p99", "ms", at_most=10.0)
def open_loop(sizes: Sizes) -> Figure:
    """p99 at 500 requests/s from the intended start of each request."""
    with running() as stack:
        publish(stack, [(f"user-{i}", 50) for i in range(50)])
        population = Population(stack.options.bundle, users=50, candidates=CANDIDATES)
        (run,) = send(stack.addresses.predict, population, "fixed", rate=500, seconds=sizes.seconds * 2)
    (result,) = run.phases
    if not run.trusted:
        raise NotMeasured(" ".join(str(result).split()))
    return Figure(result.quantile_ms(0.99), f"p50 {result.quantile_ms(0.5):.2f} ms, {result.count} requests")
