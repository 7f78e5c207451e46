"""The GRU that the controller and the interest channels share, in the form of the published code.

The reset gate multiplies the state *before* the candidate's product, and the update gate is the fraction of the old
state that stays. `torch.nn.GRUCell` resets after the product, so its weights mean something else and it cannot be used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gru(nn.Module):
    """A GRU over an event and a side input (the read vector, or a memory slot).

    The event's products do not depend on the state, so a separate function (`project`) computes them: an unroll calls
    it once for all steps.
    """

    def __init__(self, event_width: int, side_width: int, units: int) -> None:
        super().__init__()
        fan_in = event_width + side_width + units
        self.units = units
        self.event = nn.Parameter(torch.empty(event_width, 3 * units))
        self.side = nn.Parameter(torch.empty(side_width, 3 * units))
        self.gates = nn.Parameter(torch.empty(units, 2 * units))
        self.candidate = nn.Parameter(torch.empty(units, units))
        self.bias = nn.Parameter(torch.cat([torch.ones(2 * units), torch.zeros(units)]))
        for weight in (self.event, self.side):
            glorot_(weight[:, : 2 * units], fan_in, 2 * units)
            glorot_(weight[:, 2 * units :], fan_in, units)
        glorot_(self.gates, fan_in, 2 * units)
        glorot_(self.candidate, fan_in, units)

    def project(self, event: Tensor) -> Tensor:
        """The event's contribution to reset gate, update gate and candidate. [..., D] → [..., 3 * units]"""
        return event @ self.event + self.bias

    def step(self, projected: Tensor, side: Tensor, state: Tensor) -> Tensor:
        """The state after one event. [..., 3 * units], [..., D], [..., units] → [..., units]; axes broadcast."""
        total = affine(side, self.side, projected)
        gates, candidate = torch.split(total, [2 * self.units, self.units], -1)
        reset, keep = torch.sigmoid(affine(state, self.gates, gates)).chunk(2, -1)
        candidate = torch.tanh(affine(reset * state, self.candidate, candidate))
        return candidate + keep * (state - candidate)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x @ weight + bias`, as one operation if the shapes allow it."""
    if x.dim() == 2 and bias.dim() == 2:
        return torch.addmm(bias, x, weight)
    return x @ weight + bias


def glorot_(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Fill (a part of) a weight uniformly within sqrt(6 / (fan_in + fan_out))."""
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    with torch.no_grad():
        weight.uniform_(-limit, limit)
