"""An erased user stays erased: the notes, what they say of one log and not of another, and a full replay under them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from ctr.uic.v1.uic_service_pb2 import GetUserStateResponse, LogPosition
from judge import LogReader, replay, tensors
from localstack.dev_broker import DevBroker
from localstack.topics import Topic, create_topics
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.bundle.graph import open_step
from mimn.state import EMPTY_DIGEST, NO_TOPIC_ID, extend_digest, partition_of
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.uic_running import RunningUic, click, delete_and_wait, running_uic
from torture.watching import metric, readiness
from uic.core.kafka_tools import KafkaTools
from uic.doors.publisher import Publisher
from uic.errors import LogUnavailable
from uic.log.erasures import Erasure, KafkaErasures, decode_erasure, encode_erasure
from uic.log.event_log import KafkaLog
from uic.log.producer import NewRecord
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 8
LEDGER = Path(__file__).parents[1] / "fixtures/bundle_tiny_ledger/tiny-ledger/1"
TIMEOUT_S = 60.0
PATIENT: dict[str, Any] = {"UIC_GRPC__TIMEOUT_S": "60"}
"""For the first call to a broker that has just started."""


def notes(topics: TopicsForTest, topic_id: bytes, *partitions: int) -> dict[int, dict[bytes, int]]:
    reader = KafkaErasures(
        {"bootstrap_servers": topics.bootstrap}, topics.events, topics.partitions, timeout_s=TIMEOUT_S
    )
    return reader.read(partitions or range(topics.partitions), topic_id)


def erasures_unavailable(uic: RunningUic) -> float:
    return metric(uic.worker, 'uic_trouble{cause="erasures_unavailable"}')


def note(topics: TopicsForTest, key: bytes, value: bytes | None, partition: int | None = None) -> None:
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap)
    producer.send(topics.erased, key=key, value=value, partition=partition).get(60)
    producer.close()


def test_a_full_replay_folds_nothing_of_an_erased_user(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    with running_uic(tmp_path / "first", valkey, topics, **PATIENT) as uic:
        before = uic.publish(*[click("gone") for _ in range(5)], *[click("stays") for _ in range(3)])
        erased = uic.erase("gone")
        back = click("gone")
        [after] = uic.publish(back)
        uic.wait_folded([*before, erased, after])
        first = uic.state("stays")
    for key in valkey.client.scan_iter(match=f"{valkey.prefix}:*"):
        valkey.client.delete(key)
    with running_uic(tmp_path / "second", valkey, topics, **PATIENT) as uic:
        uic.wait_folded([*before, erased, after])
        state, second = uic.state("gone"), uic.state("stays")
        metrics = web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text
    assert state is not None
    assert (state.event_count, state.digest) == (
        1,
        extend_digest(EMPTY_DIGEST, after.offset, back.SerializeToString()),
    )
    records = {line for line in metrics.splitlines() if line.startswith("uic_records_total")}
    assert 'uic_records_total{outcome="erased_later"} 5.0' in records
    assert first is not None
    assert second is not None
    assert (second.event_count, second.digest) == (first.event_count, first.digest)
    assert second.lineage != first.lineage


def test_an_erasure_that_retention_removed_before_it_was_folded_is_no_less_done(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, 1)
    with running_uic(tmp_path / "first", valkey, topics, **PATIENT) as uic:
        uic.wait_folded(uic.publish(click("gone"), click("stays")))
    log = KafkaLog({"bootstrap_servers": real_kafka}, timeout_s=TIMEOUT_S, max_request_bytes=1 << 20)
    at = Publisher(log, topics.events, 1, KafkaTools("h:9092")).erase("gone", TIMEOUT_S)
    log.close()
    admin = KafkaAdminClient(bootstrap_servers=real_kafka)
    admin.delete_records({TopicPartition(topics.events, 0): at.offset + 1})
    admin.close()
    with running_uic(tmp_path / "second", valkey, topics, **PATIENT) as uic:
        uic.wait_folded([LogPosition(partition=at.partition, offset=at.offset)])
        assert uic.state("gone") is None
        assert uic.state("stays") is not None
    names = list(valkey.client.scan_iter(match=f"{valkey.prefix}:*:s:*"))
    assert [name.rpartition(b":")[2] for name in names] == [b"stays"]


def test_a_topic_of_notes_that_is_gone_is_named_until_it_is_there_again(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)

    with running_uic(tmp_path, valkey, topics, **PATIENT) as uic:

        def degraded() -> str:
            return readiness(uic.worker)[1]

        uic.wait_folded([uic.erase("before")])
        delete_and_wait(kafka, topics.erased)
        with pytest.raises(grpc.RpcError) as refused:
            uic.erase("ann")
        error: Any = refused.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert topics.erased in error.details()
        gone = f"erasures_unavailable: topic {topics.erased} does not exist"
        until(lambda: degraded() == gone, "named", within_s=60)
        assert erasures_unavailable(uic) == 1
        create_topics(kafka, [Topic(topics.erased, N, {"cleanup.policy": "compact"})])
        until(lambda: degraded() == "", "there again", within_s=60)
        assert erasures_unavailable(uic) == 0
        uic.wait_folded([uic.erase("ann")])


def test_a_topic_of_notes_that_is_gone_or_too_small_is_not_read(kafka: str, make_topics: MakeTopics) -> None:
    topics = make_topics(kafka, 2)
    delete_and_wait(kafka, topics.erased)
    with pytest.raises(LogUnavailable, match=r"\.erased does not exist"):
        notes(topics, NO_TOPIC_ID)
    create_topics(kafka, [Topic(topics.erased, 1, {"cleanup.policy": "compact"})])
    with pytest.raises(LogUnavailable, match="has 1 partitions, not 2"):
        notes(topics, NO_TOPIC_ID)


def test_an_erased_item_leaves_the_ledger_once_and_in_order_and_a_replay_gives_the_same_bytes(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics, bundle = make_topics(kafka, N), load_bundle(LEDGER)
    ledger = bundle.ledger
    assert ledger is not None

    def known(state: GetUserStateResponse | None) -> list[int]:
        """Which of the items 1 to 9 the ledger has."""
        assert state is not None
        [words] = [block.words for block in state.blocks if block.name == "ledger"]
        items = np.arange(1, 10, dtype=np.uint64)
        found = ledger.look_up(np.array(words, np.uint32), ledger.keys(items))[0]
        return [int(place) + 1 for place in found]

    with running_uic(tmp_path / "first", valkey, topics, bundle=LEDGER, **PATIENT) as uic:
        sent = [click("ann", 3), click("ann", 5), click("ann", 3), click("bob", 3)]
        uic.wait_folded(uic.publish(*sent))
        assert known(uic.state("ann")) == [3, 5]
        erased = uic.erase_item("ann", 3)
        uic.wait_folded([erased])
        assert (known(uic.state("ann")), known(uic.state("bob"))) == ([5], [3])
        late = click("ann", 3)
        late.event_time = sent[0].event_time - 86_400_000
        after = uic.publish(late, click("ann", 7))
        uic.wait_folded(after)
        first = uic.state("ann")
        assert known(first) == [3, 5, 7], "what the log has after the erasure counts, however old its time"
    for key in valkey.client.scan_iter(match=f"{valkey.prefix}:*"):
        valkey.client.delete(key)
    with running_uic(tmp_path / "second", valkey, topics, bundle=LEDGER, **PATIENT) as uic:
        uic.wait_folded([erased, *after])
        second = uic.state("ann")
    assert first is not None
    assert second is not None
    digest = EMPTY_DIGEST
    for record in read_to_end({"bootstrap_servers": kafka}, topics.events):
        if record.key == b"ann" and record.value is not None:
            digest = extend_digest(digest, record.offset, record.value)
    assert first.digest == digest, "the log proves it: every record of the user, the erasure too, once and in order"
    assert first.event_count == 6
    assert not second.partial
    assert (second.digest, second.event_count, list(second.blocks)) == (digest, 6, list(first.blocks))
    assert second.lineage != first.lineage
    log = LogReader(kafka, topics.events, N)
    due = replay(log.read().records, actions=bundle.actions)
    log.close()
    ann = partition_of(b"ann", N), "ann"
    judged = tensors({ann: due[ann]}, bundle, open_step(bundle))[ann]
    [words] = [block.words for block in first.blocks if block.name == "ledger"]
    assert ledger.of(judged).tolist() == list(words), "the judge of all fault tests folds it alike"


def test_a_note_names_the_null_record_of_its_user(kafka: str, make_topics: MakeTopics) -> None:
    topics = make_topics(kafka, N)
    log = KafkaLog({"bootstrap_servers": kafka}, timeout_s=TIMEOUT_S, max_request_bytes=1 << 20)
    publisher = Publisher(log, topics.events, N, KafkaTools("h:9092"))
    publisher.publish([(b"u1", b"v"), (b"u2", b"v")], TIMEOUT_S)
    at = publisher.erase("u1", TIMEOUT_S)
    again = publisher.erase("u1", TIMEOUT_S)
    topic_id = log.topic_id(topics.events)
    log.close()
    nulls = [
        (r.partition, r.offset) for r in read_to_end({"bootstrap_servers": kafka}, topics.events) if r.value is None
    ]
    assert nulls == [(at.partition, at.offset), (again.partition, again.offset)]
    assert notes(topics, topic_id) == {p: {b"u1": again.offset} if p == at.partition else {} for p in range(N)}
    assert notes(topics, topic_id, (at.partition + 1) % N) == {(at.partition + 1) % N: {}}


def test_of_several_notes_the_highest_counts_and_null_takes_back(kafka: str, make_topics: MakeTopics) -> None:
    topics = make_topics(kafka, N)
    p = partition_of(b"u1", N)

    def value(offset: int, partition: int = p, topic_id: bytes = NO_TOPIC_ID) -> bytes:
        return encode_erasure(Erasure(partition, offset, topic_id))

    for offset in (4, 9, 7):
        note(topics, b"u1", value(offset))
    note(topics, b"u1", b"not a note")
    note(topics, b"u1", value(50, partition=p + 1))
    note(topics, b"u1", value(60, topic_id=b"x" * 16))
    assert notes(topics, NO_TOPIC_ID, p) == {p: {b"u1": 9}}
    note(topics, b"u1", None)
    assert notes(topics, NO_TOPIC_ID, p) == {p: {}}
    note(topics, b"u1", value(3))
    assert notes(topics, NO_TOPIC_ID, p) == {p: {b"u1": 3}}, "also a lower one, as after a log lost its tail"


def test_the_notes_of_a_topic_that_was_made_anew_do_not_count(real_kafka: str, make_topics: MakeTopics) -> None:
    topics = make_topics(real_kafka, N)
    log = KafkaLog({"bootstrap_servers": real_kafka}, timeout_s=TIMEOUT_S, max_request_bytes=1 << 20)
    publisher = Publisher(log, topics.events, N, KafkaTools("h:9092"))
    at = publisher.erase("u1", TIMEOUT_S)
    before = log.topic_id(topics.events)
    delete_and_wait(real_kafka, topics.events)
    create_topics(real_kafka, [Topic(topics.events, N)])
    after = log.topic_id(topics.events)
    log.close()
    assert notes(topics, before, at.partition) == {at.partition: {b"u1": at.offset}}
    assert notes(topics, after, at.partition) == {at.partition: {}}


@pytest.mark.full
def test_notes_are_read_across_compaction(real_kafka: str, make_topics: MakeTopics) -> None:
    topics = make_topics(real_kafka, 1)
    delete_and_wait(real_kafka, topics.erased)
    eager = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "100",
    }
    create_topics(real_kafka, [Topic(topics.erased, 1, eager)])
    log = KafkaLog({"bootstrap_servers": real_kafka}, timeout_s=TIMEOUT_S, max_request_bytes=1 << 20)
    client = {"bootstrap_servers": real_kafka}
    written = 0

    def compacted() -> bool:
        """Each write closes the segment before it, so that the cleaner has work."""
        nonlocal written
        written += 1
        value = encode_erasure(Erasure(0, written, NO_TOPIC_ID))
        log.append(topics.erased, 1, [NewRecord(0, b"u%d" % (written % 3), value)], TIMEOUT_S)
        return len(list(read_to_end(client, topics.erased))) < written

    until(compacted, "the broker has compacted the topic", within_s=60, every_s=0.3)
    log.close()
    newest = {b"u%d" % (i % 3): i for i in range(1, written + 1)}
    assert notes(topics, NO_TOPIC_ID) == {0: newest}


def test_a_broker_that_falls_silent_is_unavailable_in_time(own_kafka: DevBroker, make_topics: MakeTopics) -> None:
    topics = make_topics(own_kafka.address, N)
    for offset in range(50):
        note(topics, b"u1", encode_erasure(Erasure(partition_of(b"u1", N), offset, NO_TOPIC_ID)))
    records = read_to_end({"bootstrap_servers": own_kafka.address}, topics.erased, idle_s=60)
    next(records)
    reader = KafkaErasures({"bootstrap_servers": own_kafka.address}, topics.events, N, timeout_s=2)
    own_kafka.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(LogUnavailable):
            reader.read(range(N), NO_TOPIC_ID)
        assert time.monotonic() - began < 10
    finally:
        own_kafka.thaw()
    assert len(list(records)) == 49


def test_the_value_of_a_note_is_pinned() -> None:
    value = b'{"partition":3,"offset":42,"topic_id":"00112233-4455-6677-8899-aabbccddeeff"}'
    parsed = Erasure(3, 42, bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert encode_erasure(parsed) == value
    assert decode_erasure(value) == parsed
    assert decode_erasure(value[:-1] + b',"later":"field"}') == parsed
