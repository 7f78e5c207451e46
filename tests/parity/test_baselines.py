"""The baselines: equal to their equations in plain numpy, blind to what lies at or after an occasion, and indifferent
to padding and to whom they share a batch with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.config import ConfigError
from mimn.nn import compilation
from mimn.nn.baselines.attention import LIKENESS, ActivationUnit
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.checkpoint import load_model, save_model
from mimn.nn.model import Batch, BatchError
from mimn.nn.sketch import Touches, window_counts
from mimn.state.sketch import DAY_MS
from parity.baselines_numpy import Naive
from parity.paper_models import draw_rest

pytestmark = pytest.mark.torch

# All sizes differ: D = 4, H = 6, m = 3, windows of 14 events, 8 of them, 2 occasions in each, 10 candidates.
BASE = BaselineConfig(
    embedding_dim=2, units=6, slots=3, found=2, recent=5, attention_units=9, head_units=(11, 7), head_norm="batch"
)
CONFIGS = {
    "DIN": replace(BASE, variant="din"),
    "GRU4REC": replace(BASE, variant="gru4rec"),
    "ARNN": replace(BASE, variant="arnn"),
    "RUM": replace(BASE, variant="rum"),
    "DIEN": replace(BASE, variant="dien"),
    "DIEN with auxiliary loss": replace(BASE, variant="dien", auxiliary_loss=True),
    "SIM": replace(BASE, variant="sim"),
    "slots by hash": replace(BASE, variant="hashed"),
    "delta rule": replace(BASE, variant="delta"),
    "buckets by hash": replace(BASE, variant="buckets", slots=4, hash_functions=2),
    "official Embedding&MLP": replace(BASE, variant="dnn", form="official"),
    "official PNN": replace(BASE, variant="dnn", form="official", history_product=True),
    "official DIN": replace(BASE, variant="din", form="official"),
    "official GRU4REC": replace(BASE, variant="gru4rec", form="official"),
    "official ARNN": replace(BASE, variant="arnn", form="official"),
    "official RUM": replace(BASE, variant="rum", form="official"),
    "official DIEN": replace(BASE, variant="dien", form="official", history_product=True),
    "official DIEN with auxiliary loss": replace(
        BASE, variant="dien", form="official", history_product=True, auxiliary_loss=True
    ),
    "history product, no norm": replace(BASE, variant="din", history_product=True, head_norm="none"),
}
SKETCHED = replace(BASE, variant="gru4rec", sketch_category_cells=6, sketch_item_cells=2)
ITEMS, CATEGORIES, B, T, P, C = 17, 5, 8, 14, 2, 10
POSITIONS = torch.tensor([[14, 3], [1, 14], [7, 6], [9, 9], [2, 13], [5, 1], [11, 4], [12, 8]])
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def model_of(config: BaselineConfig) -> BaselineModel:
    """In float64, with every weight and statistic drawn, so that nothing is hidden by a zero or a one."""
    torch.manual_seed(1)
    model = BaselineModel(config, ITEMS, CATEGORIES)
    draw_rest(model)
    return model.double().eval()


def rows(size: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


HISTORY = rows(ITEMS, B, T), rows(CATEGORIES, B, T, seed=1)
CANDIDATES = rows(ITEMS, B, P, C, seed=2), rows(CATEGORIES, B, P, C, seed=3)


@torch.no_grad()
def logits(model: BaselineModel, history: tuple[Tensor, Tensor] = HISTORY) -> Tensor:
    return model.logits(model.window(*history), POSITIONS, *CANDIDATES)


def batch(**changes: Tensor | Touches | None) -> Batch:
    values: dict[str, Tensor | Touches | None] = {
        "items": HISTORY[0],
        "categories": HISTORY[1],
        "lengths": POSITIONS.max(1).values,
        "positions": POSITIONS,
        "candidate_items": CANDIDATES[0],
        "candidate_categories": CANDIDATES[1],
        "labels": rows(2, B, P, C, seed=4).double(),
        "negative_items": rows(ITEMS, B, T, seed=5),
        "negative_categories": rows(CATEGORIES, B, T, seed=6),
    }
    return Batch(**(values | changes))  # type: ignore[arg-type]  # the required fields are tensors in `values`


def naive(model: BaselineModel) -> Naive:
    return Naive(model.config, {name: value.numpy() for name, value in model.state_dict().items()})


def pairs(items: Tensor, categories: Tensor) -> list[tuple[int, int]]:
    return list(zip(items.tolist(), categories.tolist(), strict=True))


@each_config
def test_logits_follow_the_equations(config: BaselineConfig) -> None:
    model = model_of(config)
    got, reference = logits(model), naive(model)
    assert got.std() > 0.05
    for b in range(B):
        for p in range(P):
            n = int(POSITIONS[b, p])
            history = pairs(HISTORY[0][b, :n], HISTORY[1][b, :n])
            for c, candidate in enumerate(pairs(CANDIDATES[0][b, p], CANDIDATES[1][b, p])):
                assert got[b, p, c].item() == pytest.approx(reference.logit(history, candidate), abs=1e-10)


def test_the_published_rum_clips_its_heads_parameters() -> None:
    model = model_of(CONFIGS["official RUM"])
    with torch.no_grad():
        model.get_parameter("interest.controls.weight").mul_(100.0)
    got, reference = logits(model), naive(model)
    for b in range(B):
        n = int(POSITIONS[b, 0])
        history = pairs(HISTORY[0][b, :n], HISTORY[1][b, :n])
        want = reference.logit(history, (int(CANDIDATES[0][b, 0, 0]), int(CANDIDATES[1][b, 0, 0])))
        assert got[b, 0, 0].item() == pytest.approx(want, abs=1e-10)


def test_the_published_rum_starts_as_its_authors_start_it() -> None:
    """The first read vector is learned, Glorot-uniform over one input; the head layer is a truncated normal."""
    torch.manual_seed(2)
    config = replace(CONFIGS["official RUM"], embedding_dim=64, units=100)
    model = BaselineModel(config, ITEMS, CATEGORIES)
    first_read, heads = model.get_parameter("interest.initial_read"), model.get_parameter("interest.controls.weight")
    limit = (6 / 129) ** 0.5
    assert 0.8 * limit < first_read.abs().max().item() <= limit
    # Two standard deviations of a normal with 1 / sqrt(100); what is cut there leaves 0.88 of the deviation.
    assert 0.18 < heads.abs().max().item() <= 0.2
    assert heads.std().item() == pytest.approx(0.088, rel=0.02)
    start = model.interest.encode(torch.zeros(1, 0, 128))[0, 0]
    assert start[:100].eq(0.0).all()
    torch.testing.assert_close(start[100:228], torch.tanh(first_read))


def test_a_sketch_is_read_beside_what_a_baseline_knows() -> None:
    model = model_of(SKETCHED)
    counts = 5.0 * torch.rand(B, P, C, 3, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with torch.no_grad():
        got = model.logits(model.window(*HISTORY), POSITIONS, *CANDIDATES, counts=counts)
        n = POSITIONS[:, 0]
        scores = model.scorer(*HISTORY, n)(CANDIDATES[0][:, 0], CANDIDATES[1][:, 0], counts=counts[:, 0])
    torch.testing.assert_close(torch.logit(scores), got[:, 0], atol=1e-10, rtol=0)
    for b in range(B):
        history = pairs(HISTORY[0][b, : n[b]], HISTORY[1][b, : n[b]])
        for c, candidate in enumerate(pairs(CANDIDATES[0][b, 0], CANDIDATES[1][b, 0])):
            want = naive(model).logit(history, candidate, counts[b, 0, c].numpy())
            assert got[b, 0, c].item() == pytest.approx(want, abs=1e-10)


def test_a_baseline_with_a_sketch_learns_from_what_the_windows_hold() -> None:
    model, sketch = model_of(SKETCHED), SKETCHED.sketch
    assert sketch is not None
    touches = Touches(
        addresses=rows(10, B, T, 3),
        times=torch.arange(T).expand(B, T) * DAY_MS,
        candidate_addresses=rows(10, B, P, C, 3, seed=8),
        now=torch.full((B, P), T * DAY_MS),
    )
    one = batch(touches=touches)
    with torch.no_grad():
        counts = window_counts(sketch, touches, POSITIONS)
        logits = model.logits(model.window(*HISTORY), POSITIONS, *CANDIDATES, counts=counts)
    want = torch.nn.functional.binary_cross_entropy_with_logits(logits, one.labels)
    assert model.loss(one).click.item() == pytest.approx(want.item(), abs=1e-6)
    with pytest.raises(BatchError, match="`touches`"):
        model.loss(batch())


@pytest.mark.parametrize("name", ["DIEN with auxiliary loss", "official DIEN with auxiliary loss"])
def test_the_auxiliary_loss_follows_the_equations(name: str) -> None:
    model = model_of(replace(CONFIGS[name], auxiliary_weight=2.0))
    reference, one = naive(model), batch()
    assert one.lengths is not None
    assert one.negative_items is not None
    assert one.negative_categories is not None
    terms = []
    for b, n in enumerate(one.lengths.tolist()):
        terms += reference.auxiliary_terms(
            pairs(one.items[b, :n], one.categories[b, :n]),
            pairs(one.negative_items[b, :n], one.negative_categories[b, :n]),
        )
    # The published mean runs over all steps, whatever is padding.
    steps = B * (T - 1) if model.config.form == "official" else len(terms)
    assert model.loss(one).auxiliary.item() == pytest.approx(2.0 * sum(terms) / steps, abs=1e-10)


@each_config
def test_events_at_or_after_an_occasion_change_no_bit_and_those_before_it_do(config: BaselineConfig) -> None:
    model = model_of(config).float()
    before = logits(model)
    for b, p in [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (7, 1)]:
        n = int(POSITIONS[b, p])
        items, categories = HISTORY[0].clone(), HISTORY[1].clone()
        items[b, n:] = (items[b, n:] + 5) % ITEMS
        categories[b, n:] = CANDIDATES[1][b, p, 0]
        assert logits(model, (items, categories))[b, p].equal(before[b, p])
        items, categories = HISTORY[0].clone(), HISTORY[1].clone()
        items[b, n - 1] = (items[b, n - 1] + 5) % ITEMS
        assert not logits(model, (items, categories))[b, p].equal(before[b, p])


@each_config
def test_padding_and_the_rest_of_the_batch_do_not_matter(config: BaselineConfig) -> None:
    model = model_of(config)
    together = logits(model)
    for b in range(B):
        for p in range(P):
            n = POSITIONS[b, p]
            with torch.no_grad():
                score = model.scorer(HISTORY[0][b : b + 1, :n], HISTORY[1][b : b + 1, :n], n.view(1))
                alone = score(CANDIDATES[0][b : b + 1, p, 3:4], CANDIDATES[1][b : b + 1, p, 3:4])
            torch.testing.assert_close(torch.logit(alone)[0, 0], together[b, p, 3], atol=1e-10, rtol=0)


@each_config
def test_an_occasion_without_history_has_finite_scores_and_gradients(config: BaselineConfig) -> None:
    model = model_of(config)
    losses = model.loss(batch(positions=torch.zeros(B, P, dtype=torch.int64)))
    torch.autograd.backward(losses.total)
    assert losses.total.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


@each_config
def test_the_loss_trains_every_weight(config: BaselineConfig) -> None:
    model = model_of(config).train()
    losses = model.loss(batch())
    assert losses.total.item() == pytest.approx((losses.click + losses.auxiliary).item())
    torch.autograd.backward(losses.total)
    untrained = {name for name, value in model.named_parameters() if value.grad is None or value.grad.eq(0).all()}
    # A softmax does not know a shift of all its scores, so rounding is all that the last bias of an attention gets.
    last = "third" if config.form == "official" else "second"
    assert not {name for name in untrained if not name.endswith(f"attention.{last}.bias")}


def test_the_official_click_loss_is_half_the_usual() -> None:
    model = model_of(CONFIGS["official DIN"])
    scores, one = torch.sigmoid(logits(model)), batch()
    right = torch.where(one.labels > 0, scores, 1 - scores) + 1e-8
    assert model.loss(one).click.item() == pytest.approx(-right.log().mean().item() / 2, abs=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "publish"}, "form must be one of paper, official"),
        ({"variant": "dnn"}, "form must be 'official' in variant 'dnn'"),
        ({"variant": "sim", "form": "official"}, "form must be 'paper' in variant 'sim'"),
        ({"variant": "dien", "form": "official"}, "history_product must be true in form 'official' of variant 'dien'"),
        ({"form": "official", "history_product": True}, "history_product must be false .* of variant 'din'"),
        ({"variant": "delta", "form": "official"}, "form must be 'paper' in variant 'delta'"),
        ({"form": "official", "sketch_item_cells": 8}, "in form 'official'"),
        ({"sketch_item_cells": -8}, "sketch_item_cells must be 0 to"),
    ],
)
def test_a_form_that_was_never_published_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BASE, **changes)


def test_attention_starts_as_the_likeness_of_candidate_and_event() -> None:
    unit = ActivationUnit(4, 9).double()
    with torch.no_grad():
        unit.second.weight[0, 2:] = 0.0
        q, facts = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
        torch.testing.assert_close(unit.scores(q, facts.unsqueeze(0)), LIKENESS * q @ facts.T)


def test_a_batch_that_only_a_state_can_use_is_refused() -> None:
    model = model_of(CONFIGS["DIEN with auxiliary loss"])
    for changes in (
        {"lengths": None, "real": torch.ones(B, T, dtype=torch.bool)},
        {"state": torch.zeros(B, 3)},
        {"context": torch.zeros(B, P, 1)},
    ):
        with pytest.raises(BatchError, match="needs `lengths`, and neither"):
            model.loss(batch(**changes))
    with pytest.raises(BatchError, match="`negative_items`"):
        model.loss(batch(negative_items=None))


@each_config
def test_a_saved_baseline_comes_back_whole(config: BaselineConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    model, path = model_of(config).float(), tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(model, path)
    loaded = load_model(path)
    assert isinstance(loaded, BaselineModel)
    assert loaded.config == config
    assert logits(loaded).equal(logits(model))


@pytest.mark.full
@pytest.mark.timeout(900)  # compiling takes minutes on a busy machine
@pytest.mark.parametrize("name", ["DIEN", "RUM", "delta rule", "DIN", "official DIEN"])
def test_compiled_steps_compute_what_the_written_ones_do(name: str) -> None:
    """These have all recurrent steps and both attentions between them."""
    if compilation.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    model = model_of(CONFIGS[name])
    want, loss = logits(model), model.loss(batch())
    torch.autograd.backward(loss.total)
    gradients = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad()
    model.compile_steps()
    torch.testing.assert_close(logits(model), want, atol=1e-10, rtol=0)
    torch.autograd.backward(model.loss(batch()).total)
    for weight, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[weight], atol=1e-10, rtol=0)


def test_without_a_compiler_the_written_steps_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = model_of(CONFIGS["DIEN"])
    want = logits(model)
    model.compile_steps()
    assert logits(model).equal(want)
