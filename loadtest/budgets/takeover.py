"""How long do the users of a killed worker wait?"""

from __future__ import annotations

import time

from loadtest.budgets import Figure, Sizes, budget
from loadtest.stacks import NotMeasured, publish, running
from localstack.stack import Options


@budget("worker killed → its partitions fold elsewhere", "s", at_most=15.0)
def takeover(sizes: Sizes) -> Figure:
    """Seconds from SIGKILL of one of two workers until events of all partitions are folded again."""
    if not Options.from_environment().bootstrap:
        raise NotMeasured("the small broker never reassigns a killed member's partitions: set KAFKA_BOOTSTRAP_SERVERS")
    with running(uic_workers=2) as stack:
        publish(stack, [(f"user-{i}", 1) for i in range(300)])
        stack.uic[1].kill()
        began = time.monotonic()
        publish(stack, [(f"user-{i}", 1) for i in range(300)], within_s=60)
        return Figure(time.monotonic() - began, "default session timeout")
