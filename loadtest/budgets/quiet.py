"""What does a folding worker cost when little happens?"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from loadtest.budgets import Figure, Sizes, budget
from loadtest.cpu import cpu_s_of
from loadtest.feeder import feeding
from loadtest.stacks import NotMeasured, absorbed, running
from localstack.wait import until

RATE = 100
PARTITIONS = 64
TURNS = 5


@budget(f"CPU of a worker at {RATE} events/s in {PARTITIONS} partitions", "% of core", at_most=10.0)
def quiet_worker(sizes: Sizes) -> Figure:
    """The median over five spells, in percent of a core."""
    with running(partitions=PARTITIONS) as stack:
        child = stack.uic[0].child
        if child is None:
            raise NotMeasured("UIC does not run")
        cpu_s = cpu_s_of([child.pid])
        before = absorbed(stack)
        with feeding(stack.addresses.bootstrap, stack.addresses.topic, RATE, stack.options.bundle):
            until(lambda: absorbed(stack) > before + RATE, "events are folded", within_s=60)
            shares = [_share(cpu_s, sizes.seconds / TURNS) for _ in range(TURNS)]
    return Figure(median(shares), f"{min(shares):.1f} to {max(shares):.1f} %, {TURNS} spells")


def _share(cpu_s: Callable[[], float], seconds: float) -> float:
    """Percent of a core that was used while `seconds` passed."""
    before, began = cpu_s(), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_s() - before) / (time.monotonic() - began)
