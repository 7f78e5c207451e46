"""Transports that hand on what a broker says before it ends a connection."""

from __future__ import annotations

from typing import Any

from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport


class _ReadsAll:
    """A transport that hands on what it has received before it ends.

    The library drops it if the end of the connection is there already: the answer in which a broker refuses a login.
    """

    def _sock_recv(self) -> tuple[bytes, Any]:
        received, error = super()._sock_recv()  # type: ignore[misc]  # the library's
        return received, None if received else error  # the end is there again at the next look


class PlainTransport(_ReadsAll, KafkaTCPTransport):  # type: ignore[misc]  # kafka-python has no types
    """Without TLS."""


class TlsTransport(_ReadsAll, KafkaSSLTransport):  # type: ignore[misc]  # kafka-python has no types
    """With TLS."""
