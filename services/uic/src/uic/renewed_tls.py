"""redis-py's connections over TLS, with a context of ours: see `RenewedContext`."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from redis.connection import ConnectionPool, SSLConnection
from redis.sentinel import SentinelManagedConnection

from process.store_tls import RenewedContext


class RenewedTls(SSLConnection):
    """Has the TLS files as they are whenever it connects."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._context = RenewedContext(options)

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self._context.get().wrap_socket(sock, server_hostname=self.host)


class RenewedTlsOfMaster(SentinelManagedConnection, RenewedTls):
    """The same, to the master that Sentinels name."""


class RenewedTlsPool(ConnectionPool):
    """Of such connections, for the nodes of a cluster: what its URL says of them goes before what it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"connection_class": RenewedTls})
