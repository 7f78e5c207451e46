"""What a client knows of the cluster: brokers' addresses and leaders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from process.addresses import joined

NO_BROKER: Final = -1
"""What the brokers name as the leader of a partition that has none."""


def address_of(node: Any) -> str:
    """Where a broker is, `host:port`."""
    return joined(node.host, node.port)


def addresses_of(nodes: Iterable[Any]) -> str:
    """Where brokers are, for a message."""
    return ", ".join(sorted(map(address_of, nodes)))
