"""What `/predict` waits beside a backlog, and an event beside another program, by who has short slices, in turn.

    PYTHONPATH=tests python -m bench.giving_way [--rounds 3] [--seconds 4] [--backlog 300000]

Modes: slices as the kernel has them, short ones for RTP, also long ones for UIC or short ones for the store. First
p99 of /predict at 100 requests/s while UIC is down, then while it folds a backlog, then produced → visible at 2,000
events/s while another process takes half a core. Modes are changed on the running processes, so that all are measured
in one run. A backlog of more than some 300,000 events needs a real Kafka: the small broker saves all of it from time
to time, which is then what is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from kafka import KafkaProducer

from loadtest.budgets.beside_fold import p99_at
from loadtest.cpu import cpu_s_of
from loadtest.feeder import event, feeding, zipf_users
from loadtest.stacks import Client, absorbed, feed, known_items, predict_body, publish, running
from localstack.server import Server
from localstack.stack import Stack
from localstack.wait import until
from mimn.bundle import load_bundle
from rtp.slices import ask_for_slices

USERS = 100_000
PER_S = 100
"""Requests."""
SHORT_US, LONG_US = 100, 10_000
MODES = {
    "kernel": (0, 0, 0),
    "rtp": (SHORT_US, 0, 0),
    "rtp, uic": (SHORT_US, 0, LONG_US),
    "rtp, store": (SHORT_US, SHORT_US, 0),
}
"""Slices of RTP, of the store and of UIC; 0 is the kernel's own length."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each phase")
    parser.add_argument("--backlog", type=int, default=300_000, help="events")
    options = parser.parse_args(arguments)
    phases: dict[str, dict[str, list[float]]] = {}
    with running(rtp={"RTP_LOAD__SLICE_US": "0"}) as stack:
        publish(stack, [("reader", 100), ("probe", 1)])
        worker = stack.uic[0]
        worker.stop()
        feed(stack, zipf_users(USERS, options.backlog))
        client, body = Client(stack.addresses.predict), predict_body(stack, "reader")

        def requests() -> float:
            return 1000 * p99_at(client, body, PER_S, options.seconds)

        def turns(what: str, measure: object) -> None:
            phases[what] = {mode: [] for mode in MODES}
            for mode in list(MODES) * options.rounds:
                take_slices(stack, mode)
                phases[what][mode].append(round(measure(), 2))  # type: ignore[operator]
            print(what, phases[what], file=sys.stderr, flush=True)

        turns("p99 without a backlog, ms", requests)
        before = absorbed(stack)
        worker.start()
        until(lambda: absorbed(stack) > before, "UIC folds", within_s=60)
        assert worker.child is not None
        cpu_s = cpu_s_of([worker.child.pid])
        began, first, used = time.monotonic(), absorbed(stack), cpu_s()
        turns("p99 beside a backlog, ms", requests)
        took, folded, used = time.monotonic() - began, absorbed(stack) - first, cpu_s() - used
        if absorbed(stack) - before == options.backlog:
            raise SystemExit("the backlog was folded before the time was up: raise --backlog")
        until(lambda: absorbed(stack) - before >= options.backlog, "the backlog is folded", within_s=300)
        with half_a_core(), feeding(stack.addresses.bootstrap, stack.addresses.topic, 2_000, stack.options.bundle):
            probe = predict_body(stack, "probe", candidates=1)
            turns("produced to visible, p99, ms", lambda: visible_ms(stack, client, probe, options.seconds))
    about = {"nice": os.nice(0), "load_average": os.getloadavg()[0]}
    fold = {"events_per_s": round(folded / took), "uic_cores": round(used / took, 2)}
    medians = {what: {mode: float(np.median(v)) for mode, v in found.items()} for what, found in phases.items()}
    print(json.dumps({**about, **fold, "medians": medians, "rounds": phases}))
    return 0


def take_slices(stack: Stack, mode: str) -> None:
    """Give each server the slices of a mode; one that does not run gets none."""
    for server, slice_us in zip((stack.rtp[0], stack.valkey, stack.uic[0]), MODES[mode], strict=True):
        for thread in threads_of(server):
            ask_for_slices(slice_us, thread)


def threads_of(server: Server | None) -> list[int]:
    """Ids of a server's threads; none of one that does not run."""
    if server is None:
        raise SystemExit("the stack's servers must be its own: unset REDIS_URL")
    if server.child is None or not server.alive():
        return []
    return [int(thread.name) for thread in Path(f"/proc/{server.child.pid}/task").iterdir()]


def visible_ms(stack: Stack, client: Client, body: bytes, seconds: float) -> float:
    """p99 from before the producer has an event until an answer shows it, milliseconds."""
    item, category = known_items(load_bundle(stack.options.bundle), 1)[0]
    producer = KafkaProducer(bootstrap_servers=stack.addresses.bootstrap, acks="all")
    count, delays, began = client.events(body), [], time.monotonic()
    while time.monotonic() - began < seconds:
        sent = time.perf_counter()
        producer.send(stack.addresses.topic, key=b"probe", value=event("probe", item, category)).get(timeout=10)
        count += 1
        until(lambda n=count: client.events(body) >= n, "the event is visible", within_s=10, every_s=0.001)  # type: ignore[misc]
        delays.append((time.perf_counter() - sent) * 1000)
    producer.close()
    return float(np.quantile(delays, 0.99))


@contextmanager
def half_a_core() -> Iterator[None]:
    """Somebody else: a process that computes for five milliseconds of ten."""
    process = multiprocessing.get_context("spawn").Process(target=_compute_half, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(30)


def _compute_half() -> None:
    while True:
        began = time.process_time()
        while time.process_time() - began < 0.005:
            pass
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
