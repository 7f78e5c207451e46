"""PReLU and dropout for training against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mimn.nn.vectorized import Dropout, prelu

pytestmark = pytest.mark.torch

NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(
    values=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6),
    slopes=st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3),
    training=st.booleans(),
)
def test_prelu_is_torchs_for_all_numbers(values: list[list[float]], slopes: list[float], training: bool) -> None:
    x, slope = torch.tensor(values).unsqueeze(1), torch.tensor(slopes)
    expected = functional.prelu(x.flatten(0, 1), slope).view(x.shape)
    torch.testing.assert_close(prelu(x.requires_grad_(training), slope), expected, rtol=0, atol=0, equal_nan=True)


def test_prelus_gradients_are_torchs() -> None:
    x, slope = torch.randn(50, 4, 8, dtype=torch.float64, requires_grad=True), torch.rand(8, dtype=torch.float64)
    slope.requires_grad_()
    above = torch.randn(50, 4, 8, dtype=torch.float64)
    got = torch.autograd.grad(prelu(x, slope), [x, slope], above)
    expected = torch.autograd.grad(functional.prelu(x.flatten(0, 1), slope).view(x.shape), [x, slope], above)
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(1)
    dropped = Dropout(p).train()(torch.ones(100_001, 3))
    share = dropped.eq(0).double().mean(0)
    error = np.sqrt(p * (1 - p) / len(dropped))
    np.testing.assert_allclose(share, p, atol=5 * error)
    kept = dropped[dropped > 0].unique()
    assert len(kept) == 1
    np.testing.assert_allclose(kept, 1 / (1 - p), rtol=2**-15 / (1 - p))
    np.testing.assert_allclose(dropped.double().mean(), 1, atol=5 * error / (1 - p))


def test_values_that_share_a_random_number_are_dropped_independently() -> None:
    torch.manual_seed(2)
    dropped = Dropout(0.3).train()(torch.ones(200_000, 8)).eq(0).double().numpy()
    together = np.corrcoef(dropped, rowvar=False)[np.triu_indices(8, 1)]
    assert np.abs(together).max() < 5 / np.sqrt(len(dropped))


def test_the_gradient_goes_where_the_value_went() -> None:
    torch.manual_seed(3)
    x = torch.randn(7, 5, requires_grad=True)
    y = Dropout(0.5).train()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach() / x.detach())


def test_a_seed_gives_the_same_values_again() -> None:
    layer, x = Dropout(0.4).train(), torch.randn(33, 5)
    torch.manual_seed(4)
    first = layer(x)
    other = layer(x)
    torch.manual_seed(4)
    assert torch.equal(layer(x), first)
    assert not torch.equal(other, first)
