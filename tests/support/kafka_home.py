"""A Kafka distribution for tests: that of `KAFKA_HOME`, or one that this file makes of Kafka's jars.

    PYTHONPATH=tests python -m support.kafka_home JARS FOLDER

writes the three of Apache's scripts that tests call to `FOLDER/bin`, and an archive of the classes that a broker loads:
a JVM that maps it starts with half the CPU time. A JVM that finds it made by another Java goes without.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from localstack.apache_kafka import ApacheKafka, has_java
from support import skips

CLASSES = "classes.jsa"
SCRIPT = """#!/bin/sh
# Like Apache's script of this name: it execs Java, which keeps the pid.
exec "${{JAVA_HOME:+$JAVA_HOME/bin/}}java" $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \\
    -XX:+IgnoreUnrecognizedVMOptions -Xshare:auto {classes} \\
    -Dlog4j2.configurationFile={log4j} -cp "{jars}/*" {main} "$@"
"""
CONSOLE = """\
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
"""
"""Kafka logs to its output, as with Apache's settings."""
PROGRAMS = {
    "kafka-server-start.sh": "kafka.Kafka",
    "kafka-storage.sh": "kafka.tools.StorageTool",
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
}
# The services of tests choose their broker by the same variable, so it goes once its value is known.
HOME = os.environ.pop("KAFKA_HOME", "") or os.environ.get("CTR_KAFKA_HOME", "")
if HOME:
    os.environ["CTR_KAFKA_HOME"] = HOME  # for the other processes of this test run


def kafka_home() -> Path:
    """The distribution of `KAFKA_HOME`. Skips the test where none is named, or without Java."""
    if not HOME or not has_java(os.environ):
        pytest.skip(skips.NO_KAFKA)
    return Path(HOME)


def make(jars: Path, folder: Path) -> None:
    """Write a distribution that runs `jars` to `folder`."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    log4j = folder / "log4j2.properties"
    log4j.write_text(CONSOLE)
    archive = folder / CLASSES

    def write(classes: str) -> None:
        for name, main in PROGRAMS.items():
            script = folder / "bin" / name
            script.write_text(SCRIPT.format(log4j=log4j, jars=jars, main=main, classes=classes))
            script.chmod(0o755)

    write("")
    with tempfile.TemporaryDirectory() as broker:
        server = ApacheKafka(folder, Path(broker))
        server.start()  # which formats its disk without the archive
        server.stop()
        write(f"-XX:ArchiveClassesAtExit={archive}")
        server.start()
        server.stop(grace_s=60)  # Java writes the archive when it ends
    write(f"-XX:SharedArchiveFile={archive}")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
