"""How often a client connects to a broker that takes its connections and ends them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka.errors import KafkaError
from kafka.net.selector import NetworkSelector

from localstack.ports import LOOPBACK
from localstack.wait import until
from support.certificates import Certificates, TlsFront
from uic.log.clients import Connections

LONGEST_PAUSE_S = 1.0
LEAST_JITTER = 0.8
"""The library's pauses are by up to a fifth shorter than told, or longer."""
GROWING = 6
"""Pauses before the longest one: of 50, 100, 200, 400 and 800 ms, and the first try, which has none."""
LONG = 2
"""Pauses of the longest kind that are waited for."""


@contextmanager
def connecting(port: int, issued: Certificates) -> Iterator[tuple[Connections, NetworkSelector]]:
    net = NetworkSelector()
    manager = Connections(
        net, bootstrap_servers=f"{LOOPBACK}:{port}", security_protocol="SSL", ssl_cafile=str(issued.ca),
        reconnect_backoff_max_ms=int(LONGEST_PAUSE_S * 1000),
    )  # fmt: skip
    net.start()
    try:
        yield manager, net
    finally:
        manager.close()
        net.close()


def test_a_broker_that_refuses_us_is_tried_again_after_pauses(tmp_path: Path, closed_port: str) -> None:
    issued = Certificates.issue(tmp_path)
    behind = int(closed_port.rpartition(":")[2])
    with TlsFront(issued, behind, ask_clients=True) as front, connecting(front.port, issued) as (manager, net):
        (node,) = manager.cluster.bootstrap_brokers()

        async def connect() -> bool:
            try:
                await manager.get_connection(node.node_id)
            except KafkaError:
                return False
            return True

        began = time.monotonic()
        tries = GROWING + LONG
        until(lambda: net.run(connect) or front.connections >= tries, "it is tried again", within_s=60, every_s=0.002)
        took_s = time.monotonic() - began
        assert front.connections <= GROWING + took_s / (LEAST_JITTER * LONGEST_PAUSE_S)
