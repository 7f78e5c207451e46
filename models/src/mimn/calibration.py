"""From a model's score to a click probability: fitted on impressions that training did not see, applied when serving.

A calibrator is a small value in a bundle's manifest, outside of the fingerprint: it changes what a score means and
nothing about a user's state. It never reverses the order of two scores.

    none        the score as the model gives it: not a probability
    prior       negatives were kept at a rate w in training:  q = p / (p + (1 - p) / w)    (He et al., ADKDD 2014, 6.3)
    shift       q = sigmoid(logit(p) + b): predicted clicks become clicks; few clicks move it little
    platt       q = sigmoid(a logit(p) + b), a > 0                       (Platt, 1999)
    piecewise   logit(q) is linear in logit(p) between at most 64 knots that never fall

numpy only, because the services apply it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_KNOTS = 64
EDGE = 1e-7
"""Scores are kept this far from 0 and 1 before a logarithm."""
CLICKS_PER_BIN = 10
"""A bin of the piecewise fit has at least this many clicks on average: fewer say too little about its rate."""
SHIFT_CLICKS = 20.0
"""`shift` begins as if the model's own rate had been confirmed by so many clicks."""
Method = Literal["none", "prior", "shift", "platt", "piecewise"]
FROM_LABELS: tuple[Method, ...] = ("shift", "platt", "piecewise")
"""The methods that look at clicks."""


class CalibrationError(ValueError):
    """A calibrator that cannot be fitted or used; the message says why and what to do."""


class Uncalibrated(msgspec.Struct, frozen=True, tag_field="method", tag="none", forbid_unknown_fields=True):
    """Scores stay as the model gives them, and answers say that they are not calibrated."""

    def apply(self, scores: Floats) -> Floats:
        """The scores themselves. [n] → [n]"""
        return scores


class Prior(msgspec.Struct, frozen=True, tag_field="method", tag="prior", forbid_unknown_fields=True):
    """Undoes the down-sampling of negatives, and trusts the model with the rest."""

    rate: float
    """w: the share of negatives that training kept, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise CalibrationError(f"calibration.rate must be above 0 and at most 1, not {self.rate}")

    def apply(self, scores: Floats) -> Floats:
        """The click probability of each score in [0, 1]. [n] → [n]"""
        p = scores.astype(np.float64)
        return p / (p + (1.0 - p) / self.rate)


class Platt(msgspec.Struct, frozen=True, tag_field="method", tag="platt", forbid_unknown_fields=True):
    """Two numbers: how sharp the scores are, and where they stand."""

    slope: float
    """a, above 0."""
    intercept: float
    """b"""

    def __post_init__(self) -> None:
        if not (0.0 < self.slope < np.inf and np.isfinite(self.intercept)):
            raise CalibrationError(
                f"calibration needs a finite slope above 0 and a finite intercept, not {self.slope}, {self.intercept}"
            )

    def apply(self, scores: Floats) -> Floats:
        """The click probability of each score in [0, 1]. [n] → [n]"""
        return sigmoid(self.slope * logit(scores) + self.intercept)


class Piecewise(msgspec.Struct, frozen=True, tag_field="method", tag="piecewise", forbid_unknown_fields=True):
    """A monotone curve from logit to logit. Beyond the last knots it goes on with slope 1, so that order is kept."""

    x: tuple[float, ...]
    """[k], 1 to 64 logits of scores, rising."""
    y: tuple[float, ...]
    """[k], logits of click probabilities, never falling."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.x) <= MAX_KNOTS or len(self.x) != len(self.y):
            raise CalibrationError(f"calibration needs 1 to {MAX_KNOTS} knots, as many x as y")
        if not np.isfinite((self.x, self.y)).all():
            raise CalibrationError("calibration's knots must be finite")
        if any(a >= b for a, b in pairwise(self.x)) or any(a > b for a, b in pairwise(self.y)):
            raise CalibrationError("calibration's knots must rise in x and not fall in y")

    def apply(self, scores: Floats) -> Floats:
        """The click probability of each score in [0, 1]. [n] → [n]"""
        at = logit(scores)
        beyond = np.minimum(at - self.x[0], 0.0) + np.maximum(at - self.x[-1], 0.0)
        return sigmoid(np.interp(at, self.x, self.y) + beyond)


Calibration = Uncalibrated | Prior | Platt | Piecewise
UNCALIBRATED = Uncalibrated()


def logit(scores: Floats) -> Floats:
    """log(p / (1 - p)) of scores in [0, 1], kept `EDGE` away from both ends. [n] → [n]"""
    p = np.clip(scores.astype(np.float64), EDGE, 1.0 - EDGE)
    return np.log(p) - np.log1p(-p)


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow. [n] → [n]"""
    tail = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, tail) / (1.0 + tail)


def fit(
    method: Method, scores: Floats, labels: Floats, weights: Floats | None = None, *, rate: float = 1.0
) -> Calibration:
    """The calibrator that fits held-out impressions best.

    Args:
        method: which.
        scores: [n] in [0, 1], as the model gives them.
        labels: [n], 0 or 1.
        weights: [n], above 0; None counts each impression once.
        rate: the share of negatives that training kept. `prior` uses it, and `shift` begins with it; the others learn
            it from the impressions. None but `prior` may have impressions that are down-sampled and not weighted.

    Raises:
        CalibrationError: there are not both labels, or clicks fall as scores rise.
    """
    if method == "none":
        return Uncalibrated()
    if method == "prior":
        return Prior(rate)
    counts = np.ones(len(scores)) if weights is None else weights.astype(np.float64)
    if method == "shift":
        return shifted(scores, counts, float(counts @ labels), Prior(rate))
    clicks = float(counts @ labels)
    if not 0.0 < clicks < float(counts.sum()):
        raise CalibrationError(
            f"{method} needs clicked and unclicked impressions: {int(labels.sum())} of {len(labels)} were clicked; "
            "calibrate on a longer time, or use the method prior"
        )
    return (_platt if method == "platt" else _piecewise)(logit(scores), labels.astype(np.float64), counts)


def shifted(scores: Floats, weights: Floats, clicks: float, start: Calibration) -> Platt:
    """The shift of the logit after which predicted clicks are those that were seen and `SHIFT_CLICKS` more at the rate
    of `start`.

    Args:
        scores: [n] in [0, 1], as the model gives them.
        weights: [n], what each impression counts in the predicted clicks.
        clicks: that were seen.
        start: what the shift is in place of: the correction for negatives that training left out, or nothing.
    """
    x = logit(scores)
    expected = float(weights @ start.apply(scores))
    target = max(expected, EDGE) * (clicks + SHIFT_CLICKS) / (expected + SHIFT_CLICKS)
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if float(weights @ sigmoid(x + middle)) < target else (low, middle)
    if expected <= 0.0:  # nothing was shown: as `start`, which is a shift
        high = float(logit(start.apply(np.array([0.5])))[0])
    return Platt(1.0, high)


def _platt(x: Floats, labels: Floats, counts: Floats) -> Platt:
    """The maximum of the likelihood, by Newton's method with halved steps. There ΣP = Σy holds exactly."""
    slope, intercept = 1.0, 0.0

    def loss(a: float, b: float) -> float:
        z = a * x + b
        return float(counts @ (np.logaddexp(0.0, z) - labels * z))

    best = loss(slope, intercept)
    for _ in range(100):
        p = sigmoid(slope * x + intercept)
        residual, curvature = counts * (p - labels), counts * p * (1.0 - p)
        gradient = np.array([residual @ x, residual.sum()])
        if float(np.abs(gradient).max()) <= 1e-10 * max(1.0, float(counts @ labels)):
            break
        mixed = float(curvature @ x)
        hessian = np.array([[curvature @ (x * x), mixed], [mixed, curvature.sum()]])
        try:
            step = np.linalg.solve(hessian + 1e-12 * np.trace(hessian) * np.eye(2), gradient)
        except np.linalg.LinAlgError as error:
            raise CalibrationError(
                f"all scores are {float(sigmoid(x[:1])[0]):.3g}, so nothing rises with them: look at the AUC first"
            ) from error
        for _ in range(60):
            tried = loss(slope - step[0], intercept - step[1])
            if tried <= best:
                break
            step *= 0.5
        else:
            break
        slope, intercept, best = slope - float(step[0]), intercept - float(step[1]), tried
    if slope <= 0.0:
        raise CalibrationError(
            f"clicks do not rise with the scores (slope {slope:.3g}): the scores do not predict these impressions; "
            "look at the AUC first"
        )
    return Platt(slope, intercept)


def _piecewise(x: Floats, labels: Floats, counts: Floats) -> Piecewise:
    """Bins of equal weight, pooled where their rates fall (isotonic regression), one knot a pool.

    Each bin gets one more row at the overall rate, so that a bin without clicks is rare and not impossible.
    """
    order = np.argsort(x, kind="stable")
    x, labels, counts = x[order], labels[order], counts[order]
    bins = int(np.clip(counts @ labels / CLICKS_PER_BIN, 1, MAX_KNOTS))
    share = (np.cumsum(counts) - counts) / counts.sum()
    # Equal scores belong to one bin: a knot has one rate.
    bin_of = (share * bins).astype(np.int64)[np.searchsorted(x, x, "left")]
    n, clicks, total = (np.bincount(bin_of, values, bins) for values in (counts, counts * labels, counts * x))
    overall = clicks.sum() / n.sum()
    pools: list[tuple[float, float, float]] = []  # rows and clicks, with the one more row of each bin; mean of x
    for rows, clicked, sum_of_x in zip(n.tolist(), clicks.tolist(), total.tolist(), strict=True):
        if not rows:
            continue
        pool = (rows + 1.0, clicked + overall, sum_of_x / rows)
        while pools and pools[-1][1] * pool[0] >= pool[1] * pools[-1][0]:
            before = pools.pop()
            weight = before[0] + pool[0]
            pool = (weight, before[1] + pool[1], (before[0] * before[2] + pool[0] * pool[2]) / weight)
        pools.append(pool)
    knots, heights = (
        np.array([at for _, _, at in pools]),
        logit(np.array([clicked / rows for rows, clicked, _ in pools])),
    )

    def predicted(shift: float) -> float:
        fitted = Piecewise(tuple(knots.tolist()), tuple((heights + shift).tolist()))
        return float(counts @ fitted.apply(sigmoid(x)))

    # Lines between knots are not the bins' rates: one shift of all knots makes predicted clicks the clicks.
    low, high = -5.0, 5.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if predicted(middle) < clicks.sum() else (low, middle)
    return Piecewise(tuple(knots.tolist()), tuple((heights + high).tolist()))
