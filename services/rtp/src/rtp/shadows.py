"""Scores requests again by a shadow's release, in the background, and measures how far the scores are from those that
were answered. A shadow never answers, never delays a request by more than one run of its head, and is the first to be
shed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mimn.rows.stored import decode
from mimn.state import StateError, user_hash
from rtp.core.fields import request_vector
from rtp.core.ports import StateReader
from rtp.core.request import ScoreRequest
from rtp.core.shadowing import ShadowBudget, difference, rank_correlation
from rtp.errors import RtpError, StoreError, StoreRefused
from rtp.head_queue import HeadQueue
from rtp.metrics import Metrics
from rtp.release import Arm, Release

STORE_S = 0.1
"""How long a shadow waits for a state."""
PATIENCE_S = 0.5
"""How long it waits for a moment in which no request wants the head."""
PAUSE_S = 0.002


class Shadows:
    """The requests that wait to be scored by a shadow."""

    def __init__(
        self,
        store: StateReader,
        queue: HeadQueue,
        budget: ShadowBudget,
        metrics: Metrics,
        *,
        wall_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._queue = queue
        self._budget = budget
        self._metrics = metrics
        self._wall_ms = wall_ms
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(
        self,
        shadow: Arm,
        answered_by: Release,
        request: ScoreRequest,
        answered: NDArray[np.float32],
        state: NDArray[np.float32],
    ) -> None:
        """Score `request` by `shadow` soon, unless that is too much. `answered` are the scores that were given and
        `state` what they were given for: a shadow that reads the same namespace does not read it again."""
        if not self._budget.admit():
            self._shed(shadow, "full")
            return
        shared = state if shadow.release.namespace is answered_by.namespace else None
        task = asyncio.create_task(self._score(shadow, request, answered, shared))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def settled(self) -> None:
        """Return when nothing is waiting."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Drop what waits."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._budget.leave()

    async def _score(
        self, shadow: Arm, request: ScoreRequest, answered: NDArray[np.float32], state: NDArray[np.float32] | None
    ) -> None:
        try:
            model = shadow.release.model
            fields = request_vector(model.request, request, shadow.of_others).values
            if state is None:
                state = await self._read(shadow.release, request.user_id)
            if not await self._turn():
                return self._shed(shadow, "busy")
            began = self._clock()
            scores = model.score(request.item_ids, request.category_ids, state, fields, self._wall_ms())
            took_s = self._clock() - began
            self._budget.ran(took_s)
        except (RtpError, StoreError, StateError) as error:
            return self._shed(shadow, type(error).__name__)
        metrics = self._metrics.of_shadow(shadow.name, shadow.release.bundle)
        metrics.seconds.observe(took_s)
        metrics.difference.observe(difference(answered, scores))
        if (correlation := rank_correlation(answered, scores)) is not None:
            metrics.correlation.observe(correlation)
        return None

    async def _read(self, release: Release, user_id: str) -> NDArray[np.float32]:
        """The user's tensors in the shadow's namespace: one GET, which says nothing about the store to requests."""
        model, progress = release.model, release.progress
        if progress is None:
            raise StoreRefused("the namespace was not read yet")
        key = release.keys.state(progress.partition_of(user_id), user_id)
        value = (await self._store.read_many([key], STORE_S))[0]
        if value is None:
            return model.initial_state
        return decode(value, model.fingerprint, model.layout, user_hash(user_id)).tensors

    async def _turn(self) -> bool:
        """Wait for a moment in which no request wants the head and the budget has something left."""
        until = self._clock() + PATIENCE_S
        while self._queue.busy or not self._budget.may_run(self._clock()):
            if self._clock() > until:
                return False
            await asyncio.sleep(PAUSE_S)
        return True

    def _shed(self, shadow: Arm, reason: str) -> None:
        self._metrics.count_shed(shadow.name, shadow.release.bundle, reason)
