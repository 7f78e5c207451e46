"""Calibration as production keeps it: fitted again before each period, on what was known of earlier impressions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.calibration import Calibration, CalibrationError, Floats, Method, fit, shifted

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """n scored impressions. All arrays are [n]."""

    scores: Floats
    labels: Ints
    weights: Floats
    time_ms: Ints
    seen_ms: Ints
    """When each click was seen; read only where the label is 1."""
    known_ms: Ints
    """When each label's window is over."""


def progressive(
    past: Labels,
    scores: Floats,
    time_ms: Ints,
    periods: Iterable[NDArray[np.bool_]],
    *,
    method: Method,
    start: Calibration,
    delays_ms: Ints,
) -> Floats:
    """The probabilities of impressions, each by the calibrator of its period. [m] → [m]

    `platt` and `piecewise` are fitted to the labels whose windows are over. `shift` also counts open windows: by the
    clicks seen so far, against the share of clicks that is seen at such an age. Where nothing can be fitted, the
    calibrator of the period before goes on.

    Args:
        past: all impressions that may be used once they are known, those of the periods among them.
        scores, time_ms: [m], of the impressions.
        periods: masks [m], in the order of time. Each impression is in one.
        method: `shift`, `platt` or `piecewise`.
        start: before anything is known.
        delays_ms: how long after its impression each click of the train part was seen: the share of clicks by age.
            Empty: `shift`, too, counts only windows that are over.
    """
    out, calibration = scores.copy(), start
    delays = np.sort(delays_ms)
    for of_period in periods:
        now = time_ms[of_period].min()
        known = past.known_ms <= now
        if method == "shift":
            calibration = _shifted(past, known, now, delays, start)
        else:
            # With too few known clicks the calibrator of the period before goes on.
            with suppress(CalibrationError):
                calibration = fit(method, past.scores[known], past.labels[known], past.weights[known])
        out[of_period] = calibration.apply(scores[of_period])
    return out


def _shifted(past: Labels, known: NDArray[np.bool_], now: int, delays: Ints, start: Calibration) -> Calibration:
    """The shift at a time, from windows that are over and those still open."""
    shown = past.time_ms < now
    seen = np.searchsorted(delays, now - past.time_ms) / max(len(delays), 1)
    share = np.where(known, 1.0, seen) * shown
    # A click that was seen when its window ended, at this very time, is known as its impression is.
    # Without delays open windows say nothing: their clicks would be clicks of no impressions.
    early = (past.seen_ms < now) & bool(len(delays))
    clicked = shown & (past.labels == 1) & (known | early)
    return shifted(past.scores, past.weights * share, float(past.weights @ clicked), start)
