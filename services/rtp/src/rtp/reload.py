"""Replacing the bundle without missing a request: load, verify and warm the new one, then one assignment.

A reload can end in four ways, and only the first two change what is served: taken up, forced, refused, timed out.
Loading runs in a thread of its own that is abandoned after a time limit, because a file system that hangs, or a graph
that never ends, cannot be interrupted. An abandoned thread holds up neither later reloads nor the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from rtp.core.handover import Coverage, objections
from rtp.core.ports import Model, StateReader
from rtp.errors import ReloadRefused, ReloadTimedOut, StoreError
from rtp.metrics import Metrics
from rtp.progress_watcher import NoNamespace, ProgressReader
from rtp.release import InService, Release

log = structlog.stdlib.get_logger(__name__)

SAMPLE = 1000
"""Users of the namespace in service that are looked for in the new one: enough to tell 98 % from 99 %."""
SAMPLE_TIMEOUT_S = 5.0
"""For each of the two questions that a sample asks the store."""
MAX_ABANDONED = 4
"""Loads that may hang at once; after that the process should be restarted."""

_ENDING = "this process is shutting down"


class Loader:
    """Loads bundles, each in a daemon thread that is given up when its time is over."""

    def __init__(self, load: Callable[[Path], Model], timeout_s: float) -> None:
        self._load = load
        self._timeout_s = timeout_s
        self._abandoned: list[threading.Thread] = []
        self._loading: asyncio.Future[Model] | None = None
        self._closed = False

    @property
    def hanging(self) -> int:
        """Threads that were abandoned and have not ended yet."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        return len(self._abandoned)

    async def load(self, path: Path) -> Model:
        """The model of the bundle at `path`.

        Raises:
            ReloadTimedOut: it did not load in time, or too many loads hang already.
            Exception: whatever loading raises.
        """
        if self._closed:
            raise ReloadRefused(_ENDING)
        if self.hanging >= MAX_ABANDONED:
            raise ReloadTimedOut(f"{self.hanging} earlier loads still hang: restart this process")
        loop = asyncio.get_running_loop()
        self._loading = loaded = loop.create_future()

        def settle(model: Model | None, error: BaseException | None) -> None:
            if loaded.done():  # given up
                return
            if model is not None:
                loaded.set_result(model)
            else:
                loaded.set_exception(error or RuntimeError("nothing was loaded"))

        def work() -> None:
            model, error = None, None
            try:
                model = self._load(path)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, model, error)

        thread = threading.Thread(target=work, name="load-bundle", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                model: Model = await loaded
                return model
        except TimeoutError as error:
            if loaded.done() and not loaded.cancelled():  # the load itself raised a TimeoutError
                raise
            raise ReloadTimedOut(
                f"the bundle did not load within {self._timeout_s:g} s: look at its file system and its graphs, "
                "or raise RTP_BUNDLE__LOAD_TIMEOUT_S"
            ) from error
        finally:
            if thread.is_alive():
                self._abandoned.append(thread)

    def close(self) -> None:
        """Give up the load that is in progress, and refuse further ones."""
        self._closed = True
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(ReloadRefused(_ENDING))


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
    ) -> None:
        self._in_service = in_service
        self._store = store
        self._reader = reader
        self._metrics = metrics
        self._loader = loader
        self._path = path
        self._generation = generation
        self._stale_after_ms = stale_after_ms
        self._least_coverage = least_coverage
        self._one_at_a_time = asyncio.Lock()

    @property
    def hanging(self) -> int:
        """Loads that were given up and have not ended: their threads may be in code that cannot be unwound."""
        return self._loader.hanging

    def close(self) -> None:
        """The process ends: no reload holds it up."""
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
                release = await self._prepare(force=force)
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

    async def _prepare(self, *, force: bool) -> Release:
        model = await self._loader.load(self._path)
        old = self._in_service.current
        new = Release.of(model, prefix=old.keys.prefix, generation=self._generation)
        if new.keys == old.keys:
            return Release(model, old.keys, old.progress)
        what = f"bundle {model.name}/{model.version} reads namespace {new.keys.namespace}"
        progress = None
        try:
            progress, _ = await self._reader.read(new.keys, None)
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
                    progress,
                    coverage,
                    now_ms=self._reader.clock_ms(),
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
        return Release(model, new.keys, progress)

    async def _coverage(self, old: Release, new: Release) -> Coverage:
        """Of a sample of users with a state in the namespace of `old`, how many have one in that of `new`.

        Raises:
            StoreError: the store did not answer.
        """
        keys, whole = await self._store.sample(old.keys.states, SAMPLE, SAMPLE_TIMEOUT_S)
        there = [old.keys.same_user_in(new.keys, key) for key in keys]
        found = await self._store.count(there, SAMPLE_TIMEOUT_S) if there else 0
        return Coverage(len(keys), found, whole)


def announce(release: Release, metrics: Metrics) -> None:
    """Say in log and metrics what is served."""
    model, namespace = release.model, release.keys.namespace
    metrics.bundle.clear()
    metrics.bundle.labels(model.name, model.version, namespace).set(1)
    log.info("serving", bundle=f"{model.name}/{model.version}", namespace=namespace)
