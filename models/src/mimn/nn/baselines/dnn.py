"""Embedding&MLP: only the features of all models, the events' sum and the candidate."""

from __future__ import annotations

from mimn.nn.baselines.interest import Features, Interest, Occasions, Window


class Dnn(Interest):
    """Adds no features."""

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ nothing"""
        return Features([], [])
