"""DIEN: a GRU over the events, and a second one over its states that renews itself only as far as the candidate cares.

Zhou et al., AAAI 2019, eq. 9 to 16. The second GRU (AUGRU) depends on the candidate and is unrolled once for each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.attention import masked_softmax
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window
from mimn.nn.baselines.recurrence import Recurrence
from mimn.nn.gru import glorot_


class Dien(Interest):
    """For each candidate, the AUGRU's last state. The attention is softmax_t(h_t W q) over the events before it."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        D = config.width
        self.candidate_width = config.units
        self.first = Recurrence(D, D, renewal=-1.0)
        self.fit = nn.Parameter(torch.empty(D, D))
        glorot_(self.fit, D, D)
        # The attentions of a history sum to 1 and scale the renewals down, so these start near 1.
        self.second = Recurrence(D, config.units, renewal=1.0)

    def encode(self, events: Tensor) -> Tensor:
        """[B, T, D] → [B, T + 1, D]"""
        states: Tensor = self.first(events)
        return states

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [H]"""
        states, shape = window.encoded[:, 1:], occasions.candidates.shape[:3]
        scores = (occasions.candidates.flatten(1, 2) @ self.fit.T) @ states.transpose(1, 2)
        before = occasions.before(states.shape[1]).unsqueeze(2).expand(*shape, -1).flatten(1, 2)
        evolved = self.second.attended(states, masked_softmax(scores, before))
        return Features([], [evolved.view(*shape, -1)])

    def compile_steps(self) -> None:
        """Compile both GRUs' steps."""
        self.first.compile_steps()
        self.second.compile_steps()
