"""The parts of the cell against their equations, written out by hand with dimensions that all differ."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimn.config import MimnConfig
from mimn.nn import addressing
from mimn.nn.controls import ControlLayer
from mimn.nn.gru import Gru
from mimn.nn.memory import read, write

pytestmark = pytest.mark.torch

B, M, D, H = 5, 3, 4, 6


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gru_resets_before_the_candidates_product() -> None:
    torch.manual_seed(1)
    gru = Gru(D, 2, H)
    x, side, h = randn(B, D), randn(B, 2, seed=1), randn(B, H, seed=2)
    got = gru.step(gru.project(x), side, h)
    assert got.shape == (B, H)

    total = x @ gru.event + side @ gru.side + gru.bias
    R = torch.sigmoid(total[:, :H] + h @ gru.gates[:, :H])
    U = torch.sigmoid(total[:, H : 2 * H] + h @ gru.gates[:, H:])
    before = torch.tanh(total[:, 2 * H :] + (R * h) @ gru.candidate)
    after = torch.tanh(total[:, 2 * H :] + R * (h @ gru.candidate))
    torch.testing.assert_close(got, U * h + (1 - U) * before)
    assert (got - (U * h + (1 - U) * after)).abs().max() > 1e-3, "torch's form of the GRU is another function"


def test_gru_keeps_its_state_while_the_update_gate_is_one() -> None:
    gru = Gru(D, 2, H)
    with torch.no_grad():
        gru.bias[H : 2 * H] = 50.0
    h = randn(B, H)
    torch.testing.assert_close(gru.step(gru.project(randn(B, D, seed=3)), randn(B, 2, seed=4), h), h)


def test_gru_gates_start_open_and_candidate_unbiased() -> None:
    bias = Gru(D, 2, H).bias
    assert bias[: 2 * H].eq(1).all()
    assert bias[2 * H :].eq(0).all()


def test_gru_broadcasts_a_users_state_over_candidates() -> None:
    gru = Gru(D, 2, H)
    x, side, h = randn(B, 7, D), randn(B, 2), randn(B, H)
    got = gru.step(gru.project(x), side.unsqueeze(1), h.unsqueeze(1))
    for candidate in range(7):
        torch.testing.assert_close(got[:, candidate], gru.step(gru.project(x[:, candidate]), side, h))


def test_content_weights_are_a_softmax_of_both_cosines() -> None:
    keys, strengths, memory, slot_keys = randn(B, 2, D), randn(B, 2, 1, seed=1), randn(B, M, D), randn(M, D, seed=2)
    got = addressing.content_weights(keys, strengths, addressing.landmarks(memory, slot_keys))
    assert got.shape == (B, 2, M)
    for b, k in itertools.product(range(B), range(2)):
        beta = 2 * (math.log1p(math.exp(strengths[b, k, 0].item())) + 1)
        cosines = torch.stack(
            [
                (
                    torch.cosine_similarity(keys[b, k], slot_keys[i], 0)
                    + torch.cosine_similarity(keys[b, k], memory[b, i], 0)
                )
                / 2
                for i in range(M)
            ]
        )
        torch.testing.assert_close(got[b, k], torch.softmax(beta * cosines, 0))


def test_addressing_ignores_the_scale_of_slots_down_to_a_blank_memory() -> None:
    memory = randn(B, M, D)
    torch.testing.assert_close(addressing.direction(memory * 1e-5), addressing.direction(memory))


def test_transfer_moves_weight_along_rows() -> None:
    weights = torch.softmax(randn(B, M), -1)
    logits = randn(B, M * M, seed=1)
    got = addressing.transfer(weights, logits)
    P = torch.softmax(logits.view(B, M, M), -1)
    for b in range(B):
        want = [sum(weights[b, i] * P[b, i, j] for i in range(M)) for j in range(M)]
        torch.testing.assert_close(got[b], torch.stack([torch.as_tensor(w) for w in want]))
    torch.testing.assert_close(got.sum(-1), torch.ones(B))


@given(st.integers(2, 6), st.integers(0, 2**16), st.floats(0.0, 30.0))
@settings(max_examples=50, deadline=None)
def test_rebalanced_weights_stay_a_distribution(m: int, seed: int, scale: float) -> None:
    weights = torch.softmax(scale * randn(4, m, seed=seed), -1)
    moved = addressing.transfer(weights, scale * randn(4, m * m, seed=seed + 1))
    sharp = addressing.shift_and_sharpen(weights, torch.softmax(randn(4, 3, seed=seed), -1), torch.full((4, 1), 84.0))
    for result in (moved, sharp):
        assert (result >= 0).all()
        torch.testing.assert_close(result.sum(-1), torch.ones(4))


def test_shift_names_the_slot_before_and_the_slot_after() -> None:
    weights = torch.tensor([[0.6, 0.3, 0.1, 0.0]])
    gamma = torch.ones(1, 1)
    stay, before, after = torch.eye(3).unsqueeze(1)
    torch.testing.assert_close(addressing.shift_and_sharpen(weights, stay, gamma), weights)
    torch.testing.assert_close(
        addressing.shift_and_sharpen(weights, before, gamma), torch.tensor([[0.0, 0.6, 0.3, 0.1]])
    )
    torch.testing.assert_close(
        addressing.shift_and_sharpen(weights, after, gamma), torch.tensor([[0.3, 0.1, 0.0, 0.6]])
    )


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


def test_read_is_a_weighted_sum_of_slots() -> None:
    memory, weights = randn(B, M, D), torch.softmax(randn(B, 2, M), -1)
    got = read(memory, weights)
    assert got.shape == (B, 2, D)
    for b, k in itertools.product(range(B), range(2)):
        want = np.sum([weights[b, k, i].item() * memory[b, i].numpy() for i in range(M)], axis=0)
        np.testing.assert_allclose(got[b, k].numpy(), want, rtol=1e-5, atol=1e-6)


def test_write_erases_before_it_adds() -> None:
    memory, weights = randn(B, M, D), torch.softmax(randn(B, M), -1)
    erase, add = torch.sigmoid(randn(B, D, seed=1)), torch.tanh(randn(B, D, seed=2))
    kept = memory.clone()
    got = write(memory, weights, erase, add)
    assert got.shape == (B, M, D)
    assert memory.equal(kept), "the argument is not modified"
    for b, i in itertools.product(range(B), range(M)):
        torch.testing.assert_close(got[b, i], memory[b, i] * (1 - weights[b, i] * erase[b]) + weights[b, i] * add[b])


def test_a_full_erase_leaves_what_is_added() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0]])
    got = write(randn(1, M, D), weights, torch.ones(1, D), torch.full((1, D), 0.5))
    torch.testing.assert_close(got[0, 1], torch.full((D,), 0.5))
    torch.testing.assert_close(got[0, 0], randn(1, M, D)[0, 0])


@pytest.mark.parametrize("rebalance", ["transfer", "shift"])
def test_controls_have_the_shapes_that_their_docstring_says(rebalance: str) -> None:
    config = MimnConfig.from_mapping(
        {"embedding_dim": 2, "controller_units": H, "slots": M, "rebalance": rebalance, "memory_induction": False}
    )
    layer = ControlLayer(config)
    shares = torch.softmax(randn(B, M), -1) if config.shifts else None
    controls = layer(randn(B, H), shares)
    assert controls.strengths.shape == (B, 2, 1)
    assert controls.keys.shape == (B, 2, D)
    assert controls.add.shape == controls.erase.shape == (B, D)
    assert (controls.erase > 0).all()
    assert (controls.shift is None) == (controls.gamma is None) == (rebalance == "transfer")
    if controls.gamma is not None:
        assert controls.shift.shape == (B, 3)
        assert controls.gamma.shape == (B, 1)
        assert (controls.gamma > 4).all()

    strength, key = layer.read_head(randn(B, H), shares)
    torch.testing.assert_close(strength, controls.strengths[:, 0])
    torch.testing.assert_close(key, controls.keys[:, 0])


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
