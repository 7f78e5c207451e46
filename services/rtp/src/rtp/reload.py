"""Swapping the bundle without missing a request: load, verify and warm the new one, then one assignment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from rtp.core.ports import Model, StateReader
from rtp.errors import ReloadRefused, StoreError
from rtp.metrics import Metrics
from rtp.serving import Holder, Serving
from rtp.watcher import NoNamespace, read_standing

log = logging.getLogger(__name__)


class Reloader:
    """Takes up whatever bundle lies under `path` now. One reload at a time."""

    def __init__(
        self,
        holder: Holder,
        store: StateReader,
        metrics: Metrics,
        *,
        path: Path,
        generation: int,
        timeout_s: float,
        load: Callable[[Path], Model],
    ) -> None:
        self._holder = holder
        self._store = store
        self._metrics = metrics
        self._path = path
        self._generation = generation
        self._timeout_s = timeout_s
        self._load = load
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> Serving:
        """Serve the bundle under the path and return what is served then.

        A bundle with another fingerprint reads another namespace. It is taken up only if the store has that namespace,
        because otherwise every user would be cold, and no error would say so.

        Raises:
            ReloadRefused: the bundle cannot be loaded, does not compute what it should, or nobody folds its states. The
                old one goes on serving.
        """
        async with self._one_at_a_time:
            try:
                serving = await self._prepare()
            except Exception as error:
                refused = (
                    error if isinstance(error, ReloadRefused) else ReloadRefused(f"{type(error).__name__}: {error}")
                )
                self._metrics.reloads.labels("refused").inc()
                log.error("the bundle at %s is not taken up, the one before goes on serving: %s", self._path, refused)
                raise refused from error
            self._holder.take_up(serving)
            self._metrics.reloads.labels("taken_up").inc()
            announce(serving, self._metrics)
            return serving

    async def _prepare(self) -> Serving:
        model = await asyncio.to_thread(self._load, self._path)
        old = self._holder.current
        new = Serving.of(model, prefix=old.keys.prefix, generation=self._generation)
        if new.keys == old.keys:
            # Read again: the watcher may have learned more while the model was loading.
            return Serving(model, old.keys, self._holder.current.standing)
        try:
            standing, _ = await read_standing(self._store, new.keys, None, self._timeout_s)
        except NoNamespace as error:
            raise ReloadRefused(
                f"bundle {model.name}/{model.version} reads namespace {new.keys.namespace}, which the store "
                "does not have: let UIC build its states first, then reload"
            ) from error
        except StoreError as error:
            raise ReloadRefused(
                f"bundle {model.name}/{model.version} reads another namespace, and the store could not be asked "
                f"whether it has it ({error}): reload again when the store is back"
            ) from error
        log.warning("the namespace changes from %s to %s", old.keys.namespace, new.keys.namespace)
        return Serving(model, new.keys, standing)


def announce(serving: Serving, metrics: Metrics) -> None:
    """Say in log and metrics what is served."""
    model, namespace = serving.model, serving.keys.namespace
    metrics.bundle.clear()
    metrics.bundle.labels(model.name, model.version, namespace).set(1)
    log.info("serving bundle %s/%s, namespace %s", model.name, model.version, namespace)
