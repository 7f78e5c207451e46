"""DIEN: a GRU over the events, and a second one over its states, whose update is scaled by the candidate's attention.

Zhou et al., AAAI 2019, eq. 9 to 16. The second GRU (AUGRU) depends on the candidate and is unrolled once for each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.attention import OFFICIAL_UNITS, compile_scores
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window
from mimn.nn.baselines.recurrence import OfficialRecurrence, Recurrence
from mimn.nn.gru import glorot_
from mimn.nn.head import ChannelAttention, masked_softmax


class Dien(Interest):
    """For each candidate, the AUGRU's last state. The attention is softmax_t(h_t W q) over the events before it."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        D = config.width
        self.candidate_width = config.units
        self.first = Recurrence(D, D, renewal=-1.0)
        self.add_attention()
        self.second = self.evolution()

    def evolution(self) -> Recurrence:
        """The second GRU. Attention weights of a history sum to 1 and reduce the updates, so its update gates start
        near 1."""
        return Recurrence(self.config.width, self.config.units, renewal=1.0)

    def add_attention(self) -> None:
        """Make the weights of `fits`."""
        D = self.config.width
        self.fit = nn.Parameter(torch.empty(D, D))
        glorot_(self.fit, D, D)

    def fits(self, candidates: Tensor, states: Tensor) -> Tensor:
        """The score of each state for a candidate. [B, K, D], [B, T, D] → [B, K, T]"""
        return (candidates @ self.fit.T) @ states.transpose(1, 2)

    def encode(self, events: Tensor) -> Tensor:
        """[B, T, D] → [B, T + 1, D]"""
        states: Tensor = self.first(events)
        return states

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [H]"""
        states, shape = window.encoded[:, 1:], occasions.candidates.shape[:3]
        scores = self.fits(occasions.candidates.flatten(1, 2), states)
        before = occasions.before(states.shape[1]).repeat_interleave(shape[2], 1)
        counts = occasions.positions.repeat_interleave(shape[2], 1)
        evolved = self.second.attended(states, masked_softmax(scores, before), counts)
        return Features([], [evolved.view(*shape, -1)])

    def compile_steps(self) -> None:
        """Compile both GRUs' steps."""
        self.first.compile_steps()
        self.second.compile_steps()


class OfficialDien(Dien):
    """With the attention and the second GRU of MIMN's authors."""

    def evolution(self) -> Recurrence:
        """The second GRU, whose state changes slowly at first."""
        return OfficialRecurrence(self.config.width, self.config.units, renewal=-1.0)

    def add_attention(self) -> None:
        """Make the weights of `fits`."""
        self.attention = ChannelAttention(self.config.width, OFFICIAL_UNITS)

    def fits(self, candidates: Tensor, states: Tensor) -> Tensor:
        """As `Dien.fits`."""
        return self.attention.scores(candidates, states)

    def compile_steps(self) -> None:
        """Compile both GRUs' steps and the attention."""
        super().compile_steps()
        compile_scores(self.attention)
