"""A small Kafka distribution made of jars: `bin/` has the two of Apache's scripts that the local stack calls, and the
one that gives rights."""

from __future__ import annotations

from pathlib import Path

SCRIPT = """#!/bin/sh
# Like Apache's script of this name: it execs Java, which keeps the pid.
exec "${{JAVA_HOME:+$JAVA_HOME/bin/}}java" $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \\
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


def kafka_home(jars: Path, folder: Path) -> Path:
    """Write the distribution to `folder`; `jars` has `libs/`. Returns `folder`."""
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
        script.write_text(SCRIPT.format(log4j=log4j, libs=jars / "libs", main=main))
        script.chmod(0o755)
    return folder
