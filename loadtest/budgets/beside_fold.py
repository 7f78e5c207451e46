"""How much slower is `/predict` while UIC folds a backlog?"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from loadtest.budgets import Figure, Sizes, budget
from loadtest.feeder import zipf_users
from loadtest.stacks import Client, NotMeasured, absorbed, feed, predict_body, publish, running
from localstack.stack import Options
from localstack.wait import until

FASTEST_FOLD = 200_000
"""Events a second that no fold here exceeds: how large a backlog has to be to outlast a measurement."""


@budget("/predict p99 while a backlog is folded, over without", "x", at_most=2.0)
def beside_fold(sizes: Sizes) -> Figure:
    """p99 of /predict at 100 requests/s while UIC folds a backlog, over p99 while it is down; each twice, in turn."""
    return _beside_fold(sizes)


@budget("the same with real-time priority for RTP, store and client", "x", at_most=2.0)
def beside_fold_in_real_time(sizes: Sizes) -> Figure:
    """The same after `chrt --rr --all-tasks`, as docs/runbooks/overload.md says for services that share their cores."""
    if sys.platform != "linux":
        raise NotMeasured("real-time priority is asked for by calls that Linux alone has")
    return _beside_fold(sizes, real_time=True)


def _beside_fold(sizes: Sizes, *, real_time: bool = False) -> Figure:
    if Options.from_environment().bootstrap is None:
        raise NotMeasured(
            "the small broker saves a log of this size for up to 100 ms at a time, and requests would wait for that: "
            "name a real Kafka in KAFKA_BOOTSTRAP_SERVERS"
        )
    quiet, busy = [], []
    seconds = sizes.seconds / 2
    with running() as stack:
        publish(stack, [("reader", 100)])
        worker = stack.uic[0]
        worker.stop()
        backlog = int(2 * FASTEST_FOLD * (seconds + 1))
        before = absorbed(stack)
        feed(stack, zipf_users(sizes.users, backlog))
        client = Client(stack.addresses.predict)
        body = predict_body(stack, "reader")
        serving = [member.child.pid for member in (*stack.rtp, stack.valkey) if member and member.child]
        first = [*serving, os.getpid()] if real_time else []
        for _ in range(2):
            with _in_real_time(first):
                quiet.append(p99_at(client, body, 100, seconds))
            began = absorbed(stack)
            worker.spawn()
            until(lambda n=began: absorbed(stack) > n, "UIC folds", within_s=60, every_s=0.02)  # type: ignore[misc]
            with _in_real_time(first):
                busy.append(p99_at(client, body, 100, seconds))
            if absorbed(stack) == before + backlog:
                raise NotMeasured(f"all {backlog:,} events were folded before the time was up: raise FASTEST_FOLD")
            worker.stop()
    ratio = statistics.median(busy) / statistics.median(quiet)
    return Figure(ratio, f"p99 without {milliseconds(quiet)} ms, while folding {milliseconds(busy)} ms")


@contextmanager
def _in_real_time(pids: list[int]) -> Iterator[None]:
    """All threads of some processes run before any of the usual policy while the body runs.

    Raises:
        NotMeasured: this user may not ask for that.
    """
    threads = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    try:
        _schedule(threads, os.SCHED_RR, 1)
    except PermissionError:
        raise NotMeasured("real-time priority needs CAP_SYS_NICE: run as root") from None
    try:
        yield
    finally:
        _schedule(threads, os.SCHED_OTHER, 0)


def _schedule(threads: list[int], policy: int, priority: int) -> None:
    for thread in threads:
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setscheduler(thread, policy, os.sched_param(priority))


def p99_at(client: Client, body: bytes, per_s: float, seconds: float) -> float:
    """p99 in seconds at a fixed rate, from the intended start of each request."""
    began = time.perf_counter()
    delays = []
    for i in range(int(per_s * seconds)):
        intended = began + i / per_s
        if (wait := intended - time.perf_counter()) > 0:
            time.sleep(wait)
        client.post(body)
        delays.append(time.perf_counter() - intended)
    return float(np.quantile(delays, 0.99))


def milliseconds(values: list[float]) -> str:
    """Seconds as milliseconds, to print."""
    return " / ".join(f"{value * 1000:.2f}" for value in values)
