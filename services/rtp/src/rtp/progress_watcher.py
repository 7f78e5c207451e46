"""Reads, outside of any request, how far the log has been folded: the namespace's meta and every partition's progress.

The last good reading is kept while the store is away; it ages, so that states become `stale` by themselves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from mimn.state import Keys
from rtp.core.fold_progress import FoldProgress, fold_progress
from rtp.core.ports import StateReader
from rtp.errors import StoreAway, StoreError, StoreLate
from rtp.metrics import Metrics
from rtp.release import InService
from rtp.store_clock import StoreClock
from rtp.trouble import Trouble

log = structlog.stdlib.get_logger(__name__)
MAX_PARTITIONS = 1 << 16
SKEW_S = 2.0
"""By how much our clock and the store's may differ, as the alert `ClockSkew` has it."""


class _Meta(msgspec.Struct):
    partitions: int
    topic: str


class NoNamespace(Exception):
    """The store does not have the namespace, or its meta cannot be read or used; the message says what to look at."""


class Reading(NamedTuple):
    """What the store says of a namespace's progress."""

    progress: FoldProgress
    unreadable: int
    """How many progress records were."""
    missing: StoreError | None
    """Why some of it was not given, as by a node of a cluster that is away, and is as it was last read; None if all
    was."""


class ProgressReader:
    """Reads the progress of a namespace."""

    def __init__(self, store: StateReader, clock: StoreClock, *, timeout_s: float, ahead_within_ms: float) -> None:
        """`timeout_s` bounds each round trip: one, and at first another; `ahead_within_ms` as in `fold_progress`."""
        self._store = store
        self.clock = clock
        """By which as-of times are judged."""
        self._timeout_s = timeout_s
        self._ahead_within_ms = ahead_within_ms

    async def read(self, keys: Keys, last: FoldProgress | None) -> Reading:
        """The namespace's progress now. `last` is the reading before.

        Raises:
            NoNamespace: there is no meta under these keys, or another than before.
            StoreError: the store did not answer, or not with the meta, which was never read before.
        """
        partitions, topic = (0, "") if last is None else (last.size, last.topic)
        meta, *records = await self._store.read_each([keys.meta, *_names(keys, partitions)], self._timeout_s)
        missing = next((one for one in (meta, *records) if isinstance(one, StoreError)), None)
        if isinstance(meta, bytes):
            now, topic = decode_meta(meta, keys)
            if last is None:
                records = await self._store.read_each(_names(keys, now), self._timeout_s)
                missing = next((one for one in records if isinstance(one, StoreError)), None)
            elif now != partitions:  # each user would be looked for in another partition
                raise NoNamespace(
                    f"{keys.meta} says {now} partitions, and said {partitions} before: has another program written it? "
                    "If the namespace was dropped and created again, restart RTP"
                )
        elif last is None:
            if meta is None:
                raise NoNamespace(
                    f"the store has no {keys.meta}: start UIC on this bundle, or correct RTP_REDIS__PREFIX, "
                    "RTP_BUNDLE__GENERATION or RTP_BUNDLE__PATH"
                )
            raise meta
        return Reading(*fold_progress(records, topic, last, self.clock.now_ms(), self._ahead_within_ms), missing)

    async def states_again(self) -> None:
        """See `StateReader.read_again`."""
        await self._store.read_again(self._timeout_s)

    async def read_whole(self, keys: Keys) -> FoldProgress:
        """As `read`, for the first time and all of it.

        Raises:
            NoNamespace, StoreError: as `read`.
        """
        reading = await self.read(keys, None)
        if reading.missing is not None:
            raise reading.missing
        return reading.progress


def _names(keys: Keys, partitions: int) -> list[str]:
    return [keys.progress(partition) for partition in range(partitions)]


def decode_meta(meta: bytes, keys: Keys) -> tuple[int, str]:
    """N and the topic, as the namespace's meta gives them.

    Raises:
        NoNamespace: it is not a meta.
    """
    try:
        decoded = msgspec.json.decode(meta, type=_Meta)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoNamespace(
            f"{keys.meta} is not a namespace's meta ({error}): has another program written it?"
        ) from error
    if not 1 <= decoded.partitions <= MAX_PARTITIONS:
        raise NoNamespace(f"{keys.meta}: partitions is {decoded.partitions}, not from 1 to {MAX_PARTITIONS}")
    return decoded.partitions, decoded.topic


class ProgressWatcher:
    """Keeps the progress of every loaded release's namespace up to date until cancelled."""

    def __init__(
        self,
        in_service: InService,
        reader: ProgressReader,
        metrics: Metrics,
        *,
        every_s: float,
        stale_after_ms: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stale_after_ms` is the age from which `stale` counts a partition; `clock` gives seconds."""
        self._in_service = in_service
        self._reader = reader
        self._metrics = metrics
        self._every_s = every_s
        self._stale_after_ms = stale_after_ms
        self._clock = clock
        self._troubles: defaultdict[str, Trouble] = defaultdict(Trouble)
        """Of each namespace: why its last reading failed."""
        self._read_s: dict[str, float] = {}
        """When all of each namespace's progress was last read."""
        self._no_time = Trouble()
        self._skew_s = 0.0
        """Our clock less the store's, as last measured."""

    @property
    def trouble(self) -> str | None:
        """Why the last reading of the namespace in service failed, None if it did not."""
        current = self._in_service.current
        reason = self._troubles[current.keys.namespace].reason
        return reason if reason or current.progress else "it was not read yet"

    @property
    def stale(self) -> str | None:
        """Which namespaces that users are answered from are not kept up to date, as far as this process has read, None
        if all are: the store gives their states, so nothing else here fails."""
        now_ms = self._reader.clock.now_ms()
        answering = {release.keys.namespace: release for release in self._in_service.answering}
        behind, unread = [], []
        for name, release in answering.items():
            progress = release.progress
            if progress is not None and (stale := progress.stale(now_ms, self._stale_after_ms)):
                found = f"{stale} of {progress.size} partitions of namespace {name} ({release.bundle})"
                if (reason := self._troubles[name].reason) is None:
                    behind.append(found)
                else:
                    unread.append(f"{found}, whose progress was {self._last_read(name, reason)}")
        said = []
        if behind:
            said.append(
                f"states are stale: {', '.join(behind)} were not caught up with the log within the last "
                f"{self._stale_after_ms / 1000:g} s; does a UIC worker fold it?{self._clocks}"
            )
        if unread:  # UIC may fold them all the same
            said.append(f"states count as stale: {', '.join(unread)}")
        return "; ".join(said) or None

    def _last_read(self, namespace: str, reason: str) -> str:
        """When that was, and why not since, unless `trouble` says so."""
        read_s = self._read_s.get(namespace)
        when = (
            "not read since it was loaded" if read_s is None else f"last read whole {self._clock() - read_s:.0f} s ago"
        )
        return when if reason == self.trouble else f"{when} ({reason})"

    @property
    def _clocks(self) -> str:
        """That the store's clock, by which states are stale, may be wrong; empty if it agrees with ours."""
        if abs(self._skew_s) <= SKEW_S:
            return ""
        apart = f"{abs(self._skew_s):.0f} s {'behind' if self._skew_s > 0 else 'ahead of'}"
        return f" The store's clock, by which that is told, is {apart} this process's: see docs/runbooks/clocks.md"

    @property
    def no_time(self) -> str | None:
        """Why the store answers, and does not tell its time; None if it does."""
        return self._no_time.reason

    async def run(self) -> None:
        """Read at once and then every `every_s` seconds (ten times as often until the first success), forever."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s if self._in_service.current.progress else self._every_s / 10)

    async def look(self) -> None:
        """Read once. Never raises: whatever goes wrong, the next look tries again."""
        await self._compare_clocks()
        namespaces = self._in_service.namespaces
        unreadable = 0
        for one in namespaces:
            name = one.keys.namespace
            try:
                reading = await self._reader.read(one.keys, one.progress)
            except Exception as error:
                self._failed(name, error)
                continue
            self._in_service.learn(one.keys, reading.progress)
            unreadable += reading.unreadable
            if reading.missing is not None:
                self._failed(name, reading.missing)
                continue
            if self._troubles[name].ends() or name not in self._read_s:
                log.info("progress is read", namespace=name, partitions=reading.progress.size)
            self._read_s[name] = self._clock()
        known = {one.keys.namespace for one in namespaces}
        for of_namespace in (self._troubles, self._read_s):
            for name in of_namespace.keys() - known:
                del of_namespace[name]
        self._metrics.store_up.set(0 if self.trouble else 1)
        if self.trouble is None:
            await self._read_states_again()
        self._metrics.unreadable_progress.inc(unreadable)
        self._measure()

    async def _compare_clocks(self) -> None:
        """First, because as-of times that are read are judged by the store's clock."""
        try:
            self._skew_s = await self._reader.clock.compare()
            self._metrics.clock_skew.set(self._skew_s)
        except (StoreAway, StoreLate):
            return  # nothing else can be read, either, and that is told
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self._no_time.begins(error, reason):
                ours = isinstance(error, StoreError)
                log.warning("the store does not tell its time", reason=reason, exc_info=not ours and error)
        else:
            if self._no_time.ends():
                log.info("the store tells its time again")

    async def _read_states_again(self) -> None:
        """Last, and only while progress is read: a store that is away keeps nothing waiting for this as well."""
        try:
            await self._reader.states_again()
        except Exception as error:
            log.warning("a state cannot be read", reason=f"{type(error).__name__}: {error}", exc_info=error)

    def _failed(self, namespace: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if self._troubles[namespace].begins(error, reason):
            ours = isinstance(error, StoreError | NoNamespace)
            log.warning("progress cannot be read", namespace=namespace, reason=reason, exc_info=not ours and error)

    def _measure(self) -> None:
        """Set the gauges: of what answers users, the worst; not known if one's progress is not."""
        now_ms = self._reader.clock.now_ms()
        answering = [release.progress for release in self._in_service.answering]
        oldest = [None if progress is None else progress.oldest_ms(now_ms) for progress in answering]
        known = [age for age in oldest if age is not None]
        self._metrics.partition_age.set(max(known) / 1000 if len(known) == len(oldest) else math.nan)
        ahead = [progress.ahead_ms(now_ms) for progress in answering if progress is not None]
        self._metrics.as_of_ahead.set(max(ahead, default=0) / 1000)
