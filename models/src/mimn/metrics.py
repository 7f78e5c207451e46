"""Metrics of predictions: pure functions of labels and predictions, exact where possible.

Labels are 0 or 1, predictions are probabilities unless stated otherwise; all [n]. Nothing here depends on models or
data sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

EPSILON = 1e-7
"""Before a logarithm, predictions are clipped to at least this distance from 0 and 1."""
BINS = 20
"""Of equal mass, for reliability and ECE."""
_CELLS = 1 << 17
"""Of a block of users and negatives, so that it stays in a cache."""


class UndefinedMetric(ValueError):
    """The metric is undefined on these rows: there are no rows, or all have the same label."""


def midranks(values: Array) -> Array:
    """The rank of each value, starting at 1; equal values get the mean of their ranks. [n] → [n]"""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2.0)[place]
    return ranks


def auc(labels: Labels, scores: Array) -> float:
    """The probability that a positive scores above a negative, ties counting one half (Mann-Whitney).

    Raises:
        UndefinedMetric: all labels are the same.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise UndefinedMetric(f"AUC needs both labels: {positives} positives, {negatives} negatives")
    rank_sum = float(midranks(scores)[labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


@dataclass(frozen=True)
class GroupAuc:
    """AUC within groups, averaged with the groups' row counts as weights."""

    value: float
    share: float
    """Share of the rows whose group has both labels; the others cannot be ranked and are left out."""


def group_auc(labels: Labels, scores: Array, groups: NDArray[np.int64]) -> GroupAuc:
    """AUC within each group (a user), averaged with the groups' row counts as weights.

    Raises:
        UndefinedMetric: no group has both labels.
    """
    aucs, rows = aucs_by_group(labels, scores, groups)
    total, kept = 0.0, int(rows.sum())
    for of_group, count in zip(aucs.tolist(), rows.tolist(), strict=True):
        total += of_group * count
    if not kept:
        raise UndefinedMetric("GAUC needs a group with both labels")
    return GroupAuc(total / kept, kept / len(labels))


def aucs_by_group(labels: Labels, scores: Array, groups: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """AUC within each group and its rows, in the order of the groups; both 0 where a label is missing. → [G], [G]"""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][:1] - 1))
    aucs, counts = np.zeros(len(starts)), np.zeros(len(starts), np.int64)
    for group, rows in enumerate(np.split(order, starts[1:])):
        positives = int(labels[rows].sum())
        if 0 < positives < len(rows):
            aucs[group], counts[group] = auc(labels[rows], scores[rows]), len(rows)
    return aucs, counts


def log_losses(labels: Labels, predictions: Array) -> Array:
    """-log(predicted probability of the actual label) of each row, in nats. → [n]"""
    p = np.clip(predictions.astype(np.float64), EPSILON, 1.0 - EPSILON)
    losses: Array = -np.where(labels == 1, np.log(p), np.log1p(-p))
    return losses


def logloss(labels: Labels, predictions: Array, weights: Array | None = None) -> float:
    """The mean of -log(predicted probability of the actual label), in nats.

    Raises:
        UndefinedMetric: there are no rows.
    """
    if not len(labels):
        raise UndefinedMetric("logloss needs at least one row")
    return _mean(log_losses(labels, predictions), weights)


def normalized_entropy(labels: Labels, predictions: Array, weights: Array | None = None) -> float:
    """logloss divided by the logloss of always predicting the mean label: below 1 is better than the mean.

    Raises:
        UndefinedMetric: all labels are the same.
    """
    rate = _mean(labels.astype(np.float64), weights) if len(labels) else 0.0
    if not 0.0 < rate < 1.0:
        raise UndefinedMetric("normalized entropy needs both labels")
    return logloss(labels, predictions, weights) / logloss(labels, np.full(len(labels), rate), weights)


def pcoc(labels: Labels, predictions: Array, weights: Array | None = None) -> float:
    """Predicted clicks over clicks: mean prediction divided by mean label; 1 is calibrated.

    Raises:
        UndefinedMetric: there are no positives.
    """
    if not int(labels.sum()):
        raise UndefinedMetric("PCOC needs a positive")
    return _mean(predictions.astype(np.float64), weights) / _mean(labels.astype(np.float64), weights)


def reliability(labels: Labels, predictions: Array, weights: Array | None = None, bins: int = BINS) -> Array:
    """Bins of equal mass by prediction, rising: mean prediction, mean label, share of the mass. Equal predictions share
    a bin, so there may be fewer. → [k, 3]
    """
    mass = np.ones(len(labels)) if weights is None else weights
    bin_of = equal_mass_bins(predictions, mass, bins)
    held = np.bincount(bin_of, mass, bins)
    sums = np.stack([np.bincount(bin_of, mass * values, bins) for values in (predictions, labels)], -1)
    there = held > 0
    return np.column_stack([sums[there] / held[there, np.newaxis], held[there] / mass.sum()])


def equal_mass_bins(predictions: Array, mass: Array, bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each row, 0 to `bins` - 1, by rising prediction; equal predictions share a bin. [n], [n] → [n]"""
    order = np.argsort(predictions, kind="stable")
    p, mass = predictions[order].astype(np.float64), mass[order]
    before = (np.cumsum(mass) - mass) / mass.sum()
    bin_of = np.empty(len(p), np.int64)
    bin_of[order] = np.minimum(before * bins, bins - 1).astype(np.int64)[np.searchsorted(p, p, "left")]
    return bin_of


def expected_calibration_error(
    labels: Labels, predictions: Array, weights: Array | None = None, bins: int = BINS
) -> float:
    """The mean distance of mean prediction and mean label over bins of equal mass (ECE).

    Raises:
        UndefinedMetric: there are no rows.
    """
    if not len(labels):
        raise UndefinedMetric("ECE needs at least one row")
    p, y, share = reliability(labels, predictions, weights, bins).T
    return float(share @ np.abs(p - y))


def _mean(values: Array, weights: Array | None) -> float:
    return float(np.mean(values)) if weights is None else float(np.average(values, weights=weights))


@dataclass(frozen=True)
class Interval:
    """A difference and its 95 % interval."""

    difference: float
    low: float
    high: float


def interval(difference: float, resampled: Array) -> Interval:
    """`difference` with the 95 % interval of its resamples; NaN resamples are left out.

    Raises:
        UndefinedMetric: more than half of the resamples are NaN.
    """
    known = resampled[~np.isnan(resampled)]
    if 2 * len(known) < len(resampled):
        raise UndefinedMetric(f"the figure is undefined in {len(resampled) - len(known)} of {len(resampled)} resamples")
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(difference, float(low), float(high))


def resampled_aucs(
    labels: Labels, scores: Array, users: NDArray[np.int64], *, resamples: int = 2000, seed: int = 0
) -> Array:
    """AUC on bootstrap resamples of users: [resamples], NaN where a label is missing.

    Users are drawn with replacement, each with all rows, because the rows of a user are not independent. The drawn
    users depend only on the number of users and the seed, so two models' AUCs on the same rows are paired, resample by
    resample. Exact, ties count one half; a user who is drawn k times counts k times, also in pairs with themselves.
    """
    wins, positives, negatives = _wins_by_user(labels, scores, users)
    drawn = _drawn_users(len(positives), resamples, seed)
    pairs = np.prod(drawn @ np.stack([positives, negatives], 1), axis=1)
    # BLAS multiplies no integers. Counts of halves are exact in float32 up to 2^23, and half the work.
    exact = np.float32 if drawn.max() * wins.sum(0).max() < 1 << 23 else np.float64
    won = np.einsum("ru,ru->r", drawn.astype(exact, copy=False) @ wins.astype(exact), drawn, dtype=np.float64)
    aucs: Array = np.divide(won, pairs, out=np.full(resamples, np.nan), where=pairs > 0)
    return aucs


@lru_cache(maxsize=16)
def _drawn_users(users: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """How often each user is drawn. [resamples, users]"""
    drawn = np.random.default_rng(seed).multinomial(users, np.full(users, 1.0 / users), size=resamples)
    return drawn.astype(np.float32)


def _wins_by_user(labels: Labels, scores: Array, users: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """How often a positive of user u scores above a negative of user v [U, U]; positives [U] and negatives [U]."""
    _, user = np.unique(users, return_inverse=True)
    U = int(user.max()) + 1
    of_positives, of_negatives = user[labels == 1], user[labels == 0]
    positives, negatives = (np.bincount(of, minlength=U).astype(np.float64) for of in (of_positives, of_negatives))
    wins = np.zeros((U, U))
    rivals, targets = np.sort(scores[labels == 0]), scores[labels == 1]
    place = np.argsort(np.argsort(scores[labels == 0], kind="stable"))  # of each negative in `rivals`
    by_user = place[np.argsort(of_negatives, kind="stable")]
    have, beginning = negatives > 0, (np.cumsum(negatives) - negatives).astype(np.int64)
    # A positive wins against all before `left`, and ties with those from there to `right`: one half.
    ends = np.concatenate([np.searchsorted(rivals, targets, side) for side in ("left", "right")])
    ends_of = np.concatenate([of_positives, of_positives])
    in_order = np.argsort(ends_of, kind="stable")
    ends, ends_of, R = ends[in_order], ends_of[in_order], len(rivals)
    at_once = max(1, _CELLS // (R + 1))
    for first in range(0, U, at_once):
        last = min(first + at_once, U)
        mine = slice(*np.searchsorted(ends_of, (first, last)))
        cells = np.bincount((ends_of[mine] - first) * (R + 1) + ends[mine], minlength=(last - first) * (R + 1))
        ended = cells.reshape(last - first, R + 1)[:, :R].cumsum(1)
        halves = (2 * positives[first:last, None]).astype(np.int64) - ended
        wins[first:last, have] = 0.5 * np.add.reduceat(halves[:, by_user], beginning[have], axis=1)
    return wins, positives, negatives
