"""A peer's requests, one or several together: body → one GET (of several: one MGET) → answer.

PEER_BUNDLE, PEER_PREFIX and PEER_REDIS_URL say of what.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import redis
import redis.asyncio
from numpy.typing import NDArray

from loadtest.peers.work import Answer, Asked, Request, Work
from mimn.bundle import load_bundle
from mimn.state import Keys, namespace


def opened(env: Mapping[str, str] = os.environ) -> Work:
    """The work on a bundle and on the namespace that the store has for it.

    Raises:
        KeyError: a variable is missing.
        BundleError: the bundle cannot be used.
        ValueError: the store has no such namespace.
        redis.RedisError: the store does not answer.
    """
    bundle, url = load_bundle(env["PEER_BUNDLE"]), env["PEER_REDIS_URL"]
    keys = Keys(namespace(bundle.manifest.fingerprint), env["PEER_PREFIX"])
    with redis.Redis.from_url(url, protocol=2) as client:
        meta: Any = client.get(keys.meta)
    if meta is None:
        raise ValueError(f"{url} has no {keys.meta}: start UIC with {bundle.name} first")
    return Work(bundle, keys, msgspec.json.decode(meta)["partitions"])


class Service:
    """On asyncio."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        """Raises: as `opened`."""
        self._work = opened(env)
        self._store = redis.asyncio.Redis.from_url(env["PEER_REDIS_URL"], protocol=2)
        self._encode = msgspec.json.Encoder().encode

    async def predict(self, body: bytes) -> bytes:
        """The answer to one request, JSON to JSON."""
        asked = self._work.read(body)
        value: Any = await self._store.get(asked.key)
        return self._encode(self._work.answer(asked, value))

    async def predict_all(self, bodies: Sequence[bytes]) -> list[bytes]:
        """The same for several requests."""
        return [self._encode(one) for one in await self._answers([self._work.read(body) for body in bodies])]

    async def predict_decoded(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same for several bodies that were decoded, and answers that another encodes."""
        asked = [self._work.asked_by(msgspec.convert(request, Request)) for request in requests]
        return [msgspec.to_builtins(one) for one in await self._answers(asked)]

    async def _answers(self, asked: Sequence[Asked]) -> list[Answer]:
        """They share one exchange with the store. The head runs for one user after the other, because its graph takes
        one state."""
        values: Any = await self._store.mget([one.key for one in asked])
        return [self._work.answer(one, value) for one, value in zip(asked, values, strict=True)]


class BlockingService:
    """Without asyncio: arrays to arrays."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        """Raises: as `opened`."""
        self.work = opened(env)
        self._store = redis.Redis.from_url(env["PEER_REDIS_URL"], protocol=2)

    def scores(self, asked: Sequence[Asked]) -> list[NDArray[np.float32]]:
        """The scores of each request; several share one exchange with the store."""
        values: Any
        keys = [one.key for one in asked]
        values = [self._store.get(keys[0])] if len(keys) == 1 else self._store.mget(keys)
        return [self.work.scores(one, value)[0] for one, value in zip(asked, values, strict=True)]
