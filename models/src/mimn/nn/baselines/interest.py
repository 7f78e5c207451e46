"""What a baseline is: what it makes of a window's events, and what it then knows of an occasion's candidates.

One pass over a window serves all its occasions; an occasion sees the events before its position and no other. Shapes:
B windows of T events, P occasions in each, C candidates an occasion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig


class Window(NamedTuple):
    """B left-aligned windows, as a baseline reads them."""

    events: Tensor
    """[B, T, D]"""
    categories: Tensor
    """[B, T] int64 rows."""
    encoded: Tensor
    """`Interest.encode` of the events."""


class Occasions(NamedTuple):
    """What is scored: candidates at places between a window's events."""

    positions: Tensor
    """[B, P] int64, 0 to T: how many events lie before."""
    candidates: Tensor
    """[B, P, C, D]"""
    categories: Tensor
    """[B, P, C] int64 rows."""

    def before(self, events: int) -> Tensor:
        """Which of a window's `events` lie before each occasion. → [B, P, T] bool"""
        return torch.arange(events, device=self.positions.device) < self.positions.unsqueeze(-1)


class Features(NamedTuple):
    """What a baseline adds to the MLP's input."""

    user: list[Tensor]
    """Each [B, P, .]."""
    candidate: list[Tensor]
    """Each [B, P, C, .]."""


class Interest(nn.Module, ABC):
    """One baseline, without what all have."""

    user_width = 0
    """Sum of the widths of `Features.user`."""
    candidate_width = 0
    """Sum of the widths of `Features.candidate`."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config

    def encode(self, events: Tensor) -> Tensor:
        """What depends on the events alone; by default nothing is made of them. [B, T, D] → [B, ...]

        An encoding with a time axis of T + 1 has in row n what is known after the first n events.
        """
        return events

    @abstractmethod
    def forward(self, window: Window, occasions: Occasions) -> Features:
        """What is known at each occasion; rows of `window` at or after its position have no influence."""

    def compile_steps(self) -> None:
        """Compile what is computed once an event; by default there is nothing."""
