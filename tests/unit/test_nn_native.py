"""The compiled recurrence is the cell: its states and all of its gradients, for every switch that it knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mimn.config import MimnConfig
from mimn.nn import compilation, native
from mimn.nn.cell import MimnCell, states_at, unroll
from mimn.nn.model import Batch, MimnModel

pytestmark = pytest.mark.torch

B, T, P = 19, 37, 4
"""More users than go side by side, more steps than a segment has, and neither a multiple of it."""
KNOWN = {
    "paper": MimnConfig(embedding_dim=3, controller_units=5, slots=4),
    "bounded writes": MimnConfig(embedding_dim=2, controller_units=7, slots=3, bounded_writes=True),
    "no channels": MimnConfig(embedding_dim=3, controller_units=5, slots=2, memory_induction=False),
    "no utilization": MimnConfig(embedding_dim=3, controller_units=4, slots=5, utilization=False),
    "no re-balancing": MimnConfig(embedding_dim=7, controller_units=13, slots=4, rebalance="none"),
}
SHIFT = MimnConfig(embedding_dim=3, controller_units=5, slots=4, rebalance="shift")


@pytest.fixture(scope="module", autouse=True)
def _a_compiler() -> None:
    if compilation.compiler() is None:
        pytest.skip("no C++ compiler on this machine")


def cell_of(config: MimnConfig) -> MimnCell:
    torch.manual_seed(0)
    return MimnCell(config).double()


def states_and_gradients(
    cell: MimnCell, events: Tensor, state: Tensor, positions: Tensor, *, compiled: bool
) -> dict[str, Tensor]:
    """The states at the positions, and the gradients of a weighted sum of them."""
    cell.zero_grad()
    events, state = events.clone().requires_grad_(True), state.clone().requires_grad_(True)
    got = (
        native.states_at(cell, events, state, positions)
        if compiled
        else states_at(unroll(cell, events, state), positions)
    )
    weights = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(5))
    torch.autograd.backward((got * weights).sum())
    assert events.grad is not None
    assert state.grad is not None
    gradients = {name: value.grad for name, value in cell.named_parameters() if value.grad is not None}
    # The last value of a state is the count, by which nothing is differentiated.
    return {"states": got.detach(), "events": events.grad, "state": state.grad[:, :-1], **gradients}


def check_equal(cell: MimnCell, events: Tensor, state: Tensor, positions: Tensor) -> None:
    got, want = (states_and_gradients(cell, events, state, positions, compiled=c) for c in (True, False))
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=1e-11, rtol=1e-11, msg=f"{name} differs")


def starts(cell: MimnCell) -> Tensor:
    """States that some events have led to."""
    with torch.no_grad():
        return unroll(cell, torch.randn(B, 5, cell.config.width).double(), cell.initial(B))[:, -1]


@pytest.mark.parametrize("config", KNOWN.values(), ids=KNOWN.keys())
def test_states_and_gradients_are_the_cells(config: MimnConfig) -> None:
    cell = cell_of(config)
    events, positions = torch.randn(B, T, config.width).double(), torch.randint(0, T + 1, (B, P))
    check_equal(cell, events, starts(cell), positions)


def test_every_step_equals_the_unrolled_sequence() -> None:
    cell = cell_of(KNOWN["paper"])
    positions = torch.arange(T + 1).expand(B, -1)
    check_equal(cell, torch.randn(B, T, cell.config.width).double(), cell.initial(B).detach(), positions)


def test_blank_slots_and_slots_that_are_alike() -> None:
    """A zero slot has no direction and no gradient of one, and of slots that are read alike the first one counts."""
    cell = cell_of(KNOWN["paper"])
    with torch.no_grad():
        cell.slot_keys.copy_(cell.slot_keys[:1].expand_as(cell.slot_keys))
    blocks = cell.unpack(starts(cell).clone())
    blocks["memory"] = torch.zeros_like(blocks["memory"])
    state = cell.pack(blocks)
    check_equal(cell, torch.randn(B, 1, cell.config.width).double(), state, torch.ones(B, 1, dtype=torch.int64))


def test_what_is_not_a_number_stays_that_and_with_its_user() -> None:
    """Training ends on a loss that is not finite, so none may be hidden."""
    cell = cell_of(KNOWN["paper"])
    events = torch.randn(B, 3, cell.config.width).double()
    events[2, 1, 0] = torch.nan
    got = native.states_at(cell, events, starts(cell), torch.full((B, 1), 3)).squeeze(1)
    spoiled = cell.unpack(got)["controller"].isnan().any(-1)
    assert spoiled.tolist() == [b == 2 for b in range(B)]
    assert got[~spoiled].isfinite().all()


def batch_of(model: MimnModel) -> Batch:
    return Batch(
        items=torch.randint(0, 30, (B, T)),
        categories=torch.randint(0, 8, (B, T)),
        lengths=torch.randint(0, T + 1, (B,)),
        positions=torch.randint(0, T + 1, (B, P)),
        candidate_items=torch.randint(0, 30, (B, P, 2)),
        candidate_categories=torch.randint(0, 8, (B, P, 2)),
        labels=torch.tensor([1.0, 0.0]).expand(B, P, 2),
        negative_items=torch.randint(0, 30, (B, T)) if model.config.auxiliary_loss else None,
        negative_categories=torch.randint(0, 8, (B, T)) if model.config.auxiliary_loss else None,
    )


@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_model_learns_the_same_either_way(auxiliary: bool) -> None:
    torch.manual_seed(0)
    model = MimnModel(replace(KNOWN["paper"], auxiliary_loss=auxiliary), 30, 8).double()
    batch = batch_of(model)
    batch = replace(batch, labels=batch.labels.double())
    losses, gradients = [], []
    for compile_steps in (False, True):
        if compile_steps:
            model.compile_steps()
        assert model.native == compile_steps
        model.zero_grad()
        losses.append(model.loss(batch))
        torch.autograd.backward(losses[-1].total)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-11, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-11, rtol=0)


def test_scores_are_the_same_either_way() -> None:
    torch.manual_seed(0)
    model = MimnModel(KNOWN["paper"], 30, 8).eval()
    batch = batch_of(model)
    assert batch.lengths is not None
    candidates = batch.candidate_items[:, 0], batch.candidate_categories[:, 0]
    with torch.inference_mode():
        want = model.scorer(batch.items, batch.categories, batch.lengths)(*candidates)
        model.compile_steps()
        got = model.scorer(batch.items, batch.categories, batch.lengths)(*candidates)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_a_cell_that_it_does_not_know_keeps_its_own_steps() -> None:
    assert not native.usable(cell_of(SHIFT), torch.zeros(1, 1, 6).double())
    assert not native.usable(cell_of(KNOWN["paper"]), torch.zeros(1, 1, 6, device="meta"))


def test_without_a_compiler_training_goes_on_uncompiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setattr(compilation, "compiler", lambda: None)
    native.library.cache_clear()
    model = MimnModel(KNOWN["paper"], 30, 8)
    model.compile_steps()
    native.library.cache_clear()
    assert not model.native
    assert "install g++" in caplog.text
    assert torch.isfinite(model.loss(batch_of(model)).total)


def test_a_compiler_that_fails_is_told_of_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'out of space' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(native, "compiler", lambda: str(broken))
    native.library.cache_clear()
    assert native.library(torch.float32) is None
    assert "out of space" in caplog.text
    native.library.cache_clear()


def test_a_model_and_its_batch_go_to_another_device_whole() -> None:
    """`meta` computes nothing but refuses to mix devices, as a GPU does."""
    model = MimnModel(replace(KNOWN["paper"], auxiliary_loss=True), 30, 8)
    batch = batch_of(model).to(torch.device("meta"))
    model.to("meta")
    losses = model.loss(batch)
    torch.autograd.backward(losses.total)
    assert losses.total.device.type == "meta"
    assert model.items.weight.grad is not None
