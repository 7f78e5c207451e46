"""Attention units: how much each fact about a user matters for a candidate. Used by DIN, ARNN, RUM and SIM.

`official` uses the unit of the interest channels, with two sigmoid layers. DIN's paper has one hidden layer with a
PReLU (one slope per unit). For purchases it matters most whether a fact is the candidate itself or similar to it. With
small random embeddings the unit learns this too late: other weights have overfitted by then, and DIN is no better than
sum pooling. So a score starts as the product q f, computed by two units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn.compilation import compiled
from mimn.nn.gru import glorot_
from mimn.nn.head import ChannelAttention, linear, masked_softmax

LIKENESS = 10.0
"""Initial factor of q f: with the initial tables a candidate's score for itself is about 3."""
SLOPE = 0.25
OFFICIAL_UNITS = (80, 40)


def attention_unit(config: BaselineConfig) -> ActivationUnit | ChannelAttention:
    """The unit of the configuration's form, over facts of width D."""
    if config.form == "official":
        return ChannelAttention(config.width, OFFICIAL_UNITS)
    return ActivationUnit(config.width, config.attention_units)


def compile_scores(unit: ActivationUnit | ChannelAttention) -> None:
    """Compile the comparison of candidates and facts: over whole windows it is the largest cost of training."""
    unit.scores = compiled(unit.scores)  # type: ignore[assignment,method-assign]  # what torch.compile is for


class ActivationUnit(nn.Module):
    """[q; f; q - f; q * f] → PReLU → one score. The first product is f (diag(q) W4 + W2 - W3) + q (W1 + W3)."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(4, width, units))
        glorot_(self.first, 4 * width, units)
        self.first_bias = nn.Parameter(torch.zeros(units))
        self.slope = nn.PReLU(units, SLOPE)
        self.second = linear(units, 1)
        with torch.no_grad():
            # PReLU(x) - PReLU(-x) = (1 + slope) x
            for unit, sign in enumerate((1.0, -1.0)):
                self.first[:, :, unit] = 0.0
                self.first[3, :, unit] = sign
                self.second.weight[0, unit] = sign * LIKENESS / (1.0 + SLOPE)

    def forward(self, q: Tensor, facts: Tensor, real: Tensor) -> Tensor:
        """The sum of the real facts, weighted by the softmax of their scores; 0 if there are no real facts.

        q [..., C, D]; facts [..., K, D], shared by all candidates, or [..., C, K, D], per candidate; real: bool,
        broadcasts to [..., C, K] → [..., C, D]
        """
        shared = facts.dim() == q.dim()
        weights = masked_softmax(self.scores(q, facts.unsqueeze(-3) if shared else facts), real)
        return weights @ facts if shared else (weights.unsqueeze(-2) @ facts).squeeze(-2)

    def scores(self, q: Tensor, facts: Tensor) -> Tensor:
        """The score of each fact for each candidate. [..., C, D], [..., C or 1, K, D] → [..., C, K]"""
        q_weight, f_weight, difference, product = self.first.unbind(0)
        weights = q.unsqueeze(-1) * product + (f_weight - difference)
        by_candidate = q @ (q_weight + difference) + self.first_bias
        if facts.shape[-3] == 1:
            # one product for all candidates, in place of q * f for each pair: it halves the time of DIN's training
            hidden = facts.squeeze(-3) @ weights.transpose(-3, -2).flatten(-2)
            hidden = hidden.view(*hidden.shape[:-1], *by_candidate.shape[-2:]) + by_candidate.unsqueeze(-3)
            return self.outer(hidden).transpose(-1, -2)
        return self.outer(facts @ weights + by_candidate.unsqueeze(-2))

    def outer(self, hidden: Tensor) -> Tensor:
        """The second layer, of PReLU(x) = slope x + (1 - slope) max(x, 0). [..., U] → [...]"""
        slope, weight = self.slope.weight, self.second.weight[0]
        return hidden @ (slope * weight) + torch.relu(hidden) @ ((1.0 - slope) * weight) + self.second.bias
