"""SIM with hard search: the candidate attends to the events of its own category. Pi et al., CIKM 2020.

The reference for models that may keep a user's events: it finds the events of the candidate's category and reads the
latest of them, in addition to the latest events of any category. Both are read by DIN's attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.attention import ActivationUnit
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window


class Sim(Interest):
    """For each candidate, the weighted sum of the events found for it, and of the latest ones."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.candidate_width = 2 * config.width
        self.of_found = ActivationUnit(config.width, config.attention_units)
        self.of_recent = ActivationUnit(config.width, config.attention_units)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [D], [D]"""
        T = window.events.shape[1]
        steps = torch.arange(T, device=window.events.device)
        same = window.categories[:, None, None] == occasions.categories.unsqueeze(-1)
        places = torch.where(same & occasions.before(T).unsqueeze(-2), steps, -1)
        found = places.topk(min(self.config.found, T), -1).values
        recent = occasions.positions.unsqueeze(-1) - 1 - steps[: self.config.recent]
        return Features(
            [],
            [
                read_at(self.of_found, window.events, found, occasions.candidates),
                read_at(self.of_recent, window.events, recent.unsqueeze(-2), occasions.candidates),
            ],
        )


def read_at(attention: ActivationUnit, events: Tensor, places: Tensor, candidates: Tensor) -> Tensor:
    """The weighted sum of the events at some places; a place below 0 means no event.

    [B, T, D], [B, P, C or 1, K], [B, P, C, D] → [B, P, C, D]
    """
    B, T, _ = events.shape
    rows = places.clamp_min(0) + T * torch.arange(B, device=events.device).view(B, 1, 1, 1)
    facts = events.flatten(0, 1).index_select(0, rows.flatten()).view(*places.shape, -1)
    read: Tensor = attention(candidates, facts.expand(*candidates.shape[:3], -1, -1), places >= 0)
    return read
