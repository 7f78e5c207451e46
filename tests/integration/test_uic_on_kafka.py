"""What only a real Kafka does to UIC: codecs, damage on the broker's disk, open transactions, offsets for lag tools."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from localstack.topics import create_topics
from localstack.topics import topics as named_topics
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.state import Keys, decode_progress, namespace, partition_of
from support.for_test import MakeTopics, RedisForTest
from support.kafka_cluster import Brokers
from support.uic_running import BUNDLE, RunningUic, click, delete_and_wait, running_uic
from uic.log.topic_reader import read_to_end
from uic.tools import partitions as partitions_command

pytestmark = pytest.mark.servers

N = 3
USERS = [f"u{i}" for i in range(24)]
AT = {user: partition_of(user.encode(), N) for user in USERS}
BROKEN = 1
"""The partition that is damaged."""


def ready(uic: RunningUic) -> tuple[int, str]:
    answer = web().get(f"{uic.worker.admin_url}/readyz", timeout=60)
    return answer.status_code, answer.text


def partition(uic: RunningUic, number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in uic.admin("/partitions")["partitions"] if p["partition"] == number)
    return found


def counts(uic: RunningUic, users: list[str]) -> dict[str, int]:
    """Events folded, by user."""
    states = {user: uic.state(user) for user in users}
    return {user: 0 if state is None else state.event_count for user, state in states.items()}


# Codecs


def set_compression(bootstrap: str, topic: str, codec: str) -> None:
    """The broker compresses with it from now on, whatever producers do."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"compression.type": codec})])
    finally:
        admin.close()


def test_batches_of_every_codec_are_folded(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    with running_uic(tmp_path, valkey, topics) as uic:
        for rounds, codec in enumerate(("gzip", "snappy", "lz4", "zstd"), start=1):
            set_compression(real_kafka, topics.events, codec)
            uic.wait_folded(uic.publish(*[click(user) for user in USERS for _ in range(10)]))
            assert counts(uic, USERS) == dict.fromkeys(USERS, 10 * rounds), codec
        assert ready(uic)[0] == 200
        read = read_to_end({"bootstrap_servers": real_kafka}, topics.events)  # as the doctor does
        assert sum(1 for _ in read) == 40 * len(USERS)


# Deletion


def test_a_topic_that_is_deleted_is_named_until_it_is_there_again(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    gone = f"log_unavailable: topic {topics.events} does not exist"
    with running_uic(tmp_path, valkey, topics) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        delete_and_wait(real_kafka, topics.events)
        until(lambda: ready(uic)[0] == 200 and gone in ready(uic)[1], "named", within_s=60)
        create_topics(real_kafka, named_topics(topics.events, N)[:1])
        until(lambda: "broken_log: topic_id" in ready(uic)[1], "the new log is noticed", within_s=60)
        until(lambda: "log_unavailable" not in ready(uic)[1], "the topic is there again", within_s=10)
    assert len(uic.worker.log.read_text().splitlines()) < 200


# Damage


@pytest.mark.full
def test_a_damaged_batch_stops_its_partition_by_name_and_no_other(
    tmp_path: Path, valkey: RedisForTest, own_real_kafka: Brokers, make_topics: MakeTopics
) -> None:
    bootstrap = own_real_kafka.address
    topics = make_topics(bootstrap, N)
    here, elsewhere = [u for u in USERS if AT[u] == BROKEN], [u for u in USERS if AT[u] != BROKEN]
    with running_uic(tmp_path / "before", valkey, topics) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        # From here on nothing is read: what is published next must lie on the disk before it is.
        uic.worker.freeze()
        producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
        for users in (USERS, here[:1], elsewhere):
            sent = [producer.send(topics.events, key=u.encode(), value=click(u).SerializeToString()) for u in users]
            places = [future.get(timeout=60) for future in sent]
            if users == here[:1]:
                damaged = places[0].offset
        (segment,) = own_real_kafka.folder.rglob(f"{topics.events}-{BROKEN}/00000000000000000000.log")
        data = bytearray(segment.read_bytes())
        data[-1] ^= 0xFF  # the last batch of this partition: one event
        segment.write_bytes(data)
        producer.close(timeout=5)
        uic.worker.thaw()

        until(lambda: partition(uic, BROKEN)["phase"] == "broken", "the partition stops", within_s=60)
        reason = partition(uic, BROKEN)["reason"]
        assert "unreadable_batch" in reason
        assert "checksum" in reason
        assert f"offset {damaged + 1}" in reason
        assert partition(uic, BROKEN)["next_offset"] == damaged
        until(lambda: ready(uic)[0] == 503, "/readyz follows", within_s=10)
        assert "unreadable_batch" in ready(uic)[1]
        assert 'uic_partitions{status="broken"} 1.0' in web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text

        # The others go on.
        more = uic.publish(*[click(user) for user in elsewhere])
        uic.wait_folded(more)
        assert counts(uic, elsewhere) == dict.fromkeys(elsewhere, 4)
        assert counts(uic, here) == dict.fromkeys(here, 2)

        out = io.StringIO()
        told = ["--partition", str(BROKEN), "--offset", str(damaged + 1), "--admin", uic.worker.admin_url]
        assert partitions_command.main("continue", told, out) == 0
        until(lambda: ready(uic)[0] == 200, "ready again", within_s=60)
        uic.wait_folded(uic.publish(*[click(user) for user in here]))
        assert counts(uic, here) == dict.fromkeys(here, 3)


@pytest.mark.full
def test_a_batch_larger_than_the_bound_is_folded_once_the_bound_is_raised(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    user = next(u for u in USERS if AT[u] == BROKEN)
    with running_uic(tmp_path / "before", valkey, topics, UIC_KAFKA__MAX_BATCH_BYTES=str(1 << 20)) as uic:
        producer = KafkaProducer(bootstrap_servers=real_kafka, compression_type="gzip", max_request_size=4 << 20)
        large = [("trace", bytes(2 << 20))]
        sent = producer.send(
            topics.events, key=user.encode(), value=click(user).SerializeToString(), headers=large, partition=BROKEN
        )
        sent.get(timeout=60)
        producer.close(timeout=5)
        until(lambda: partition(uic, BROKEN)["phase"] == "broken", "the partition stops", within_s=60)
        assert "UIC_KAFKA__MAX_BATCH_BYTES" in partition(uic, BROKEN)["reason"]
        later = uic.publish(click(user))
    with running_uic(tmp_path / "after", valkey, topics, UIC_KAFKA__MAX_BATCH_BYTES=str(4 << 20)) as uic:
        uic.wait_folded(later)
        assert counts(uic, [user]) == {user: 2}


# Compaction


def configure(bootstrap: str, topic: str, **configs: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        named = {name.replace("_", "."): value for name, value in configs.items()}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=named)])
    finally:
        admin.close()


@pytest.mark.full
def test_a_topic_that_is_compacted_is_named_while_uic_runs_and_when_it_finds_the_last_event_removed(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, 1)
    soon = {"segment_ms": "100", "min_cleanable_dirty_ratio": "0.001"}
    with running_uic(tmp_path / "before", valkey, topics) as uic:
        for _ in range(2):
            uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        configure(real_kafka, topics.events, cleanup_policy="compact")
        until(lambda: ready(uic)[0] == 200 and "log_compacted" in ready(uic)[1], "the policy is named", within_s=60)
        assert 'uic_trouble{cause="log_compacted"} 1.0' in web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text
        configure(real_kafka, topics.events, cleanup_policy="delete")
        until(lambda: "log_compacted" not in ready(uic)[1], "the policy is right again", within_s=60)

    configure(real_kafka, topics.events, cleanup_policy="compact", **soon)
    producer = KafkaProducer(bootstrap_servers=real_kafka, acks="all")

    def compacted() -> bool:
        """Whether nothing is left of what was folded; an event in a segment of its own makes Kafka clean the others."""
        for user in USERS:
            producer.send(topics.events, key=user.encode(), value=click(user).SerializeToString())
        producer.flush(timeout=60)
        return all(r.offset >= 2 * len(USERS) for r in read_to_end({"bootstrap_servers": real_kafka}, topics.events))

    until(compacted, "what was folded is removed from within the log", within_s=120, every_s=1)
    configure(real_kafka, topics.events, cleanup_policy="delete")
    producer.close(timeout=5)
    with running_uic(tmp_path / "after", valkey, topics, serving=False) as uic:
        until(lambda: "broken_log: removed" in ready(uic)[1], "the partition stops by name", within_s=60)
        assert partitions_command.main("continue", ["--partition", "0", "--admin", uic.worker.admin_url]) == 0
        later = uic.publish(*[click(user) for user in USERS])
        uic.wait_folded(later)
        states = [uic.state(user) for user in USERS]
        assert all(state is not None and state.event_count >= 4 and state.partial for state in states)


# Transactions


def stored_as_of_ms(redis: RedisForTest) -> int:
    """Of partition `BROKEN`."""
    keys = Keys(namespace(load_bundle(BUNDLE).manifest.fingerprint, 0), redis.prefix)
    stored = redis.client.get(keys.progress(BROKEN))
    assert isinstance(stored, bytes)
    return decode_progress(stored).as_of_ms


def shown_as_of_ms(uic: RunningUic) -> int:
    """Of partition `BROKEN`, as the metric says it: what is stored, or less by as much as our clock was last measured
    to be behind the store's, which varies by a millisecond or so."""
    text = web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text
    (line,) = (at for at in text.splitlines() if at.startswith(f'uic_as_of_timestamp_seconds{{partition="{BROKEN}"}}'))
    return round(1000 * float(line.rsplit(" ", 1)[1]))


def test_events_behind_an_open_transaction_count_as_lag_until_it_ends(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    user = next(u for u in USERS if AT[u] == BROKEN)
    with running_uic(tmp_path, valkey, topics, UIC_FOLD__AS_OF_INTERVAL_S="0.2") as uic:
        uic.wait_folded(uic.publish(click(user)))
        until(lambda: all(partition(uic, p)["as_of_age_s"] is not None for p in (0, BROKEN)), "caught up", within_s=60)
        producer = KafkaProducer(bootstrap_servers=real_kafka, transactional_id=f"tx-{topics.events}", acks="all")
        producer.init_transactions()
        producer.begin_transaction()
        event = click(user).SerializeToString()
        producer.send(topics.events, key=user.encode(), value=event).get(timeout=60)
        behind = uic.publish(click(user))[0]  # acknowledged, and not to be read before the transaction ends

        def waiting() -> bool:
            view = partition(uic, BROKEN)
            return bool(view["lag"] == 2 and "open transaction" in view["reason"])

        until(waiting, "lag says that acknowledged events wait", within_s=60)
        until(lambda: "open_transaction" in ready(uic)[1], "and so does /readyz", within_s=10)
        stopped = stored_as_of_ms(valkey)
        until(
            lambda: partition(uic, 0)["as_of_age_s"] < 1 < partition(uic, BROKEN)["as_of_age_s"], "as of", within_s=60
        )
        assert stored_as_of_ms(valkey) == stopped
        assert shown_as_of_ms(uic) <= stopped
        assert counts(uic, [user]) == {user: 1}

        producer.abort_transaction()
        uic.wait_folded([behind])
        assert counts(uic, [user]) == {user: 2}
        until(lambda: partition(uic, BROKEN)["lag"] == 0, "nothing waits", within_s=60)
        until(lambda: shown_as_of_ms(uic) > stopped, "as-of rises again", within_s=60)
        until(lambda: "open_transaction" not in ready(uic)[1], "/readyz follows", within_s=10)
        producer.close(timeout=5)


@pytest.mark.full
def test_two_installations_of_one_prefix_fold_their_own_topics(
    tmp_path: Path, valkey: RedisForTest, own_valkey: Valkey, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N), make_topics(real_kafka, N)
    second = RedisForTest(own_valkey.address, valkey.prefix, valkey.client)
    with (
        running_uic(tmp_path / "a", valkey, topics[0]) as a,
        running_uic(tmp_path / "b", second, topics[1]) as b,
    ):
        for rounds in range(1, 4):
            for uic in (a, b):
                uic.wait_folded(uic.publish(*[click(user) for user in USERS]), within_s=60)
                assert counts(uic, USERS) == dict.fromkeys(USERS, rounds)
                assert len(uic.admin("/partitions")["partitions"]) == N
                assert ready(uic)[0] == 200
