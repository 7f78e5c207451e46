"""TensorFlow's Adam against its formula, and against torch's where the two must and must not agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mimn.nn.adam import TensorFlowAdam

pytestmark = pytest.mark.torch


def test_steps_follow_the_formula_and_untouched_values_keep_moving() -> None:
    value = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = TensorFlowAdam([value], lr=0.1)
    want, m, v = np.array([1.0, -2.0, 3.0]), np.zeros(3), np.zeros(3)
    gradients = [np.array([1.0, 1e-9, 0.5]), np.array([0.0, 2e-9, -1.0]), np.array([0.0, 0.0, 0.0])]
    for t, gradient in enumerate(gradients, start=1):
        before = value.detach().clone()
        value.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        want = want - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(value.detach().numpy(), want, rtol=1e-5)
        assert value[0] != before[0]


def test_it_differs_from_torch_where_gradients_are_near_epsilon() -> None:
    def moved(optimizer: type, gradient: float) -> float:
        value = nn.Parameter(torch.ones(1))
        value.grad = torch.full((1,), gradient)
        optimizer([value], lr=0.1).step()
        return 1.0 - value.item()

    assert moved(TensorFlowAdam, 1.0) == pytest.approx(moved(torch.optim.Adam, 1.0), rel=1e-4)
    assert moved(TensorFlowAdam, 1e-8) < 0.1 * moved(torch.optim.Adam, 1e-8)


def test_parameters_without_a_gradient_stay() -> None:
    value = nn.Parameter(torch.ones(2))
    TensorFlowAdam([value]).step()
    assert value.eq(1).all()
