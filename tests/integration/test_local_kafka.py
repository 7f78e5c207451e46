"""A real Apache Kafka from a distribution, started by the local stack: it serves, keeps its log, and ends by pid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localstack.apache_kafka import ApacheKafka
from localstack.process import Ended
from localstack.stack import living
from localstack.topics import create_topics, topics
from support.kafka_home import kafka_home

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return kafka_home()


@pytest.mark.full
def test_it_serves_keeps_its_topics_over_restarts_and_ends_by_pid(home: Path, tmp_path: Path) -> None:
    with ApacheKafka(home, tmp_path / "kafka") as server:
        assert len(create_topics(server.address, topics("events", 4))) == 3
        assert server.child
        first = server.child.identity
    assert not first.alive()
    again = ApacheKafka(home, tmp_path / "kafka")
    again.start()
    try:
        assert create_topics(again.address, topics("events", 4)) == []
        again.kill()
        again.start()
        assert create_topics(again.address, topics("events", 4)) == []
    finally:
        again.stop()


def test_storage_that_cannot_be_formatted_is_named(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(home / "bin", broken / "bin")
    (broken / "bin" / "kafka-storage.sh").write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    with pytest.raises(Ended, match=r"kafka-storage.sh ended with status 1: no space left"):
        ApacheKafka(broken, tmp_path / "kafka").start()


@pytest.mark.full
def test_the_demo_runs_on_the_kafka_of_kafka_home(home: Path, tmp_path: Path) -> None:
    without = {
        name: value for name, value in os.environ.items() if name not in ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL")
    }
    command = [sys.executable, "-m", "localstack", "demo", "--folder", str(tmp_path / "stack"), "--json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=without | {"KAFKA_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Apache Kafka of {home} at 127.0.0.1:" in done.stderr
    seen = json.loads(done.stdout)
    assert seen["events"] > 20_000
    assert living(tmp_path / "stack" / "demo") == {}
