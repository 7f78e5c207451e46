"""The step in fewer operations computes what the cell computes, in every configuration."""

from __future__ import annotations

import pytest
import torch

from mimn.nn import addressing
from mimn.nn.cell import MimnCell
from mimn.nn.fused import FusedCell
from parity.paper_models import CONFIGS, small_model

pytestmark = pytest.mark.torch

RECURRENT = [name for name, config in CONFIGS.items() if config.variant == "paper"]


@pytest.mark.parametrize("name", RECURRENT)
def test_the_fused_step_is_the_cells(name: str) -> None:
    cell = small_model(CONFIGS[name]).cell
    assert isinstance(cell, MimnCell)
    fused = FusedCell(cell)
    random = torch.Generator().manual_seed(3)
    state = cell.initial(9)
    with torch.no_grad():
        for _ in range(20):
            event = torch.randn(9, cell.config.width, generator=random) * 3
            state, got = cell(event, state), fused(event, state)
            torch.testing.assert_close(got, state, atol=2e-6, rtol=2e-6)


def test_a_slot_without_content_and_a_key_of_nothing_have_no_direction_in_either_form() -> None:
    cell = small_model(CONFIGS["both"]).cell
    assert isinstance(cell, MimnCell)
    with torch.no_grad():
        cell.controls.weight.zero_()
        cell.controls.bias.zero_()
        for size in (0.0, 0.1 * addressing.TINY**0.5, 1e-3):
            state = torch.full((2, cell.layout.floats), size)
            event = torch.ones(2, cell.config.width)
            torch.testing.assert_close(FusedCell(cell)(event, state), cell(event, state))
