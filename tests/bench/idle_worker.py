"""What an idle UIC worker takes of a core: `PYTHONPATH=tests python -m bench.idle_worker`, with the small broker of the
local stack or the Kafka of KAFKA_BOOTSTRAP_SERVERS."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import psutil

from conftest import TopicsForTest
from localstack.servers import DevBroker, Valkey
from localstack.topics import create_topics, delete_topics, topics
from support.world import World

N = 4
SETTLING_S, MEASURED_S = 4, 10


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
        time.sleep(SETTLING_S)
        assert worker.child is not None
        process = psutil.Process(worker.child.pid)
        before_s, began = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(MEASURED_S)
        took = time.monotonic() - began
        share = (sum(process.cpu_times()[:2]) - before_s) / took
        print(f"an idle worker of {N} partitions: {share:.1%} of a core over {took:.0f} s")


if __name__ == "__main__":
    main()
