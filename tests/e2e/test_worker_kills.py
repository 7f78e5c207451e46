"""UIC is killed with SIGKILL in mid-batch, again and again: no event is lost and none is folded twice.

The proof needs nothing that UIC says: the digest of each stored state is computed anew from the log. It takes a broker
that gives a killed member's partitions away.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import pytest

from conftest import MakeTopics, RedisForTest
from localstack.replay import Folded, States, expect, replay, wait_folded
from localstack.services import Surroundings, UicWorker
from localstack.shoppers import Shopper, read_events
from localstack.wait import until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
BUNDLE = REPOSITORY / "tests" / "fixtures" / "bundle_tiny" / "tiny" / "1"
STEPS = ("poll", "decode", "load", "fold", "commit", "advise")
KILLS = 10
PARTITIONS = 8


def test_ten_kills_in_mid_batch_lose_nothing_and_double_nothing(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, partitions=PARTITIONS)
    events = read_events(REPOSITORY / "models" / "data" / "online_retail")
    users = [
        Shopper(str(events.users[i]), range(int(events.bounds[i]), int(events.bounds[i + 1])), 0, 0, ())
        for i in range(0, 400, 5)
    ]
    chunks = [users[i :: KILLS + 1] for i in range(KILLS + 1)]
    expected: dict[str, Folded] = {}
    for kill, (step, chunk) in enumerate(zip(islice(cycle(STEPS), KILLS), chunks, strict=False)):
        records = replay(real_kafka, topics.events, events, chunk)
        expected |= {user: expect(rows) for user, rows in records.items()}
        fault = {"UIC_FAULT__CRASH_AFTER": step, "UIC_FAULT__BATCHES": str(kill % 3)}
        killed_in_mid_batch(worker_for(tmp_path / f"worker-{kill}", real_kafka, topics.events, valkey, fault))
    records = replay(real_kafka, topics.events, events, chunks[KILLS])
    expected |= {user: expect(rows) for user, rows in records.items()}

    last = worker_for(tmp_path / "last", real_kafka, topics.events, valkey)
    try:
        last.start()
        states = States(valkey.url, BUNDLE, prefix=valkey.prefix, partitions=PARTITIONS)
        wait_folded(states, expected, within_s=90)
        states.close()
    finally:
        last.stop()
    assert sum(folded.events for folded in expected.values()) > 5000


def killed_in_mid_batch(worker: UicWorker) -> None:
    """Start the worker and wait until its fault point has killed it."""
    worker.spawn()
    child = worker.child
    assert child is not None
    try:
        until(lambda: not child.identity.alive(), "the fault point has killed the worker", within_s=60)
    finally:
        worker.stop()


def worker_for(
    folder: Path, bootstrap: str, topic: str, valkey: RedisForTest, fault: Mapping[str, str] | None = None
) -> UicWorker:
    # Small batches, so that a kill falls between commits; a short wait for the killed member's partitions.
    told = {
        "UIC_FOLD__MAX_STATES": "8",
        "UIC_FOLD__MAX_WAVES": "8",
        "UIC_KAFKA__SESSION_TIMEOUT_MS": "6000",
        **(fault or {}),
    }
    surroundings = Surroundings(
        bootstrap=bootstrap,
        redis_url=valkey.url,
        bundle=BUNDLE,
        topic=topic,
        partitions=PARTITIONS,
        prefix=valkey.prefix,
        uic=told,
    )
    return UicWorker("uic", folder, surroundings)
