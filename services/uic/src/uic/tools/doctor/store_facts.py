"""Asks the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import AuthenticationError, ResponseError
from redis.sentinel import MasterNotFoundError

from mimn.state import REMOVAL, Keys, Progress
from uic.errors import StartRefused
from uic.redis_client import FAILURES, open_client
from uic.sentinels import Sentinels
from uic.settings import RedisSettings
from uic.store import read_meta
from uic.store_failures import fix_of, words_of
from uic.tools.doctor.store_checks import SEE_OUTAGE, StoreFacts
from uic.tools.in_service import InService, progress_of, read_in_service
from uic.tools.write_probe import refused_writes

CORRECT_SENTINELS = (
    "correct what the reason names, or UIC_REDIS__SENTINELS and UIC_REDIS__SENTINEL_SERVICE, or bring the Sentinels "
    f"back: {SEE_OUTAGE}"
)
START_MASTER = f"start Redis or Valkey there, or wait until the Sentinels name another master: {SEE_OUTAGE}"


@dataclass(frozen=True, kw_only=True)
class Store:
    """What was learned about the store; `error` is why the rest is empty."""

    error: str | None = None
    fix: str = ""
    """What to do about that, if the error says it."""
    name: str = ""
    """The master and its address as Sentinels name them; empty without Sentinels."""
    too_few_sentinels: str = ""
    """That they are too few to replace it; empty if they are not."""
    quorum_untold: str = ""
    """Why they did not say whether they are; empty if they did."""
    nodes: tuple[StoreFacts, ...] = ()
    """Its masters: one, except in a cluster."""
    refused_writes: Mapping[str, str] = field(default_factory=dict)
    """Each master that takes no commit, and what it says."""
    meta: Mapping[str, str] | None = None
    removed: bool = False
    """Whether a removal of the namespace has begun."""
    progress: Mapping[int, Progress] = field(default_factory=dict)
    """By partition, the namespace's progress records that can be read."""
    in_service: InService = field(default_factory=InService)
    """What the rollout record says."""


def gather_store(settings: RedisSettings, keys: Keys | None, partitions: int, timeout_s: float) -> Store:
    """Ask each master for its version and settings and whether it takes a commit, and the namespace for its topic and
    progress, and the rollout record."""
    name = _named_by_sentinels(settings)
    try:
        client, masters = _connect(settings, timeout_s)
        try:
            nodes = []
            for address, master in masters:
                try:
                    nodes.append(_store_facts(master, address))
                except FAILURES as error:
                    if not address:
                        raise
                    return Store(error=f"master {address}: {words_of(error)}", fix=fix_of(error) or SEE_OUTAGE)
            stored = None if keys is None else client.get(keys.meta)
            records = [] if keys is None else [client.get(keys.progress(p)) or b"" for p in range(partitions)]
            in_service = read_in_service(client, settings.prefix)
            asked: Sentinels | None = client.connection_pool.sentinel_manager if settings.mode == "sentinel" else None
        finally:
            name = _named_by_sentinels(settings, client)
            client.close()
        refused = refused_writes(settings.model_copy(update={"timeout_s": timeout_s}))
    except StartRefused as error:
        return Store(error=error.detail, fix="correct the setting, or install what it names", name=name)
    except FAILURES as error:
        return Store(error=words_of(error), fix=fix_of(error) or _other_fix(error, settings.mode), name=name)
    meta = None if stored is None else meta_of(stored)
    return Store(
        name=name,
        too_few_sentinels="" if asked is None else asked.trouble or "",
        quorum_untold="" if asked is None else asked.quorum_untold,
        nodes=tuple(nodes),
        refused_writes=refused,
        meta=meta,
        removed=any(record.startswith(REMOVAL) for record in records),
        progress={p: one for p, record in enumerate(records) if (one := progress_of(record)) is not None},
        in_service=in_service,
    )


def _named_by_sentinels(settings: RedisSettings, client: Any = None) -> str:
    """The master, and its address if `client` was told one; empty without Sentinels."""
    if settings.mode != "sentinel":
        return ""
    asked: Sentinels | None = client and client.connection_pool.sentinel_manager
    at = "" if asked is None or asked.named.last is None else f" at {':'.join(map(str, asked.named.last))}"
    return f"master {settings.sentinel_service!r}{at}"


def _other_fix(error: Exception, mode: str) -> str:
    """What to do about an error with no known cause; empty if the store at its URL may only be away."""
    if isinstance(error, MasterNotFoundError):
        return CORRECT_SENTINELS
    if isinstance(error, ResponseError | AuthenticationError):
        return SEE_OUTAGE
    return START_MASTER if mode == "sentinel" else ""


def meta_of(stored: bytes) -> dict[str, str]:
    """What a namespace's meta says, as text."""
    said = read_meta(stored)
    if not isinstance(said, dict):
        return {"unreadable": repr(stored[:100])}
    return {str(name): str(value) for name, value in said.items()}


def _connect(settings: RedisSettings, timeout_s: float) -> tuple[Any, list[tuple[str, Any]]]:
    """A client for keys, and one for each master, with its address in a cluster."""
    client = open_client(settings.model_copy(update={"timeout_s": timeout_s}))
    if settings.mode == "cluster":
        return client, [(node.name, client.get_redis_connection(node)) for node in client.get_primaries()]
    return client, [("", client)]


def _store_facts(client: Any, address: str) -> StoreFacts:
    asked = time.time()
    seconds, microseconds = client.time()
    ahead_s = seconds + microseconds / 1e6 - (asked + time.time()) / 2
    said: dict[str, Any] = client.info()
    try:
        snapshots = client.config_get("save").get("save")
    except redis.ResponseError:
        snapshots = None  # hosted servers forbid CONFIG
    valkey = said.get("valkey_version")
    return StoreFacts(
        server="valkey" if valkey else "redis",
        version=str(valkey or said.get("redis_version", "unknown")),
        policy=said.get("maxmemory_policy"),
        max_bytes=int(said.get("maxmemory", 0)),
        used_bytes=int(said.get("used_memory", 0)),
        append_only=None if "aof_enabled" not in said else bool(said["aof_enabled"]),
        snapshots=snapshots,
        clustered=bool(said.get("cluster_enabled", 0)),
        role=str(said.get("role", "unknown")),
        clock_ahead_s=ahead_s,
        address=address,
    )
