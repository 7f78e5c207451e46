"""A small Kafka distribution made of jars: `bin/` has the two of Apache's scripts that the local stack calls, and the
one that gives rights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localstack.apache_kafka import has_java
from support import skips
from support.class_archive import java_options

SCRIPT = """#!/bin/sh
# Like Apache's script of this name: it execs Java, which keeps the pid.
exec "${{JAVA_HOME:+$JAVA_HOME/bin/}}java" $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 {options} \\
    -Dlog4j2.configurationFile={log4j} -cp "{libs}/*" {main} "$@"
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


def kafka_home(folder: Path) -> Path:
    """A Kafka distribution: that of `KAFKA_HOME`, else one that is made in `folder` of the jars next to the script
    `CTR_KAFKA_BROKER`. Skips the test where there is neither, or no Java."""
    if named := os.environ.get("KAFKA_HOME"):
        return Path(named)
    script = os.environ.get("CTR_KAFKA_BROKER")
    if not script or not (Path(script).resolve().parent / "libs").is_dir() or not has_java(os.environ):
        pytest.skip(skips.NO_KAFKA_HOME)
    return made_of(Path(script), folder)


def made_of(broker_script: Path, folder: Path) -> Path:
    """Write the distribution to `folder`; the script has `libs/` next to it. Returns `folder`."""
    libs = broker_script.resolve().parent / "libs"
    options = java_options(broker_script)
    programs = {
        "kafka-server-start.sh": "kafka.Kafka",
        "kafka-storage.sh": "kafka.tools.StorageTool",
        "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    }
    (folder / "bin").mkdir(parents=True)
    log4j = folder / "log4j2.properties"
    log4j.write_text(CONSOLE)
    for name, main in programs.items():
        script = folder / "bin" / name
        script.write_text(SCRIPT.format(log4j=log4j, libs=libs, main=main, options=options))
        script.chmod(0o755)
    return folder
