"""The step in cheap operations computes what the cell computes, in every configuration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mimn.config import cell_layout
from mimn.nn import addressing
from mimn.nn.cell import MimnCell
from mimn.nn.fused import ARTANH
from mimn.nn.graphs import step_graph
from mimn.parity import Graph
from parity.paper_models import CONFIGS, small_model

pytestmark = pytest.mark.torch

RECURRENT = [name for name, config in CONFIGS.items() if config.variant == "paper"]


@pytest.mark.parametrize("name", RECURRENT)
def test_the_fused_step_is_the_cells(name: str) -> None:
    model = small_model(CONFIGS[name])
    cell = model.cell
    assert isinstance(cell, MimnCell)
    fused = Graph(step_graph(model, cell_layout(model.config))[0])
    random = torch.Generator().manual_seed(3)
    state = cell.initial(9)
    with torch.no_grad():
        for _ in range(20):
            event = torch.randn(9, cell.config.width, generator=random) * 3
            state, got = cell(event, state), torch.from_numpy(fused(event.numpy(), state.numpy()))
            torch.testing.assert_close(got, state, atol=4e-6, rtol=4e-6)


def test_a_slot_without_content_and_a_key_of_nothing_have_no_direction_in_either_form() -> None:
    model = small_model(CONFIGS["both"])
    cell = model.cell
    assert isinstance(cell, MimnCell)
    with torch.no_grad():
        cell.controls.weight.zero_()
        cell.controls.bias.zero_()
        fused = Graph(step_graph(model, cell_layout(model.config))[0])
        for size in (0.0, 10 * addressing.TINY**0.5, 1e-3):
            state = torch.full((2, cell.layout.floats), size)
            event = torch.ones(2, cell.config.width)
            got = torch.from_numpy(fused(event.numpy(), state.numpy()))
            torch.testing.assert_close(got, cell(event, state))


def test_the_series_is_the_softplus() -> None:
    x = np.linspace(-40, 40, 100_001)
    u = np.exp(-np.abs(x))
    z = u / (2 + u)
    series = np.maximum(x, 0) + z * np.polynomial.polynomial.polyval(z * z, ARTANH)
    np.testing.assert_allclose(series, np.logaddexp(0, x), atol=1.3e-7)
