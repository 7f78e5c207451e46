"""`/livez` and `/readyz`, the same on both doors."""

from __future__ import annotations

from fastapi import FastAPI

from rtp.background import Background
from rtp.core.ports import StateReader
from rtp.doors.listeners import Lifecycle
from rtp.errors import NotReady
from rtp.release import InService


class Readiness:
    """Whether the process should get requests, and what is not as it should be all the same."""

    def __init__(self, lifecycle: Lifecycle, in_service: InService, store: StateReader, background: Background) -> None:
        self._lifecycle = lifecycle
        self._in_service = in_service
        self._store = store
        self._watcher = background.watcher
        self._follower = background.follower
        self._announcer = background.announcer

    @property
    def unready(self) -> str | None:
        """Why the process should get no requests; None if it should."""
        if self._lifecycle.draining:
            return "shutting down"
        if reason := self._follower.unready:
            return self._with_store(reason)
        if self._in_service.current.progress is None:
            return self._with_store(f"the namespace was not found in the store yet: {self._watcher.trouble}")
        if not self._lifecycle.started:  # the admin port answers before the public one accepts connections
            return self._with_store(self._follower.details or "starting")
        return None

    @property
    def details(self) -> str:
        """What does not keep requests away, such as a release that could not be loaded; empty if all is well."""
        progress = self._watcher.trouble and f"progress cannot be read: {self._watcher.trouble}"
        clock = self._watcher.no_time and f"the store does not tell its time: {self._watcher.no_time}"
        away = progress or clock
        said = "; ".join(filter(None, (self._follower.details, away, self._watcher.stale)))
        untold = self._announcer.trouble
        if untold and untold not in said:  # what a store says that is away is said already
            said = "; ".join(filter(None, (said, f"not announced: {untold}")))
        return self._with_store(said)

    def _with_store(self, said: str) -> str:
        return "; ".join(filter(None, (said, *(trouble for trouble in self._store.troubles if trouble not in said))))


def add_health(app: FastAPI, readiness: Readiness) -> None:
    """Add both routes."""

    # HEAD, which load balancers send, is what GET is (RFC 9110), so the document names GET alone.
    @app.head("/livez", include_in_schema=False)
    @app.get("/livez", summary="Whether the process is alive; looks at nothing else", tags=["health"])
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether the process should get requests", tags=["health"])
    async def readyz() -> dict[str, str]:
        if reason := readiness.unready:
            raise NotReady(reason)
        about = readiness.details
        return {"status": "ready", "detail": about} if about else {"status": "ready"}
