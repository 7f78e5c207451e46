"""Embedding&MLP: nothing but what all models have, the events' sum and the candidate."""

from __future__ import annotations

from mimn.nn.baselines.interest import Features, Interest, Occasions, Window


class Dnn(Interest):
    """Nothing besides."""

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ nothing"""
        return Features([], [])
