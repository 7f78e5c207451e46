"""What goes on beside requests: three loops that keep what serves up to date, and the reload that an operator asks for.

ProgressWatcher   reads how far the log is folded, and the store's time
RolloutFollower   loads the releases of the rollout record, and routes users to them
Announcer         says in the store which releases are loaded here
Reloader          replaces the bundle, while no rollout record is in force
"""

from __future__ import annotations

import asyncio

from rtp.announcer import Announcer
from rtp.core.ports import StateReader
from rtp.loader import Loader
from rtp.metrics import Metrics
from rtp.progress_watcher import ProgressReader, ProgressWatcher
from rtp.release import InService
from rtp.reload import Reloader
from rtp.rollout_follower import Bundles, RolloutFollower
from rtp.settings import RtpSettings
from rtp.store_clock import StoreClock


class Background:
    """Changes what is `in_service`; requests only read it."""

    def __init__(
        self,
        in_service: InService,
        store: StateReader,
        clock: StoreClock,
        loader: Loader,
        metrics: Metrics,
        *,
        settings: RtpSettings,
    ) -> None:
        """Nothing runs before `begin`."""
        path, prefix = settings.bundle.path, settings.redis.prefix
        timeout_s = settings.redis.background_timeout_ms / 1000
        progress = ProgressReader(
            store, clock, timeout_s=timeout_s, ahead_within_ms=settings.state.clock_ahead_s * 1000
        )
        self.watcher = ProgressWatcher(
            in_service,
            progress,
            metrics,
            every_s=settings.state.refresh_every_s,
            stale_after_ms=settings.state.stale_after_s * 1000,
        )
        self.follower = RolloutFollower(
            in_service,
            store,
            progress,
            metrics,
            loader,
            bundles=Bundles(settings.bundles.folder or path.resolve().parents[1], path),
            prefix=prefix,
            timeout_s=timeout_s,
            every_s=settings.bundles.follow_every_s,
            retry_every_s=settings.bundles.retry_every_s,
        )
        self.announcer = Announcer(in_service, self.follower, store, metrics, prefix=prefix, timeout_s=timeout_s)
        self.reloader = Reloader(
            in_service,
            store,
            progress,
            metrics,
            loader,
            path=path,
            generation=settings.bundle.generation,
            stale_after_ms=settings.state.stale_after_s * 1000,
            least_coverage=settings.bundle.least_coverage,
            governed=lambda: self.follower.governor,
        )
        self._running: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Look once and go on until `end`; return when the first request is answered by what should serve. The record
        may change while releases are being loaded for that, so it is followed meanwhile, and commands know of this
        process."""
        await self.watcher.look()
        await self.follower.look()
        loops = (self.watcher, self.follower, self.announcer)
        self._running = [asyncio.create_task(one.run()) for one in loops]
        await self.follower.begin()

    async def end(self) -> None:
        """Stop the loops. (`run` of `rtp.doors.listeners` ends a reload that is going on.)"""
        self.follower.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
