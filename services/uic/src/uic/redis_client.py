"""The redis-py client that the settings name: a single server, a master behind Sentinel, or a cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import starmap
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.cluster import PRIMARY, ClusterNode, NodesManager, RedisCluster
from redis.connection import SSLConnection, parse_url
from redis.exceptions import ReadOnlyError, RedisClusterException
from redis.retry import Retry

from process.addresses import hosts_and_ports
from process.assumptions import broken, takes, uses
from process.sentinels import sentinel_login
from process.store_tls import check_store_tls, tls_options
from process.tls_causes import BadTlsFiles
from uic.errors import StartRefused, UnsuitableClient
from uic.renewed_tls import RenewedTls, RenewedTlsOfMaster, RenewedTlsPool
from uic.sentinels import Sentinels
from uic.settings import RedisSettings
from uic.store_failures import SETTINGS

FAILURES = (redis.RedisError, RedisClusterException, OSError)
"""What redis-py raises when there is no answer; for an unreachable cluster it is not a subclass of `RedisError`."""

ASSUMPTIONS: Final[dict[str, Callable[[], bool]]] = {
    "nodes_manager makes its connections by connection_pool_class": lambda: uses(
        NodesManager.create_redis_node, "connection_pool_class"
    ),
    "an SSLConnection speaks TLS by _wrap_socket_with_ssl(sock) whenever it connects": lambda: (
        takes(SSLConnection._wrap_socket_with_ssl, "self", "sock")
        and uses(SSLConnection._connect, "_wrap_socket_with_ssl")
    ),
}
"""What `RenewedTls` assumes of redis-py."""


class ClusterClient(RedisCluster):
    """redis-py's, which follows ASK to any master. CLUSTER SLOTS does not name one that has no slots yet, which is
    where the first slots of a new master go, and redis-py (seen in 8.1.0) dies in place of finding it:
    `AttributeError: 'NoneType' object has no attribute 'redis_connection'`."""

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        """The node of a name, which is made if it is not known; None if there is none at `host` and `port`."""
        known: Any = super().get_node(host, port, node_name)  # type: ignore[no-untyped-call]  # redis-py has no types here
        if known is not None or node_name is None:
            return known
        address, _, number = node_name.rpartition(":")
        nodes: dict[str, Any] = self.nodes_manager.nodes_cache
        made: Any = ClusterNode(address, int(number), PRIMARY)  # type: ignore[no-untyped-call]  # as above
        return nodes.setdefault(node_name, made)


@cache
def check_client() -> None:
    """Once, before the first connection over TLS.

    Raises:
        UnsuitableClient: the installed redis-py is not one that `RenewedTls` is for.
    """
    if found := broken(ASSUMPTIONS):
        raise UnsuitableClient(
            f"redis-py {redis.__version__} does not work with this version of UIC, which assumes that "
            f"{'; '.join(found)}. Install redis[hiredis]>=6.0,<9"
        )


def open_client(settings: RedisSettings, connected: Callable[[], None] = lambda: None) -> Any:
    """A redis-py client for the settings; only in cluster mode it connects immediately. `connected` is called for each
    new connection.

    The client retries nothing: the commit protocol settles a commit without an answer.

    Raises:
        FAILURES: no node of a cluster answers.
        StartRefused: the TLS files that the settings name cannot be used.
        UnsuitableClient: see `check_client`.
    """
    try:
        check_store_tls(SETTINGS, settings.url, settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    except BadTlsFiles as error:
        raise StartRefused(str(error)) from error
    limits: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": settings.timeout_s,
        "socket_connect_timeout": settings.timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    tls = settings.url.startswith("rediss://")
    if tls:
        check_client()
        limits |= tls_options(settings.url, settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)

    def on_connect(connection: Any) -> None:
        connection.on_connect()
        connected()

    if settings.mode == "cluster":  # cluster clients run the usual on_connect themselves
        limits |= {
            "retry": Retry(NoBackoff(), 1),
            "startup_nodes": list(starmap(ClusterNode, hosts_and_ports(settings.nodes))),
        }
        if tls:
            limits["connection_pool_class"] = RenewedTlsPool
        return ClusterClient.from_url(settings.url, **limits, redis_connect_func=lambda _: connected())
    if settings.mode == "sentinel":
        given = parse_url(settings.url)  # type: ignore[no-untyped-call]  # redis-py has no types here
        login = {name: given[name] for name in ("username", "password", "db") if name in given}
        limits |= {"ssl": tls}
        of_sentinels = limits | sentinel_login(settings.sentinel_username, settings.sentinel_password)
        sentinels: Any = Sentinels(hosts_and_ports(settings.sentinels), settings.timeout_s, of_sentinels)
        if tls:
            for sentinel in sentinels.sentinels:
                sentinel.connection_pool.connection_class = RenewedTls
            login["connection_class"] = RenewedTlsOfMaster
        return sentinels.master_for(settings.sentinel_service, **limits, **login, redis_connect_func=on_connect)
    # redis-py would keep the connection: where the address is a name, it leads to another server after a failover.
    limits["retry_on_error"] = [ReadOnlyError]
    if tls:
        limits["connection_class"] = RenewedTls
    return redis.Redis.from_url(settings.url, **limits, redis_connect_func=on_connect)


def clock_ms(client: Any) -> int:
    """The store's clock, which all commands and workers share; of a cluster, of the masters that answer the one that is
    furthest ahead.

    Raises:
        FAILURES: none answers.
    """
    if not isinstance(client, RedisCluster):
        return in_ms(client.time())
    clocks: list[int] = []
    failed: Exception | None = None
    for node in client.get_primaries():  # type: ignore[no-untyped-call]  # redis-py has no types here
        try:
            clocks.append(in_ms(client.time(target_nodes=node)))
        except FAILURES as error:
            failed = error
    if failed is not None and not clocks:
        raise failed
    return max(clocks)


def in_ms(clock: Any) -> int:
    """What TIME answers, seconds and microseconds, in milliseconds."""
    seconds, microseconds = clock
    return int(seconds) * 1000 + int(microseconds) // 1000


def info(client: Any, section: str) -> list[dict[str, Any]]:
    """A section of INFO, of each master.

    Raises:
        FAILURES: one does not answer.
    """
    if not isinstance(client, RedisCluster):
        return [client.info(section)]
    said: Any = client.info(section, target_nodes=RedisCluster.PRIMARIES)
    several = all(isinstance(answer, dict) for answer in said.values())
    return list(said.values()) if several else [said]  # redis-py unwraps the answer if there is a single master
