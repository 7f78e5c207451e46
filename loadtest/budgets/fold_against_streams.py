"""Does UIC fold a backlog as fast as Kafka Streams does the same work?"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator

from loadtest.budgets import Figure, Sizes, budget
from loadtest.budgets.fold import Folded, fold_backlog
from loadtest.feeder import zipf_users
from loadtest.stacks import NotMeasured, running
from localstack.stack import Options

STREAMS_PEER = "CTR_STREAMS_PEER"
LEAST = 1_000_000
"""Events. Over fewer the JVM of Kafka Streams is still warming up: over 300,000 it folds half as many a second."""
STREAMS_LINE = re.compile(
    r"exactly_once_v2 .*cache=(?P<cache>\d+): folded .* to last commit (?P<rate>\d+)/s; cpu us/event (?P<cpu>[\d.]+)"
)


@budget("the same over Kafka Streams' with exactly_once_v2", "x", at_least=1.0)
def fold_against_streams(sizes: Sizes) -> Figure:
    """Rate of the fold of a backlog over that of Kafka Streams with exactly_once_v2 on the same work, in turn.

    The peer is a script, called with a Python and a number of events. It starts a broker of its own, lets Kafka Streams
    fold that many events into states of the same size, and prints a line for each of its settings.
    """
    peer = os.environ.get(STREAMS_PEER)
    if not peer:
        raise NotMeasured(f"set {STREAMS_PEER} to the script that runs Kafka Streams on the same work")
    if not Options.from_environment().bootstrap:
        raise NotMeasured("the small broker is not a log to compare on: set KAFKA_BOOTSTRAP_SERVERS")
    events = max(sizes.backlog, LEAST)
    ours: list[Folded] = []
    theirs: dict[str, list[Folded]] = {"no cache": [], "cached": []}
    for _ in range(2):
        with running(rtp_processes=0) as stack:
            ours.append(fold_backlog(stack, zipf_users(sizes.users, events), events))
        for mode, folded in streams(peer, events):
            theirs[mode].append(folded)
    if not all(theirs.values()):
        raise NotMeasured(f"{peer} printed no figure with exactly_once_v2 for each of {', '.join(theirs)}")
    best = max(statistics.median(f.per_s for f in some) for some in theirs.values())
    said = "; ".join(f"{mode} {told(some)}" for mode, some in theirs.items())
    return Figure(statistics.median(f.per_s for f in ours) / best, f"{told(ours)}; Kafka Streams {said}")


def streams(peer: str, events: int) -> Iterator[tuple[str, Folded]]:
    """What the peer prints for its runs with exactly_once_v2, and whether states are cached between commits."""
    done = subprocess.run([peer, sys.executable, str(events)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"{peer} ended with status {done.returncode}: {done.stderr.strip()[-200:]}")
    for line in done.stdout.splitlines():
        if found := STREAMS_LINE.match(line):
            yield "cached" if int(found["cache"]) else "no cache", Folded(float(found["rate"]), float(found["cpu"]))


def told(runs: list[Folded]) -> str:
    """Runs, to print."""
    return f"{'/'.join(f'{f.per_s:,.0f}' for f in runs)} a second, {statistics.median(f.cpu_us for f in runs):.1f} us"
