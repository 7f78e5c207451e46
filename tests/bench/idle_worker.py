"""What an idle UIC worker takes of a core: `PYTHONPATH=tests python -m bench.idle_worker`, with the small broker of the
local stack or the Kafka of KAFKA_BOOTSTRAP_SERVERS."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

import psutil

from conftest import TopicsForTest
from localstack.dev_broker import DevBroker
from localstack.topics import create_topics, delete_topics, topics
from localstack.valkey import Valkey
from localstack.wait import until
from support.world import World

N = 4
MEASURED_S = 10
IDLE = 60.0
"""Percent of a core in a second: a worker that takes more is still starting."""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as ending:
        folder = Path(name)
        store = ending.enter_context(Valkey(folder / "valkey", appendfsync="off"))
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or ending.enter_context(DevBroker(folder / "log")).address
        names = TopicsForTest(bootstrap, f"idle-{uuid.uuid4().hex[:10]}", N)
        create_topics(bootstrap, topics(names.events, N))
        ending.callback(delete_topics, bootstrap, [names.events, names.dlq, names.erased])
        world = World(folder / "world", names, store.address, "idle", {})
        ending.callback(world.close)
        world.produce(100)
        worker = world.worker()
        world.wait_folded(60)
        assert worker.child is not None
        process = psutil.Process(worker.child.pid)
        until(lambda: process.cpu_percent(1.0) < IDLE, "the worker has started", within_s=60)
        share = process.cpu_percent(MEASURED_S)
        print(f"an idle worker of {N} partitions: {share:.1f} % of a core over {MEASURED_S} s")


if __name__ == "__main__":
    main()
