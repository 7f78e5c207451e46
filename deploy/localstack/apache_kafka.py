"""A real Apache Kafka from a distribution on this machine: one node in KRaft mode, on loopback.

A distribution is a folder with `bin/kafka-server-start.sh` and `bin/kafka-storage.sh`, as Apache publishes it; it needs
Java. It is found through `KAFKA_HOME`, or through `kafka-server-start.sh` on the PATH.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from localstack.dev_broker import broker_answers
from localstack.ports import LOOPBACK
from localstack.process import Ended
from localstack.server import Server

START = "kafka-server-start.sh"
FORMAT = "kafka-storage.sh"
FORMAT_S = 60
HEAP = "-Xms256m -Xmx512m"
"""Enough on a laptop; `KAFKA_HEAP_OPTS` replaces it."""


class NoKafka(RuntimeError):
    """`KAFKA_HOME` cannot be used; the message says what is missing."""


def find_kafka(env: Mapping[str, str]) -> Path | None:
    """The Kafka distribution that `env` names; None if it names none, or only one on the PATH and there is no Java.

    Raises:
        NoKafka: `KAFKA_HOME` is set, but is not a Kafka distribution, or there is no Java.
    """
    java = has_java(env)
    if named := env.get("KAFKA_HOME"):
        home = Path(named)
        if missing := [name for name in (START, FORMAT) if not (home / "bin" / name).is_file()]:
            raise NoKafka(f"KAFKA_HOME is {home}, which has no bin/{missing[0]}: name a Kafka distribution or unset it")
        if not java:
            raise NoKafka("KAFKA_HOME is set, but there is no Java: install Java 17 or newer, or set JAVA_HOME")
        return home
    found = shutil.which(START, path=env.get("PATH"))
    if not found or not java:
        return None
    home = Path(found).resolve().parents[1]
    return home if (home / "bin" / FORMAT).is_file() else None


def has_java(env: Mapping[str, str]) -> bool:
    """Whether Kafka's scripts will find Java: `JAVA_HOME`, or `java` on the PATH."""
    home = env.get("JAVA_HOME")
    return Path(home, "bin", "java").is_file() if home else shutil.which("java", path=env.get("PATH")) is not None


class ApacheKafka(Server):
    """One Kafka node, broker and controller; its log, settings and pid file are in its folder."""

    ready_s = 60.0

    def __init__(
        self, home: Path, folder: Path, *, port: int = 0, name: str = "kafka", logs: Path | None = None
    ) -> None:
        """`home` is the distribution; `port` is for clients, the controller listens on a free one."""
        super().__init__(name, folder, {"kafka": port, "controller": 0}, logs=logs)
        self._home = home.resolve()

    @property
    def address(self) -> str:
        """A bootstrap address."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def settings_file(self) -> Path:
        """Its `server.properties`, written at every start because the ports may differ."""
        return self.folder.resolve() / "server.properties"

    def command(self) -> list[str]:
        """The distribution's start script, which becomes Java and keeps its pid.

        Raises:
            Ended: its storage could not be formatted.
        """
        self.settings_file.write_text("".join(f"{name}={value}\n" for name, value in self.settings().items()), "utf-8")
        if not (self.folder / "data" / "meta.properties").is_file():
            self._format()
        return [str(self._home / "bin" / START), str(self.settings_file)]

    def environment(self) -> Mapping[str, str]:
        """Ours, with a small heap, and Kafka's own log files in its folder."""
        return {"KAFKA_HEAP_OPTS": HEAP, **os.environ, "LOG_DIR": str(self.folder.resolve() / "server-logs")}

    def settings(self) -> dict[str, str]:
        """Its `server.properties`: nothing is replicated, and no topic is created by a typo.

        Its own topics have one partition each in place of fifty, which are made when the first group and the first
        transaction come: that saves a second and a half of the processor.
        """
        port, controller = self.ports["kafka"], self.ports["controller"]
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder.resolve() / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }

    def ready(self) -> bool:
        """A client lists its topics."""
        return broker_answers(self.address)

    def cluster_id(self) -> str:
        """A random one. The nodes of a cluster have the same."""
        # A leading dash would read as an option.
        return "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]

    def _format(self) -> None:
        command = [str(self._home / "bin" / FORMAT), "format", "-t", self.cluster_id(), "-c", str(self.settings_file)]
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=FORMAT_S, check=False
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-1000:]
            raise Ended(f"{FORMAT} ended with status {done.returncode}: {said}")
