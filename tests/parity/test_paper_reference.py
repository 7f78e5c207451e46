"""PyTorch against the equations in plain numpy, for every configuration: states, scores and gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mimn.config import state_layout
from mimn.nn.graphs import StepModule
from mimn.reference import Reference
from parity.paper_models import CONFIGS, small_model

pytestmark = pytest.mark.torch

B, T, C = 4, 12, 3


@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_scores_follow_the_equations(name: str) -> None:
    config = CONFIGS[name]
    model = small_model(config)
    reference = Reference(config, {key: value.numpy() for key, value in model.state_dict().items()})
    random = torch.Generator().manual_seed(5)
    items = torch.randint(14, (B, T), generator=random)
    categories = torch.randint(6, (B, T), generator=random)
    candidates = torch.randint(14, (B, C), generator=random), torch.randint(6, (B, C), generator=random)
    context = torch.randn(B, len(config.context_features), generator=random)
    with torch.no_grad():
        states = model.unroll(items, categories)
        events = model.vectors(items, categories).double().numpy()
        vectors = model.vectors(*candidates).double().numpy()
        scores = model.score(states[:, -1], *candidates, context if config.context_features else None)
    compared = 0
    for b in range(B):
        blocks, gap = reference.initial(), np.inf
        for t in range(T):
            np.testing.assert_allclose(states[b, t].numpy(), reference.flat(blocks), rtol=1e-5, atol=1e-5)
            blocks, step_gap = reference.step(events[b, t], blocks)
            gap = min(gap, step_gap)
        if gap < 1e-5:
            continue
        compared += 1
        np.testing.assert_allclose(states[b, -1].numpy(), reference.flat(blocks), rtol=1e-5, atol=1e-5)
        for c in range(C):
            want = reference.score(blocks, vectors[b, c], context[b].double().numpy())
            assert scores[b, c].item() == pytest.approx(want, abs=1e-5)
    assert compared >= B - 1


def test_float16_rounds_the_recurrent_part_and_leaves_the_sums() -> None:
    config = CONFIGS["both"]
    model, layout = small_model(config), state_layout(config, "float16")
    reference = Reference(config, {key: value.numpy() for key, value in model.state_dict().items()}, "float16")
    step = StepModule(model, layout)
    with torch.no_grad():
        event = model.vectors(torch.tensor([3]), torch.tensor([2]))
        state = step(event, step(event, step.initial(1)))[0].numpy()
    np.testing.assert_array_equal(layout.round(state), state)
    assert (state[layout.half_floats :].astype(np.float16) != state[layout.half_floats :]).any()
    vector = event[0].double().numpy()
    blocks, _ = reference.fold([vector, vector], reference.initial())
    np.testing.assert_allclose(state, reference.flat(blocks), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(layout.round(reference.flat(blocks)), reference.flat(blocks))
