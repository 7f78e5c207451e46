"""The figures of labelled predictions, with 95 % intervals over users. Pure functions of arrays.

Users are drawn with replacement, each with all impressions, because a user's impressions are not independent. A figure
that the rows do not determine is left out, with the reason in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn import metrics
from mimn.metrics import Array, Labels, UndefinedMetric

RESAMPLES = 200
PROBABILITY: dict[str, Callable[[Labels, Array, Array], float]] = {
    "logloss": metrics.logloss,
    "ne": metrics.normalized_entropy,
    "pcoc": metrics.pcoc,
    "ece": metrics.expected_calibration_error,
}
"""What is measured of a probability. pcoc is predicted clicks over clicks, ece by bins of equal mass."""


@dataclass(frozen=True)
class Rows:
    """n predictions. All arrays are [n]."""

    labels: Labels
    scores: Array
    """What ranks: the model's own."""
    probabilities: Mapping[str, Array]
    """By name, such as raw and calibrated."""
    users: NDArray[np.int64]
    weights: Array
    """What each row counts in sums and means."""

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows where the mask is true."""
        return Rows(
            self.labels[mask],
            self.scores[mask],
            {name: values[mask] for name, values in self.probabilities.items()},
            self.users[mask],
            self.weights[mask],
        )


def figures(rows: Rows, resamples: int = RESAMPLES) -> dict[str, Any]:
    """AUC and GAUC (by user) of the scores; log loss, NE, ΣP/Σy and ECE of each kind of probability.

    A figure is `{value, low, high}`, `{value}` where one user alone gives it, or `{undefined: reason}`. The interval of
    ECE is the value minus what resamples differ by, at least 0: chance alone makes it larger, in the rows as in their
    resamples.
    """
    labels = rows.labels
    drawn = _resampled(rows, resamples) if len(labels) else {}

    def figure(name: str) -> dict[str, Any]:
        try:
            found = _figure(name, rows)
            return {"value": found} | _bounds(drawn.get(name), found if name.endswith(".ece") else None)
        except UndefinedMetric as error:
            return {"undefined": str(error)}

    result: dict[str, Any] = {
        "rows": len(labels),
        "clicks": int(labels.sum()),
        "users": len(np.unique(rows.users)),
        "auc": figure("auc"),
        "gauc": figure("gauc"),
    }
    for kind in rows.probabilities:
        result[kind] = {name: figure(f"{kind}.{name}") for name in PROBABILITY}
    return result


def differences(ours: Rows, theirs: Rows, resamples: int = RESAMPLES) -> dict[str, Any]:
    """What `ours` has more than `theirs`, on the same rows: AUC and GAUC of the scores, NE of each kind of probability
    that both have.

    A figure is as in `figures`; its interval is of the differences, with the same users drawn for both.

    Raises:
        ValueError: these are not predictions of the same rows.
    """
    if not (np.array_equal(ours.users, theirs.users) and np.array_equal(ours.labels, theirs.labels)):
        raise ValueError("a difference is of predictions of the same rows")
    wanted = ["auc", "gauc", *(f"{kind}.ne" for kind in ours.probabilities if kind in theirs.probabilities)]
    drawn = [_resampled(rows, resamples) for rows in (ours, theirs)]
    found: dict[str, Any] = {}
    for name in wanted:
        try:
            value = _figure(name, ours) - _figure(name, theirs)
            both = None if name not in drawn[0] or name not in drawn[1] else drawn[0][name] - drawn[1][name]
            found[name] = {"value": value} | _bounds(both)
        except UndefinedMetric as error:
            found[name] = {"undefined": str(error)}
    return found


def _figure(name: str, rows: Rows) -> float:
    if name == "auc":
        return metrics.auc(rows.labels, rows.scores)
    if name == "gauc":
        return metrics.group_auc(rows.labels, rows.scores, rows.users).value
    kind, _, measure = name.partition(".")
    return PROBABILITY[measure](rows.labels, rows.probabilities[kind], rows.weights)


def _bounds(resampled: Array | None, mirrored: float | None = None) -> dict[str, float]:
    """The 95 % interval, `mirrored` at a value; nothing where too few resamples determine the figure."""
    if resampled is None:
        return {}
    try:
        found = metrics.interval(0.0, resampled)
    except UndefinedMetric:
        return {}
    if mirrored is None:
        return {"low": found.low, "high": found.high}
    return {"low": max(0.0, 2 * mirrored - found.high), "high": max(0.0, 2 * mirrored - found.low)}


def _resampled(rows: Rows, resamples: int) -> dict[str, Array]:
    """Each figure as it would have been with other users: [resamples], not a number where it is undefined.

    Without those that rest on one user: nothing was drawn that could differ from them.
    """
    _, user = np.unique(rows.users, return_inverse=True)
    U, y, w = int(user.max()) + 1, rows.labels.astype(np.float64), rows.weights
    _, rank = np.unique(rows.scores, return_inverse=True)

    def by_user(values: Array) -> Array:
        return np.bincount(user, values, U).astype(np.float64)

    aucs, ranked = metrics.aucs_by_group(rows.labels, rows.scores, rows.users)
    sums: dict[str, Array] = {
        "n": by_user(w),
        "y": by_user(w * y),
        "won": aucs * ranked,
        "ranked": ranked.astype(np.float64),
    }
    gaps = {}
    for kind, p in rows.probabilities.items():
        gaps[kind] = metrics.equal_mass_bins(p, w), w * (p - y)
        sums[f"{kind}.p"] = by_user(w * p)
        sums[f"{kind}.loss"] = by_user(w * metrics.log_losses(rows.labels, p))
    if U == 1:
        return {}
    rng = np.random.default_rng(0)
    out: dict[str, list[float]] = {}
    for _ in range(resamples):
        count = rng.multinomial(U, np.full(U, 1.0 / U)).astype(np.float64)
        of_row = count[user]
        clicked, unclicked = np.bincount(rank, of_row * y), np.bincount(rank, of_row * (1.0 - y))
        won = clicked @ (np.cumsum(unclicked) - 0.5 * unclicked)
        total = {name: float(count @ of_user) for name, of_user in sums.items()}
        found = {
            "auc": _ratio(float(won), float(clicked.sum() * unclicked.sum())),
            "gauc": _ratio(total["won"], total["ranked"]),
        }
        rate = _ratio(total["y"], total["n"])
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate) if 0.0 < rate < 1.0 else 0.0
        for kind, (bins, gap) in gaps.items():
            loss = _ratio(total[f"{kind}.loss"], total["n"])
            found |= {
                f"{kind}.logloss": loss,
                f"{kind}.ne": _ratio(loss, entropy),
                f"{kind}.pcoc": _ratio(total[f"{kind}.p"], total["y"]),
                f"{kind}.ece": _ratio(float(np.abs(np.bincount(bins, of_row * gap)).sum()), total["n"]),
            }
        for name, value in found.items():
            out.setdefault(name, []).append(value)
    if np.count_nonzero(ranked) == 1:
        del out["gauc"]
    return {name: np.array(values) for name, values in out.items()}


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else float("nan")
