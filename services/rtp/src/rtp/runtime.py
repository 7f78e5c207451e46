"""The model: a bundle, its head, compiled or on onnxruntime, and the candidate counts that the head is run at.

Candidates are padded to one of a few counts (buckets), so that the graph meets only shapes that were warmed up, and the
input of each bucket is one array that is overwritten for every request.
"""

from __future__ import annotations

from bisect import bisect_left
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle, load_bundle
from mimn.bundle.candidates import CandidateTables
from mimn.bundle.graph import open_head
from mimn.calibration import Uncalibrated
from mimn.state import StateLayout
from rtp.core.request import MAX_CANDIDATES
from rtp.errors import ScoringFailed

BUCKETS = (1, 2, 4, *range(8, 129, 8), *range(160, 257, 32), *range(320, MAX_CANDIDATES + 1, 64))
"""Candidate counts that the graph is run at: fine where most requests are, so that padding costs little."""
_WARM_RUNS = 3
_SMOOTHING = 0.1


class OnnxModel:
    """A loaded bundle that scores. Not for two threads at once: a bucket's input is reused by every request.

    Implements `rtp.core.ports.Model`.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Open the head, check it on the bundle's golden cases, and run every bucket until it is warm.

        Raises:
            BundleError: the graph cannot be loaded.
            GoldenMismatch: this process computes other scores than the one that exported the bundle.
        """
        self._bundle = bundle
        self._head = open_head(bundle)
        self.compiled = self._head.compiled
        bundle.golden.verify_request(bundle.request.vector)
        bundle.golden.verify_head(self._head, bundle.candidates, bundle.initial_state, bundle.sketch, bundle.reads)
        self.initial_state = bundle.initial_state
        self.name = bundle.manifest.name
        self.version = bundle.manifest.version
        self.sha256 = bundle.sha256
        self.fingerprint = bundle.fingerprint
        self.layout: StateLayout = bundle.layout
        self.request = bundle.request
        self.calibrated = not isinstance(bundle.manifest.calibration, Uncalibrated)
        self._sketch = None if bundle.sketch is None else bundle.sketch.sketch
        self._inputs = [np.zeros((count, bundle.asked_width), np.float32) for count in BUCKETS]
        self._cells: list[NDArray[np.int64] | None] = [None for _ in BUCKETS]
        if self._sketch is not None:
            self._cells = [np.zeros((count, self._sketch.addresses), np.int64) for count in BUCKETS]
        tables = CandidateTables(bundle.asked_items, bundle.categories, self._sketch)
        self._look_up = [tables.into(*arrays) for arrays in zip(self._inputs, self._cells, strict=True)]
        self._reads: list[NDArray[np.float32]] = []
        if bundle.reads is not None:
            self._reads = [np.zeros((count, bundle.reads.width), np.float32) for count in BUCKETS]
        # Where a state is a list, the cost depends on its length, which is unknown before the state is read: the first
        # estimate is for the longest list, and requests bring it down.
        self._warm_state = bundle.initial_state if bundle.event_list is None else bundle.event_list.longest()
        self._cost_s = [self._warm(bucket) for bucket in range(len(BUCKETS))]

    def cost_s(self, candidates: int) -> float:
        """About how long `score` takes for `candidates` candidates, in seconds: a moving average."""
        return self._cost_s[bisect_left(BUCKETS, candidates)]

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
        bucket = bisect_left(BUCKETS, count)
        inputs = self._inputs[bucket]
        # Rows from `count` on keep an earlier request's candidates: finite, and no score depends on another row.
        self._look_up[bucket](item_ids, category_ids)
        if (reads := self._bundle.reads) is not None:
            self._reads[bucket][:count] = reads.read(reads.ledger.of(state), item_ids, now_ms)
        try:
            scores = self._head(inputs, state, context, **self._reading(bucket, now_ms))[:count]
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise ScoringFailed(f"the head graph failed: {type(error).__name__}") from error
        if not isfinite(scores.dot(scores)):  # scores are at most 1, so this sum is finite if all are
            raise ScoringFailed("the head graph returned a non-finite score")
        if self.calibrated:
            scores = self._bundle.manifest.calibration.apply(scores.astype(np.float64)).astype(np.float32)
        self._cost_s[bucket] += _SMOOTHING * (perf_counter() - began - self._cost_s[bucket])
        return scores

    def _reading(self, bucket: int, now_ms: int) -> dict[str, Any]:
        """The further inputs of a head: with a sketch the candidates' cells and the time of reading, with a ledger what
        was read of it."""
        known: dict[str, Any] = {}
        if self._sketch is not None:
            known["addresses"] = self._cells[bucket]
            known["now"] = self._sketch.moment(now_ms)
        if self._reads:
            known["reads"] = self._reads[bucket]
        return known

    def _warm(self, bucket: int) -> float:
        """Run one bucket a few times; the fastest run's seconds."""
        context = np.zeros(self.request.width, np.float32)
        seconds = []
        for _ in range(_WARM_RUNS):
            began = perf_counter()
            self._head(self._inputs[bucket], self._warm_state, context, **self._reading(bucket, 0))
            seconds.append(perf_counter() - began)
        return min(seconds)


def load_model(path: Path) -> OnnxModel:
    """The bundle at `path`, verified and warm. Takes about 100 ms; call it outside of the event loop.

    Raises:
        BundleError, GoldenMismatch: as `load_bundle` and `OnnxModel`.
    """
    return OnnxModel(load_bundle(path.resolve()))
