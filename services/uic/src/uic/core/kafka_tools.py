"""Commands of Kafka's own tools, as messages print them: each can be pasted into a shell as it is. So a message has its
prose before the command and nothing behind it. Passwords are never part of one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uic.core.topics import DEAD_LETTER_PARTITIONS

CLIENT_PROPERTIES = "client.properties"
"""The file that commands name where the brokers want TLS or a login: Kafka's tools read both from one."""


@dataclass(frozen=True, slots=True)
class KafkaTools:
    """The tools, told which brokers to ask."""

    bootstrap: str
    """`host:port`, several separated by commas."""
    secured: bool = False
    """Whether the brokers want TLS or a login."""

    @classmethod
    def of(cls, client: Mapping[str, Any]) -> KafkaTools:
        """For the brokers of a client with these options (`bootstrap_servers`, `security_protocol`)."""
        servers = ",".join(server.strip() for server in client["bootstrap_servers"])
        return cls(servers, client.get("security_protocol", "PLAINTEXT") != "PLAINTEXT")

    def create(self, topic: str, partitions: int, policy: str) -> str:
        """The command that creates a topic as UIC wants it, with this `cleanup.policy`."""
        forever = " --config retention.ms=-1" if policy == "delete" else ""
        return self._command(
            "kafka-topics.sh",
            f"--create --topic {topic} --partitions {partitions} --config cleanup.policy={policy}{forever}",
        )

    def create_dead_letters(self, topic: str) -> str:
        """The command that creates a dead-letter topic."""
        return self.create(topic, DEAD_LETTER_PARTITIONS, "delete")

    def recount_erased(self, topic: str, found: int, partitions: int) -> str:
        """What gives a topic of erasures, which has `found` partitions, as many as the log: prose and a command. A
        record lies in the same partition whatever the count, so added ones leave those that are there as they are."""
        if found < partitions:
            more = self._command("kafka-topics.sh", f"--alter --topic {topic} --partitions {partitions}")
            return f"give it as many: {more}"
        create = self.create(topic, partitions, "compact")
        return f"delete it, create it again, and erase again those who were erased before: {create}"

    def alter(self, topic: str, config: str) -> str:
        """The command that changes settings of a topic: `name=value`, several separated by commas."""
        return self._command(
            "kafka-configs.sh", f"--alter --entity-type topics --entity-name {topic} --add-config {config}"
        )

    def _command(self, tool: str, arguments: str) -> str:
        login = f" --command-config {CLIENT_PROPERTIES}" if self.secured else ""
        return f"{tool} --bootstrap-server {shlex.quote(self.bootstrap)}{login} {arguments}"
