"""How long does it take until an event can be seen in an answer?"""

from __future__ import annotations

import subprocess
import sys
import time

from kafka import KafkaProducer

from loadtest.budgets import Figure, Sizes, budget
from loadtest.feeder import event, feeding
from loadtest.result import histogram
from loadtest.stacks import Client, absorbed, known_items, predict_body, publish, running
from localstack.wait import until
from mimn.bundle import load_bundle

HALF_BUSY = """
import os, time
launcher = os.getppid()
while os.getppid() == launcher:
    until = time.thread_time() + 0.01
    while time.thread_time() < until: pass
    time.sleep(0.01)
"""
"""Computes for 10 ms and sleeps for 10 ms, until its launcher has ended."""


@budget("event produced → visible at 2,000 events/s, p99", "ms", at_most=100.0)
def freshness(sizes: Sizes) -> Figure:
    """p99 of produced → visible at 2,000 events/s, seen by polling /predict for a probe user's event count. Counts from
    before the producer is handed the event."""
    return produced_to_visible(sizes)


@budget("the same while another program takes half a core, p99", "ms", at_most=100.0)
def freshness_busy(sizes: Sizes) -> Figure:
    """`freshness` on a machine that has other work to do."""
    other = subprocess.Popen([sys.executable, "-c", HALF_BUSY])
    try:
        return produced_to_visible(sizes)
    finally:
        other.kill()
        other.wait()


@budget("the same at 100 events/s, p99", "ms", at_most=100.0)
def freshness_quiet(sizes: Sizes) -> Figure:
    """`freshness` when a worker gathers longer, because little comes."""
    return produced_to_visible(sizes, rate=100)


def produced_to_visible(sizes: Sizes, rate: int = 2_000) -> Figure:
    """The p99 over probes, one after another, in milliseconds, while `rate` events a second come."""
    delays = histogram()
    with running() as stack:
        publish(stack, [("probe", 1)])
        client = Client(stack.addresses.predict)
        body = predict_body(stack, "probe", candidates=1)
        item, category = known_items(load_bundle(stack.options.bundle), 1)[0]
        producer = KafkaProducer(bootstrap_servers=stack.addresses.bootstrap, acks="all")
        count, before = client.events(body), absorbed(stack)
        with feeding(stack.addresses.bootstrap, stack.addresses.topic, rate, stack.options.bundle):
            until(lambda: absorbed(stack) > before + rate, "the crowd's events are folded", within_s=30)
            began = time.monotonic()
            while time.monotonic() - began < sizes.seconds:
                sent = time.perf_counter()
                producer.send(stack.addresses.topic, key=b"probe", value=event("probe", item, category)).get(timeout=10)
                count += 1
                until(lambda n=count: client.events(body) >= n, "the event is visible", within_s=10, every_s=0.001)  # type: ignore[misc]
                delays.record_value(round((time.perf_counter() - sent) * 1e6))
        producer.close()
    p50, p90, p99, most = (delays.get_value_at_percentile(p) / 1000 for p in (50, 90, 99, 100))
    spread = f"p50 {p50:.1f}, p90 {p90:.1f}, longest {most:.1f} ms, {delays.get_total_count()} probes"
    return Figure(p99, spread, delays.encode().decode())
