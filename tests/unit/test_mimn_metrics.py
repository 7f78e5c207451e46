"""Each figure against a definition so plain that it cannot be wrong, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mimn import metrics
from mimn.metrics import Array, Labels, UndefinedMetric


@st.composite
def both_labels(draw: st.DrawFn) -> tuple[Labels, Array]:
    """Labels of both kinds, and scores with many ties."""
    n = draw(st.integers(2, 30))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda x: 0 < sum(x) < len(x)))
    scores = draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), min_size=n, max_size=n))
    return np.array(labels, np.int64), np.array(scores)


@given(both_labels())
def test_auc_is_the_share_of_pairs_in_the_right_order_ties_one_half(rows: tuple[Labels, Array]) -> None:
    labels, scores = rows
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert metrics.auc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert metrics.auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)


@given(both_labels())
def test_logloss_is_sklearns(rows: tuple[Labels, Array]) -> None:
    labels, scores = rows
    predictions = np.clip(scores, 0.01, 0.99)
    expected = sklearn_metrics.log_loss(labels, predictions, labels=[0, 1])
    assert metrics.logloss(labels, predictions) == pytest.approx(expected, abs=1e-12)


@given(both_labels())
def test_normalized_entropy_is_one_for_the_mean_and_least_for_the_truth(rows: tuple[Labels, Array]) -> None:
    labels, _ = rows
    assert metrics.normalized_entropy(labels, np.full(len(labels), labels.mean())) == pytest.approx(1.0)
    assert metrics.normalized_entropy(labels, labels.astype(np.float64)) == pytest.approx(0.0, abs=1e-5)


def test_pcoc_is_predicted_clicks_over_clicks() -> None:
    assert metrics.pcoc(np.array([1, 0, 0, 1]), np.array([0.9, 0.6, 0.3, 1.2])) == pytest.approx(3.0 / 2.0)


@given(both_labels(), st.integers(1, 4))
def test_gauc_is_the_naive_sum_over_users(rows: tuple[Labels, Array], groups: int) -> None:
    labels, scores = rows
    users = np.arange(len(labels)) % groups
    total, kept = 0.0, 0
    for user in range(groups):
        mask = users == user
        if 0 < labels[mask].sum() < mask.sum():
            total += sklearn_metrics.roc_auc_score(labels[mask], scores[mask]) * mask.sum()
            kept += int(mask.sum())
    if not kept:
        with pytest.raises(UndefinedMetric):
            metrics.group_auc(labels, scores, users)
        return
    found = metrics.group_auc(labels, scores, users)
    assert found.value == pytest.approx(total / kept)
    assert found.share == pytest.approx(kept / len(labels))


def test_what_the_rows_do_not_determine_is_an_error() -> None:
    ones, scores = np.array([1, 1]), np.array([0.2, 0.8])
    for undefined in (metrics.auc, metrics.normalized_entropy):
        with pytest.raises(UndefinedMetric, match="both labels"):
            undefined(ones, scores)
    with pytest.raises(UndefinedMetric):
        metrics.group_auc(ones, scores, np.array([1, 2]))
    with pytest.raises(UndefinedMetric):
        metrics.pcoc(np.zeros(2, np.int64), scores)
    with pytest.raises(UndefinedMetric):
        metrics.logloss(np.array([], np.int64), np.array([]))


def rows_of_users(users: int, rows: int, quality: float, seed: int) -> tuple[Labels, Array, Array, np.ndarray]:
    """Labels, a noise score, a score of some quality, users; all rows of a user are alike."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rows)
    taste = np.repeat(rng.normal(size=users), rows)
    labels = (rng.random(users * rows) < 0.5).astype(np.int64)
    return labels, taste, taste + quality * labels, user


def difference(labels: Labels, first: Array, second: Array, users: np.ndarray, seed: int = 0) -> metrics.Interval:
    ours, theirs = (metrics.resampled_aucs(labels, of, users, resamples=400, seed=seed) for of in (first, second))
    return metrics.interval(metrics.auc(labels, first) - metrics.auc(labels, second), ours - theirs)


@pytest.mark.parametrize("users_at_once", [1, 3, 7])
def test_a_resampled_auc_is_that_of_the_drawn_users_rows(users_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, _, good, users = rows_of_users(7, 5, 0.5, 4)
    good = np.round(good, 1)  # ties as well
    monkeypatch.setattr(metrics, "_CELLS", users_at_once * (1 + int((labels == 0).sum())))
    found = metrics.resampled_aucs(labels, good, users * 3 + 1, resamples=50, seed=2)
    drawn = np.random.default_rng(2).multinomial(7, np.full(7, 1 / 7), size=50)
    for value, counts in zip(found, drawn, strict=True):
        rows = np.concatenate([np.flatnonzero(users == user) for user in np.repeat(np.arange(7), counts)])
        assert value == pytest.approx(metrics.auc(labels[rows], good[rows]), abs=1e-12)


def test_a_resample_with_one_label_has_no_auc() -> None:
    found = metrics.resampled_aucs(np.array([1, 0]), np.array([0.3, 0.2]), np.array([1, 2]), resamples=200)
    assert set(found[~np.isnan(found)].tolist()) == {1.0}
    assert 50 < np.isnan(found).sum() < 150
    with pytest.raises(UndefinedMetric, match="of 3 resamples"):
        metrics.interval(0.1, np.array([np.nan, np.nan, 1.0]))


def test_users_are_resampled_and_not_rows() -> None:
    """Copies of a user's rows are no new evidence: the interval must stay as wide."""
    labels, noise, good, users = rows_of_users(30, 4, 0.5, 2)
    once = difference(labels, good, noise, users)
    copied = difference(np.tile(labels, 9), np.tile(good, 9), np.tile(noise, 9), np.tile(users, 9))
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-6)


def test_bins_of_equal_mass_keep_equal_predictions_together() -> None:
    labels, p = np.array([0, 1, 0, 1, 1, 0]), np.array([0.1, 0.1, 0.1, 0.5, 0.6, 0.9])
    bins = metrics.reliability(labels, p, bins=3)
    assert bins[:, 0].tolist() == pytest.approx([0.1, 0.5, 0.75])
    assert bins[:, 1].tolist() == pytest.approx([1 / 3, 1.0, 0.5])
    assert bins[:, 2].tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    expected = (1 / 3 - 0.1) / 2 + 0.5 / 6 + 0.25 / 3
    assert metrics.expected_calibration_error(labels, p, bins=3) == pytest.approx(expected)


def test_a_weight_counts_as_that_many_rows() -> None:
    rng = np.random.default_rng(4)
    labels, p, times = rng.integers(0, 2, 50), rng.random(50), rng.integers(1, 4, 50)
    for measure in (metrics.logloss, metrics.normalized_entropy, metrics.pcoc):
        repeated = measure(np.repeat(labels, times), np.repeat(p, times))
        assert measure(labels, p, times.astype(float)) == pytest.approx(repeated)
