"""From a checked request to scores: admit → state → turn → head. Knows neither HTTP nor Redis nor onnxruntime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.bundle.request_fields import RequestVector
from mimn.rows.stored import decode
from mimn.state import StateError, UserState, user_hash
from rtp.core.admission import Admission
from rtp.core.fields import request_vector
from rtp.core.fold_progress import UNAVAILABLE, StateReport, Status
from rtp.core.ports import Model, StateReader
from rtp.core.request import ScoreRequest
from rtp.core.shadowing import ShadowBudget
from rtp.errors import DeadlineMissed, StateUnavailable, StoreError
from rtp.head_queue import HeadQueue
from rtp.metrics import Metrics
from rtp.release import Arm, InService, Release
from rtp.shadows import Shadows
from rtp.store_clock import wall_ms

PATIENCE = 2 / 3
"""Share of a deadline that the store may take, of what the line before the head leaves: the rest is for a timer that
fires late, and for encoding and sending, so that a request that gives up on the store is still answered in time."""


class Scored(msgspec.Struct, frozen=True):
    """Scores, the model that gave them, and what they rest on."""

    scores: NDArray[np.float32]
    """[C], in the order of the request."""
    model: Model
    report: StateReport
    arm: str
    """Of the user; the model is its release's."""


class Scorer:
    """Scores requests, each with the release of its user's arm. One read and one run of the head for each request."""

    def __init__(
        self,
        in_service: InService,
        store: StateReader,
        admission: Admission,
        metrics: Metrics,
        *,
        stale_after_ms: float,
        shadow_budget: ShadowBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = wall_ms,
        store_ms: Callable[[], int] = wall_ms,
    ) -> None:
        """`clock` gives seconds of the same steady clock that deadlines are measured by; `wall_ms` the time that heads
        compare events with, and `store_ms` the time that as-of times are written by. Without a `shadow_budget` no
        shadow scores."""
        self._in_service = in_service
        self._store = store
        self._admission = admission
        self._metrics = metrics
        self._queue = HeadQueue(admission.refused_share, clock)
        self._expecting = False
        self._stale_after_ms = stale_after_ms
        self._clock = clock
        self._wall_ms = wall_ms
        self._store_ms = store_ms
        budget = ShadowBudget(0.0, 0) if shadow_budget is None else shadow_budget
        self.shadows = Shadows(store, self._queue, budget, metrics, wall_ms=wall_ms, clock=clock)

    def expect(self, deadline: float) -> None:
        """Check that a request with this deadline is worth reading; `score` follows in the loop's next pass, or later.

        Raises: as `Admission.admit`.
        """
        now = self._clock()
        self._admission.expect(deadline - now, self._queue.age_s(now), self._queue.share_s)
        if not self._expecting:
            self._expecting = True
            asyncio.get_running_loop().call_soon(self._expected)

    def _expected(self) -> None:
        self._expecting = False
        self._admission.admitting()

    async def score(self, request: ScoreRequest, deadline: float) -> Scored:
        """Scores for every candidate, before `deadline` (seconds of `clock`).

        A state that cannot be read in time degrades the answer to the cold scores.

        Raises:
            InvalidRequest: the fields do not fit the model.
            Overloaded, Draining: not admitted.
            StateUnavailable: the request requires a state and the store does not give it.
            DeadlineMissed: there was no time left to score.
            ScoringFailed: the model failed.
        """
        clock = self._clock
        arm, shadow = self._in_service.traffic.route(request.user_id)
        release = arm.release
        model = release.model
        try:
            fields = request_vector(model.request, request, arm.of_others)
            cost_s = model.cost_s(len(request.item_ids))
            now = clock()
            remaining_s = deadline - now
            admission = self._admission
            admission.admit(cost_s, remaining_s, self._queue.age_s(now))
            try:
                # Requests that give up on a store at the same time are scored one after another: leave time for all.
                state, report = await self._state(
                    release, request.user_id, PATIENCE * (remaining_s - admission.ahead_s)
                )
                if request.require_state and report.status is Status.UNAVAILABLE:
                    raise StateUnavailable("the store does not give this user's state, and the request requires it")
                ready = clock()
                await self._queue.turn(ready, cost_s)
                began = clock()
                # No scores rather than late ones, at the cost of those behind in the line.
                if began >= deadline or (admission.in_flight > 1 and began + cost_s > deadline):
                    raise DeadlineMissed("the deadline passed before the candidates could be scored")
                try:
                    scores = model.score(request.item_ids, request.category_ids, state, fields.values, self._wall_ms())
                finally:
                    took_s = clock() - began
                    self._queue.ran(took_s)
            finally:
                admission.leave(cost_s)
        except Exception as error:
            self._metrics.of_arm(arm.name, release.bundle).count_failure(error)
            raise
        self._count(arm, report, fields, candidates=len(scores), waited_s=began - ready, took_s=took_s)
        if shadow is not None:
            self.shadows.offer(shadow, release, request, scores, state)
        return Scored(scores, model, report, arm.name)

    def _count(
        self, arm: Arm, report: StateReport, fields: RequestVector, *, candidates: int, waited_s: float, took_s: float
    ) -> None:
        metrics = self._metrics
        of_arm = metrics.of_arm(arm.name, arm.release.bundle)
        metrics.turn_seconds.observe(waited_s)
        metrics.head_seconds.observe(took_s)
        of_arm.head_seconds.observe(took_s)
        metrics.state_of[report.status].inc()
        of_arm.state_of[report.status].inc()
        metrics.candidates.inc(candidates)
        unknown = arm.release.model.unknown_items
        of_arm.known_items.inc(candidates - unknown)
        if unknown:
            of_arm.unknown_items.inc(unknown)
        if report.partial:
            metrics.partial.inc()
        metrics.count_fields(fields)

    async def _state(self, release: Release, user_id: str, within_s: float) -> tuple[NDArray[np.float32], StateReport]:
        """The tensors to score with and what to say about them; the initial state if the stored one cannot be had."""
        model, progress = release.model, release.progress
        if progress is None:
            return model.initial_state, UNAVAILABLE
        partition = progress.partition_of(user_id)
        began = self._clock()
        try:
            value = await self._store.read(release.keys.state(partition, user_id), within_s)
        except StoreError as error:
            self._metrics.store_errors.labels(type(error).__name__).inc()
            return model.initial_state, UNAVAILABLE
        self._metrics.store_seconds.observe(self._clock() - began)
        state: UserState | None = None
        if value is not None:
            try:
                state = decode(value, model.fingerprint, model.layout, user_hash(user_id))
            except StateError as error:
                self._metrics.unreadable.labels(type(error).__name__).inc()
                return model.initial_state, UNAVAILABLE
        report = progress.report(state, partition, self._store_ms(), self._stale_after_ms)
        return (model.initial_state if state is None else state.tensors), report
