"""A GRU over a window, in the form of Cho et al. that GRU4REC and DIEN cite: the reset gate acts before the product.

h_t = h_{t-1} + a_t u_t (c_t - h_{t-1}), where u_t is the update gate. a_t is 1, or the candidate's attention to the
event (DIEN's AUGRU): an event without attention leaves the state exactly unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.nn.compilation import compiled
from mimn.nn.gru import glorot_


class Recurrence(nn.Module):
    """The GRU's weights and its unrolls. The events' products are computed for all steps at once."""

    def __init__(self, inputs: int, units: int, renewal: float) -> None:
        """`renewal`: the update gate's bias at the start; below 0, states change slowly at first."""
        super().__init__()
        self.units = units
        self.event = nn.Parameter(torch.empty(inputs, 3 * units))
        self.gates = nn.Parameter(torch.empty(units, 2 * units))
        self.candidate = nn.Parameter(torch.empty(units, units))
        self.bias = nn.Parameter(torch.cat([torch.ones(units), torch.full((units,), renewal), torch.zeros(units)]))
        for weight, width in ((self.event[:, : 2 * units], 2 * units), (self.event[:, 2 * units :], units)):
            glorot_(weight, inputs + units, width)
        glorot_(self.gates, inputs + units, 2 * units)
        glorot_(self.candidate, inputs + units, units)

    def forward(self, events: Tensor) -> Tensor:
        """The states before, between and after the events. [B, T, D] → [B, T + 1, U]"""
        states = [events.new_zeros(len(events), self.units)]
        for projected in self.project(events).unbind(1):
            states.append(self.step(projected, states[-1]))
        return torch.stack(states, 1)

    def attended(self, events: Tensor, attention: Tensor, counts: Tensor) -> Tensor:
        """The last state of K passes over each window, which differ in their attention and in how many events they
        read.

        Passes are sorted by their counts, the longest first, so that a step computes only those that are not over.

        [B, T, D], [B, K, T], [B, K] int64, 0 to T → [B, K, U]
        """
        order = torch.argsort(counts.flatten(), descending=True)
        lengths = counts.flatten()[order]
        window = order // counts.shape[1]
        going = (lengths > torch.arange(int(lengths.max()), device=lengths.device).unsqueeze(1)).sum(1).tolist()
        weights = attention.flatten(0, 1)[order].T.unsqueeze(-1).contiguous()
        state, over = events.new_zeros(len(order), self.units), []
        for n, one, weight in zip(going, self.project(events).unbind(1), weights.unbind(), strict=False):
            state, ended = torch.split(state, [n, len(state) - n])
            over.append(ended)
            state = self.attended_step(one.index_select(0, window[:n]), weight[:n], state)
        last = torch.cat([state, *reversed(over)])
        return last[torch.argsort(order)].view(*counts.shape, self.units)

    def project(self, events: Tensor) -> Tensor:
        """The events' contribution to reset gate, update gate and candidate. [..., D] → [..., 3U]"""
        return events @ self.event + self.bias

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, 3U], [B, U] → [B, U]"""
        update, change = self.change(projected, state)
        return state + update * change

    def attended_step(self, projected: Tensor, attention: Tensor, state: Tensor) -> Tensor:
        """[N, 3U], [N, 1], [N, U] → [N, U]"""
        update, change = self.change(projected, state)
        return state + attention * update * change

    def change(self, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The update gate, and candidate minus state."""
        gates, candidate = torch.split(projected, [2 * self.units, self.units], -1)
        reset, update = torch.sigmoid(gates + state @ self.gates).chunk(2, -1)
        return update, torch.tanh(candidate + (reset * state) @ self.candidate) - state

    def compile_steps(self) -> None:
        """Compile both kinds of step."""
        self.step = compiled(self.step)  # type: ignore[method-assign]  # what torch.compile is for
        self.attended_step = compiled(self.attended_step)  # type: ignore[method-assign]


class OfficialRecurrence(Recurrence):
    """Attention as in the code of MIMN's authors: it scales the kept part of the state, (1 - a_t) (1 - u_t). An event
    without attention is then a step like any other, and over a long history, whose attentions are small, so is every
    event."""

    def attended_step(self, projected: Tensor, attention: Tensor, state: Tensor) -> Tensor:
        """As `Recurrence.attended_step`."""
        update, change = self.change(projected, state)
        return state + (1.0 - (1.0 - attention) * (1.0 - update)) * change
