"""The parts of the cell against their equations, written out by hand with dimensions that all differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimn.nn import addressing
from mimn.nn.gru import Gru

pytestmark = pytest.mark.torch

B, M, D, H = 5, 3, 4, 6


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gru_gates_start_open_and_candidate_unbiased() -> None:
    bias = Gru(D, 2, H).bias
    assert bias[: 2 * H].eq(1).all()
    assert bias[2 * H :].eq(0).all()


def test_addressing_ignores_the_scale_of_slots_down_to_a_blank_memory() -> None:
    memory = randn(B, M, D)
    torch.testing.assert_close(addressing.direction(memory * 1e-5), addressing.direction(memory))


@given(st.integers(2, 6), st.integers(0, 2**16), st.floats(0.0, 30.0))
@settings(max_examples=50, deadline=None)
def test_rebalanced_weights_stay_a_distribution(m: int, seed: int, scale: float) -> None:
    weights = torch.softmax(scale * randn(4, m, seed=seed), -1)
    moved = addressing.transfer(weights, scale * randn(4, m * m, seed=seed + 1))
    sharp = addressing.shift_and_sharpen(weights, torch.softmax(randn(4, 3, seed=seed), -1), torch.full((4, 1), 84.0))
    for result in (moved, sharp):
        assert (result >= 0).all()
        torch.testing.assert_close(result.sum(-1), torch.ones(4))


def test_sharpening_survives_where_a_power_underflows() -> None:
    uniform = torch.full((1, 8), 1 / 8, requires_grad=True)
    result = addressing.shift_and_sharpen(uniform, torch.tensor([[1.0, 0.0, 0.0]]), torch.full((1, 1), 84.0))
    torch.testing.assert_close(result, uniform.detach())
    torch.autograd.backward(result[0, 0])
    assert uniform.grad is not None
    assert uniform.grad.isfinite().all()


def test_sharpening_a_zero_weight_has_a_finite_gradient() -> None:
    weights = torch.tensor([[0.7, 0.3, 0.0]], requires_grad=True)
    result = addressing.shift_and_sharpen(weights, torch.tensor([[1.0, 0.0, 0.0]]), torch.full((1, 1), 5.0))
    assert result[0, 2] == 0
    torch.autograd.backward(result[0, 0])
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_strongest_takes_the_first_of_equals() -> None:
    got = addressing.strongest(torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], requires_grad=True))
    assert got.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert not got.requires_grad


def test_gradients_are_finite_where_vectors_are_zero() -> None:
    keys = torch.zeros(B, 2, D, requires_grad=True)
    memory = torch.zeros(B, M, D, requires_grad=True)
    slot_keys = torch.zeros(M, D, requires_grad=True)
    weights = addressing.content_weights(keys, torch.zeros(B, 2, 1), addressing.landmarks(memory, slot_keys))
    torch.testing.assert_close(weights, torch.full((B, 2, M), 1 / M))
    torch.autograd.backward((weights * randn(B, 2, M)).sum())
    for value in (keys, memory, slot_keys):
        assert value.grad is not None
        assert value.grad.isfinite().all()
