"""A Redis cluster as small as one can be: a single server that owns every slot."""

from __future__ import annotations

import redis

from localstack.ports import free_port
from localstack.servers import Valkey
from localstack.wait import until


class OneNodeCluster(Valkey):
    """Speaks the cluster's protocol: slots, hash tags, and no script over two slots."""

    def command(self) -> list[str]:
        # The bus would listen at the port + 10,000, which a high free port does not leave room for.
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-port", str(free_port())]

    def take_slots(self) -> None:
        """Own all slots, and wait until the cluster is up."""
        client = redis.Redis.from_url(self.address, protocol=2)
        client.cluster("ADDSLOTSRANGE", 0, 16383)
        until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster is up", within_s=10)
        client.close()
