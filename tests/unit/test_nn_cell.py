"""What the cell promises: hold, split, order, batch independence, and equations that a plausible slip would break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimn.config import MimnConfig, state_layout
from mimn.nn import addressing
from mimn.nn.cell import MimnCell, PoolingCell, states_at, unroll
from mimn.state import StateLayout

pytestmark = pytest.mark.torch

CONFIG = MimnConfig(embedding_dim=2, controller_units=6, slots=3)
"""D = 4, H = 6, m = 3."""
CONFIGS = {
    "both": CONFIG,
    "shift": replace(CONFIG, rebalance="shift"),
    "unbalanced": replace(CONFIG, rebalance="none"),
    "no MUR": replace(CONFIG, utilization=False),
    "no MIU": replace(CONFIG, memory_induction=False),
    "neither": replace(CONFIG, memory_induction=False, utilization=False),
    "one slot": replace(CONFIG, slots=1),
}
D = CONFIG.width
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def cell_of(config: MimnConfig, seed: int = 0) -> MimnCell:
    torch.manual_seed(seed)
    cell = MimnCell(config)
    with torch.no_grad():
        for value in cell.parameters():
            if value.dim() == 1:
                value.add_(torch.randn_like(value) * 0.1)
    return cell


def events(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(seed))


@each_config
def test_the_layout_is_the_torch_free_one_and_packing_inverts_unpacking(config: MimnConfig) -> None:
    cell = cell_of(config)
    assert cell.layout == state_layout(config)
    state = torch.randn(5, cell.layout.floats)
    blocks = cell.unpack(state)
    for name, value in cell.layout.view(state.numpy()).items():
        np.testing.assert_array_equal(blocks[name].numpy(), value)
    assert cell.pack(blocks).equal(state)


def test_initial_states_are_alike_and_blank() -> None:
    cell = cell_of(CONFIG)
    state = cell.initial(4)
    assert state.equal(state[:1].expand(4, -1))
    blocks = cell.unpack(state)
    for name in ("controller", "channels", "shares", "add_mean", "history_mean", "count"):
        assert blocks[name].eq(0).all()
    assert 0 < blocks["memory"].abs().max() < 1e-3
    assert "initial_memory" not in dict(cell.named_parameters()), "the blank memory is not trained"


@pytest.mark.parametrize("config", [config for config in CONFIGS.values() if config.utilization])
def test_write_weights_sum_to_one_event(config: MimnConfig) -> None:
    cell = cell_of(config)
    blocks = cell.unpack(unroll(cell, events(5, 9), cell.initial(5))[:, -1])
    torch.testing.assert_close(blocks["shares"].sum(-1), torch.ones(5))


@each_config
def test_padding_holds_every_bit_of_the_state(config: MimnConfig) -> None:
    cell = cell_of(config)
    history, real = events(5, 8), torch.rand(5, 8, generator=torch.Generator().manual_seed(3)) < 0.5
    padded = torch.where(real.unsqueeze(-1), history, torch.full_like(history, 7.0))
    states = unroll(cell, padded, cell.initial(5), real)
    assert states.shape == (5, 9, cell.layout.floats)
    for b in range(5):
        for t in range(8):
            if not real[b, t]:
                assert states[b, t + 1].equal(states[b, t])
        alone = unroll(cell, history[b, real[b]].unsqueeze(0), cell.initial(1))[0, -1]
        torch.testing.assert_close(states[b, -1], alone)


def test_padding_at_the_end_needs_no_mask() -> None:
    cell = cell_of(CONFIG)
    lengths = torch.tensor([0, 3, 8])
    masked = unroll(cell, events(3, 8), cell.initial(3), torch.arange(8) < lengths.unsqueeze(-1))[:, -1]
    free = states_at(unroll(cell, events(3, 8), cell.initial(3)), lengths.unsqueeze(-1)).squeeze(1)
    assert free.equal(masked)


@each_config
@given(cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_split_of_a_history_gives_the_same_state(config: MimnConfig, cuts: list[int], seed: int) -> None:
    cell = cell_of(config)
    history = events(3, 12, seed=seed)
    whole = unroll(cell, history, cell.initial(3))
    state = cell.initial(3)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
        state = unroll(cell, history[:, start:end], state)[:, -1]
    # Windows of other lengths round their products differently, and sharpening multiplies a difference at every event.
    tolerance = 1e-4 if config.shifts else 1e-5
    torch.testing.assert_close(state, whole[:, -1], atol=tolerance, rtol=tolerance)


@each_config
def test_rows_of_a_batch_do_not_see_each_other(config: MimnConfig) -> None:
    cell = cell_of(config)
    history = events(6, 9)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    states = unroll(cell, history, cell.initial(6))
    torch.testing.assert_close(unroll(cell, history[order], cell.initial(6)), states[order], atol=1e-6, rtol=1e-6)
    other = history.clone()
    other[1:] = 99.0
    torch.testing.assert_close(unroll(cell, other, cell.initial(6))[0], states[0], atol=1e-6, rtol=1e-6)


@each_config
def test_gradients_are_finite_at_the_degenerate_start(config: MimnConfig) -> None:
    """Zero events, a zero controller and a blank memory: nothing has a direction yet."""
    cell = cell_of(config)
    with torch.no_grad():
        cell.controls.weight.zero_()
        cell.controls.bias.zero_()
        cell.slot_keys.zero_()
        cell.initial_memory.zero_()
    history = torch.zeros(2, 3, D, requires_grad=True)
    torch.autograd.backward(unroll(cell, history, cell.initial(2)).square().sum())
    assert history.grad is not None
    for name, value in [("history", history), *cell.named_parameters()]:
        assert value.grad is None or value.grad.isfinite().all(), name


def test_no_gradient_passes_from_a_channel_into_the_memory() -> None:
    cell = cell_of(CONFIG)
    state = unroll(cell, events(4, 5), cell.initial(4))[:, -1].detach()
    memory = cell.unpack(state)["memory"].clone().requires_grad_()
    blocks = cell.unpack(cell(events(4, 1, seed=2)[:, 0], cell.pack(cell.unpack(state) | {"memory": memory})))
    (gradient,) = torch.autograd.grad(blocks["channels"].sum(), memory, allow_unused=True, retain_graph=True)
    assert gradient is None or gradient.eq(0).all()
    (gradient,) = torch.autograd.grad(blocks["read"].sum(), memory)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("config", [CONFIG, CONFIGS["shift"]], ids=["transfer", "shift"])
def test_no_gradient_passes_through_the_share_of_past_writes(config: MimnConfig) -> None:
    cell = cell_of(config)
    state = unroll(cell, events(4, 5), cell.initial(4))[:, -1].detach()
    shares = cell.unpack(state)["shares"].clone().requires_grad_()
    blocks = cell.unpack(cell(events(4, 1, seed=2)[:, 0], cell.pack(cell.unpack(state) | {"shares": shares})))
    (gradient,) = torch.autograd.grad(blocks["memory"].sum(), shares, allow_unused=True)
    assert gradient is None or gradient.eq(0).all()


def test_bounded_writes_keep_slots_within_one_where_the_papers_grow() -> None:
    """The erase gate closed and the same event over and over: what training makes of the paper's rule."""
    largest = {}
    for bounded in (False, True):
        cell = cell_of(replace(CONFIG, bounded_writes=bounded))
        with torch.no_grad():
            cell.controls.bias[2 + 3 * D :] = -4.0
            cell.controls.bias[2 + 2 * D : 2 + 3 * D] = 3.0
            state = unroll(cell, events(4, 1).expand(-1, 200, -1), cell.initial(4))[:, -1]
        largest[bounded] = cell.unpack(state)["memory"].abs().max().item()
    assert largest[True] <= 1.0
    assert largest[False] > 10.0


def test_rebalancing_starts_near_the_identity() -> None:
    """From a uniform matrix all slots would get the same writes."""
    cell = cell_of(CONFIG)
    weights = torch.eye(3)
    moved = addressing.transfer(weights, cell.transfer(torch.full((3, 3), 1 / 3)))
    assert moved.diagonal().min() > 0.8


def test_long_histories_stay_in_range() -> None:
    cell = cell_of(CONFIG)
    pool, state, states = events(4, 500), cell.initial(4), []
    with torch.no_grad():
        for _ in range(6):
            state = unroll(cell, pool, state)[:, -1]
            states.append(state)
    early, blocks = cell.unpack(states[1]), cell.unpack(state)
    assert state.isfinite().all()
    assert blocks["count"].eq(3_000).all()
    for name in ("controller", "channels"):
        assert blocks[name].abs().max() <= 1.0, name
    for name in ("read", "memory"):
        assert blocks[name].abs().max() < 1.5 * early[name].abs().max(), "a slot does not grow with the history"
    torch.testing.assert_close(blocks["shares"].sum(-1), torch.ones(4), rtol=1e-4, atol=0)


def test_pooling_keeps_mean_and_count() -> None:
    config = MimnConfig.pooling(embedding_dim=2)
    cell = PoolingCell(config)
    assert cell.layout == state_layout(config)
    history = events(3, 7)
    blocks = cell.unpack(unroll(cell, history, cell.initial(3))[:, -1])
    torch.testing.assert_close(blocks["history_mean"], history.mean(1))
    assert blocks["count"].eq(7).all()


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, memory_induction=False)], ids=["MIU", "no MIU"])
def test_float16_states_have_half_of_the_recurrent_part(config: MimnConfig) -> None:
    layout: StateLayout = state_layout(config, "float16")
    halves = {block.name for block in layout.blocks if block.dtype == "float16"}
    assert halves == {"controller", "read", "memory"} | ({"channels"} if config.memory_induction else set())
    assert [block.name for block in layout.blocks] == [block.name for block in state_layout(config).blocks]
