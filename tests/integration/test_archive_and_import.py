"""The archive holds exactly the log, and an import brings exactly its source into a topic, however often it is
killed."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from ctr.event.v1.behavior_event_pb2 import ACTION_PURCHASE, ACTION_VIEW, BehaviorEvent
from mimn.bundle.fields import code_of
from mimn.state import partition_of
from support import bulk_running
from support.archived_log import archived, by_user, noted_erasures, records_of
from support.bulk_running import KILLED, done, killed, run, run_main
from support.for_test import MakeTopics, TopicsForTest
from support.uic_running import delete_and_wait
from uic.bulk import described_history, importing
from uic.bulk.archive import Archive, PartitionManifest, arrow_of, begin_archive, open_archive
from uic.bulk.commands import import_history
from uic.bulk.described_history import DescribedHistory
from uic.bulk.errors import BadArchive, BulkRefused, DamagedFile
from uic.bulk.folder import Folder
from uic.bulk.history import PLACE, encode_place, refuse_short_retention
from uic.core.event import MAX_VALUE_BYTES
from uic.core.kafka_tools import KafkaTools
from uic.core.records import BatchRecord
from uic.doors.publisher import Publisher
from uic.errors import LogUnavailable
from uic.log.erasures import decode_erasure
from uic.log.event_log import KafkaLog
from uic.log.partition_reader import PartitionReader
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 4
USERS = [f"u{i}" for i in range(30)]
NOW = 1_700_000_000_000
FIXTURES = Path(__file__).parents[1] / "fixtures"
ACTIONS = FIXTURES / "bundle_tiny_actions/tiny-actions/1"
PLAIN = FIXTURES / "bundle_tiny/tiny/1"
"""A bundle that names some actions, and one that folds all alike."""


def environment(topics: TopicsForTest) -> dict[str, str]:
    return {
        "UIC_KAFKA__BOOTSTRAP_SERVERS": topics.bootstrap,
        "UIC_KAFKA__TOPIC": topics.events,
        "UIC_KAFKA__PARTITIONS": str(topics.partitions),
    }


def produce(topics: TopicsForTest, count: int, first: int = 0) -> None:
    """Events of all kinds: protobuf, JSON, malformed, an erasure, one without a key."""
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap, acks="all", linger_ms=5)
    for i in range(first, first + count):
        user = USERS[i * 7 % len(USERS)].encode()
        event = BehaviorEvent(user_id=user.decode(), item_id=1 + i % 50, event_time=NOW + i).SerializeToString()
        headers: list[tuple[str, bytes]] = [("trace", str(i).encode())] if i % 3 == 0 else []
        partition = partition_of(user, topics.partitions)
        if i % 40 == 5:
            producer.send(topics.events, key=None, value=b"no key", partition=i % topics.partitions)
        value = None if i % 50 == 7 else b"\xff\xff" if i % 25 == 3 else event
        producer.send(topics.events, key=user, value=value, headers=headers, partition=partition, timestamp_ms=NOW + i)
    producer.flush(timeout=60)
    producer.close()


def test_an_archive_is_the_log_and_grows_with_it_across_kills(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    to = tmp_path / "archive"
    command = ("--to", str(to), "--records-a-file", "60")
    produce(topics, 500)
    for step in ("file", "manifest"):
        for count in (0, 1):
            assert killed(environment(topics), "archive", step, count, *command) == KILLED
    done(environment(topics), "archive", *command)
    archive = open_archive(Folder(str(to)))
    assert archived(archive, topics.events) == records_of(topics)
    before = [archive.checked(p) for p in range(N)]

    produce(topics, 300, first=500)
    done(environment(topics), "archive", *command)
    assert archived(archive, topics.events) == records_of(topics)
    for p, manifest in enumerate(before):
        assert archive.checked(p).files[: len(manifest.files)] == manifest.files, "what was written stays"
    said = done(environment(topics), "archive", *command)
    assert said.startswith("0 records more")


def test_what_retention_removes_while_it_is_read_is_named_and_is_no_broker_that_is_away(
    tmp_path: Path, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, 1)
    produce(topics, 20)
    admin = KafkaAdminClient(bootstrap_servers=real_kafka)
    admin.delete_records({TopicPartition(topics.events, 0): 10})
    admin.close()
    with PartitionReader({"bootstrap_servers": real_kafka}, topics.events) as reader:
        with pytest.raises(LogUnavailable, match=r"partition 0: retention removed offset 0 while .* run this again"):
            list(reader.read(0, 0, 20))
        assert reader.start(0) == 10
        assert sum(len(records) for records, _ in reader.read(0, 10, 20)) == 10


def test_an_archive_with_a_hole_or_a_foreign_file_is_refused(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    produce(topics, 500)
    whole = tmp_path / "whole"
    done(environment(topics), "archive", "--to", str(whole), "--records-a-file", "60")

    def damaged(name: str) -> tuple[Archive, Path, list[Path]]:
        copy = tmp_path / name
        shutil.copytree(whole, copy)
        [folder] = copy.iterdir()
        return open_archive(Folder(str(copy))), folder, sorted((folder / "1").glob("*.parquet"))

    archive, _, files = damaged("hole")
    files[1].unlink()
    with pytest.raises(BadArchive, match=f"a hole: {files[1].name}"):
        archive.checked(1)
    archive, folder, files = damaged("foreign")
    other = sorted((folder / "2").glob("*.parquet"))[0]
    shutil.copy(other, files[0])
    with pytest.raises(DamagedFile, match="sha256 differs"):
        list(archive.records(archive.checked(1)))
    archive, folder, _ = damaged("another topic")
    manifest = folder / "1" / "manifest.json"
    topic_id = archive.about.topic_id
    manifest.write_text(manifest.read_text().replace(topic_id, "9" + topic_id[1:]))
    with pytest.raises(BadArchive, match="copied into another archive"):
        archive.checked(1)
    archive, folder, _ = damaged("overlap")
    manifest = folder / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"first": 60', '"first": 58'))
    with pytest.raises(BadArchive, match=r"begins below 60|hole"):
        archive.checked(1)


def test_raising_n_brings_every_record_over_once_and_in_each_users_order(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    old, new = make_topics(kafka, N), make_topics(kafka, 2 * N)
    produce(old, 500)
    done(environment(old), "archive", "--to", str(tmp_path / "archive"))
    command = ("--archive", str(tmp_path / "archive"))
    for step, count in (("scan", 0), ("record", 150), ("commit", 2), ("send", 0)):
        assert killed(environment(new), "import_history", step, count, *command) == KILLED
    done(environment(new), "import_history", *command)
    assert by_user(records_of(new)) == by_user(records_of(old))
    assert "0 of" in done(environment(new), "import_history", *command)

    imported = records_of(new)
    assert all(partition_of(r.key, 2 * N) == p for p, some in imported.items() for r in some if r.key is not None)
    # Of each user the highest.
    erasures = {r.key: r.offset for some in imported.values() for r in some if r.key and r.value is None}
    assert noted_erasures(new) == set(erasures.items())

    produce(old, 100, first=500)
    done(environment(old), "archive", "--to", str(tmp_path / "archive"))
    done(environment(new), "import_history", *command)
    assert by_user(records_of(new)) == by_user(records_of(old)), "an archive that has grown adds only what is new"


def imported(old: TopicsForTest, new: TopicsForTest, logs: list[list[BatchRecord]], folder: Path) -> tuple[int, str]:
    """Import an archive of these partitions of the old topic into the new one; exit status and output."""
    archive = begin_archive(Folder(str(folder)), old.events, uuid4().bytes, len(logs))
    for partition, records in enumerate(logs):
        manifest = archive.put(PartitionManifest(topic_id=archive.about.topic_id, partition=partition, base=0))
        archive.add(manifest, [arrow_of(records)], 0, len(records) - 1)
    return run(environment(new), "import_history", "--archive", str(folder))


def test_raising_n_leaves_out_what_was_a_dead_letter_whatever_it_holds(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = make_topics(kafka, 2), make_topics(kafka, 4)
    at = partition_of(b"u1", 2)
    event = BehaviorEvent(user_id="u1", item_id=1, event_time=NOW).SerializeToString()
    logs: list[list[BatchRecord]] = [[], []]
    logs[at] = [BatchRecord(0, NOW, b"u1", event, ()), BatchRecord(1, NOW, b"u1", bytes(MAX_VALUE_BYTES + 1), ())]
    logs[1 - at] = [  # misrouted, and so is the erasure: neither touched the user's state
        BatchRecord(0, NOW, b"u1", event, ()),
        BatchRecord(1, NOW, b"u1", None, ()),
        BatchRecord(2, NOW, None, event, ()),
    ]
    status, _ = imported(old, new, logs, tmp_path / "archive")
    assert status == 1
    assert "2 of 5 records would be left out: misrouted by N = 2" in capsys.readouterr().err
    assert by_user(records_of(new)) == {}, "nothing is appended until that is accepted"
    said = done(environment(new), "import_history", "--archive", str(tmp_path / "archive"), "--leave-out-misrouted")
    for told in ("1 of 5 records", "2 left out: misrouted by N = 2", "too_large", "missing_key"):
        assert told in said
    assert by_user(records_of(new)) == {b"u1": [(event, NOW, ())]}
    assert noted_erasures(new) == set()


def test_a_null_header_is_imported_as_an_empty_one(tmp_path: Path, kafka: str, make_topics: MakeTopics) -> None:
    old, new = make_topics(kafka, 1), make_topics(kafka, 2)
    event = BehaviorEvent(user_id="u1", item_id=1, event_time=NOW).SerializeToString()
    records = [BatchRecord(0, NOW, b"u1", event, (("trace", None), ("other", b"1")))]
    assert imported(old, new, [records], tmp_path / "archive")[0] == 0
    assert by_user(records_of(new)) == {b"u1": [(event, NOW, (("trace", b""), ("other", b"1")))]}


def test_a_record_that_the_client_may_not_send_is_named_with_the_setting_that_lets_it(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = make_topics(kafka, 1), make_topics(kafka, 2)
    event = BehaviorEvent(user_id="u1", item_id=1, event_time=NOW).SerializeToString()
    records = [BatchRecord(0, NOW, b"u1", event, (("trace", bytes(1 << 20)),))]
    assert imported(old, new, [records], tmp_path / "archive")[0] == 1
    assert "UIC_KAFKA__MAX_REQUEST_BYTES" in capsys.readouterr().err


def test_a_record_whose_time_the_topic_does_not_take_is_named_with_its_setting(
    tmp_path: Path, real_kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = make_topics(real_kafka, 1), make_topics(real_kafka, 2)
    event = BehaviorEvent(user_id="u1", item_id=1, event_time=NOW).SerializeToString()
    records = [BatchRecord(0, NOW * 1000, b"u1", event, ())]  # brokers before version 4 took it
    assert imported(old, new, [records], tmp_path / "archive")[0] == 1
    assert "message.timestamp.after.max.ms" in capsys.readouterr().err


def test_described_files_become_events_in_the_order_of_time(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    rows = [
        (f"Ü{i % 13}" if i % 97 else "", 10 + i % 9, i % 4, "buy" if i % 5 else "pv", NOW // 1000 + (i * 37) % 500)
        for i in range(400)
    ]
    for name, part in (("a.csv", rows[:150]), ("b.csv", rows[150:])):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([("uid", "sku", "cat", "act", "ts"), *part])
    description = tmp_path / "dataset.toml"
    description.write_text(
        'name = "shop"\nids = "string"\n[events]\nfiles = ["*.csv"]\nuser = "uid"\nitem = "sku"\ncategory = "cat"\n'
        'action = "act"\ntime = "ts"\n[actions]\nbuy = { is = "purchase" }\npv = { is = "view", weight = 0.0 }\n'
    )
    command = ("--description", str(description))
    assert killed(environment(topics), "import_history", "send", 0, *command) == KILLED
    said = done(environment(topics), "import_history", *command)
    assert "empty" in said
    good = [row for row in rows if row[0]]
    got = {p: [BehaviorEvent.FromString(r.value or b"") for r in some] for p, some in records_of(topics).items()}
    found = sorted(
        (e.user_id, e.item_id, e.category_id, e.action, e.event_time // 1000) for some in got.values() for e in some
    )
    wire = {"buy": ACTION_PURCHASE, "pv": ACTION_VIEW}
    assert found == sorted(
        (user, code_of(str(sku)), code_of(str(cat)), wire[act], ts) for user, sku, cat, act, ts in good
    )
    for some in got.values():
        assert [e.event_time for e in some] == sorted(e.event_time for e in some)


ROWS = [(f"{i % 13}", 10 + i % 9, NOW // 1000 + i) for i in range(60)]
REFUSED = ("1", 0, NOW // 1000 + 30)
"""A row with item 0."""
DESCRIPTION = 'name = "shop"\n[events]\nfiles = ["h.csv"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\n'


def described(folder: Path, rows: Iterable[tuple[str, int, int]], description: str = DESCRIPTION) -> Path:
    """A description of these rows, in a folder."""
    folder.mkdir(exist_ok=True)
    with (folder / "h.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uid", "sku", "ts"), *rows])
    path = folder / "d.toml"
    path.write_text(description)
    return path


def count(topics: TopicsForTest) -> int:
    return sum(map(len, records_of(topics).values()))


def test_what_a_description_says_beside_its_events_does_not_make_another_history(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    rows = [*ROWS[:30], REFUSED, *ROWS[30:]]
    assert "60 of 60" in done(environment(topics), "import_history", "--description", str(described(tmp_path, rows)))
    edited = "# the shop of 2024\n" + DESCRIPTION.replace("[events]", "[events]\ndelimiter = ','")
    path = described(tmp_path / "moved", [row for row in rows if row != REFUSED], edited)
    assert "0 of 60" in done(environment(topics), "import_history", "--description", str(path))
    assert count(topics) == 60


HOUR_S = 3600


def test_events_of_the_far_future_are_left_out_with_their_row_and_appended_when_their_time_has_come(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(kafka, N)
    now_s = time.time_ns() // 10**9
    future = [("1", 7, now_s + 25 * HOUR_S), ("2", 7, now_s + 400 * 24 * HOUR_S)]
    tomorrow = ("3", 7, now_s + 23 * HOUR_S)
    path = described(tmp_path, [*ROWS[:30], *future, tomorrow, *ROWS[30:]])
    command = ("import_history", "--description", str(path))
    said = done(environment(topics), *command)
    assert "61 of 61 records appended" in said
    assert f"2 rows refused: ts: more than a day from now (first: {tmp_path / 'h.csv'}, line 32)" in said
    assert "0 of 61 records appended" in done(environment(topics), *command)
    clock = SimpleNamespace(time_ns=lambda: (now_s + 2 * HOUR_S) * 10**9)
    monkeypatch.setattr(described_history, "time", clock)
    said = done(environment(topics), *command)
    assert "1 of 62 records appended" in said
    assert "1 rows refused" in said
    assert count(topics) == 62


def test_actions_that_the_bundle_does_not_name_are_refused_before_anything_is_appended(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, N)
    path = described(tmp_path, ROWS)  # without [actions]
    command = ("import_history", "--description", str(path))
    told = environment(topics) | {"UIC_BUNDLE__PATH": str(ACTIONS)}
    assert run(told, *command)[0] == 1
    said = capsys.readouterr().err
    assert "60 of 60 events have an action that bundle tiny-actions/1 of UIC_BUNDLE__PATH does not name" in said
    assert "unspecified (60). It names view, click, cart, favorite, purchase. Give the description the `action`" in said
    assert count(topics) == 0
    done(environment(topics) | {"UIC_BUNDLE__PATH": str(PLAIN)}, *command)
    assert count(topics) == 60

    rows = [(*row, act) for row, act in zip(ROWS, ("buy", "pv", "noise") * 20, strict=True)]
    with (tmp_path / "h.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uid", "sku", "ts", "act"), *rows])
    known = '[actions]\nbuy = { is = "purchase" }\npv = { is = "view" }\nnoise = { weight = 0.0 }\n'
    path.write_text(f'{DESCRIPTION}action = "act"\n{known}')
    said = done(told, *command, "--another-source")
    assert "40 of 40 records appended" in said
    assert "20 rows refused: act: an action without `is` in `[actions]`" in said


def test_a_history_that_was_corrected_is_not_appended_again_unless_it_is_said_to_be_another(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, N)
    done(environment(topics), "import_history", "--description", str(described(tmp_path, [*ROWS, REFUSED])))
    corrected = ("1", 7, NOW // 1000 + 30)
    command = ("import_history", "--description", str(described(tmp_path, [*ROWS, corrected])))
    assert run(environment(topics), *command)[0] == 1
    said = capsys.readouterr().err
    assert "60 imported records of another source" in said
    assert "import only what is new, as files of its own, with --another-source" in said
    assert count(topics) == 60
    assert "1 of 1" in done(
        environment(topics),
        "import_history",
        "--description",
        str(described(tmp_path, [corrected])),
        "--another-source",
    )
    assert count(topics) == 61


def test_an_import_that_another_one_overtakes_ends_and_appends_nothing_more(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, N)
    command = ("import_history", "--description", str(described(tmp_path, ROWS)))

    def meanwhile(step: str) -> None:
        if step == "scan":
            done(environment(topics), *command)

    assert run(environment(topics), *command, after=meanwhile)[0] == 1
    assert "another run has begun since" in capsys.readouterr().err
    assert count(topics) == 60
    assert "0 of 60" in done(environment(topics), *command)


def test_an_import_that_was_appended_twice_is_refused(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, N)
    path = described(tmp_path, ROWS)
    history = DescribedHistory(path)
    source, last = history.source, list(history.read({}))[-1]
    history.close()
    command = ("import_history", "--description", str(path))
    done(environment(topics), *command)
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap, acks="all")
    header = (PLACE, encode_place(source, last.place))
    partition = partition_of(last.key, topics.partitions)
    producer.send(topics.events, key=last.key, value=last.value, headers=[header], partition=partition)
    producer.close()
    assert run(environment(topics), *command)[0] == 1
    assert "twice, or behind later ones" in capsys.readouterr().err
    assert count(topics) == 61


def test_an_import_that_the_topic_would_drop_at_once_is_refused() -> None:
    day = 86_400_000
    refuse_short_retention(NOW, -1, NOW + 100 * day)
    refuse_short_retention(NOW, 7 * day, NOW + 6 * day)
    with pytest.raises(BulkRefused, match="8 days old"):
        refuse_short_retention(NOW, 7 * day, NOW + 8 * day)


def test_an_archive_of_the_topic_itself_is_not_imported(tmp_path: Path, kafka: str, make_topics: MakeTopics) -> None:
    topics = make_topics(kafka, N)
    produce(topics, 20)
    done(environment(topics), "archive", "--to", str(tmp_path))
    code, _ = bulk_running.run(environment(topics), "import_history", "--archive", str(tmp_path))
    assert code == 1


def erase(topics: TopicsForTest, user: str) -> int:
    """Erase as UIC does, now; the offset."""
    log = KafkaLog({"bootstrap_servers": topics.bootstrap}, timeout_s=60, max_request_bytes=1 << 20)
    try:
        publisher = Publisher(log, topics.events, topics.partitions, KafkaTools(topics.bootstrap))
        return publisher.erase(user, 60).offset
    finally:
        log.close()


def history_of(tmp_path: Path, rows: list[tuple[str, int]]) -> tuple[str, str]:
    """The arguments that import these users' events at these times in ms."""
    with (tmp_path / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uid", "sku", "ts"), *[(user, 7, time) for user, time in rows]])
    description = tmp_path / "dataset.toml"
    description.write_text(
        'name = "shop"\nids = "string"\n[events]\nfiles = ["events.csv"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\n'
        'time_unit = "ms"\n'
    )
    return "--description", str(description)


def times_of(topics: TopicsForTest) -> list[tuple[str, int]]:
    """User and time of the topic's events."""
    events = [
        BehaviorEvent.FromString(r.value) for some in records_of(topics).values() for r in some if r.value is not None
    ]
    return sorted((e.user_id, e.event_time) for e in events)


class Stopped(Exception):
    """An import ends here."""


def test_an_import_that_goes_on_brings_nothing_back_of_a_user_who_was_erased_meanwhile(
    tmp_path: Path,
    kafka: str,
    make_topics: MakeTopics,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topics = make_topics(kafka, 1)
    later = time.time_ns() // 1_000_000 + 3_600_000
    rows = [(user, NOW + i * 10) for i in range(20) for user in ("gone", "stays")] + [("gone", later)]
    command = history_of(tmp_path, rows)
    appended = 0

    def after(step: str) -> None:
        nonlocal appended
        appended += step == "record"
        if appended == 20:
            raise Stopped

    monkeypatch.setattr(importing, "TRANSACTION", 15)
    with pytest.raises(Stopped):
        run_main(partial(import_history.main, after=after), environment(topics), *command)
    there = len(times_of(topics))
    assert there == 15, "what was handed over since is in a transaction that was aborted"
    erase(topics, "gone")
    said = done(environment(topics), "import_history", *command)
    left_out = sum(user == "gone" for user, _ in rows[there:-1])
    assert f"{left_out} left out: their user or item was erased in {topics.events} since" in said
    left = len(rows) - there
    assert f"went through {left} of {left} records" in capsys.readouterr().err, "with those that are left out"
    expected = sorted([*rows[:there], *(row for row in rows[there:] if row[0] == "stays"), rows[-1]])
    assert times_of(topics) == expected, "what is newer than the erasure is history of a user who came back"
    assert "0 of" in done(environment(topics), "import_history", *command)
    assert times_of(topics) == expected


def test_history_of_erased_users_is_imported_where_that_is_asked_for(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, 2)
    rows = [("gone", NOW), ("stays", NOW)]
    command = history_of(tmp_path, rows)
    erase(topics, "gone")
    said = done(environment(topics), "import_history", *command, "--bring-back-erased")
    assert "2 of 2" in said
    assert times_of(topics) == rows


def test_an_archive_brings_neither_events_nor_erasures_that_are_older_than_an_erasure_in_the_topic(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    old, new = make_topics(kafka, 1), make_topics(kafka, 2)
    event = BehaviorEvent(user_id="u1", item_id=1, event_time=NOW).SerializeToString()
    records = [
        BatchRecord(0, NOW, b"u1", event, ()),
        BatchRecord(1, NOW, b"u1", None, ()),
        BatchRecord(2, NOW, b"u2", event, ()),
    ]
    at = erase(new, "u1")
    assert imported(old, new, [records], tmp_path / "archive")[0] == 0
    assert [value for value, _, _ in by_user(records_of(new))[b"u1"]] == [None]
    assert len(by_user(records_of(new))[b"u2"]) == 1
    assert noted_erasures(new) == {(b"u1", at)}


def test_an_import_needs_the_topics_notes(
    tmp_path: Path, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, 1)
    delete_and_wait(kafka, topics.erased)
    assert run(environment(topics), "import_history", *history_of(tmp_path, [("u1", NOW)]))[0] == 1
    assert f"topic {topics.erased} does not exist: create it" in capsys.readouterr().err
    assert times_of(topics) == []


def test_an_import_that_is_run_again_writes_no_note_below_one_that_is_there(
    tmp_path: Path, kafka: str, make_topics: MakeTopics
) -> None:
    old, new = make_topics(kafka, 1), make_topics(kafka, 2)
    event = BehaviorEvent(user_id="u1", item_id=1, event_time=NOW).SerializeToString()
    records = [BatchRecord(i, NOW + i, b"u1", None if i % 2 else event, ()) for i in range(4)]
    assert imported(old, new, [records], tmp_path / "archive")[0] == 0
    [of_import] = read_to_end({"bootstrap_servers": kafka}, new.erased)
    last = max(r.offset for r in read_to_end({"bootstrap_servers": kafka}, new.events) if r.value is None)
    assert decode_erasure(of_import.value or b"").offset == last, "the highest alone"
    assert of_import.timestamp_ms == NOW + 3, "when the user was erased"
    later = erase(new, "u1")
    done(environment(new), "import_history", "--archive", str(tmp_path / "archive"))
    notes = [decode_erasure(r.value or b"").offset for r in read_to_end({"bootstrap_servers": kafka}, new.erased)]
    assert notes == [last, later]
