"""What scoring in the background may take, and how two models' scores for the same candidates differ."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BURST_S = 0.05
"""How much unused time is saved up, in seconds of the processor."""
LEAST_RANKED = 3
"""Candidates; the ranks of fewer say nothing."""


@dataclass
class ShadowBudget:
    """Which requests are scored by a shadow too. Time is an argument, in seconds of any steady clock.

    Invariant: over any time t, at most `share` * t + `BURST_S` of the processor is granted, plus one run.
    """

    share: float
    """Of one processor."""
    max_pending: int
    pending: int = field(default=0, init=False)
    _left_s: float = field(default=BURST_S, init=False)
    _at: float = field(default=0.0, init=False)

    def admit(self) -> bool:
        """Count one more in, unless enough wait already; `leave` must follow."""
        if self.pending >= self.max_pending:
            return False
        self.pending += 1
        return True

    def leave(self) -> None:
        """Count one out."""
        self.pending -= 1

    def may_run(self, now: float) -> bool:
        """Whether the head may run now; `ran` must follow."""
        self._left_s = min(BURST_S, self._left_s + self.share * max(0.0, now - self._at))
        self._at = now
        return self._left_s > 0

    def ran(self, seconds: float) -> None:
        """Record how long the head ran."""
        self._left_s -= seconds


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The mean of |Δp| over the candidates. [C], [C]"""
    return float(np.abs(ours - theirs).mean())


def rank_correlation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float | None:
    """Spearman's correlation, of ranks in the order of scores (equal scores by position). [C], [C] → -1 to 1; None for
    fewer than `LEAST_RANKED` candidates."""
    count = len(ours)
    if count < LEAST_RANKED:
        return None
    distance = _ranks(ours) - _ranks(theirs)
    return 1.0 - 6.0 * float(distance @ distance) / (count * (count * count - 1))


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    return ranks
