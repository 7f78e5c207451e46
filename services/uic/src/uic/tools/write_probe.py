"""Whether the store takes UIC's commits: writes one in a namespace of its own, erases its state, deletes the rest.

These are the commits of the service, so the store is asked for exactly what it will be asked for: WATCH, MGET and
SMISMEMBER; MULTI, UNLINK, SADD, MSET and EXEC; DEL and SREM.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mimn.state import Keys, namespace
from uic.core.commit import ABSENT, Commit, NoAnswer, Refused, StatesLost
from uic.redis_client import FAILURES
from uic.settings import RedisSettings
from uic.store import RedisStore

TRIED = 1000
"""Partitions of the probe's namespace among which each master of a cluster has one, if it has slots."""
USER = "probe"


def refused_writes(settings: RedisSettings) -> Mapping[str, str]:
    """Each master that does not take a commit, and what it says. Each exchange takes `settings.timeout_s` at most.

    Raises:
        FAILURES: the masters of a cluster cannot be asked for.
    """
    keys = Keys(namespace(secrets.token_hex(8)), settings.prefix)
    store = RedisStore(settings, keys)
    try:
        tried = {server: _refusal(store, keys, partition) for server, partition in _partitions(store, keys)}
    finally:
        store.close()
    return {server: said for server, said in tried.items() if said}


def _partitions(store: RedisStore, keys: Keys) -> Iterator[tuple[str, int]]:
    """The name of each master, and a partition that it has."""
    client: Any = store.client
    if not hasattr(client, "get_primaries"):
        yield "the store", 0
        return
    left = {node.name for node in client.get_primaries()}
    for partition in range(TRIED):
        name = client.get_node_from_key(keys.progress(partition)).name
        if name in left:
            left.remove(name)
            yield name, partition
        if not left:
            return


def _refusal(store: RedisStore, keys: Keys, partition: int) -> str:
    """Why a master does not take a commit; empty if it does. Leaves nothing behind."""
    first, second = b"probe 1", b"probe 2"
    commits = (
        Commit(partition, ABSENT, first, ((USER, b"probe"),), created=1, begins_lineage=True),
        Commit(partition, first, second, ((USER, None),), erases=True),
    )
    try:
        for commit in commits:
            [answer] = store.commit([commit])
            if isinstance(answer, NoAnswer):
                return answer.detail
            if isinstance(answer, Refused | StatesLost):
                return "it does not have what it has acknowledged"
    finally:
        with suppress(*FAILURES):  # a user who could write the first commit may also UNLINK
            store.client.unlink(keys.progress(partition), keys.users(partition), keys.state(partition, USER))
    return ""
