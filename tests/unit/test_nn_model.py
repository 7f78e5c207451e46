"""The head and the whole model: shapes, gradients, losses recomputed by hand, and what a batch must hold."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mimn.config import MimnConfig
from mimn.nn.cell import MimnCell
from mimn.nn.checkpoint import CheckpointError, load_model, save_model
from mimn.nn.head import MimnHead, Mlp, MlpTop
from mimn.nn.model import Batch, BatchError, MimnModel, utilization_loss

pytestmark = pytest.mark.torch

CONFIG = MimnConfig(embedding_dim=2, controller_units=6, slots=3, attention_units=(9, 5), head_units=(11, 7))
CONFIGS = {
    "paper": CONFIG,
    "shift": replace(CONFIG, rebalance="shift"),
    "no MIU": replace(CONFIG, memory_induction=False),
    "history product": replace(CONFIG, history_product=True),
    "batch norm": replace(CONFIG, head_norm="batch"),
    "pooling": MimnConfig.pooling(embedding_dim=2, head_units=(11, 7)),
    "official": MimnConfig.official(embedding_dim=2, controller_units=6, slots=3, memory_induction=True),
}
ITEMS, CATEGORIES, B, T, P, C = 13, 5, 4, 8, 3, 2
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def model_of(config: MimnConfig, seed: int = 0) -> MimnModel:
    torch.manual_seed(seed)
    model = MimnModel(config, ITEMS, CATEGORIES)
    with torch.no_grad():
        model.items.weight.mul_(8)
    return model


def rows(size: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


def batch(**changes: Tensor | None) -> Batch:
    values: dict[str, Tensor | None] = {
        "items": rows(ITEMS, B, T),
        "categories": rows(CATEGORIES, B, T),
        "lengths": torch.tensor([8, 5, 1, 0]),
        "positions": torch.tensor([[8, 4, 0], [5, 5, 2], [1, 0, 0], [0, 0, 0]]),
        "candidate_items": rows(ITEMS, B, P, C, seed=1),
        "candidate_categories": rows(CATEGORIES, B, P, C, seed=1),
        "labels": rows(2, B, P, C, seed=2).float(),
    }
    return Batch(**(values | changes))  # type: ignore[arg-type]  # the required fields are tensors in `values`


@each_config
def test_scores_have_a_row_a_user_and_do_not_mix_candidates_or_users(config: MimnConfig) -> None:
    model = model_of(config).eval()
    states = model.unroll(rows(ITEMS, B, T), rows(CATEGORIES, B, T))
    assert states.shape == (B, T + 1, model.cell.layout.floats)
    items, categories = rows(ITEMS, B, 5, seed=3), rows(CATEGORIES, B, 5, seed=3)
    scores = model.score(states[:, -1], items, categories)
    assert scores.shape == (B, 5)
    assert ((scores > 0) & (scores < 1)).all()
    torch.testing.assert_close(torch.logit(scores), model.logits(states[:, -1], items, categories))
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(model.score(states[:, -1], items[:, order], categories[:, order]), scores[:, order])
    for b in range(B):
        alone = model.score(states[b : b + 1, -1], items[b : b + 1, 2:3], categories[b : b + 1, 2:3])
        torch.testing.assert_close(alone, scores[b : b + 1, 2:3])
    assert scores.std() > 0


def test_the_head_reads_the_count_in_one_place_alone() -> None:
    """All that it reads of the events besides is a mean, so that a long history is not out of a short one's range."""
    model = model_of(CONFIG).eval()
    blocks = model.cell.unpack(model.unroll(rows(ITEMS, B, T), rows(CATEGORIES, B, T))[:, -1])
    doubled = {"count": 2 * blocks["count"]}
    with torch.no_grad():
        assert isinstance(model.head, MimnHead)
        assert isinstance(model.head.mlp, MlpTop)
        model.head.mlp.by_user.weight[:, CONFIG.width] = 0.0  # the column of the count
    candidates = rows(ITEMS, B, 5), rows(CATEGORIES, B, 5)
    one = model.logits(model.cell.pack(blocks), *candidates)
    torch.testing.assert_close(model.logits(model.cell.pack(blocks | doubled), *candidates), one)


def test_a_user_without_events_has_a_finite_score() -> None:
    model = model_of(CONFIG).eval()
    assert model.score(model.cell.initial(1), rows(ITEMS, 1, 5), rows(CATEGORIES, 1, 5)).isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_drops_units_of_both_hidden_layers_in_training_alone(training: bool) -> None:
    torch.manual_seed(0)
    mlp = Mlp(5, 4, replace(CONFIG, head_dropout=0.5)).train(training)
    dropped = []
    for layer in (mlp.second, mlp.third):
        layer.register_forward_pre_hook(lambda _, inputs: dropped.append(bool(inputs[0].eq(0).any())))
    mlp(torch.randn(2, 5), torch.randn(2, 6, 4))
    assert dropped == [training, training]


@each_config
def test_the_loss_is_a_number_and_trains_every_weight(config: MimnConfig) -> None:
    model = model_of(replace(config, auxiliary_loss=config.variant != "pooling")).train()
    losses = model.loss(
        batch(negative_items=rows(ITEMS, B, T, seed=7), negative_categories=rows(CATEGORIES, B, T, seed=7))
    )
    assert losses.states.shape == (B, model.cell.layout.floats)
    assert not losses.states.requires_grad
    torch.testing.assert_close(losses.total, losses.click + losses.utilization + losses.auxiliary)
    torch.autograd.backward(losses.total)
    untrained = {name for name, value in model.named_parameters() if value.grad is None or value.grad.eq(0).all()}
    # A softmax does not see what is added to all of its inputs: the gradient of that bias is 0 but for rounding.
    assert not untrained - {"head.attention.third.bias"}
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_the_click_loss_is_the_weighted_mean_log_loss_of_states_before_each_occasion() -> None:
    model = model_of(CONFIG).eval()
    weights = torch.rand(B, P, C, generator=torch.Generator().manual_seed(3))
    weights[1, 2] = 0.0
    b = batch(weights=weights)
    losses = model.loss(b)
    total = 0.0
    for user in range(B):
        for p in range(P):
            n = int(b.positions[user, p])
            state = model.unroll(b.items[user : user + 1, :n], b.categories[user : user + 1, :n])[:, -1]
            scores = model.score(
                state, b.candidate_items[user : user + 1, p], b.candidate_categories[user : user + 1, p]
            )[0]
            for c in range(C):
                probability = scores[c].item() if b.labels[user, p, c] else 1 - scores[c].item()
                total -= weights[user, p, c].item() * math.log(probability)
    assert losses.click.item() == pytest.approx(total / weights.sum().item(), rel=1e-4)


def test_a_later_event_does_not_change_an_earlier_occasion() -> None:
    model = model_of(CONFIG).eval()
    b = batch(positions=torch.full((B, P), 4), lengths=torch.full((B,), 4))
    later = b.items.clone()
    later[:, 4:] = 0
    torch.testing.assert_close(model.loss(replace(b, items=later)).total, model.loss(b).total, rtol=0, atol=0)


def test_the_utilization_loss_is_the_sum_of_squares_around_the_mean() -> None:
    g = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]])
    assert utilization_loss(g).item() == pytest.approx((4 + 0 + 4 + 0) / 2)
    model = model_of(replace(CONFIG, utilization_weight=0.5)).eval()
    losses = model.loss(batch())
    blocks = model.cell.unpack(losses.states)
    want = 0.5 * utilization_loss(blocks["shares"] * blocks["count"])
    torch.testing.assert_close(losses.utilization.detach(), want)


def test_the_utilization_loss_trains_the_transfer_matrix() -> None:
    model = model_of(CONFIG)
    torch.autograd.backward(model.loss(batch()).utilization)
    assert isinstance(model.cell, MimnCell)
    assert model.cell.transfer.bias.grad is not None
    assert model.cell.transfer.bias.grad.abs().sum() > 0


def test_the_auxiliary_loss_pairs_each_output_with_the_next_real_event() -> None:
    model = model_of(replace(CONFIG, auxiliary_loss=True, auxiliary_weight=2.0)).eval()
    negatives = rows(ITEMS, B, T, seed=7), rows(CATEGORIES, B, T, seed=7)
    b = batch(negative_items=negatives[0], negative_categories=negatives[1])
    head, net, lengths = model.head, model.auxiliary, [8, 5, 1, 0]
    assert isinstance(head, MimnHead)
    assert net is not None
    states = model.cell.unpack(model.unroll(b.items, b.categories))
    events, others = model.vectors(b.items, b.categories), model.vectors(*negatives)
    terms = []
    for user in range(B):
        for t in range(1, lengths[user]):
            o = head.step_output(states["controller"][user, t], states["read"][user, t])
            follows, other = torch.sigmoid(net(o, events[user, t])), torch.sigmoid(net(o, others[user, t]))
            terms.append(-torch.log(follows).item() - torch.log(1 - other).item())
    assert model.loss(b).auxiliary.item() == pytest.approx(2.0 * sum(terms) / len(terms), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": None}, "either `lengths` or `real`"),
        ({"real": torch.ones(B, T, dtype=torch.bool)}, "either `lengths` or `real`"),
        ({}, "`negative_items`"),
    ],
)
def test_a_batch_that_lacks_something_is_refused(changes: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        model_of(replace(CONFIG, auxiliary_loss=True)).loss(batch(**changes))


@each_config
def test_a_saved_model_comes_back_whole(config: MimnConfig, tmp_path: Path) -> None:
    model = model_of(replace(config, auxiliary_loss=config.variant != "pooling"))
    for name in ("one", "two"):
        save_model(model, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = load_model(tmp_path / "one")
    assert loaded.config == model.config
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].equal(value), name


def test_a_model_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing cannot be read"):
        load_model(tmp_path / "nothing")
    save_model(model_of(CONFIG), tmp_path / "model")
    cut = (tmp_path / "model").read_bytes()[:-40]
    (tmp_path / "model").write_bytes(cut)
    with pytest.raises(
        CheckpointError, match=r"model cannot be read .*: copy it again from where the model was trained"
    ):
        load_model(tmp_path / "model")


def test_a_model_file_that_may_not_be_read_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model_of(CONFIG), tmp_path / "model")

    def refused(path: Path, *_: object) -> None:  # root may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CheckpointError, match=r"model cannot be read \(Permission denied\): let this user read it"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(("slots", "both", "published"), [(4, False, 58_750), (4, True, 88_687), (8, True, 89_375)])
def test_the_official_model_has_as_many_weights_as_the_published_one(slots: int, both: bool, published: int) -> None:
    model = MimnModel(MimnConfig.official(slots=slots, memory_induction=both, utilization=both), 1, 1)
    tables = {"items.weight", "categories.weight"}
    assert sum(value.numel() for name, value in model.named_parameters() if name not in tables) == published
