"""DIN: the candidate attends to the events themselves. Zhou et al., KDD 2018, with the softmax of MIMN's authors."""

from __future__ import annotations

from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window, masked_softmax
from mimn.nn.head import TargetAttention


class Din(Interest):
    """For each candidate, the events' sum weighted by how well each fits it."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.candidate_width = config.width
        self.attention = TargetAttention(config.width, config.attention_units)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [D]"""
        return Features([], [attend(self.attention, window.events, occasions)])


def attend(attention: TargetAttention, facts: Tensor, occasions: Occasions) -> Tensor:
    """The weighted sum of those facts that lie before each occasion. [B, T, D] → [B, P, C, D]"""
    scores = attention.scores(occasions.candidates, facts[:, None, None])
    weights = masked_softmax(scores, occasions.before(facts.shape[1]).unsqueeze(-2))
    return (weights.flatten(1, 2) @ facts).view_as(occasions.candidates)
