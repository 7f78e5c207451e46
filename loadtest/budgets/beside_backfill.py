"""How much slower is `/predict` while a backfill loads at its budget?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.budgets import Figure, Sizes, budget
from loadtest.budgets.beside_fold import p99_at, quiet_ms
from loadtest.feeder import zipf_users
from loadtest.stacks import Client, NotMeasured, absorbed, feed, predict_body, running
from localstack.stack import Stack
from localstack.wait import until

BYTES_PER_S = 2_000_000
"""So low that the load outlasts a phase with few users."""
PHASES = 3


@budget("/predict p99 while a backfill loads at its budget, over without", "x", at_most=1.25)
def beside_backfill(sizes: Sizes) -> Figure:
    """p99 of /predict at 100 requests/s while `ctr backfill` loads the states, over p99 without; each three times, in
    turn. Each backfill has folded everything before it is measured, and loads into a generation of its own."""
    quiet, busy = [], []
    seconds = sizes.seconds / 2
    with running() as stack, tempfile.TemporaryDirectory() as work:
        feed(stack, zipf_users(sizes.users, sizes.backlog))
        until(lambda: absorbed(stack) >= sizes.backlog, "the log is folded", within_s=300, every_s=0.2)
        client, body = Client(stack.addresses.predict), predict_body(stack, "crowd-0")
        for n in range(PHASES):
            quiet.append(p99_at(client, body, 100, seconds))
            with loading(stack, Path(work) / str(n), n + 1) as load:
                busy.append(p99_at(client, body, 100, seconds))
                if load.poll() is not None:
                    raise NotMeasured("the load was over before the time was up: more users are needed")
    ratio = statistics.median(busy) / statistics.median(quiet)
    return Figure(ratio, f"p99 without {quiet_ms(quiet)} ms, while loading {quiet_ms(busy)} ms")


@contextmanager
def loading(stack: Stack, work: Path, generation: int) -> Iterator[subprocess.Popen[str]]:
    """A backfill that has folded everything and is loading now."""
    told = {**os.environ, **stack.uic[0].environment(), "UIC_BUNDLE__GENERATION": str(generation)}
    command = [sys.executable, "-m", "uic", "backfill", "--work", str(work), "--bytes-per-s", str(BYTES_PER_S)]
    load = subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    sealed = work / "states" / "manifest.json"
    try:
        until(lambda: sealed.exists() or load.poll() is not None, "the states are folded", within_s=600)
        yield load
    finally:
        load.kill()
        load.wait()
        if load.stderr:
            load.stderr.close()
