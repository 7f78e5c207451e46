"""Watches a namespace for some seconds: whether it is written, and whether another process reads it.

For the reading the store is asked when each progress record was last read or written (OBJECT IDLETIME, whole seconds).
RTP reads those of each release that it has loaded every two seconds (RTP_STATE__REFRESH_EVERY_S), and so does a worker
whose commits the store refuses. Neither has to write for that, so it also holds in a store that is full. While a child
of a server is at work (a snapshot, a rewrite of its log, a replica's first copy), reads leave no trace there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from mimn.state import REMOVAL, Keys
from uic.redis_client import clock_ms, info

WATCHED_S: Final = 6.0
"""How long: a worker that folds the namespace commits in that time, or says that it is caught up; a load writes states;
RTP reads the progress more than once."""
BLURRED_S: Final = 2.0
"""How far the age that the store tells may be off: it counts whole seconds, by a clock that it sets now and then."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen."""

    written: int
    """Partitions that were."""
    read: bool | None
    """Whether another process read a progress record; None if the store does not tell that."""
    removed: bool = False
    """Whether a progress record went, or a removal's mark took its place."""


class Watch:
    """Watches namespaces. Every method raises redis-py's errors if the store does not answer."""

    def __init__(self, client: Any, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._sleep = sleep

    def watch(self, keys: Keys, partitions: Sequence[int]) -> Watched:
        """Watch for `WATCHED_S`, or not at all if there is no progress record and no load."""
        forks = self._forks()
        before = self._written(keys, partitions)
        if not any(record or loaded for record, loaded in before):
            return Watched(0, read=False)
        began_ms = clock_ms(self._client)
        self._sleep(WATCHED_S)
        lasted_s = (clock_ms(self._client) - began_ms) / 1000
        recorded = [keys.progress(p) for p, (record, _) in zip(partitions, before, strict=True) if record]
        ages = [self.idle_s(key) for key in recorded]
        after = self._written(keys, partitions)
        written = sum(a != b for a, b in zip(before, after, strict=True))
        after_ages = [self.idle_s(key) for key in recorded]
        later = self._forks()
        traced = forks == later and not any(busy for _, busy in forks)
        removed = any(a[0] is not None and b[0] is None for a, b in zip(before, after, strict=True))
        return Watched(written, _read(ages, after_ages, lasted_s, traced=traced), removed)

    def idle_s(self, key: str) -> float | None:
        """Seconds since a key was last read or written; None if it is not there or the store does not tell."""
        try:
            seconds = self._client.object("IDLETIME", key)
        except redis.ResponseError:
            return None  # the store evicts by frequency, and does not know
        return None if seconds is None else float(seconds)

    def _forks(self) -> list[tuple[int, bool]]:
        """Of each master, how many children it has had, and whether one is at work."""
        had = [int(one["total_forks"]) for one in info(self._client, "stats")]
        at_work = [
            any(name.endswith("_in_progress") and value for name, value in one.items())
            for one in info(self._client, "persistence")
        ]
        return list(zip(had, at_work, strict=True))

    def _written(self, keys: Keys, partitions: Sequence[int]) -> list[tuple[bytes | None, int]]:
        """What changes with every commit and with every call of a load, by partition."""
        records = [self._client.get(keys.progress(p)) for p in partitions]
        return [
            (None if is_mark(record) else record, int(self._client.scard(keys.staged(p))))
            for p, record in zip(partitions, records, strict=True)
        ]


def is_mark(record: bytes | None) -> bool:
    """Whether it is a removal's mark in the place of a progress record."""
    return record is not None and record.startswith(REMOVAL)


def _read(ages: Sequence[float | None], after: Sequence[float | None], lasted_s: float, *, traced: bool) -> bool | None:
    """Whether records were read between two readings of ours; None if reads may have left no trace, as when the store
    does not show our own: it evicts by frequency, or another server has become the master.

    Args:
        ages: of each record, the seconds since it was last read, just before our second reading.
        after: the same, just after.
        lasted_s: seconds between our readings.
        traced: whether no server had a child at any time between them.
    """
    if any(age is not None and age < lasted_s - BLURRED_S for age in ages):
        return True
    if not traced:
        return None
    ours = (*((age, lasted_s) for age in ages), *((age, 0.0) for age in after))
    return False if all(age is not None and age <= since + BLURRED_S for age, since in ours) else None
