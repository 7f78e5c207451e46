"""A small broker on loopback, from a wheel, that speaks Kafka's protocol. Started again in the same folder, it finds
its data. `apache_kafka` starts a real Apache Kafka from a distribution.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from localstack.ports import LOOPBACK
from localstack.server import Server
from uic.log.clients import open_kafka_client

LOOK_MS = 2000
"""How long one try looks for a broker."""


class DevBroker(Server):
    """noida-db: a small broker that speaks Kafka's protocol, for a laptop and for tests.

    This binary from a wheel takes the place of a Kafka that is not installed; deploy/README.md says what is known about
    it. It differs from Apache Kafka: it has no topic ids; it never expires a group's member that died without leaving,
    whose partitions stay with it until the broker restarts; and it keeps the log in memory, with a copy in its folder.
    Groups of several members, and killed members, are tested on a real Kafka.
    """

    def __init__(self, folder: Path, *, port: int = 0, name: str = "broker", logs: Path | None = None) -> None:
        super().__init__(name, folder, {"kafka": port}, logs=logs)

    @property
    def address(self) -> str:
        """A bootstrap address."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        """The wheel's binary, Kafka's protocol alone."""
        return [
            str(_broker_binary()),
            "start",
            *("--only", "kafka"),
            *("--kafka-port", str(self.port)),
            *("--data-dir", str(self.folder.resolve())),
        ]

    def ready(self) -> bool:
        """A client lists its topics."""
        return broker_answers(self.address)


def broker_answers(bootstrap: str) -> bool:
    """Whether a Kafka client gets an answer from `bootstrap` now."""
    try:
        admin = open_kafka_client(
            KafkaAdminClient, bootstrap_servers=bootstrap, bootstrap_timeout_ms=LOOK_MS, request_timeout_ms=5000
        )
    except KafkaError:
        return False
    try:
        admin.list_topics()
        return True
    except KafkaError:
        return False
    finally:
        admin.close()


def _broker_binary() -> Path:
    """The wheel's executable, with the x bit, which some installers drop."""
    binary = Path(str(files("noida_db").joinpath("noida-db")))
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return binary
