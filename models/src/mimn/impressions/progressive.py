"""Calibration as production keeps it: fitted again before each period, on every label that was known by then."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.calibration import Calibration, CalibrationError, Floats, Method, Uncalibrated, fit


@dataclass(frozen=True)
class Labels:
    """n scored impressions. All arrays are [n]."""

    scores: Floats
    labels: NDArray[np.int64]
    weights: Floats
    known_ms: NDArray[np.int64]
    """When each label's window is over."""


def progressive(
    past: Labels, scores: Floats, time_ms: NDArray[np.int64], periods: Iterable[NDArray[np.bool_]], method: Method
) -> Floats:
    """The probabilities of impressions, each by the calibrator of its period. [m] → [m]

    Where the labels known by then cannot be fitted, the calibrator of the period before goes on, and before the first
    one scores stay as they are.

    Args:
        past: all impressions whose labels may be used once they are known, those of the periods among them.
        scores, time_ms: [m], of the impressions.
        periods: masks [m], in the order of time. Each impression is in one.
        method: `platt` or `piecewise`.
    """
    out = scores.copy()
    calibration: Calibration = Uncalibrated()
    for of_period in periods:
        known = past.known_ms <= time_ms[of_period].min()
        # With too few known clicks the calibrator of the period before goes on.
        with suppress(CalibrationError):
            calibration = fit(method, past.scores[known], past.labels[known], past.weights[known])
        out[of_period] = calibration.apply(scores[of_period])
    return out
