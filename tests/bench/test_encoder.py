"""What the encoder's speed is measured against computes the same, and is several times slower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.eager_port import EagerPort
from bench.encoder import Encoder, encoder, measure, native_encoder
from mimn.config import MimnConfig
from mimn.nn import native
from mimn.nn.cell import MimnCell
from mimn.nn.compilation import compiled, compiler

pytestmark = pytest.mark.torch

B, T = 7, 9


def states_and_gradient(encode: Encoder, events: Tensor) -> tuple[Tensor, Tensor]:
    inputs = events.clone().requires_grad_(True)
    states = encode(inputs)
    torch.autograd.backward((states * torch.linspace(-1, 1, states.shape[-1], dtype=states.dtype)).sum())
    assert inputs.grad is not None
    return states.detach(), inputs.grad


@pytest.fixture(name="cell")
def a_cell() -> MimnCell:
    torch.manual_seed(0)
    return MimnCell(MimnConfig(embedding_dim=2, controller_units=6, slots=3)).double()


@pytest.fixture(name="events")
def some_events() -> Tensor:
    return torch.randn(B, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_cell_is_the_eager_port(cell: MimnCell, events: Tensor) -> None:
    got, want = (states_and_gradient(encode, events) for encode in (encoder(cell), EagerPort(cell)))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.fixture(name="a_compiler")
def _a_compiler() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler on this machine")


@pytest.mark.usefixtures("a_compiler")
def test_the_compiled_recurrence_is_the_eager_port(cell: MimnCell, events: Tensor) -> None:
    got, want = (states_and_gradient(encode, events) for encode in (native_encoder(cell), EagerPort(cell)))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.timeout(900)  # compiling takes minutes on a busy machine
@pytest.mark.usefixtures("a_compiler")
def test_the_compiled_step_is_the_eager_port(cell: MimnCell, events: Tensor) -> None:
    """Where the recurrence cannot be used, as on a GPU, the step is compiled."""
    fast = MimnCell(cell.config).double()
    fast.load_state_dict(cell.state_dict())
    fast.step = compiled(fast.step)  # type: ignore[method-assign]  # what torch.compile is for
    got, want = (states_and_gradient(encode, events) for encode in (encoder(fast), EagerPort(cell)))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.usefixtures("a_compiler")
@pytest.mark.parametrize(("length", "rounds", "least"), [(100, 2, 3.0), (1000, 1, 2.5)])
def test_the_compiled_recurrence_trains_several_times_as_fast(length: int, rounds: int, least: float) -> None:
    """Processor time, the best passes of some: 8 to 12 times where this was written."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures = measure(128, length, rounds)["times_the_port_best_passes"]
    finally:
        torch.set_num_threads(threads)
    assert native.library(torch.float32) is not None
    assert figures["compiled recurrence"] >= least, figures
