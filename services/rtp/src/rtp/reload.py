"""Replacing the bundle without missing a request: load, verify and warm the new one, then one assignment.

A reload can end in four ways, and only the first two change what is served: taken up, forced, refused, timed out.
While a rollout record is in force (`rtp.rollout_follower`), every reload is refused: two masters would undo each
other's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import structlog

from mimn.release import compare, read_headers
from rtp.core.handover import Coverage, objections
from rtp.core.ports import StateReader
from rtp.errors import ReloadRefused, ReloadTimedOut, StoreError
from rtp.loader import Loader
from rtp.metrics import Metrics
from rtp.progress_watcher import NoNamespace, ProgressReader
from rtp.release import InService, Release

log = structlog.stdlib.get_logger(__name__)

SAMPLE = 1000
"""Users of the namespace in service that are looked for in the new one: enough to tell 98 % from 99 %."""
SAMPLE_TIMEOUT_S = 5.0
"""For each of the two questions that a sample asks the store."""
COMPARED = 200
"""Of these users, how many states are compared."""


class Reloader:
    """Takes up the bundle that lies under `path` now. One reload at a time."""

    def __init__(
        self,
        in_service: InService,
        store: StateReader,
        reader: ProgressReader,
        metrics: Metrics,
        loader: Loader,
        *,
        path: Path,
        generation: int,
        stale_after_ms: float,
        least_coverage: float,
        governed: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`governed` says what else decides what is served, None if nothing does."""
        self._in_service = in_service
        self._store = store
        self._reader = reader
        self._metrics = metrics
        self._loader = loader
        self._path = path
        self._generation = generation
        self._stale_after_ms = stale_after_ms
        self._least_coverage = least_coverage
        self._governed = governed
        self._one_at_a_time = asyncio.Lock()

    @property
    def hanging(self) -> int:
        """Loads that were given up and have not ended: their threads may be in code that cannot be unwound."""
        return self._loader.hanging

    def close(self) -> None:
        """Give up a reload that is going on, so that the process can end."""
        self._loader.close()

    async def reload(self, *, force: bool = False) -> Release:
        """Serve the bundle under the path and return what is served then.

        A bundle with another fingerprint reads another namespace. It is taken up only if users keep their states by it
        (`rtp.core.handover`), unless `force`.

        Raises:
            ReloadRefused: the bundle cannot be loaded, does not compute what it should, or users would lose their
                states. The one before goes on serving.
        """
        async with self._one_at_a_time:
            try:
                self._check_ungoverned()
                release = await self._prepare(force=force)
                self._check_ungoverned()  # a record may have come up meanwhile
            except Exception as error:
                refused = (
                    error if isinstance(error, ReloadRefused) else ReloadRefused(f"{type(error).__name__}: {error}")
                )
                result = "timed_out" if isinstance(refused, ReloadTimedOut) else "refused"
                self._metrics.reloads.labels(result).inc()
                log.error(
                    "reload refused, the bundle before goes on serving",
                    path=str(self._path), result=result, reason=str(refused),
                )  # fmt: skip
                raise refused from error
            self._in_service.replace(release)
            self._metrics.reloads.labels("forced" if force else "taken_up").inc()
            announce(release, self._metrics)
            return release

    def _check_ungoverned(self) -> None:
        if (governor := self._governed()) is not None:
            raise ReloadRefused(f"{governor} decides what is served: change that with `ctr rollout`, not by a reload")

    async def _prepare(self, *, force: bool) -> Release:
        model = await self._loader.load(self._path)
        old = self._in_service.current
        known = self._in_service.namespaces
        new = Release.of(model, prefix=old.keys.prefix, generation=self._generation, known=known)
        if new.namespace is old.namespace:
            return new
        what = f"bundle {model.name}/{model.version} reads namespace {new.keys.namespace}"
        try:
            new.namespace.progress = await self._reader.read_whole(new.keys)
            coverage = await self._coverage(old, new)
        except NoNamespace as error:
            if not force:
                raise ReloadRefused(
                    f"{what}, which the store does not have: let UIC build its states first, then reload"
                ) from error
        except StoreError as error:
            if not force:
                raise ReloadRefused(
                    f"{what}, and the store could not say whether users have their states there ({error}): reload "
                    "again when the store is back"
                ) from error
        else:
            against = list(
                objections(
                    old.progress,
                    new.namespace.progress,
                    coverage,
                    now_ms=self._reader.clock.now_ms(),
                    stale_after_ms=self._stale_after_ms,
                    least_coverage=self._least_coverage,
                )
            )
            if against and not force:
                raise ReloadRefused(
                    f"{what}, and users would lose their states: {'; '.join(against)}. Wait until UIC has caught up, "
                    "then reload; `POST /bundle/reload?force=true` reloads all the same"
                )
        log.warning("the namespace changes", before=old.keys.namespace, after=new.keys.namespace, forced=force)
        return new

    async def _coverage(self, old: Release, new: Release) -> Coverage:
        """Of a sample of users with a state in the namespace of `old`, how many have one in that of `new`.

        Raises:
            StoreError: the store did not answer.
        """
        keys, whole = await self._store.sample(old.keys.states, SAMPLE, SAMPLE_TIMEOUT_S)
        there = [old.keys.same_user_in(new.keys, key) for key in keys]
        found = await self._store.count(there, SAMPLE_TIMEOUT_S) if there else 0
        different, incomplete = await self._compared(old, new, keys[:COMPARED])
        return Coverage(len(keys), found, whole, different, incomplete)

    async def _compared(self, old: Release, new: Release, keys: Sequence[bytes]) -> tuple[int, int]:
        """How many of some users have states of other events in the two namespaces (`mimn.release.compare`), and how
        many more of the states lack events in the new one."""
        if not keys or old.progress is None or new.progress is None or old.progress.size != new.progress.size:
            return 0, 0
        names = [key.decode() for key in keys]
        others = [old.keys.same_user_in(new.keys, key).decode() for key in keys]
        ours = read_headers(await self._store.read_many(names, SAMPLE_TIMEOUT_S), old.model.fingerprint)
        theirs = read_headers(await self._store.read_many(others, SAMPLE_TIMEOUT_S), new.model.fingerprint)
        partitions = np.array([old.keys.partition_in(key) for key in keys])
        seen = compare(ours, theirs, old.progress.next_offsets[partitions], new.progress.next_offsets[partitions])
        both = ours["there"] & theirs["there"]
        incomplete = int((theirs["partial"] & both).sum()) - int((ours["partial"] & both).sum())
        return int(seen.different.sum()), max(0, incomplete)


def announce(release: Release, metrics: Metrics) -> None:
    """Say in log and metrics what is served."""
    model, namespace = release.model, release.keys.namespace
    metrics.serves(model.name, model.version, release.keys)
    metrics.compiled_head.clear()
    metrics.compiled_head.labels(release.bundle).set(model.compiled)
    log.info("serving", bundle=release.bundle, namespace=namespace, compiled_head=model.compiled)
