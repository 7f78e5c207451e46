"""The auxiliary loss (DIEN's): each step's output must distinguish the next event from one that did not happen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.nn.head import linear

UNITS = (100, 50)


class AuxiliaryNet(nn.Module):
    """Scores how likely an event follows a step's output: [o; e] → 100 sigmoid → 50 sigmoid → one logit."""

    def __init__(self, output_width: int, event_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            linear(output_width + event_width, UNITS[0]),
            nn.Sigmoid(),
            linear(UNITS[0], UNITS[1]),
            nn.Sigmoid(),
            linear(UNITS[1], 1),
        )

    def forward(self, outputs: Tensor, events: Tensor) -> Tensor:
        """The logits. [..., H], [..., D] → [...]"""
        logits: Tensor = self.layers(torch.cat([outputs, events], -1)).squeeze(-1)
        return logits

    def loss(self, outputs: Tensor, events: Tensor, negatives: Tensor, real: Tensor) -> Tensor:
        """The mean over the real steps of -log P(next event) - log(1 - P(negative)).

        outputs [B, T, H]; events [B, T, D], one step later; negatives [B, T, D]; real [B, T] bool, of `events` → []
        """
        each = nn.functional.softplus(-self(outputs, events)) + nn.functional.softplus(self(outputs, negatives))
        return (each * real).sum() / real.sum().clamp_min(1)
