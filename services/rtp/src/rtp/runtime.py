"""The model: a bundle, its head, compiled or on onnxruntime, and the candidate counts that the head is run at.

Candidates are padded to one of a few counts (buckets), so that the graph meets only shapes that were warmed up. What
the head reads lies in arrays that every request overwrites: to tell compiled code where an array lies takes longer than
to copy it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle, load_bundle
from mimn.bundle.candidates import CandidateTables
from mimn.bundle.graph import proven_head
from mimn.bundle.members import MemberIndex
from mimn.bundle.vocabulary import UNKNOWN_ROW
from mimn.calibration import Uncalibrated
from mimn.state import StateLayout
from rtp.core.request import MAX_CANDIDATES
from rtp.errors import ScoringFailed

BUCKETS = (1, 2, 4, *range(8, 129, 8), *range(160, 257, 32), *range(320, MAX_CANDIDATES + 1, 64))
"""Candidate counts that the graph is run at: fine where most requests are, so that padding costs little."""
_WARM_RUNS = 3
_SMOOTHING = 0.1


@dataclass(slots=True)
class _Bucket:
    """A count of candidates that the head is run at."""

    inputs: NDArray[np.float32]
    """[count, W]"""
    look_up: Callable[[int], int]
    """Writes the first rows of `inputs` and of the cells, and returns how many items are unknown."""
    read: Callable[[int, int], None] | None
    """Writes what is read of a ledger; None without one."""
    further: dict[str, Any]
    """The head's other inputs: with a sketch the candidates' cells and the time of reading, with a ledger what was read
    of it."""
    cost_s: float = 0.0


class OnnxModel:
    """A loaded bundle that scores. Not for two threads at once: the head's inputs are reused by every request.

    Implements `rtp.core.ports.Model`.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Open the head, check it on the bundle's golden cases, and run every bucket until it is warm.

        Raises:
            BundleError: the graph cannot be loaded.
            GoldenMismatch: this process computes other scores than the one that exported the bundle.
        """
        self._bundle = bundle
        self._head = proven_head(bundle)
        self.compiled = self._head.compiled
        self.initial_state = bundle.initial_state
        self.name = bundle.manifest.name
        self.version = bundle.manifest.version
        self.sha256 = bundle.sha256
        self.fingerprint = bundle.fingerprint
        self.layout: StateLayout = bundle.layout
        self.request = bundle.request
        self.calibrated = not isinstance(bundle.manifest.calibration, Uncalibrated)
        self._sketch = None if bundle.sketch is None else bundle.sketch.sketch
        self.unknown_items = 0
        # Where a state is a list, the cost depends on its length, which is unknown before the state is read: the first
        # estimate is for the longest list, and requests bring it down.
        self._listed = bundle.event_list is not None
        warm_state = bundle.initial_state if bundle.event_list is None else bundle.event_list.longest()
        self._state = np.array(warm_state)
        self._context = np.zeros(self.request.width, np.float32)
        self._items, self._categories = np.zeros((2, MAX_CANDIDATES), np.uint64)
        self._now = None if self._sketch is None else self._sketch.moment(0)
        tables = CandidateTables(bundle.asked_items, bundle.categories, self._sketch)
        self._members = None if bundle.reads is None or bundle.reads.members is None else bundle.reads.members.index
        self._buckets = [self._bucket(tables, count) for count in BUCKETS]
        for bucket in self._buckets:
            bucket.cost_s = self._warm(bucket)

    def _bucket(self, tables: CandidateTables, count: int) -> _Bucket:
        inputs, further = np.zeros((count, tables.width), np.float32), dict[str, Any]()
        read, cells = None, None
        if self._sketch is not None:
            cells = np.zeros((count, self._sketch.addresses), np.int64)
            further |= {"addresses": cells, "now": self._now}
        if (reads := self._bundle.reads) is not None:
            further["reads"] = np.zeros((count, reads.width), np.float32)
            read = reads.into(reads.ledger.of(self._state), self._items, further["reads"])
        return _Bucket(inputs, tables.into(self._items, self._categories, inputs, cells), read, further)

    def cost_s(self, candidates: int) -> float:
        """About how long `score` takes for `candidates` candidates, in seconds: a moving average."""
        return self._buckets[bisect_left(BUCKETS, candidates)].cost_s

    def score(
        self,
        item_ids: NDArray[np.uint64],
        category_ids: NDArray[np.uint64],
        state: NDArray[np.float32],
        context: NDArray[np.float32],
        now_ms: int,
    ) -> NDArray[np.float32]:
        """The score of each candidate, calibrated if the bundle has a calibrator. [C], [C], [F], [K] → [C] float32.

        Raises:
            ScoringFailed: the graph failed, or a score is not a finite number.
        """
        began = perf_counter()
        count = len(item_ids)
        bucket = self._buckets[bisect_left(BUCKETS, count)]
        self._items[:count], self._categories[:count] = item_ids, category_ids
        # Rows from `count` on keep an earlier request's candidates: finite, and no score depends on another row.
        unknown = bucket.look_up(count)
        if unknown and self._members is not None:
            unknown = self._unknown_by_members(self._members, self._items[:count])
        self.unknown_items = unknown
        try:
            if self._listed:
                self._state = state
            else:
                _put(state, self._state)
            _put(context, self._context)
            if self._now is not None and self._sketch is not None:
                self._now[:] = self._sketch.moment(now_ms)
            if bucket.read is not None:
                bucket.read(count, now_ms)
            scores = self._head(bucket.inputs, self._state, self._context, **bucket.further)[:count]
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise ScoringFailed(f"the head graph failed: {type(error).__name__}") from error
        if not isfinite(scores.dot(scores)):  # scores are at most 1, so this sum is finite if all are
            raise ScoringFailed("the head graph returned a non-finite score")
        if self.calibrated:
            scores = self._bundle.manifest.calibration.apply(scores.astype(np.float64)).astype(np.float32)
        bucket.cost_s += _SMOOTHING * (perf_counter() - began - bucket.cost_s)
        return scores

    def _unknown_by_members(self, members: MemberIndex, items: NDArray[np.uint64]) -> int:
        """How many items are unknown where one that training did not know is read by its members, if it has any."""
        rows = self._bundle.asked_items.rows(items)
        return int(((rows == UNKNOWN_ROW) & (members.places(items) < 0)).sum())

    def _warm(self, bucket: _Bucket) -> float:
        """Run one bucket a few times; the fastest run's seconds."""
        seconds = []
        for _ in range(_WARM_RUNS):
            began = perf_counter()
            self._head(bucket.inputs, self._state, self._context, **bucket.further)
            seconds.append(perf_counter() - began)
        return min(seconds)


def _put(given: NDArray[np.float32], into: NDArray[np.float32]) -> None:
    """Raises ValueError if they are of different sizes, where numpy may repeat numbers."""
    if given.shape != into.shape:
        raise ValueError(f"{given.shape} instead of {into.shape}")
    into[:] = given


def load_model(path: Path) -> OnnxModel:
    """The bundle at `path`, verified and warm. Takes about 100 ms; call it outside of the event loop.

    Raises:
        BundleError, GoldenMismatch: as `load_bundle` and `OnnxModel`.
    """
    return OnnxModel(load_bundle(path.resolve()))
