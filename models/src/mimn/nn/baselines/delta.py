"""A memory that corrects itself: the gated delta rule of Yang et al. (Gated DeltaNet, ICLR 2025).

The memory is a matrix that maps keys to values. An event reads the value for its key and writes the
difference to its own value; a candidate reads the value for its key. Keys are directions in m dimensions, so at most m
of them can be fully separate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn import addressing
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window
from mimn.nn.cell import states_at
from mimn.nn.compilation import compiled
from mimn.nn.head import linear

KEPT = 5.0
"""The bias of the forget gate at the start: sigmoid(5) = 0.993 of the memory remains after an event."""


class Delta(Interest):
    """The memory's value for the candidate's key, and its similarity to the candidate's own value.

    One step, S in R^{m x D}: S_t = a_t (S_{t-1} - b_t k_t (k_t S_{t-1})) + b_t k_t v_t, with k_t = direction(W_k x_t),
    v_t = W_v x_t, and a_t, b_t = sigmoid of a linear function of x_t. Reading: k(q) S.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        D, m = config.width, config.slots
        self.candidate_width = 2 * D
        self.key, self.value, self.gates = linear(D, m), linear(D, D), linear(D, 2)
        with torch.no_grad():
            self.gates.bias[0] = KEPT

    def encode(self, events: Tensor) -> Tensor:
        """The memory after each event. [B, T, D] → [B, T + 1, m * D]"""
        D, m = self.config.width, self.config.slots
        kept, written = torch.sigmoid(self.gates(events)).unsqueeze(-1).unbind(-2)
        keys, values = addressing.direction(self.key(events)), self.value(events)
        states = [events.new_zeros(len(events), m, D)]
        for key, value, keep, write in zip(*(x.unbind(1) for x in (keys, values, kept, written)), strict=True):
            states.append(self.step(key, value, keep, write, states[-1]))
        return torch.stack(states, 1).flatten(2)

    def step(self, key: Tensor, value: Tensor, keep: Tensor, write: Tensor, memory: Tensor) -> Tensor:
        """[B, m], [B, D], [B, 1], [B, 1], [B, m, D] → [B, m, D]"""
        held = (key.unsqueeze(-1) * memory).sum(-2)
        change = write * (value - keep * held)
        return keep.unsqueeze(-1) * memory + key.unsqueeze(-1) * change.unsqueeze(-2)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [D], [D]"""
        shape = (self.config.slots, self.config.width)
        memory = torch.unflatten(states_at(window.encoded, occasions.positions), -1, shape)
        read = addressing.direction(self.key(occasions.candidates)) @ memory
        return Features([], [read, read * self.value(occasions.candidates)])

    def compile_steps(self) -> None:
        """Compile the step."""
        self.step = compiled(self.step)  # type: ignore[method-assign]  # what torch.compile is for
