"""A Redis cluster as small as one can be: a single server that owns every slot."""

from __future__ import annotations

import redis

from localstack.ports import free_port
from localstack.servers import Valkey


class OneNodeCluster(Valkey):
    """Speaks the cluster's protocol: slots, hash tags, and no script over two slots."""

    def command(self) -> list[str]:
        # The bus would listen at the port + 10,000, which a high free port does not leave room for.
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-port", str(free_port())]

    def ready(self) -> bool:
        """Owns every slot, and says that the cluster is up."""
        if not super().ready():
            return False
        with redis.Redis.from_url(self.address, protocol=2, socket_timeout=1) as client:
            if client.cluster("INFO")["cluster_slots_assigned"] == "0":
                client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            return bool(client.cluster("INFO")["cluster_state"] == "ok")
