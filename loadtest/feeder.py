"""Produces behavior events of many users, at a rate or as fast as it goes.

It runs as a process of its own, so that the program that measures does not share its interpreter.

    python -m loadtest.feeder --bootstrap 127.0.0.1:9092 --topic behavior-events --rate 2000    until it is ended
    python -m loadtest.feeder --bootstrap 127.0.0.1:9092 --topic behavior-events --count 100000
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from kafka import KafkaProducer

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from loadtest.population import measured_bundle
from mimn.bundle import load_bundle

USERS = 100_000
_DRAWN = 1 << 20


def zipf_users(users: int, count: int, seed: int = 0, exponent: float = 1.0) -> Iterator[str]:
    """`count` user ids, the i-th most active of `users` as often as 1 / i^`exponent`, the same for the same seed."""
    share = np.cumsum(np.arange(1, users + 1) ** -exponent)
    random = np.random.default_rng(seed)
    for begun in range(0, count, _DRAWN):
        for rank in np.searchsorted(share, random.random(min(_DRAWN, count - begun)) * share[-1]):
            yield f"crowd-{rank}"


def event(user: str, item: int, category: int) -> bytes:
    """One event's value, of now."""
    return BehaviorEvent(
        user_id=user, item_id=item, category_id=category, event_time=time.time_ns() // 1_000_000
    ).SerializeToString()


def produce(bootstrap: str, topic: str, users: Iterator[str], bundle: Path, rate: float | None = None) -> int:
    """One event for each user id, in order and acknowledged; returns how many.

    Args:
        bootstrap: `host:port` of a broker.
        topic: where to.
        users: user ids; an id may repeat.
        bundle: whose items are taken, in turn.
        rate: events a second; None is as fast as it goes.
    """
    vocabulary = load_bundle(bundle)
    behaviors = itertools.cycle(
        zip(vocabulary.items.ids[:1000].tolist(), itertools.cycle(vocabulary.categories.ids.tolist()))
    )
    linger_ms = 20 if rate is None else 2
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=linger_ms, batch_size=1 << 17)
    began, sent = time.monotonic(), 0
    try:
        for user, (item, category) in zip(users, behaviors, strict=False):
            if rate is not None and (early := sent / rate - (time.monotonic() - began)) > 0:
                time.sleep(early)
            producer.send(topic, key=user.encode(), value=event(user, item, category))
            sent += 1
        producer.flush(timeout=300)
    finally:
        producer.close()
    return sent


@contextmanager
def feeding(bootstrap: str, topic: str, rate: float, bundle: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`rate` events a second of the bundle's items, by a process that lives as long as the body."""
    command = [sys.executable, "-m", "loadtest.feeder", "--bootstrap", bootstrap, "--topic", topic, "--rate", str(rate)]
    command += ["--bundle", str(bundle)]
    feeder = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield feeder
        if feeder.poll() is not None:
            raise RuntimeError(f"the feeder ended with status {feeder.returncode}")
    finally:
        feeder.terminate()
        feeder.wait(timeout=30)


def main(arguments: Sequence[str] | None = None) -> int:
    """Feed until done or ended."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.feeder", description=__doc__)
    parser.add_argument("--bootstrap", required=True, help="host:port of a broker")
    parser.add_argument("--topic", required=True)
    parser.add_argument(
        "--bundle", type=Path, default=measured_bundle(), help="whose items and categories the events name"
    )
    parser.add_argument("--users", type=int, default=USERS, help=f"different users, Zipf 1 (default {USERS:,})")
    parser.add_argument("--rate", type=float, help="events a second (default: as fast as it goes)")
    parser.add_argument("--count", type=int, default=1 << 40, help="number of events (default: until it is ended)")
    asked = parser.parse_args(arguments)
    if asked.count < 1 or asked.users < 1 or (asked.rate is not None and asked.rate <= 0):
        parser.error("--count, --users and --rate must be positive")
    produce(asked.bootstrap, asked.topic, zipf_users(asked.users, asked.count), asked.bundle, asked.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
