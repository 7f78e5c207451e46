"""Redis or Valkey: single, behind Sentinel, or a cluster.

redis-py owns addresses, TLS and authentication, and in a cluster the connections; otherwise `connection` exchanges
commands and replies. `pool` owns which connection a request takes, and `reader` when to give up, because a request's
deadline is the only timeout that matters here.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import starmap
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from process.addresses import hosts_and_ports
from process.sentinels import sentinel_login
from process.store_tls import check_store_tls, tls_options
from rtp.core.circuit_breaker import CircuitBreaker
from rtp.settings import RedisSettings
from rtp.store.cluster import ClusterCommands
from rtp.store.commands import SETTINGS, Commands
from rtp.store.connection import RenewedTls, RenewedTlsOfMaster
from rtp.store.pool import PoolCommands, SentinelCommands
from rtp.store.reader import RedisStateReader
from rtp.store.sentinels import Sentinels

__all__ = ["RedisStateReader", "open_store"]


def open_store(settings: RedisSettings) -> RedisStateReader:
    """The store that the settings name. Nothing is connected before the first read.

    Raises:
        BadTlsFiles: the TLS files that they name cannot be used.
    """
    url = settings.url.get_secret_value()
    check_store_tls(SETTINGS, url, settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    commands = _commands(settings)
    new = partial(CircuitBreaker, settings.failures_to_pause, settings.retry_every_ms / 1000)
    if isinstance(commands, ClusterCommands):
        breakers: defaultdict[str, CircuitBreaker] = defaultdict(new)
        return RedisStateReader(commands, lambda key: breakers[commands.node_of(key)])
    breaker = new()
    return RedisStateReader(commands, lambda _: breaker)


def _commands(settings: RedisSettings) -> Commands:
    url = settings.url.get_secret_value()
    connect_s = settings.connect_timeout_ms / 1000
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": connect_s,
        "socket_timeout": None,  # the request's deadline cancels, so redis-py needs no timer of its own
        "retry": Retry(NoBackoff(), 0),
    }
    if settings.tls:
        options |= tls_options(url, settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    match settings.mode:
        case "single":
            # As `ConnectionPool.from_url`, but for the class, and for the protocol, because we read the replies.
            own: dict[str, Any] = {"protocol": 2} | ({"connection_class": RenewedTls} if settings.tls else {})
            pool = ConnectionPool(**{**options, **parse_url(url), **own})
            return PoolCommands(pool, settings.pool_size, connect_s)
        case "sentinel":
            of_url = parse_url(url)
            login: dict[str, Any] = {name: of_url[name] for name in ("username", "password", "db") if name in of_url}
            options["ssl"] = settings.tls
            of_sentinels = options | sentinel_login(settings.sentinel_username, settings.sentinel_password)
            sentinels = Sentinels(hosts_and_ports(settings.sentinels), connect_s, of_sentinels)
            if settings.tls:
                for sentinel in sentinels.sentinels:
                    sentinel.connection_pool.connection_class = RenewedTls
                login["connection_class"] = RenewedTlsOfMaster
            masters = SentinelConnectionPool(settings.sentinel_service, sentinels, **options, **login)  # type: ignore[no-untyped-call] # redis-py has no annotation here
            return SentinelCommands(masters, sentinels, settings.pool_size, connect_s)
        case "cluster":
            options["retry"] = Retry(NoBackoff(), 1)
            options["startup_nodes"] = list(starmap(ClusterNode, hosts_and_ports(settings.nodes)))
            # `ClusterCommands` keeps to the size; redis-py counts connections that it is about to renew as well.
            options |= {"max_connections": 2 * settings.pool_size, "require_full_coverage": False, "ssl": settings.tls}
            given: dict[str, Any] = {**parse_url(url), **options}
            given.pop("connection_class", None)  # which `ssl` stands for
            passphrase = given.pop("ssl_password", None)  # its connections take one, and it does not
            cluster = RedisCluster(**given)
            if settings.tls:
                cluster.nodes_manager.connection_kwargs |= {"connection_class": RenewedTls, "ssl_password": passphrase}
                for node in cluster.nodes_manager.startup_nodes.values():
                    node.connection_class = RenewedTls
                    node.connection_kwargs["ssl_password"] = passphrase
            return ClusterCommands(cluster, settings.pool_size)
