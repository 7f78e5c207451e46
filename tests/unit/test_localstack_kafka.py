"""Which Kafka the local stack takes: a real one wherever one is installed, and what is wrong when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from localstack.apache_kafka import ApacheKafka, NoKafka, find_kafka
from localstack.stack import Options, StackError


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Kafka distribution's folder."""
    for name in ("kafka-server-start.sh", "kafka-storage.sh"):
        program(tmp_path / "kafka" / "bin" / name)
    return tmp_path / "kafka"


@pytest.fixture
def java(tmp_path: Path) -> str:
    """A JAVA_HOME."""
    return str(program(tmp_path / "java" / "bin" / "java").parents[1])


def test_kafka_home_and_the_path_name_a_kafka(home: Path, java: str, tmp_path: Path) -> None:
    assert find_kafka({"KAFKA_HOME": str(home), "JAVA_HOME": java}) == home
    assert find_kafka({"PATH": str(home / "bin"), "JAVA_HOME": java}) == home
    assert find_kafka({"PATH": f"{home / 'bin'}:{java}/bin"}) == home
    links = tmp_path / "links"
    links.mkdir()
    (links / "kafka-server-start.sh").symlink_to(home / "bin" / "kafka-server-start.sh")
    assert find_kafka({"PATH": str(links), "JAVA_HOME": java}) == home
    assert Options.from_environment({"KAFKA_HOME": str(home), "JAVA_HOME": java}).kafka_home == home


def test_without_a_kafka_or_java_there_is_none(home: Path, tmp_path: Path) -> None:
    assert find_kafka({"PATH": str(tmp_path)}) is None
    assert find_kafka({"PATH": str(home / "bin")}) is None


def test_a_kafka_home_that_cannot_be_used_says_why(home: Path, java: str, tmp_path: Path) -> None:
    with pytest.raises(NoKafka, match=r"bin/kafka-server-start\.sh"):
        find_kafka({"KAFKA_HOME": str(tmp_path), "JAVA_HOME": java})
    with pytest.raises(StackError, match="JAVA_HOME"):
        Options.from_environment({"KAFKA_HOME": str(home), "PATH": str(tmp_path)})


def test_it_listens_on_loopback_alone_and_keeps_everything_in_its_folder(home: Path, tmp_path: Path) -> None:
    server = ApacheKafka(home, tmp_path / "stack" / "kafka", port=19092)
    server.ports["controller"] = 19093
    settings = server.settings()
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:19092"
    assert settings["log.dirs"] == str(tmp_path / "stack" / "kafka" / "data")
    assert server.environment()["LOG_DIR"].startswith(str(tmp_path / "stack" / "kafka"))
    assert server.address == "127.0.0.1:19092"
