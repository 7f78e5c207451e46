"""What the commands of bulk work say when a signal ends them, and that it is so."""

from __future__ import annotations

import csv
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.archived_log import archived, records_of
from support.bulk_running import done, held_at
from support.for_test import MakeTopics, RedisForTest
from support.world import World
from uic.bulk.archive import open_archive
from uic.bulk.folder import Folder

pytestmark = pytest.mark.servers

N = 2


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> World:
    made = World(tmp_path / "world", make_topics(kafka, N), valkey.url, valkey.prefix, {})
    made.produce(60, 20)
    return made


def interrupted(
    environment: Mapping[str, str], module: str, step: str, *arguments: str, sign: signal.Signals = signal.SIGINT
) -> str:
    """The line that a command ends with if a signal comes after a step."""
    with held_at(environment, module, step, *arguments) as process:
        process.send_signal(sign)
        said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 128 + sign, said
    assert not [line for line in said if "Traceback" in line]
    return said[-1]


def test_an_archive_that_is_interrupted_goes_on(tmp_path: Path, world: World) -> None:
    command = ("--to", str(tmp_path / "archive"), "--records-a-file", "10")
    said = interrupted(world.environment(), "archive", "file", "archive", *command)
    assert said.startswith("ctr archive: interrupted")
    done(world.environment(), "archive", *command)
    assert archived(open_archive(Folder(str(tmp_path / "archive"))), world.topics.events) == records_of(world.topics)


def test_an_import_that_is_interrupted_appends_the_rest(
    tmp_path: Path, world: World, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    environment = world.environment(UIC_KAFKA__TOPIC=topics.events)
    rows = [(f"u{i % 13}", 10 + i % 9, 1_700_000_000 + i) for i in range(60)]
    with (tmp_path / "h.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uid", "sku", "ts"), *rows])
    description = tmp_path / "d.toml"
    description.write_text(
        'name = "shop"\nids = "string"\n[events]\nfiles = ["h.csv"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\n'
    )
    command = ("--description", str(description))
    said = interrupted(environment, "import_history", "send", "import", *command, sign=signal.SIGTERM)
    assert said.startswith("ctr import: interrupted")
    done(environment, "import_history", *command)
    assert sum(map(len, records_of(topics).values())) == len(rows)


def test_a_removal_and_a_restore_that_are_interrupted_say_how_they_go_on(tmp_path: Path, world: World) -> None:
    worker = world.worker()
    world.wait_folded()
    before, folder = world.stored().states, str(tmp_path / "snapshots")
    done(world.environment(), "snapshot", "create", "--to", folder)
    worker.stop()
    drop = ("drop", world.keys.namespace, "--yes", "--force")
    said = interrupted(world.environment(), "namespaces", "slice", "namespaces", *drop)
    assert said.startswith("ctr namespaces: interrupted")
    done(world.environment(), "namespaces", *drop)
    assert world.stored().states == {}

    said = interrupted(
        world.environment(), "snapshot", "states", "snapshot", "restore", "--from", folder, sign=signal.SIGTERM
    )
    assert said.startswith("ctr snapshot restore: interrupted")
    identity = said.split("--id ")[1].split(",")[0]
    done(world.environment(), "snapshot", "restore", "--from", folder, "--id", identity)
    assert world.stored().states == before
