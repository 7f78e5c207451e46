"""The head as it is served gives the logits of the head as it was trained, whatever is switched on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mimn.nn.head import MimnHead, MlpTop
from mimn.nn.serving import ServingHead
from parity.paper_models import BASE, CONFIGS, small_model

pytestmark = pytest.mark.torch

SKETCHED = replace(BASE, history_product=True, sketch_category_cells=8, sketch_item_cells=16)
HEADS = {
    **{name: config for name, config in CONFIGS.items() if config.variant == "paper"},
    "all but batch norm": replace(BASE, history_product=True, context_features=("hour",)),
    "a sketch": SKETCHED,
    "a sketch without channels": replace(SKETCHED, memory_induction=False, head_norm="batch"),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("candidates", [1, 7])
def test_the_served_head_is_the_trained_one(name: str, candidates: int) -> None:
    config = HEADS[name]
    model = small_model(config)
    assert isinstance(model.head, MimnHead)
    served = ServingHead(model.head).eval()
    random = torch.Generator().manual_seed(candidates)
    initial = model.cell.initial(1)
    state = initial + torch.rand(initial.shape, generator=random)
    vectors = torch.randn(1, candidates, config.width, generator=random)
    context = torch.randn(1, len(config.context_features), generator=random) if config.context_features else None
    counts = None
    if config.sketch is not None:
        shape = 1, candidates, config.sketch.addresses, len(config.sketch.half_lives)
        counts = 5 * torch.rand(shape, generator=random)
    with torch.no_grad():
        trained = model.head(state, vectors, context, counts)
        torch.testing.assert_close(served(state, vectors, context, counts), trained, atol=1e-5, rtol=1e-5)
    assert trained.shape == (1, candidates)


@pytest.mark.parametrize("slopes", [(-0.5, 0.9), (-0.5, 1.5), (1.0, 1.0)])
def test_slopes_of_any_size_are_the_trained_ones(slopes: tuple[float, float]) -> None:
    model = small_model(BASE)
    assert isinstance(model.head, MimnHead)
    assert isinstance(model.head.mlp, MlpTop)
    with torch.no_grad():
        for slope in (model.head.mlp.first_slope.weight, model.head.mlp.second_slope.weight):
            slope.copy_(torch.linspace(*slopes, len(slope)))
        served = ServingHead(model.head).eval()
        random = torch.Generator().manual_seed(0)
        state = model.cell.initial(1) + torch.rand(model.cell.initial(1).shape, generator=random)
        vectors = torch.randn(1, 7, BASE.width, generator=random)
        torch.testing.assert_close(served(state, vectors), model.head(state, vectors), atol=1e-5, rtol=1e-5)


def test_the_weights_are_those_of_the_moment() -> None:
    model = small_model(BASE)
    assert isinstance(model.head, MimnHead)
    served = ServingHead(model.head)
    assert not any(buffer.requires_grad for buffer in served.buffers())
    with torch.no_grad():
        model.head.output.bias.add_(1.0)
    assert not torch.equal(served.bias, ServingHead(model.head).bias)
