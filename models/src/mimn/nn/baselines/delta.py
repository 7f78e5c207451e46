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
from mimn.nn.baselines.interest import Features, FoldedInterest
from mimn.nn.head import linear

KEPT = 5.0
"""The bias of the forget gate at the start: sigmoid(5) = 0.993 of the memory remains after an event."""


class Delta(FoldedInterest):
    """The memory's value for the candidate's key, and its similarity to the candidate's own value.

    One step, S in R^{m x D}: S_t = a_t (S_{t-1} - b_t k_t (k_t S_{t-1})) + b_t k_t v_t, with k_t = direction(W_k x_t),
    v_t = W_v x_t, and a_t, b_t = sigmoid of a linear function of x_t. Reading: k(q) S.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        D, m = config.width, config.slots
        self.shape = (m, D)
        self.candidate_width = 2 * D
        self.key, self.value, self.gates = linear(D, m), linear(D, D), linear(D, 2)
        with torch.no_grad():
            self.gates.bias[0] = KEPT

    def initial(self) -> Tensor:
        """An empty memory. → [m * D]"""
        return self.gates.bias.new_zeros(self.shape[0] * self.shape[1])

    def project(self, events: Tensor) -> Tensor:
        """Key, value, and how much is kept and written. [..., D] → [..., m + D + 2]"""
        key = addressing.direction(self.key(events))
        return torch.cat([key, self.value(events), torch.sigmoid(self.gates(events))], -1)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, m + D + 2], [B, m * D] → [B, m * D]"""
        key, value, keep, write = torch.split(projected, [*self.shape, 1, 1], -1)
        memory = torch.unflatten(state, -1, self.shape)
        held = (key.unsqueeze(-1) * memory).sum(-2)
        change = write * (value - keep * held)
        return (keep.unsqueeze(-1) * memory + key.unsqueeze(-1) * change.unsqueeze(-2)).flatten(-2)

    def read(self, states: Tensor, candidates: Tensor) -> Features:
        """→ candidate [D], [D]"""
        read = addressing.direction(self.key(candidates)) @ torch.unflatten(states, -1, self.shape)
        return Features([], [read, read * self.value(candidates)])
