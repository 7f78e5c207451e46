"""A calibrator gives click probabilities and keeps the order of scores."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn import calibration
from mimn.calibration import Calibration, CalibrationError, Piecewise, Platt, Prior, Uncalibrated, fit, logit, sigmoid
from mimn.metrics import logloss

FITTED: tuple[calibration.Method, ...] = ("platt", "piecewise")


def clicks(rng: np.random.Generator, n: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1], and labels whose logit is `slope` times the score's plus `intercept`."""
    x = rng.normal(-2.0, 1.5, n)
    return sigmoid(x), (rng.random(n) < sigmoid(slope * x + intercept)).astype(np.float64)


@pytest.mark.parametrize("method", FITTED)
@given(seed=st.integers(0, 10_000), slope=st.floats(0.3, 3.0), intercept=st.floats(-2.0, 2.0))
def test_predicted_clicks_are_the_clicks_and_the_log_loss_falls(
    method: calibration.Method, seed: int, slope: float, intercept: float
) -> None:
    scores, labels = clicks(np.random.default_rng(seed), 4000, slope, intercept)
    if not 50 <= labels.sum() <= 3950:
        return
    p = fit(method, scores, labels).apply(scores)
    assert p.sum() / labels.sum() == pytest.approx(1.0, rel=1e-6)
    ints = labels.astype(np.int64)
    assert logloss(ints, p) <= logloss(ints, scores) + (1e-9 if method == "platt" else 0.002)


@given(seed=st.integers(0, 10_000), method=st.sampled_from(FITTED), n=st.integers(30, 500))
def test_no_calibrator_changes_the_order_of_scores(seed: int, method: calibration.Method, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = clicks(rng, n, 1.0, 0.0)
    try:
        fitted = fit(method, scores, labels)
    except CalibrationError:
        return
    asked = np.sort(np.concatenate([scores, rng.random(200), [0.0, 1.0]]))
    p = fitted.apply(asked)
    assert np.all(np.diff(p) >= 0.0)
    assert np.all((p >= 0.0) & (p <= 1.0))


@given(rate=st.floats(0.01, 1.0), p=st.floats(0.001, 0.999))
def test_prior_undoes_the_down_sampling_of_negatives(rate: float, p: float) -> None:
    kept = p / (p + (1.0 - p) * rate)  # what a perfect model says of rows whose negatives were kept at `rate`
    assert Prior(rate).apply(np.array([kept]))[0] == pytest.approx(p, rel=1e-9)


def test_weights_count_as_repeated_rows() -> None:
    rng = np.random.default_rng(3)
    scores, labels = clicks(rng, 500, 1.4, -0.5)
    weights = rng.integers(1, 5, 500).astype(np.float64)
    repeated = np.repeat(np.arange(500), weights.astype(np.int64))
    by_weight, by_row = fit("platt", scores, labels, weights), fit("platt", scores[repeated], labels[repeated])
    assert isinstance(by_weight, Platt)
    assert isinstance(by_row, Platt)
    assert (by_weight.slope, by_weight.intercept) == pytest.approx((by_row.slope, by_row.intercept), rel=1e-6)


def test_scores_of_one_value_get_the_rate() -> None:
    labels = np.array([1.0] + [0.0] * 9)
    assert fit("piecewise", np.full(10, 0.5), labels).apply(np.array([0.5]))[0] == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("labels", [np.zeros(5), np.ones(5)])
def test_one_label_cannot_be_calibrated_on(labels: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="of 5"):
        fit("platt", np.linspace(0.1, 0.9, 5), labels)


def test_scores_that_say_the_opposite_are_refused() -> None:
    scores = np.linspace(0.05, 0.95, 100)
    with pytest.raises(CalibrationError, match="rise"):
        fit("platt", scores, (scores < 0.5).astype(np.float64) * 1.0 * (np.arange(100) % 3 != 0))


@pytest.mark.parametrize(
    "value", [Uncalibrated(), Prior(0.1), Platt(1.2, -3.0), Piecewise((-3.0, 0.0, 2.0), (-4.0, -1.0, -1.0))]
)
def test_a_calibrator_is_the_same_after_json(value: Calibration) -> None:
    assert msgspec.json.decode(msgspec.json.encode(value), type=Calibration) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"method":"prior","rate":0}',
        '{"method":"platt","slope":-1,"intercept":0}',
        '{"method":"piecewise","x":[],"y":[]}',
        '{"method":"piecewise","x":[0,0],"y":[0,1]}',
        '{"method":"piecewise","x":[0,1],"y":[1,0]}',
        '{"method":"spline"}',
        '{"method":"platt","slope":1,"intercept":0,"more":1}',
    ],
)
def test_a_calibrator_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Calibration)


def test_logit_and_sigmoid_are_inverse_and_never_overflow() -> None:
    p = np.array([0.0, 1e-6, 0.3, 0.999999, 1.0])
    assert sigmoid(logit(p)) == pytest.approx(np.clip(p, 1e-7, 1 - 1e-7), rel=1e-9)
    assert sigmoid(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]


def test_scores_that_are_all_alike_end_in_no_traceback() -> None:
    """All at the edge, where rounding can make the two parameters one: whether it does differs among processors."""
    scores, labels = np.array([8.6e-10, 8.6e-10, 6e-10]), np.array([0.0, 0.0, 1.0])
    with suppress(CalibrationError):
        assert fit("platt", scores, labels, np.array([1.0, 1.0, 10.0])).apply(scores).min() > 0.0
