"""Says in the store which releases this process has loaded, so that a rollout waits for it. Needs no address of it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable

import structlog

from mimn.release import (
    Announcement,
    Loaded,
    NotLoaded,
    announcement_key,
    encode_announcement,
    instances_key,
)
from mimn.release.announcement import EVERY_S, LASTS_S, SHADOW_OF, STANDBY
from rtp.core.ports import StateReader
from rtp.errors import StoreError
from rtp.metrics import Metrics
from rtp.release import InService, Release
from rtp.rollout_follower import RolloutFollower
from rtp.trouble import Trouble

LOOK_S = 0.1
"""How soon a change is told."""
MAX_REASON = 400

log = structlog.stdlib.get_logger(__name__)


class Announcer:
    """Announces this process: each second, and at once when something changed."""

    def __init__(
        self,
        in_service: InService,
        follower: RolloutFollower,
        store: StateReader,
        metrics: Metrics,
        *,
        prefix: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._in_service = in_service
        self._follower = follower
        self._store = store
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        # Host and process id alone are those of several processes where containers share the host's network.
        self._instance = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._keys = instances_key(prefix), announcement_key(prefix, self._instance)
        self._said = b""
        self._due = 0.0
        self._trouble = Trouble()

    @property
    def trouble(self) -> str:
        """Why the last try failed; empty if it did not."""
        return self._trouble.reason or ""

    async def run(self) -> None:
        """Announce forever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Announce if it is time, or something changed. Never raises: the next look tries again."""
        names, key = self._keys
        try:
            value = encode_announcement(self._told())
            if value == self._said and self._clock() < self._due:
                return
            self._due = self._clock() + EVERY_S
            await self._store.announce(self._instance, names, key, value, lasts_s=LASTS_S, timeout_s=self._timeout_s)
        except Exception as error:
            if self._trouble.begins(error, str(error)):
                unknown = not isinstance(error, StoreError) and error
                log.warning(
                    "not announced: a rollout does not wait for this process", reason=str(error), exc_info=unknown
                )
        else:
            self._said = value
            if self._trouble.ends():
                log.info("announced again")
        self._metrics.announced.set(0 if self._trouble.reason else 1)

    def _told(self) -> Announcement:
        traffic, record = self._in_service.traffic, self._follower.record
        roles: list[tuple[str, Release]] = [(arm.name, arm.release) for arm in traffic.arms]
        roles += [(f"{SHADOW_OF}{arm.name}", arm.release) for arm in traffic.shadows]
        roles += [(STANDBY, release) for release in self._in_service.standby]
        return Announcement(
            instance=self._instance,
            revision=None if record is None else record.revision,
            unread=None if (unread := self._follower.unread) is None else unread[:MAX_REASON],
            loaded=tuple(
                Loaded(release.bundle, release.model.sha256, release.keys.namespace, role) for role, release in roles
            ),
            refused=tuple(
                NotLoaded(release.bundle, one.reason[:MAX_REASON], one.passes)
                for release, one in self._follower.refused.items()
            ),
        )
