"""Sparse embeddings: what a row learns, what an untouched row keeps, and that a whole run goes through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mimn.baselines import model_config
from mimn.nn.checkpoint import untrained
from mimn.training.optimizers import Optimizers, RowAdam
from mimn.training.settings import TrainingSettings

pytestmark = pytest.mark.torch

ROWS, WIDTH = 6, 3
POOLING = model_config(
    {"variant": "pooling", "memory_induction": False, "utilization": False, "embedding_dim": 4, "head_units": [8, 4]}
)


def sparse(rows: Sequence[int], values: Tensor) -> Tensor:
    gradient = torch.sparse_coo_tensor(torch.tensor([list(rows)]), values, (ROWS, WIDTH), check_invariants=True)
    return gradient.coalesce()


@settings(max_examples=60, deadline=None)
@given(
    touched=st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=1, max_size=12),
    decay=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 2**16),
)
def test_a_row_learns_what_adam_makes_of_the_steps_that_touched_it(
    touched: list[set[int]], decay: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(ROWS, WIDTH, generator=generator)
    table = nn.Parameter(start.clone())
    optimizer = RowAdam([table], lr=0.05, weight_decay=decay)
    alone = [nn.Parameter(row.clone()) for row in start]
    adams = [torch.optim.Adam([row], lr=0.05, weight_decay=decay) for row in alone]
    for rows in map(sorted, touched):
        values = torch.randn(len(rows), WIDTH, generator=generator)
        table.grad = sparse(rows, values)
        optimizer.step()
        for row, value in zip(rows, values, strict=True):
            alone[row].grad = value
            adams[row].step()
    torch.testing.assert_close(table.detach(), torch.stack(list(alone)).detach(), rtol=1e-5, atol=1e-6)
    never = sorted(set(range(ROWS)) - set().union(*touched))
    assert torch.equal(table[never], start[never])


def test_the_two_settings_agree_where_every_row_is_touched_in_every_step() -> None:
    """A model whose batches look up all rows learns the same, to rounding."""
    found = []
    for kind in ("dense", "sparse"):
        torch.manual_seed(0)
        model = untrained(POOLING, ROWS, ROWS)
        optimizers = Optimizers(model, TrainingSettings(embeddings=kind, embedding_l2=0.01, gradient_clip=0.5))
        for _ in range(5):
            optimizers.zero_grad()
            every = torch.arange(ROWS)
            model.vectors(every, every).square().sum().backward()  # type: ignore[no-untyped-call]
            assert model.items.weight.grad is not None
            assert model.items.weight.grad.is_sparse == (kind == "sparse")
            optimizers.clip(0.5)
            optimizers.step()
        found.append(torch.cat([model.items.weight, model.categories.weight]).detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_clipping_bounds_the_norm_of_dense_and_sparse_gradients_together() -> None:
    model = untrained(POOLING, ROWS, ROWS)
    optimizers = Optimizers(model, TrainingSettings(embeddings="sparse"))
    rows = torch.tensor([1, 1, 2])
    loss = model.vectors(rows, rows).sum() * 10 + sum(one.square().sum() for one in optimizers.others) * 100
    loss.backward()  # type: ignore[no-untyped-call]
    optimizers.clip(1.5)
    squares = [
        (one.grad.coalesce().values() if one.grad.is_sparse else one.grad).square().sum()
        for one in model.parameters()
        if one.grad is not None
    ]
    assert len(squares) == len(list(model.parameters()))
    assert np.isclose(float(torch.stack(squares).sum().sqrt()), 1.5, rtol=1e-4)


def test_the_state_holds_no_more_than_two_moments_and_an_age_a_row() -> None:
    table = nn.Parameter(torch.zeros(1000, 16))
    optimizer = RowAdam([table])
    state = optimizer.state_of(table)
    assert sum(one.numel() * one.element_size() for one in state.values()) == 1000 * (8 * 16 + 4)
