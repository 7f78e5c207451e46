"""The interface of a baseline: it encodes a window's events, then computes features for an occasion's candidates.

One pass over a window serves all its occasions; an occasion sees only the events before its position. Shapes:
B windows of T events, P occasions per window, C candidates per occasion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn.cell import states_at
from mimn.nn.compilation import compiled


class Window(NamedTuple):
    """B left-aligned windows, as a baseline reads them."""

    events: Tensor
    """[B, T, D]"""
    categories: Tensor
    """[B, T] int64 rows."""
    encoded: Tensor
    """`Interest.encode` of the events."""


class Occasions(NamedTuple):
    """The candidates to score, at positions between a window's events."""

    positions: Tensor
    """[B, P] int64, 0 to T: how many events precede the occasion."""
    candidates: Tensor
    """[B, P, C, D]"""
    categories: Tensor
    """[B, P, C] int64 rows."""

    def before(self, events: int) -> Tensor:
        """Which of a window's `events` precede each occasion. → [B, P, T] bool"""
        return torch.arange(events, device=self.positions.device) < self.positions.unsqueeze(-1)


class Features(NamedTuple):
    """What a baseline adds to the MLP's input."""

    user: list[Tensor]
    """Each [B, P, .]."""
    candidate: list[Tensor]
    """Each [B, P, C, .]."""


class Interest(nn.Module, ABC):
    """One baseline, without the parts that all share."""

    user_width = 0
    """Sum of the widths of `Features.user`."""
    candidate_width = 0
    """Sum of the widths of `Features.candidate`."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config

    def encode(self, events: Tensor) -> Tensor:
        """Encode the events; depends on nothing else. The default returns them unchanged. [B, T, D] → [B, ...]

        In an encoding with a time axis of T + 1, row n covers the first n events.
        """
        return events

    @abstractmethod
    def forward(self, window: Window, occasions: Occasions) -> Features:
        """The features of each occasion; rows of `window` at or after its position have no influence."""

    def compile_steps(self) -> None:
        """Compile the code that runs once per event; the default does nothing."""

    def category_columns(self, rows: Tensor) -> Tensor:
        """What the step reads of a category beside its embedding, by its row: nothing. [...] int64 → [..., X]"""
        return rows.new_zeros((*rows.shape, 0), dtype=torch.float32)


class FoldedInterest(Interest):
    """An interest that is a state of constant size: where it starts, one step, and what a candidate reads of it.

    Training unrolls the step over a window; UIC folds by the same step (`mimn.nn.baselines.folded`). Its parts have
    names in `mimn.baselines.folded_blocks`; here they are behind one another, R values.
    """

    @abstractmethod
    def initial(self) -> Tensor:
        """The state of a user without events: [R]"""

    @abstractmethod
    def project(self, events: Tensor) -> Tensor:
        """The part of a step that depends on the event alone. [..., D + X] → [..., P]"""

    @abstractmethod
    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """The states after one event each; row b depends on row b alone. [B, P], [B, R] → [B, R]"""

    @abstractmethod
    def read(self, states: Tensor, candidates: Tensor) -> Features:
        """What candidates read of a state. [..., R], [..., C, D + X] → user [..., .], candidate [..., C, .] each"""

    def encode(self, events: Tensor) -> Tensor:
        """The states before, between and after the events. [B, T, D] → [B, T + 1, R]"""
        states = [self.initial().expand(len(events), -1)]
        for projected in self.project(events).unbind(1):
            states.append(self.step(projected, states[-1]))
        return torch.stack(states, 1)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """What each occasion reads of the state before it."""
        return self.read(states_at(window.encoded, occasions.positions), occasions.candidates)

    def compile_steps(self) -> None:
        """Compile the step."""
        self.step = compiled(self.step)  # type: ignore[method-assign]  # what torch.compile is for
