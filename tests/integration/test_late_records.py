"""What a command that appends had on its way when it gave up arrives while, or after, it is run again: nothing of it is
in the log twice, out of order or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from localstack.topics import create_topics, topics
from localstack.wait import until
from mimn.state import partition_of
from support.archived_log import records_of
from support.bulk_running import cut_log, run, run_main
from support.cut_off import CutOffKafka, cut_off_kafka
from support.for_test import MakeTopics, TopicsForTest
from support.kafka_cluster import Brokers
from support.uic_running import click
from uic.bulk.commands import import_history
from uic.bulk.described_history import DescribedHistory
from uic.bulk.history import PLACE, decode_place, encode_place
from uic.core.event import Reason
from uic.core.letters import Letter, to_wire
from uic.errors import LogUnavailable, NotAcknowledged, UnsuitableTopic
from uic.log.bounded_producer import open_run
from uic.log.event_log import KafkaLog
from uic.log.kafka_repairs.clients import open_kafka_client
from uic.log.kafka_repairs.runs import failure_of_run
from uic.log.producer import NewRecord, Producer
from uic.tools import dead_letters, letter_replay
from uic.tools.letter_reading import DeadLetter
from uic.tools.letter_replay import REPLAY_OF

pytestmark = pytest.mark.servers

N = 2
RECORDS = 6000
"""Of a history: several batches in each partition."""


@pytest.fixture
def cut_kafka(tmp_path: Path) -> Iterator[CutOffKafka]:
    with cut_off_kafka(tmp_path / "cut") as kafka:
        create_topics(kafka.address, topics("events", N))
        # The broker's first run waits until it has made its topic of transactions: the tests' runs are not as patient.
        client = {"bootstrap_servers": [kafka.address]}
        first = open_run(client, "first", "events", range(N), timeout_s=60.0, max_request_bytes=1 << 20)
        first.close(timeout=10.0)
        yield kafka


def environment(bootstrap: str, topic: str = "events") -> dict[str, str]:
    return {
        "UIC_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "UIC_KAFKA__TOPIC": topic,
        "UIC_KAFKA__PARTITIONS": str(N),
    }


def history(folder: Path, records: int) -> str:
    """The path of its description."""
    rows = "".join(f"u{i % 50},{i + 1},{1_600_000_000 + i}\n" for i in range(records))
    (folder / "h.csv").write_text("uid,sku,ts\n" + rows)
    path = folder / "d.toml"
    path.write_text(
        'name = "shop"\nids = "string"\n[events]\nfiles = ["h.csv"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\n'
    )
    return str(path)


def deliver_what_is_held(kafka: CutOffKafka) -> None:
    """The proxy gives the broker what it has received since it was cut off, of clients that have given up since."""
    kafka.cut.restore()
    until(lambda: not kafka.cut.holds, "all of it is delivered", within_s=60)


def places(named: TopicsForTest) -> dict[int, list[int]]:
    """By partition, the numbers of the imported records as they lie in the topic."""
    found: dict[int, list[int]] = {}
    for partition, records in records_of(named).items():
        decoded = [decode_place(dict(record.headers)[PLACE] or b"") for record in records]
        found[partition] = [one[1].number for one in decoded if one is not None]
    return found


def test_what_an_import_had_on_its_way_when_it_gave_up_is_neither_missing_nor_twice(
    cut_kafka: CutOffKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = history(tmp_path, RECORDS)
    named = TopicsForTest(cut_kafka.address, "events", N)
    handed: list[str] = []

    def cut_off(step: str) -> None:
        handed.append(step)
        if handed.count("record") == RECORDS // 2:
            until(lambda: any(places(named).values()), "some of it is in the topic", within_s=60)
            cut_kafka.cut.hang()

    through = environment(cut_kafka.cut_address)
    with monkeypatch.context() as patch:
        patch.setattr(import_history, "TIMEOUT_S", 10.0)  # it gives up after this long
        assert run(through, "import_history", "--description", description, after=cut_off)[0] == 1
    assert sum(map(len, places(named).values())) < RECORDS

    def late(step: str) -> None:
        if step == "scan":
            deliver_what_is_held(cut_kafka)

    code, said = run(environment(cut_kafka.address), "import_history", "--description", description, after=late)
    assert code == 0, said
    found = places(named)
    assert Counter(number for numbers in found.values() for number in numbers) == Counter(range(RECORDS))
    assert all(numbers == sorted(numbers) for numbers in found.values())


def test_what_a_replay_had_on_its_way_when_it_gave_up_does_not_come_behind_the_next_one(
    cut_kafka: CutOffKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = TopicsForTest(cut_kafka.address, "events", N)
    producer = KafkaProducer(bootstrap_servers=cut_kafka.address)
    for i in range(200):
        user = f"u{i % 10}"
        key, value = user.encode(), click(user, item=i + 1).SerializeToString()
        wrong = (partition_of(key, N) + 1) % N
        letter = Letter(Reason.MISROUTED, "events", wrong, i, 1_700_000_000_000 + i, key, value, ())
        wire_key, wire_value, headers = to_wire(letter, 1 << 20)
        producer.send(named.dlq, key=wire_key, value=wire_value, headers=headers)
    producer.close()

    monkeypatch.setattr(letter_replay, "BATCH", 100)
    made: list[int] = []
    library = letter_replay.replayed

    def cut_off(letter: DeadLetter, partitions: int) -> NewRecord:
        made.append(letter.offset)
        if len(made) == letter_replay.BATCH + 1:
            cut_kafka.cut.hang()
        return library(letter, partitions)

    with monkeypatch.context() as patch:
        patch.setattr(letter_replay, "replayed", cut_off)
        code, said = run_main(dead_letters.main, environment(cut_kafka.cut_address), "replay", "--yes")
    assert (code, said.count("in doubt: "), dead_letters.RUN_AGAIN in said) == (1, 100, True), said

    def late(*_: object) -> bool:
        """It has looked what was replayed before, and asks."""
        deliver_what_is_held(cut_kafka)
        return True

    monkeypatch.setattr(dead_letters, "confirmed", late)
    code, said = run_main(dead_letters.main, environment(cut_kafka.address), "replay")
    assert code == 0, said
    replays = Counter(dict(one.headers)[REPLAY_OF] for records in records_of(named).values() for one in records)
    assert len(replays) == 200
    assert set(replays.values()) == {1}


def log_of(named: TopicsForTest, name: str) -> KafkaLog:
    client = {"bootstrap_servers": [named.bootstrap]}
    run = open_run(client, name, named.events, range(N), timeout_s=60.0, max_request_bytes=1 << 20)
    return KafkaLog(client, timeout_s=60.0, max_request_bytes=1 << 20, run=Producer(run, 60.0))


def test_brokers_take_nothing_of_a_run_after_the_next_one_of_its_name_has_begun(
    real_kafka: str, make_topics: MakeTopics
) -> None:
    named = make_topics(real_kafka, N)
    first, other = log_of(named, f"{named.events}.a"), log_of(named, f"{named.events}.b")
    first.append(named.events, N, [NewRecord(0, b"user", b"1")], 60.0)
    second = log_of(named, f"{named.events}.a")
    third = log_of(named, f"{named.events}.a")
    for overtaken, partition in ((first, 0), (second, 1)):  # also where it has written nothing before
        with pytest.raises(NotAcknowledged, match="another run has begun"):
            overtaken.append(named.events, N, [NewRecord(partition, b"user", b"late")], 60.0)
        with pytest.raises(LogUnavailable, match="a record of this run has failed"):
            overtaken.append(named.events, N, [NewRecord(partition, b"user", b"later")], 60.0)
    third.append(named.events, N, [NewRecord(p, b"user", b"2") for p in range(N)], 60.0)
    other.append(named.events, N, [NewRecord(0, b"user", b"3")], 60.0)
    values = {p: [record.value for record in records] for p, records in records_of(named).items()}
    assert values == {0: [b"1", b"2", b"3"], 1: [b"2"]}
    for log in (first, second, third, other):
        log.close()


@pytest.mark.full
def test_a_run_does_not_begin_while_a_partition_has_no_leader_that_could_refuse_what_comes_late(
    three_real_brokers: Brokers,
) -> None:
    """The transaction coordinator drops the markers of such a partition, and says nothing of it."""
    client = {"bootstrap_servers": three_real_brokers.address.split(",")}
    log = KafkaLog(client, timeout_s=10.0, max_request_bytes=1 << 20)
    with closing(open_kafka_client(KafkaAdminClient, **client)) as admin:
        settings = {"min.insync.replicas": "1"}
        admin.create_topics([NewTopic("events", -1, -1, replica_assignments={0: [3], 1: [1]}, topic_configs=settings)])
    until(lambda: there(log) == "", "the topic is there", within_s=60)
    open_at = partial(open_run, client, "events.run", "events", timeout_s=60.0, max_request_bytes=1 << 20)
    open_at([0, 1]).close(timeout=0)
    three_real_brokers.kill(3)
    until(lambda: there(log) not in {"", None}, "the brokers say that it has no leader", within_s=60)
    with pytest.raises(LogUnavailable, match=r"not shut out of partitions 0, which have, or had"):
        open_at([0, 1])
    open_at([1]).close(timeout=0)
    three_real_brokers.start(3)
    until(lambda: there(log) == "", "the leader is back", within_s=60)
    open_at([0, 1]).close(timeout=0)
    log.close()


def there(log: KafkaLog) -> str | None:
    """What speaks against the topic; a broker may not know yet of one that another has just created."""
    try:
        return log.obstacle("events")
    except (LogUnavailable, UnsuitableTopic):
        return None


def test_what_a_run_appends_is_read_at_once_by_readers_of_committed_records(
    real_kafka: str, make_topics: MakeTopics
) -> None:
    named = make_topics(real_kafka, N)
    client: dict[str, Any] = {"bootstrap_servers": [real_kafka]}
    producer = open_run(client, named.events, named.events, range(N), timeout_s=60.0, max_request_bytes=1 << 20)
    at = producer.send(named.events, value=b"value", partition=0).get(timeout=60).offset
    consumer = KafkaConsumer(bootstrap_servers=real_kafka, isolation_level="read_committed")
    assert consumer.end_offsets([TopicPartition(named.events, 0)]) == {TopicPartition(named.events, 0): at + 1}
    consumer.close()
    producer.close(timeout=0)


def test_once_a_record_of_a_run_has_failed_nothing_more_of_it_is_appended(cut_kafka: CutOffKafka) -> None:
    """Behind it would be a gap: the next run goes on behind the last record of each partition."""
    client = {"bootstrap_servers": [cut_kafka.cut_address], "reconnect_backoff_max_ms": 200}
    producer = open_run(client, "events.run", "events", range(N), timeout_s=10.0, max_request_bytes=1 << 20)
    producer.send("events", value=b"before", partition=0).get(timeout=60)
    cut_kafka.cut.hang()
    lost = producer.send("events", value=b"lost", partition=0)
    until(lambda: producer._sender._client.in_flight_request_count() > 0, "it is on its way", within_s=20)
    until(lambda: lost.is_done, "it has failed", within_s=60)
    cut_kafka.cut.refuse()  # and so drop what is held
    cut_kafka.cut.restore()
    for partition in range(N):
        with pytest.raises(KafkaError):
            producer.send("events", value=b"later", partition=partition).get(timeout=60)
    assert isinstance(failure_of_run(producer), KafkaError)
    producer.close(timeout=0)
    named = TopicsForTest(cut_kafka.address, "events", N)
    assert [record.value for records in records_of(named).values() for record in records] == [b"before"]


def append_places(named: TopicsForTest, description: str, numbers: range) -> None:
    """Append these records of a history, as an import does."""
    source = DescribedHistory(Path(description))
    producer = KafkaProducer(bootstrap_servers=named.bootstrap, acks="all")
    for record in source.read({}):
        if record.place.number in numbers:
            header = (PLACE, encode_place(source.source, record.place))
            partition = partition_of(record.key, N)
            producer.send(named.events, key=record.key, value=record.value, headers=[header], partition=partition)
    producer.close()
    source.close()


def test_an_import_into_a_topic_that_lacks_records_between_others_is_refused_with_what_is_missing(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    named = make_topics(kafka, N)
    description = history(tmp_path, 300)
    for numbers in (range(100), range(200, 250)):
        append_places(named, description, numbers)
    before = places(named)
    code, _ = run(environment(kafka, named.events), "import_history", "--description", description)
    said = capsys.readouterr().err
    assert code == 1
    assert f"topic {named.events} lacks 100 records in partitions 0-1 (the first: partition " in said
    assert "number 100)" in said
    assert "import into a new topic" in said
    assert places(named) == before


def test_what_retention_removed_of_an_import_is_no_gap(
    tmp_path: Path, real_kafka: str, make_topics: MakeTopics
) -> None:
    named = make_topics(real_kafka, N)
    description = history(tmp_path, 300)
    append_places(named, description, range(200))
    cut_log(real_kafka, named.events, {p: len(numbers) // 2 for p, numbers in places(named).items()})
    code, said = run(environment(real_kafka, named.events), "import_history", "--description", description)
    assert (code, "100 of 300 records appended" in said) == (0, True), said
