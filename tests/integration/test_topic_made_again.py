"""A topic that is deleted and created again, or given more partitions, while a command works on it in bulk: the command
says so, and takes nothing of the new one for the old."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer

from localstack.topics import create_topics, topics
from support.bulk_running import done, run
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.uic_running import click, delete_and_wait
from support.world import World
from uic.bulk import importing
from uic.bulk.archive import open_archive
from uic.bulk.folder import Folder
from uic.core.event import Reason
from uic.core.letters import Letter, to_wire
from uic.log.topic_reader import read_to_end
from uic.tools import dead_letters, letter_replay

pytestmark = pytest.mark.servers

N = 4
ROWS = 200
DESCRIPTION = """name = "shop"
[events]
files = ["e.csv"]
user = "uid"
item = "sku"
time = "ts"
"""


@pytest.fixture
def names(real_kafka: str, make_topics: MakeTopics) -> TopicsForTest:
    return make_topics(real_kafka, N)


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, names: TopicsForTest) -> Iterator[World]:
    made = World(tmp_path / "world", names, valkey.url, valkey.prefix, {})
    yield made
    made.close()


def environment(names: TopicsForTest) -> dict[str, str]:
    return {
        "UIC_KAFKA__BOOTSTRAP_SERVERS": names.bootstrap,
        "UIC_KAFKA__TOPIC": names.events,
        "UIC_KAFKA__PARTITIONS": str(names.partitions),
    }


def make_again(names: TopicsForTest) -> None:
    """Delete the event topic and create it."""
    delete_and_wait(names.bootstrap, names.events)
    create_topics(names.bootstrap, topics(names.events, names.partitions)[:1])


def fill(names: TopicsForTest, value: bytes, records: int) -> None:
    """So many records in each partition."""
    producer = KafkaProducer(bootstrap_servers=names.bootstrap, acks="all")
    for number in range(records * N):
        producer.send(names.events, key=b"u", value=value, partition=number % N)
    producer.flush(timeout=60)
    producer.close()


def once(step: str, count: int, act: Callable[[], None]) -> Callable[[str], None]:
    """For `after`: acts when a step was done for the `count`th time."""
    steps: Counter[str] = Counter()

    def after(now: str) -> None:
        steps[now] += 1
        if (now, steps[now]) == (step, count):
            act()

    return after


def described(folder: Path) -> tuple[str, ...]:
    """The arguments of an import of `ROWS` events."""
    rows = (f"{n * 7 % 50 + 1},{n % 30 + 1},{1_600_000_000 + n}" for n in range(ROWS))
    (folder / "e.csv").write_text("\n".join(["uid,sku,ts", *rows, ""]))
    (folder / "d.toml").write_text(DESCRIPTION)
    return "--description", str(folder / "d.toml")


def values(names: TopicsForTest) -> list[bytes | None]:
    return [record.value for record in read_to_end({"bootstrap_servers": names.bootstrap}, names.events)]


def test_an_archive_has_nothing_of_a_topic_that_was_created_again_under_the_name(
    tmp_path: Path, names: TopicsForTest, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(names, b"old", 20)

    def again() -> None:
        make_again(names)
        fill(names, b"new", 30)

    to = ("--to", str(tmp_path))
    assert run(environment(names), "archive", *to, after=once("manifest", 1, again)) == (1, "")
    assert f"topic {names.events} was deleted and created again" in capsys.readouterr().err
    old = open_archive(Folder(str(tmp_path)))
    kept = [row for p in range(N) if (found := old.manifest(p)) for some in old.records(found) for row in some["value"]]
    assert {value.as_py() for value in kept} == {b"old"}
    assert done(environment(names), "archive", *to).startswith(f"{30 * N} records more")


def test_an_import_into_a_topic_that_was_created_again_meanwhile_is_not_taken_for_whole(
    tmp_path: Path,
    names: TopicsForTest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("import_history", *described(tmp_path))
    monkeypatch.setattr(importing, "TRANSACTION", 50)
    assert run(environment(names), *command, after=once("record", 60, lambda: make_again(names))) == (1, "")
    assert f"topic {names.events} was deleted and created again" in capsys.readouterr().err

    make_again(names)
    assert done(environment(names), *command).startswith(f"{ROWS} of {ROWS} records")
    assert len(set(values(names))) == len(values(names)) == ROWS


@pytest.mark.parametrize("verb", ["backfill", "snapshot"])
def test_states_are_not_reported_as_loaded_if_their_log_is_another_one_by_then(
    tmp_path: Path,
    world: World,
    names: TopicsForTest,
    verb: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world.produce(100, 20)
    folder = str(tmp_path / "folder")
    load: tuple[str, ...] = ("--work", str(tmp_path / "work"), "--workers", "1")
    if verb == "snapshot":
        done(world.environment(), "backfill", *load)
        done(world.environment(), "snapshot", "create", "--to", folder)
        world.empty_store()
        load = ("restore", "--from", folder)
    assert run(world.environment(), verb, *load, after=once("hand_over", N, lambda: make_again(names))) == (1, "")
    [*_, last] = capfd.readouterr().err.splitlines()
    assert "was deleted and created again" in last, last


def test_letters_are_not_reported_as_replayed_if_the_topic_is_another_one_by_then(
    names: TopicsForTest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    producer = KafkaProducer(bootstrap_servers=names.bootstrap)
    letter = Letter(
        offset=4,
        reason=Reason.MISROUTED,
        topic=names.events,
        partition=1,
        timestamp_ms=1_700_000_000_000,
        key=b"u1",
        value=click("u1").SerializeToString(),
        headers=(),
    )
    key, value, headers = to_wire(letter, 1 << 20)
    producer.send(names.dlq, key=key, value=value, headers=headers)
    producer.flush(60)
    producer.close()
    for name, said in environment(names).items():
        monkeypatch.setenv(name, said)
    replay = letter_replay.replay

    def then_changed(*arguments: object) -> object:
        result = replay(*arguments)  # type: ignore[arg-type]
        make_again(names)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "replay", then_changed)
        out = io.StringIO()
        assert dead_letters.main(["replay", "--yes"], out) == 1
    assert out.getvalue().endswith("replayed 1 of 1\n")
    assert "was deleted and created again" in capsys.readouterr().err
    assert dead_letters.main(["replay", "--yes"], io.StringIO()) == 0
    assert len(values(names)) == 1
