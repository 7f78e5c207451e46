"""How fast does one UIC process fold a backlog: of many users, and of one?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from loadtest.budgets import Figure, Sizes, budget
from loadtest.feeder import zipf_users
from loadtest.stacks import absorbed, feed, running
from localstack.stack import Stack
from localstack.wait import until


@dataclass(frozen=True)
class Folded:
    """How fast a backlog was folded, and the processor time of an event in the process that folds."""

    per_s: float
    cpu_us: float


@budget("UIC, one process, backlog to committed", "events/s", at_least=100_000)
def fold_rate(sizes: Sizes) -> Figure:
    """Events a second from a backlog that was produced before, Zipf 1 over the users, 64 partitions."""
    with running(rtp_processes=0) as stack:
        folded = fold_backlog(stack, zipf_users(sizes.users, sizes.backlog), sizes.backlog)
    return Figure(folded.per_s, f"{sizes.backlog:,} events, {folded.cpu_us:.1f} us of CPU each")


@budget("one user's consecutive events", "events/s", at_least=5_000)
def one_user(sizes: Sizes) -> Figure:
    """Events a second when all of them are one user's, so that no two can share a run of the step graph."""
    count = min(20_000, sizes.backlog)
    with running(rtp_processes=0) as stack:
        folded = fold_backlog(stack, ("hot" for _ in range(count)), count)
    return Figure(folded.per_s, f"{count:,} events, {folded.cpu_us:.1f} us of CPU each")


def fold_backlog(stack: Stack, users: Iterator[str], count: int) -> Folded:
    """Let the worker find a backlog of `count` events, and measure between its first tenth and its last commit.

    The first tenth is left out, so that start-up and joining the group are not counted.
    """
    worker = stack.uic[0]
    worker.stop()
    feed(stack, users)
    worker.spawn()
    if worker.child is None:
        raise AssertionError("a worker that was started has a process")
    process = psutil.Process(worker.child.pid)
    seen: dict[str, tuple[float, float, int]] = {}

    def reached(name: str, target: int) -> Callable[[], bool]:
        def look() -> bool:
            folded = absorbed(stack)
            if folded >= target:
                spent = process.cpu_times()
                seen[name] = (time.perf_counter(), spent.user + spent.system, folded)
                return True
            return False

        return look

    until(reached("began", count // 10), "a tenth is folded", within_s=120, every_s=0.02)
    until(reached("ended", count), "the backlog is folded", within_s=300, every_s=0.02)
    (t0, cpu0, n0), (t1, cpu1, n1) = seen["began"], seen["ended"]
    return Folded((n1 - n0) / (t1 - t0), (cpu1 - cpu0) / (n1 - n0) * 1e6)
