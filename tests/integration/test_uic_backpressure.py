"""More events than may wait for the fold: partitions pause and resume many times, and every one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import MakeTopics, RedisForTest
from localstack.replay import States, expect, replay, wait_folded
from localstack.shoppers import DATA, Shopper, read_events
from localstack.uic_and_rtp import Surroundings, UicWorker

pytestmark = [pytest.mark.servers]

REPOSITORY = Path(__file__).parents[2]
BUNDLE = REPOSITORY / "tests" / "fixtures" / "bundle_tiny" / "tiny" / "1"
PARTITIONS = 8


def test_hot_partitions_are_paused_and_resumed_until_every_event_is_folded(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, partitions=PARTITIONS)
    events = read_events(REPOSITORY / DATA)
    lengths = [int(events.bounds[i + 1] - events.bounds[i]) for i in range(len(events.users))]
    hot = [i for i, length in enumerate(lengths) if 500 <= length < 1500][:6]
    users = [
        Shopper(str(events.users[i]), range(int(events.bounds[i]), int(events.bounds[i + 1])), 0, 0, ()) for i in hot
    ]
    records = replay(kafka, topics.events, events, users)
    surroundings = Surroundings(
        bootstrap=kafka,
        redis_url=valkey.url,
        bundle=BUNDLE,
        topic=topics.events,
        partitions=PARTITIONS,
        prefix=valkey.prefix,
        # Ten records a partition may wait, and a poll returns more: every poll pauses what it returned.
        uic={"UIC_FOLD__QUEUE_RECORDS": str(10 * PARTITIONS), "UIC_KAFKA__MAX_POLL_RECORDS": "50"},
    )
    worker = UicWorker("uic", tmp_path / "uic", surroundings)
    try:
        worker.start()
        states = States(valkey.url, BUNDLE, prefix=valkey.prefix, partitions=PARTITIONS)
        wait_folded(states, {user: expect(rows) for user, rows in records.items()}, within_s=60)
        states.close()
    finally:
        worker.stop()
