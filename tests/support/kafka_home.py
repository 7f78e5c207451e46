"""A small Kafka distribution made of jars: `bin/` has the two of Apache's scripts that the local stack calls."""

from __future__ import annotations

from pathlib import Path

SCRIPT = """#!/bin/sh
# As Apache's script of this name: it becomes Java, under the same pid.
exec "${{JAVA_HOME:+$JAVA_HOME/bin/}}java" $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \\
    -Dkafka.logs.dir="${{LOG_DIR:-.}}" -Dlog4j2.configurationFile={log4j} -cp "{libs}/*" {main} "$@"
"""


def kafka_home(jars: Path, folder: Path) -> Path:
    """Write the distribution to `folder`; `jars` has `libs/` and the two log4j2 files. Returns `folder`."""
    programs = {
        "kafka-server-start.sh": ("kafka.Kafka", "log4j2.properties"),
        "kafka-storage.sh": ("kafka.tools.StorageTool", "log4j2-tools.properties"),
    }
    (folder / "bin").mkdir(parents=True)
    for name, (main, log4j) in programs.items():
        script = folder / "bin" / name
        script.write_text(SCRIPT.format(log4j=jars / log4j, libs=jars / "libs", main=main))
        script.chmod(0o755)
    return folder
