"""Bad records of each class end in the dead-letter topic with their reason; the command lists, shows and replays."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from localstack.wait import until
from localstack.web import web
from mimn.state import partition_of
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.uic_running import click, delete_and_wait, running_uic
from uic.core.event import MAX_VALUE_BYTES, Reason, explain
from uic.core.letters import Letter, to_wire
from uic.log.erasures import Erasure, encode_erasure
from uic.log.event_log import KafkaLog
from uic.log.topic_reader import LogRecord, read_to_end
from uic.tools import dead_letters
from uic.tools.dead_letters import main
from uic.tools.letter_reading import read_letter
from uic.tools.letter_replay import REPLAY_OF

pytestmark = pytest.mark.servers

N = 8
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def topics(kafka: str, make_topics: MakeTopics) -> TopicsForTest:
    return make_topics(kafka, N)


@pytest.fixture
def producer(topics: TopicsForTest) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap, max_request_size=4 << 20)
    yield producer
    producer.close()


@pytest.fixture
def run(topics: TopicsForTest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with the environment of an operator who has set the log alone."""
    monkeypatch.setenv("UIC_KAFKA__BOOTSTRAP_SERVERS", topics.bootstrap)
    monkeypatch.setenv("UIC_KAFKA__TOPIC", topics.events)
    monkeypatch.setenv("UIC_KAFKA__PARTITIONS", str(topics.partitions))

    def call(*arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        return main(arguments, out), out.getvalue()

    return call


def letter(topics: TopicsForTest, offset: int, **fields: Any) -> Letter:
    usual: dict[str, Any] = {
        "reason": Reason.ITEM_ZERO,
        "topic": topics.events,
        "partition": 1,
        "timestamp_ms": 1_700_000_000_000,
        "key": b"u1",
        "value": click("u1").SerializeToString(),
        "headers": (("trace", b"abc"),),
    }
    return Letter(offset=offset, **usual | fields)


def deliver(producer: KafkaProducer, topics: TopicsForTest, *letters: Letter, max_bytes: int = 1 << 20) -> None:
    for one in letters:
        key, value, headers = to_wire(one, max_bytes)
        producer.send(topics.dlq, key=key, value=value, headers=headers)
    producer.flush(60)


def events(topics: TopicsForTest) -> list[LogRecord]:
    return sorted(
        read_to_end({"bootstrap_servers": topics.bootstrap}, topics.events), key=lambda r: (r.partition, r.offset)
    )


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_bad_records_of_each_class_are_named_and_their_neighbors_folded(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(kafka, N)
    good = click("u1").SerializeToString()
    here = partition_of(b"u1", N)
    impression = click("u1").SerializeToString().replace(b"\x28\x02", b"\x28\x63")  # action 99
    as_json = [("content-type", b"application/json")]
    bad: list[tuple[Reason, dict[str, Any]]] = [
        (Reason.MALFORMED_PROTOBUF, {"key": b"u1", "value": b"\xff\xff\xff"}),
        (Reason.MALFORMED_JSON, {"key": b"u1", "value": b"{", "headers": as_json}),
        (Reason.MALFORMED_JSON, {"key": b"u1", "value": b'{"userId": "u1", "categoriId": 3}', "headers": as_json}),
        (Reason.UNKNOWN_ACTION, {"key": b"u1", "value": impression}),
        (Reason.UNKNOWN_ACTION, {"key": b"u1", "value": b'{"action": "ACTION_IMPRESSION"}', "headers": as_json}),
        (Reason.MISSING_USER, {"key": b"u1", "value": click("").SerializeToString()}),
        (Reason.KEY_MISMATCH, {"key": b"u1", "value": click("u2").SerializeToString()}),
        (Reason.MISROUTED, {"key": b"u1", "value": good, "partition": (here + 1) % N}),
        (Reason.TOO_LARGE, {"key": b"u1", "value": b"x" * (MAX_VALUE_BYTES + 1)}),
        (Reason.ITEM_ZERO, {"key": b"u1", "value": click("u1", 0).SerializeToString()}),
        (Reason.MISSING_KEY, {"key": None, "value": good, "partition": 0}),
        (Reason.BAD_KEY, {"key": b"\xff", "value": good}),
        (Reason.BAD_EVENT_ID, {"key": b"u1", "value": click("u1", event_id="x" * 65).SerializeToString()}),
    ]
    producer = KafkaProducer(bootstrap_servers=kafka)
    with running_uic(tmp_path, valkey, topics) as uic:
        sent = {}
        for reason, record in bad:
            producer.send(topics.events, key=b"u1", value=good).get(60)
            landed = producer.send(topics.events, **record).get(60)
            sent[landed.partition, landed.offset] = (reason, record)
        producer.send(topics.events, key=b"u1", value=good + b"\xfa\x01\x03new").get(60)
        producer.close()

        def folded() -> bool:
            state = uic.state("u1")
            return state is not None and state.event_count == len(bad) + 1

        until(folded, "the good records are folded", within_s=60)
        found = {}

        def all_there() -> bool:
            for record in read_to_end({"bootstrap_servers": kafka}, topics.dlq):
                dead = read_letter(record)
                found[dead.partition, dead.offset] = dead
            return set(found) == set(sent)

        until(all_there, "each bad record is a dead letter", within_s=60, every_s=0.2)
        metrics = web().get(uic.worker.admin_url + "/metrics", timeout=60).text
    assert 'uic_dead_letters_total{reason="unknown_action"} 2.0' in metrics
    assert "uic_events_with_unknown_fields_total 1.0" in metrics
    assert 'uic_bundle_info{fingerprint="' in metrics
    assert "process_resident_memory_bytes" in metrics
    for at, (reason, record) in sent.items():
        dead = found[at]
        assert (dead.reason, dead.topic) == (reason, topics.events)
        assert dead.detail == explain(reason, record["value"], record.get("headers", []))
        assert (dead.key, dead.value) == (record["key"], record["value"])
        assert list(dead.headers) == record.get("headers", [])


def test_the_list_drops_repeats_names_no_user_and_counts(
    topics: TopicsForTest, producer: KafkaProducer, run: Run
) -> None:
    deliver(
        producer,
        topics,
        letter(topics, 7, key=b"private-person"),
        letter(topics, 3, reason=Reason.BAD_TIME),
        letter(topics, 7, key=b"private-person"),
    )
    producer.send(topics.dlq, value=b"not ours").get(60)
    code, text = run("list")
    assert code == 0
    _, *lines, count = text.splitlines()
    assert [line.split()[0] for line in lines] == ["bad_time", "item_zero"]
    assert count.startswith("2 dead letters: ")
    assert "1 repeats and 1 records" in count
    assert "private-person" not in text


def test_a_letter_of_a_topic_that_was_made_again_is_no_repeat(
    topics: TopicsForTest, producer: KafkaProducer, run: Run
) -> None:
    deliver(
        producer,
        topics,
        letter(topics, 0, reason=Reason.BAD_TIME),
        letter(topics, 0, timestamp_ms=1_800_000_000_000),
        letter(topics, 0, timestamp_ms=1_800_000_000_000),
    )
    assert sorted(row["reason"] for row in rows(run("list", "--json")[1])) == ["bad_time", "item_zero"]
    _, text = run("show", "1", "0")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("reason")] == ["bad_time", "item_zero"]


@pytest.mark.parametrize(
    ("arguments", "offsets"),
    [
        (("--reason", "item_zero", "--reason", "bad_time"), [2, 3, 4]),
        (("--partition", "5"), [9]),
        (("--first", "3", "--last", "4"), [3, 4]),
        (("--first", "10"), []),
    ],
)
def test_a_selection_is_by_reason_partition_and_offsets(
    topics: TopicsForTest, producer: KafkaProducer, run: Run, arguments: tuple[str, ...], offsets: list[int]
) -> None:
    deliver(
        producer,
        topics,
        letter(topics, 2),
        letter(topics, 3, reason=Reason.BAD_TIME),
        letter(topics, 4),
        letter(topics, 9, reason=Reason.MISROUTED, partition=5),
    )
    code, text = run("list", "--json", *arguments)
    assert [row["offset"] for row in rows(text)] == offsets
    assert code == (0 if offsets else 1)


def test_one_letter_is_shown_decoded_with_headers_and_bytes(
    topics: TopicsForTest, producer: KafkaProducer, run: Run
) -> None:
    as_json = (("content-type", b"application/json"),)
    deliver(
        producer,
        topics,
        letter(topics, 2),
        letter(topics, 3, value=b'{"item_id": "12"}', headers=as_json),
        letter(topics, 4, value=b"\xff\x00", key=b"\xfe"),
        letter(topics, 5, value=None),
        letter(topics, 6, value=b'{"item_id": "1_2"}', headers=as_json),
    )
    _, text = run("show", "1", "2")
    assert "reason     item_zero" in text
    assert "key        u1" in text
    assert "header     trace: abc" in text
    assert '"item_id": "3"' in text
    assert '"item_id": "12"' in run("show", "1", "3")[1]
    assert "decoded" not in run("show", "1", "6")[1], "its meaning is a guess"
    _, text = run("show", "1", "4")
    assert "key        0xfe" in text
    assert "000000  ff 00" in text
    assert "decoded" not in text
    assert "value      null" in run("show", "1", "5")[1]
    assert run("show", "1", "99") == (1, "")


def test_a_replay_appends_the_originals_to_their_keys_partitions_and_says_where_they_come_from(
    topics: TopicsForTest, producer: KafkaProducer, run: Run
) -> None:
    value = click("u1").SerializeToString()
    deliver(
        producer,
        topics,
        letter(topics, 5, reason=Reason.MISROUTED, value=value),
        letter(topics, 4, reason=Reason.MISROUTED, value=None),
        letter(topics, 5, reason=Reason.MISROUTED, value=value),
        letter(topics, 6, key=None),
        letter(topics, 7, topic="another"),
        letter(topics, 8),
    )
    deliver(producer, topics, letter(topics, 9, reason=Reason.MISROUTED, value=b"x" * 9000), max_bytes=4096)
    code, text = run("replay", "--yes", "--last", "7")
    assert code == 0
    assert "skipped 1: no key" in text
    assert "skipped 1: of another topic" in text
    assert "1 of them have a null value: each erases its user" in text
    assert text.endswith("replayed 2 of 2\n")
    erased, event = events(topics)
    assert {erased.partition, event.partition} == {partition_of(b"u1", N)}
    assert (erased.key, erased.value) == (b"u1", None)
    assert (event.key, event.value) == (b"u1", value)
    assert event.headers == (("trace", b"abc"), (REPLAY_OF, f"{topics.events}/1/5".encode()))
    code, text = run("replay", "--yes", "--first", "9")
    assert code == 1
    assert "skipped 1: value was cut" in text
    assert len(events(topics)) == 2


def test_what_the_log_has_replayed_already_is_left_out_though_its_letter_is_new(
    topics: TopicsForTest, producer: KafkaProducer, run: Run
) -> None:
    """As when a migration's fleet sends a letter again whose first copy retention has removed from the dead letters."""
    deliver(producer, topics, letter(topics, 4, reason=Reason.MISROUTED), letter(topics, 5, key=b"u2"))
    assert run("replay", "--yes", "--last", "4")[0] == 0
    code, text = run("replay", "--yes")
    assert code == 0
    assert "left out 1: replayed before (--again replays them, too)" in text
    assert text.endswith("replayed 1 of 1\n")
    code, text = run("replay", "--yes")
    assert (code, "left out 2" in text, "0 to replay" in text) == (1, True, True)
    assert sorted(one.key or b"" for one in events(topics)) == [b"u1", b"u2"]
    code, text = run("replay", "--yes", "--again", "--last", "4")
    assert (code, "looking for" in text) == (0, False)
    assert len(events(topics)) == 3


_HELD = """
import sys
from threading import Event
from ctr_cli.__main__ import main
from uic.log.transactions import Run
from uic.tools import letter_replay
letter_replay.BATCH = 2
append, sizes = Run.append, []
def held(run, topic, records):
    landed = append(run, topic, records)
    sizes.append(len(records))
    if len(sizes) == 2:
        print("held", file=sys.stderr, flush=True)
        while not Event().wait(0.05):  # Python hears a signal that comes just before a wait when that wait ends
            pass
    return landed
Run.append = held
sys.exit(main(sys.argv[1:]))
"""
"""`ctr` whose second transaction of two records is committed, and the command does not hear of it."""


def test_a_replay_that_a_signal_ends_says_what_was_sent_and_the_next_one_sends_the_rest(
    topics: TopicsForTest, producer: KafkaProducer, run: Run
) -> None:
    deliver(producer, topics, *(letter(topics, offset, reason=Reason.MISROUTED) for offset in range(5)))
    with subprocess.Popen(
        [sys.executable, "-c", _HELD, "dead-letters", "replay", "--yes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert process.stderr.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
        said, failed = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "replayed 2 of 5" in said
    assert "from partition 1, offset 2 on: all of them are in the log, or none" in said
    assert "interrupted" in failed
    code, text = run("replay", "--yes")
    assert (code, "left out 4: replayed before" in text) == (0, True)
    assert len(events(topics)) == 5


@pytest.mark.parametrize(("since_ms", "first"), [(2_000, 1), (2_500, 2), (9_000, 0)])
def test_a_topic_is_read_from_a_time_on_and_whole_if_it_has_nothing_later(
    topics: TopicsForTest, producer: KafkaProducer, since_ms: int, first: int
) -> None:
    for timestamp_ms in (1_000, 2_000, 3_000):
        producer.send(topics.events, key=b"u1", value=b"x", partition=2, timestamp_ms=timestamp_ms).get(60)
    read = list(read_to_end({"bootstrap_servers": topics.bootstrap}, topics.events, [2], since_ms={2: since_ms}))
    assert [record.offset for record in read] == list(range(first, 3))


def test_a_replay_asks_first_and_does_nothing_without_an_answer(
    topics: TopicsForTest, producer: KafkaProducer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(producer, topics, letter(topics, 2))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal
    assert run("replay")[0] == 2
    assert events(topics) == []
    monkeypatch.setattr(dead_letters, "confirmed", lambda *_: True)
    assert run("replay")[0] == 0
    assert len(events(topics)) == 1


def test_a_replay_of_more_than_the_limit_is_refused(
    topics: TopicsForTest, producer: KafkaProducer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(producer, topics, *(letter(topics, i) for i in range(4)))
    assert run("replay", "--yes", "--limit", "3")[0] == 2
    assert "--limit" in capsys.readouterr().err
    assert events(topics) == []
    assert run("replay", "--yes", "--limit", "4")[0] == 0
    assert len(events(topics)) == 4


def test_an_empty_topic_and_a_missing_one_are_told_apart(
    topics: TopicsForTest, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run("list")
    assert (code, text.split(":")[0]) == (1, "0 dead letters")
    assert run("list", "--json") == (1, "")
    assert capsys.readouterr().err.startswith("ctr dead-letters: none; ")
    monkeypatch.setenv("UIC_KAFKA__TOPIC", f"{topics.events}-no")
    assert run("list") == (1, "")
    assert "does not exist" in capsys.readouterr().err


def test_letters_of_a_user_who_was_erased_since_are_skipped_and_later_ones_are_not(
    topics: TopicsForTest, producer: KafkaProducer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    erased_ms = 1_700_000_005_000
    log = KafkaLog({"bootstrap_servers": topics.bootstrap}, timeout_s=60, max_request_bytes=1 << 20)
    note = encode_erasure(Erasure(partition_of(b"u1", N), 3, log.topic_id(topics.events)))
    log.close()
    producer.send(topics.erased, key=b"u1", value=note, partition=partition_of(b"u1", N), timestamp_ms=erased_ms).get(
        60
    )
    deliver(
        producer,
        topics,
        letter(topics, 100, reason=Reason.MISROUTED),
        letter(topics, 101, reason=Reason.MISROUTED, timestamp_ms=erased_ms),
        letter(topics, 1, reason=Reason.MISROUTED, timestamp_ms=erased_ms + 1),
        letter(topics, 2, reason=Reason.MISROUTED, key=b"u2"),
    )
    for again in ((), ("--again",)):
        code, text = run("replay", "--reason", "misrouted", "--yes", *again)
        assert code == 0
        assert "skipped 2: their user was erased since" in text
        assert "2 to replay" in text
    replayed = sorted((dict(one.headers)[REPLAY_OF] or b"").rpartition(b"/")[2] for one in events(topics))
    assert replayed == [b"1", b"1", b"2", b"2"]
    delete_and_wait(topics.bootstrap, topics.erased)
    assert run("replay", "--yes", "--again")[0] == 1, "it is unknown whose letters these are"
    assert f"{topics.erased} does not exist" in capsys.readouterr().err
