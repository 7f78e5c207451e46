"""Variant `official` against an independent recomputation of the published code, in every combination of its flags."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from mimn.config import MimnConfig
from mimn.nn.model import Batch, MimnModel
from mimn.nn.official import OfficialCell, utilization_loss
from parity.official_numpy import Published

pytestmark = pytest.mark.torch

B, T, ITEMS, CATEGORIES = 7, 9, 13, 5
COMBINATIONS = list(itertools.product((False, True), (False, True), (3, 5), ("run", "reset"), (False, True)))


def official(induction: bool, utilization: bool, slots: int, padding: str, auxiliary: bool) -> MimnModel:
    """D = 4, H = 6; every weight drawn, the controls large enough to meet the clip."""
    torch.manual_seed(2)
    config = MimnConfig.official(
        embedding_dim=2,
        controller_units=6,
        slots=slots,
        memory_induction=induction,
        utilization=utilization,
        padding=padding,
        auxiliary_loss=auxiliary,
        attention_units=(11, 8),
        head_units=(10, 9),
    )
    model = MimnModel(config, ITEMS + 1, CATEGORIES + 1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(torch.randn_like(value) * 0.2)
            elif name in ("items.weight", "categories.weight"):
                value.mul_(8.0)
    return model.eval()


def batch() -> Batch:
    random = torch.Generator().manual_seed(4)
    lengths = torch.tensor([9, 9, 6, 3, 1, 0, 7])
    real = torch.arange(T) >= T - lengths.unsqueeze(-1)
    real[6, 4] = False  # a hole in mid-history, as item id 0 makes one in the published data

    def rows(size: int, *shape: int) -> torch.Tensor:
        return torch.randint(size + 1, shape, generator=random)

    return Batch(
        items=rows(ITEMS, B, T),
        categories=rows(CATEGORIES, B, T),
        real=real,
        positions=torch.full((B, 1), T),
        candidate_items=rows(ITEMS, B, 1, 1),
        candidate_categories=rows(CATEGORIES, B, 1, 1),
        labels=torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]).view(B, 1, 1),
        negative_items=rows(ITEMS, B, T),
        negative_categories=rows(CATEGORIES, B, T),
    )


@pytest.mark.parametrize(("induction", "utilization", "slots", "padding", "auxiliary"), COMBINATIONS)
def test_scores_states_and_losses_are_the_published_ones(
    induction: bool, utilization: bool, slots: int, padding: str, auxiliary: bool
) -> None:
    model, b = official(induction, utilization, slots, padding, auxiliary), batch()
    assert b.real is not None
    assert b.negative_items is not None
    assert b.negative_categories is not None
    published = Published(model.config, {name: value.numpy() for name, value in model.state_dict().items()})
    with torch.no_grad():
        losses = model.loss(b)
        states = losses.states
        scores = model.score(states, b.candidate_items[:, 0], b.candidate_categories[:, 0])[:, 0].numpy()
        x = model.vectors(b.items, b.categories).double().numpy()
        q = model.vectors(b.candidate_items, b.candidate_categories)[:, 0, 0].double().numpy()
        negatives = model.vectors(b.negative_items, b.negative_categories).double().numpy()
    mask = b.real.numpy()

    click, g, auxiliary_terms = [], [], []
    for user in range(B):
        y_hat, state, outputs, gap = published.predict(x[user], mask[user], q[user])
        assert gap > 1e-5, "choose another seed: a channel hangs on a tie"
        assert scores[user] == pytest.approx(y_hat[0], abs=2e-6)
        blocks = model.cell.unpack(states[user])
        for name, want in (
            ("controller", state.h),
            ("read", state.r),
            ("memory", state.M),
            ("utilization", state.g),
            ("add_sum", state.A),
            ("output", outputs[-1]),
            *((("channels", np.array(state.channels)),) if induction else ()),
        ):
            np.testing.assert_allclose(blocks[name].numpy(), want, atol=5e-6, rtol=5e-6, err_msg=f"{name}, {user}")
        label = b.labels[user].item()
        click += [label * np.log(y_hat[0]), (1 - label) * np.log(y_hat[1])]
        g.append(state.g)
        for t in range(T - 1) if auxiliary else ():
            follows = published.auxiliary(outputs[t], x[user, t + 1] * mask[user, t + 1])
            not_follows = published.auxiliary(outputs[t], negatives[user, t + 1] * mask[user, t + 1])
            auxiliary_terms.append(-(np.log(follows) + np.log(1 - not_follows)) * mask[user, t + 1])

    assert losses.click.item() == pytest.approx(-np.mean(click), abs=1e-6)
    deviation = np.array(g) - np.mean(g, -1, keepdims=True)
    want_utilization = 0.001 * np.mean(deviation**2 / slots / B) if utilization else 0.0
    assert losses.utilization.item() == pytest.approx(want_utilization, rel=1e-4)
    assert losses.auxiliary.item() == pytest.approx(np.mean(auxiliary_terms) if auxiliary else 0.0, abs=1e-5)
    assert losses.total.item() == pytest.approx(
        losses.click.item() + losses.utilization.item() + losses.auxiliary.item(), abs=1e-6
    )


def test_the_published_head_sees_only_the_last_steps_channel() -> None:
    model, b = official(True, True, 3, "run", False), batch()
    with torch.no_grad():
        blocks = model.cell.unpack(model.loss(b).states)
    assert (blocks["channels"] != 0).any(-1).sum(-1).max() > 1, "several channels have been updated"
    assert (blocks["last_channel"] != 0).any(-1).sum(-1).eq(1).all()


def test_reset_spares_the_read_vector_and_the_utilization() -> None:
    model = official(True, True, 3, "reset", False)
    state = model.unroll(torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64))[:, -1]
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    padded = model.unroll(nothing, nothing, state, torch.tensor([[False]]))[:, -1]
    start, before, after = (model.cell.unpack(value) for value in (model.cell.initial(1), state, padded))
    for name in ("controller", "memory", "channels", "add_sum"):
        assert after[name].equal(start[name]), name
        assert not before[name].equal(start[name]), name
    for name in ("read", "utilization", "history_sum"):
        assert not after[name].equal(start[name]), name


def test_the_regularizer_trains_shift_and_sharpening_but_not_the_keys() -> None:
    """After one step: what it regularizes is a second sharpening of a weight that is stopped."""
    model = official(False, True, 3, "run", False)
    cell = model.cell
    assert isinstance(cell, OfficialCell)
    state = model.unroll(torch.ones(4, 1, dtype=torch.int64), torch.ones(4, 1, dtype=torch.int64))[:, -1]
    torch.autograd.backward(utilization_loss(cell.unpack(state)["utilization"]))
    assert cell.controls_bias.grad is not None
    gradients = torch.split(cell.controls_bias.grad, cell.columns)
    trained = [place for place, gradient in enumerate(gradients) if gradient.abs().sum() > 0]
    assert trained == [8, 9], "shift and sharpening of the write head"


def test_no_gradient_passes_through_past_utilization_or_from_a_channel_into_the_memory() -> None:
    model = official(True, True, 3, "run", False)
    state = model.unroll(torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 3, dtype=torch.int64))[:, -1].detach()
    blocks = {name: value.clone().requires_grad_() for name, value in model.cell.unpack(state).items()}
    after = model.cell.unpack(model.cell(torch.ones(4, model.config.width), model.cell.pack(blocks)))
    for output, source in (("memory", "utilization"), ("channels", "memory")):
        (gradient,) = torch.autograd.grad(after[output].sum(), blocks[source], allow_unused=True, retain_graph=True)
        assert gradient is None or gradient.eq(0).all(), f"{source} → {output}"


def test_gradients_are_finite_at_the_degenerate_start() -> None:
    model, b = official(True, True, 3, "run", True), batch()
    assert isinstance(model.cell, OfficialCell)
    with torch.no_grad():
        for value in model.cell.parameters():
            value.zero_()
        model.cell.initial_memory.zero_()
        model.items.weight.zero_()
        model.categories.weight.zero_()
    torch.autograd.backward(model.loss(b).total)
    for name, value in model.named_parameters():
        assert value.grad is None or value.grad.isfinite().all(), name


def test_an_occasion_of_weight_0_is_left_out_of_the_published_loss() -> None:
    model, whole = official(False, False, 3, "run", False), batch()
    ones = torch.ones_like(whole.labels)
    plain = model.loss(whole).click
    torch.testing.assert_close(model.loss(replace(whole, weights=ones)).click, plain)
    kept = torch.zeros_like(ones)
    kept[1:] = 1.0
    rest = {name: value[1:] for name, value in vars(whole).items() if value is not None}
    torch.testing.assert_close(model.loss(replace(whole, weights=kept)).click, model.loss(Batch(**rest)).click)
