"""Redis clusters for tests: a node that others can join, and the smallest cluster, a single server with every slot."""

from __future__ import annotations

from pathlib import Path

import redis

from localstack.ports import free_port
from localstack.servers import Valkey


class ClusterNode(Valkey):
    """One node, which knows no other node and owns no slot yet. It enforces the cluster rules: slots, hash tags, and no
    script over two slots."""

    def __init__(self, folder: Path, *, appendfsync: str = "off") -> None:
        super().__init__(folder, appendfsync=appendfsync)
        # By default the bus listens at port + 10,000, which is out of range for a high port.
        self.bus = free_port()

    def command(self) -> list[str]:
        bus = ("--cluster-port", str(self.bus), "--cluster-node-timeout", "3000")
        return [*super().command(), "--cluster-enabled", "yes", *bus]


class OneNodeCluster(ClusterNode):
    """Owns every slot."""

    def ready(self) -> bool:
        """Owns every slot, and reports that the cluster is up."""
        if not super().ready():
            return False
        with redis.Redis.from_url(self.address, protocol=2, socket_timeout=1) as client:
            if client.cluster("INFO")["cluster_slots_assigned"] == "0":
                client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            return bool(client.cluster("INFO")["cluster_state"] == "ok")
