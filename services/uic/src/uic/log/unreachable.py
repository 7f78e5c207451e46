"""What a command or a start says when no broker answers: where it looked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uic.errors import LogUnavailable


def unreachable(client: Mapping[str, Any], error: Exception) -> LogUnavailable:
    """The error to raise.

    Args:
        client: options of the Kafka client that got no answer.
        error: the client's.
    """
    return LogUnavailable(f"{no_broker(client)}: {type(error).__name__}")


def no_broker(client: Mapping[str, Any]) -> str:
    """That no broker answers, and at which addresses."""
    return f"no broker answers at {', '.join(client['bootstrap_servers'])}"
