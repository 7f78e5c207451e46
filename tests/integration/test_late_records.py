"""What a command that appends had on its way when it gave up arrives while, or after, it is run again: nothing of it is
in the log twice, out of order or missing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from localstack.topics import create_topics, topics
from localstack.wait import until
from mimn.state import partition_of
from support.archived_log import records_of
from support.bulk_running import run, run_main
from support.cut_off import CutOffKafka, cut_off_kafka
from support.for_test import MakeTopics, TopicsForTest
from support.uic_running import click
from uic.bulk import importing
from uic.bulk.commands import import_history
from uic.bulk.history import PLACE, decode_place
from uic.core.event import Reason
from uic.core.letters import Letter, to_wire
from uic.log.producer import NewRecord
from uic.log.transactions import Overtaken, Run, open_run
from uic.tools import dead_letters, letter_replay
from uic.tools.letter_reading import DeadLetter
from uic.tools.letter_replay import REPLAY_OF

pytestmark = pytest.mark.servers

N = 2
RECORDS = 6000
"""Of a history: several batches in each partition."""


def run_of(bootstrap: str, name: str, timeout_s: float = 60.0) -> Run:
    return open_run({"bootstrap_servers": [bootstrap]}, name, timeout_s=timeout_s, max_request_bytes=1 << 20)


@pytest.fixture
def cut_kafka(tmp_path: Path) -> Iterator[CutOffKafka]:
    with cut_off_kafka(tmp_path / "cut") as kafka:
        create_topics(kafka.address, topics("events", N))
        # The broker's first run waits until it has made its topic of transactions: the tests' runs are not as patient.
        run_of(kafka.address, "first").close()
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
            cut_kafka.cut.hang()

    through = environment(cut_kafka.cut_address)
    with monkeypatch.context() as patch:
        patch.setattr(importing, "TRANSACTION", 1000)
        patch.setattr(import_history, "TIMEOUT_S", 10.0)  # it gives up after this long
        assert run(through, "import_history", "--description", description, after=cut_off)[0] == 1
    assert sum(map(len, places(named).values())) == 2000

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
    assert (code, "in doubt: 100, from" in said, dead_letters.RUN_AGAIN in said) == (1, True, True), said

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


def values(bootstrap: str, topic: str) -> dict[int, list[bytes | None]]:
    read = records_of(TopicsForTest(bootstrap, topic, N))
    return {p: [record.value for record in records] for p, records in read.items()}


def test_brokers_take_nothing_of_a_run_after_the_next_one_of_its_name_has_begun(
    real_kafka: str, make_topics: MakeTopics
) -> None:
    named = make_topics(real_kafka, N)
    name, topic = f"{named.events}.a", named.events
    first, other = run_of(real_kafka, name), run_of(real_kafka, f"{topic}.b")
    first.append(topic, [NewRecord(0, b"user", b"1")])
    second = run_of(real_kafka, name)
    third = run_of(real_kafka, name)
    for overtaken, partition in ((first, 0), (second, 1)):  # also where it has written nothing before
        with pytest.raises(Overtaken, match="another run has begun"):
            overtaken.append(topic, [NewRecord(partition, b"user", b"late")])
        with pytest.raises(KafkaError):
            overtaken.append(topic, [NewRecord(partition, b"user", b"later")])
    third.append(topic, [NewRecord(p, b"user", b"2") for p in range(N)])
    other.append(topic, [NewRecord(0, b"user", b"3")])
    assert values(real_kafka, topic) == {0: [b"1", b"2", b"3"], 1: [b"2"]}
    for run_ in (first, second, third, other):
        run_.close()


def test_the_next_run_ends_the_transaction_of_one_that_is_gone(real_kafka: str, make_topics: MakeTopics) -> None:
    named = make_topics(real_kafka, N)
    gone = run_of(real_kafka, named.events)
    stuck = KafkaProducer(bootstrap_servers=real_kafka)

    def half() -> Iterator[NewRecord]:
        yield NewRecord(0, b"user", b"half", timestamp_ms=1_700_000_000_000)
        until(lambda: end_of(real_kafka, named.events, committed=False) == 1, "it is in the log", within_s=60)
        stuck.send(named.events, value=b"behind", partition=0).get(timeout=60)
        assert end_of(real_kafka, named.events, committed=True) == 0, "readers of committed records wait for it"
        run_of(real_kafka, named.events).close()
        until(lambda: end_of(real_kafka, named.events, committed=True) == 3, "they go on", within_s=60)

    with pytest.raises(Overtaken):
        gone.append(named.events, half())
    gone.close()
    stuck.close()
    assert values(real_kafka, named.events)[0] == [b"behind"]


def end_of(bootstrap: str, topic: str, *, committed: bool) -> int:
    level = "read_committed" if committed else "read_uncommitted"
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, isolation_level=level)) as consumer:
        place = TopicPartition(topic, 0)
        return int(consumer.end_offsets([place])[place])


def test_nothing_of_a_transaction_is_appended_once_the_brokers_are_away(cut_kafka: CutOffKafka) -> None:
    run_ = run_of(cut_kafka.cut_address, "events.run", 5.0)
    run_.append("events", [NewRecord(0, b"user", b"before")])

    def cut_off() -> Iterator[NewRecord]:
        yield NewRecord(0, b"user", b"lost")
        cut_kafka.cut.hang()
        yield NewRecord(1, b"user", b"lost, too")

    begun = time.monotonic()
    with pytest.raises(KafkaError):
        run_.append("events", cut_off())
    run_.close()
    assert time.monotonic() - begun < 40, "committing and aborting is bounded"
    deliver_what_is_held(cut_kafka)
    run_of(cut_kafka.address, "events.run").close()
    assert values(cut_kafka.address, "events") == {0: [b"before"], 1: []}
