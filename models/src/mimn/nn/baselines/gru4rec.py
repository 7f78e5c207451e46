"""GRU4REC: the state of a GRU over the events. Hidasi et al., ICLR 2016, without its ranking loss."""

from __future__ import annotations

from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window
from mimn.nn.baselines.recurrence import Recurrence
from mimn.nn.cell import states_at


class Gru4Rec(Interest):
    """The GRU's state at each occasion."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.user_width = config.width
        self.gru = Recurrence(config.width, config.width, renewal=-1.0)

    def encode(self, events: Tensor) -> Tensor:
        """[B, T, D] → [B, T + 1, D]"""
        states: Tensor = self.gru(events)
        return states

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ user [D]"""
        return Features([states_at(window.encoded, occasions.positions)], [])

    def compile_steps(self) -> None:
        """Compile the GRU's step."""
        self.gru.compile_steps()
