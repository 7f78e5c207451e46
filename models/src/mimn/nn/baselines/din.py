"""DIN: the candidate attends to the events themselves. Zhou et al., KDD 2018, its weights normalized by a softmax."""

from __future__ import annotations

from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.attention import ActivationUnit, attention_unit, compile_scores
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window
from mimn.nn.head import ChannelAttention


class Din(Interest):
    """For each candidate, the sum of the events weighted by their scores."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.candidate_width = config.width
        self.attention = attention_unit(config)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [D]"""
        return Features([], [attend(self.attention, window.events, occasions)])

    def compile_steps(self) -> None:
        """Compile the attention."""
        compile_scores(self.attention)


def attend(attention: ActivationUnit | ChannelAttention, facts: Tensor, occasions: Occasions) -> Tensor:
    """The weighted sum of the facts before each occasion. [B, T, D] → [B, P, C, D]"""
    candidates = occasions.candidates
    real = occasions.before(facts.shape[1]).repeat_interleave(candidates.shape[2], 1)
    read: Tensor = attention(candidates.flatten(1, 2), facts, real)
    return read.view_as(candidates)
