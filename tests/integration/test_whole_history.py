"""States are made of a whole history, or it is said that they are not: of a log or an archive that lacks records, and
of a topic that is not the log that was folded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from localstack.topics import Topic, create_topics, topics
from mimn.release import begin, encode_record, record_key
from mimn.state import decode_state, user_hash
from support.bulk_running import cut_log, done, run, run_main
from support.bundles import SKETCH
from support.for_test import MakeTopics, RedisForTest
from support.releases import NOW_MS, SALT
from support.uic_running import delete_and_wait
from support.world import BUNDLE, World
from uic.bulk.archive import open_archive
from uic.bulk.folder import Folder
from uic.errors import UnsuitableTopic
from uic.preflight import check_topic
from uic.rollout.planning import read_release
from uic.settings import KafkaSettings
from uic.tools.doctor import command as doctor

pytestmark = pytest.mark.servers

N = 2


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    made = World(tmp_path / "world", make_topics(real_kafka, N), valkey.url, valkey.prefix, {})
    yield made
    made.close()


def partial_states(world: World) -> tuple[int, int]:
    """How many states are partial, and how many there are."""
    of = [
        decode_state(value, world.bundle.fingerprint, world.bundle.layout, user_hash(user)).header.partial
        for (_, user), value in world.stored().states.items()
    ]
    return sum(of), len(of)


def test_an_archive_that_lost_a_partition_is_refused_and_what_is_made_of_less_is_told(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(160, 20)
    whole, copy = tmp_path / "archive", tmp_path / "copy"
    assert "lack" not in done(world.environment(), "archive", "--to", str(whole))
    archive = open_archive(Folder(str(whole)))
    ends = {p: archive.checked(p).end for p in range(N)}
    cut = {p: end - 5 for p, end in ends.items()}
    cut_log(world.topics.bootstrap, world.topics.events, cut)
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / archive.about.topic_id / "0")

    load = ("--work", str(tmp_path / "work"), "--from", f"archive:{copy}", "--workers", "1")
    for command in (("archive", "--to", str(copy)), ("backfill", *load)):
        assert run(world.environment(), *command)[0] == 1
        said = capsys.readouterr().err
        assert "partition 0 was archived, and" in said
        assert "take the folder from the copy that the archive came from" in said

    said = done(world.environment(), "archive", "--to", str(copy), "--accept-gap")
    told = f"1 of 2 partitions lack records that the log once had (0 is complete from offset {cut[0]} on)"
    assert told in said
    assert told in done(world.environment(), "backfill", *load, "--dry-run")
    loaded = json.loads(done(world.environment(), "backfill", *load, "--json"))
    assert told in capsys.readouterr().err, "before it is folded"
    assert loaded["complete_from"] == {"0": cut[0], "1": 0}
    assert (loaded["partial_states"], loaded["users"]) == partial_states(world)
    assert 0 < loaded["partial_states"] < loaded["users"]


def test_a_first_archive_and_a_backfill_of_a_log_that_was_cut_say_so(tmp_path: Path, world: World) -> None:
    world.produce(160, 20)
    cut_log(world.topics.bootstrap, world.topics.events, dict.fromkeys(range(N), 3))
    told = "2 of 2 partitions lack records"
    assert told in done(world.environment(), "archive", "--to", str(tmp_path / "archive"))
    work = ("--work", str(tmp_path / "work"), "--workers", "1")
    assert told in done(world.environment(), "backfill", *work, "--dry-run")
    said = done(world.environment(), "backfill", *work)
    partial, users = partial_states(world)
    assert partial == users > 0
    assert said.endswith(f". {users} of the states are partial: they lack events\n")


@pytest.mark.full
def test_an_import_says_what_its_archive_lacks_because_no_state_will(
    tmp_path: Path, world: World, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(60, 10)
    cut_log(world.topics.bootstrap, world.topics.events, {0: 0, 1: 3})
    done(world.environment(), "archive", "--to", str(tmp_path))
    topics = make_topics(world.topics.bootstrap, N)
    other = world.environment() | {"UIC_KAFKA__TOPIC": topics.events}
    said = json.loads(done(other, "import_history", "--archive", str(tmp_path), "--json"))
    assert said["complete_from"] == {"0": 0, "1": 3}
    assert (
        "1 of 2 partitions lack records that the log once had (1 is complete from offset 3 on): their users get "
        "shorter histories, and no state will say that it is partial" in capsys.readouterr().err
    )


@pytest.mark.full
def test_a_compacted_topic_is_neither_archived_nor_folded_in_bulk(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(100, 20)
    done(world.environment(), "archive", "--to", str(tmp_path / "before"))
    admin = KafkaAdminClient(bootstrap_servers=world.topics.bootstrap)
    policy = ConfigResource(ConfigResourceType.TOPIC, world.topics.events, {"cleanup.policy": "compact"})
    admin.alter_configs([policy])
    admin.close()
    kafka = KafkaSettings(bootstrap_servers=world.topics.bootstrap, topic=world.topics.events, partitions=N)
    with pytest.raises(UnsuitableTopic) as start:
        check_topic(kafka)
    work = ("backfill", "--work", str(tmp_path / "work"))
    for command in (
        ("archive", "--to", str(tmp_path / "archive")),
        work,
        (*work, "--dry-run"),
        (*work, "--from", f"archive:{tmp_path / 'before'}"),
    ):
        assert run(world.environment(), *command) == (1, "")
        assert start.value.detail in capsys.readouterr().err
    assert not (tmp_path / "archive").exists()
    assert not (tmp_path / "work").exists()


def test_a_topic_that_was_made_again_is_named_by_the_doctor_and_has_no_lag(world: World) -> None:
    world.produce(160, 20)
    worker = world.worker()
    world.wait_folded()
    worker.stop()
    serving, other = read_release(BUNDLE, 0)[0], read_release(SKETCH, 0)[0]
    record = begin(None, other, serving=serving, origin="log", salt=SALT, now_ms=NOW_MS)
    world.client.set(record_key(world.keys.prefix), encode_record(record))

    def examined() -> tuple[list[tuple[str, str]], object, str]:
        """Verdict and words of the doctor's findings on the log and the workers; and the lag, and the table."""
        _, said = run_main(doctor.main, world.environment(), "--json")
        found = {f["check"]: f for f in json.loads(said)["findings"]}
        [row] = json.loads(done(world.environment(), "namespaces", "--json"))
        of = (found[f"{what} of {world.keys.namespace}"] for what in ("log", "workers"))
        table = done(world.environment(), "namespaces")
        return [(f["verdict"], f["seen"]) for f in of], (row["lag"], row["broken_log"]), table

    found, lag, _ = examined()
    assert [verdict for verdict, _ in found] == ["OK", "OK"]
    assert lag == (0, None)

    delete_and_wait(world.topics.bootstrap, world.topics.events)
    create_topics(world.topics.bootstrap, [Topic(world.topics.events, N)])
    found, lag, table = examined()
    assert [verdict for verdict, _ in found] == ["FAIL", "FAIL"]
    assert all("2 by topic_id" in seen for _, seen in found)
    assert lag == (None, "topic_id")
    assert "another log (topic_id)" in table


def test_states_are_made_of_an_archive_when_store_and_topic_are_lost_and_a_snapshot_says_that_it_cannot_help(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce(400, 40)
    for user in ("user-3", "user-5"):
        world.erase(user)
    world.produce(100, 40)
    worker = world.worker()
    world.wait_folded()
    archive, snapshots = str(tmp_path / "archive"), str(tmp_path / "snapshots")
    done(world.environment(), "archive", "--to", archive)
    done(world.environment(), "snapshot", "create", "--to", snapshots)
    worker.stop()

    def by_user() -> dict[str, tuple[int, bool]]:
        states = {user: world.state(user) for _, user in world.stored().states}
        return {user: (s.header.event_count, s.header.partial) for user, s in states.items() if s is not None}

    before = by_user()
    world.empty_store()
    for topic in (world.topics.events, world.topics.erased):
        delete_and_wait(world.topics.bootstrap, topic)
    create_topics(world.topics.bootstrap, topics(world.topics.events, N))
    world.forget_log()

    assert run(world.environment(), "snapshot", "restore", "--from", snapshots)[0] == 1
    said = capsys.readouterr().err
    assert "(topic_id)" in said
    assert "docs/runbooks/restore.md#the-topic-is-lost-as-well" in said

    work = ("--work", str(tmp_path / "work"), "--workers", "1")
    done(world.environment(), "import_history", "--archive", archive)
    done(world.environment(), "backfill", *work)
    assert "0 wrong" in done(world.environment(), "backfill", *work, "--verify")
    assert by_user() == before
    world.produce(100, 40)
    world.worker()
    world.wait_folded()
