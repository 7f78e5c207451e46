"""Reads, outside of any request, how far the log has been folded: the namespace's meta and every partition's progress.

The last good reading is kept while the store is away; it ages, so that states become `stale` by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

import msgspec

from mimn.state import Keys
from rtp.core.ports import StateReader
from rtp.core.standing import Standing, standing_from
from rtp.errors import StoreError
from rtp.metrics import Metrics
from rtp.serving import Holder

log = logging.getLogger(__name__)
MAX_PARTITIONS = 1 << 16


class _Meta(msgspec.Struct):
    partitions: int
    topic: str


class NoNamespace(Exception):
    """The store does not have the namespace, or its meta cannot be read; the message says what to look at."""


async def read_standing(
    store: StateReader, keys: Keys, last: Standing | None, timeout_s: float
) -> tuple[Standing, int]:
    """The namespace's standing now, and how many progress records were unreadable.

    Raises:
        NoNamespace: there is no meta under these keys.
        StoreError: the store did not answer.
    """
    meta = (await store.read_many([keys.meta], timeout_s))[0]
    if meta is None:
        if last is None:
            raise NoNamespace(
                f"the store has no {keys.meta}: start UIC on this bundle, or correct RTP_REDIS__PREFIX, "
                "RTP_BUNDLE__GENERATION or RTP_BUNDLE__PATH"
            )
        partitions = last.partitions
    else:
        partitions = read_partitions(meta, keys)
    records = await store.read_many([keys.progress(partition) for partition in range(partitions)], timeout_s)
    return standing_from(records, last)


def read_partitions(meta: bytes, keys: Keys) -> int:
    """N, as the namespace's meta says it.

    Raises:
        NoNamespace: it is not one.
    """
    try:
        partitions = msgspec.json.decode(meta, type=_Meta).partitions
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoNamespace(f"{keys.meta} is not a namespace's meta ({error}): has something else written it?") from error
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise NoNamespace(f"{keys.meta}: partitions is {partitions}, not from 1 to {MAX_PARTITIONS}")
    return partitions


class Watcher:
    """Keeps the holder's standing up to date until cancelled."""

    def __init__(
        self, holder: Holder, store: StateReader, metrics: Metrics, *, every_s: float, timeout_s: float
    ) -> None:
        self._holder = holder
        self._store = store
        self._metrics = metrics
        self._every_s = every_s
        self._timeout_s = timeout_s
        self.trouble: str | None = "the store has not been asked yet"
        """Why the last reading failed, None if it did not."""

    async def run(self) -> None:
        """Read now and then every `every_s` seconds (ten times as often until the first success), for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s if self._holder.current.standing else self._every_s / 10)

    async def look(self) -> None:
        """Read once. Never raises for what the store does."""
        serving = self._holder.current
        try:
            standing, unreadable = await read_standing(self._store, serving.keys, serving.standing, self._timeout_s)
        except (StoreError, NoNamespace) as error:
            self._failed(f"{type(error).__name__}: {error}")
            return
        if self.trouble:
            log.info("the store answers: namespace %s, %d partitions", serving.keys.namespace, standing.partitions)
        self.trouble = None
        self._holder.learn(serving.keys, standing)
        oldest = standing.oldest_ms(time.time_ns() // 1_000_000)
        self._metrics.store_up.set(1)
        self._metrics.partition_age.set(math.nan if oldest is None else oldest / 1000)
        self._metrics.unreadable_progress.inc(unreadable)

    def _failed(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("reading the progress of the partitions failed: %s", trouble)
        self.trouble = trouble
        self._metrics.store_up.set(0)
