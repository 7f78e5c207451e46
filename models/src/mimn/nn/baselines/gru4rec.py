"""GRU4REC: the state of a GRU over the events. Hidasi et al., ICLR 2016, without its ranking loss."""

from __future__ import annotations

from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.interest import Features, FoldedInterest
from mimn.nn.baselines.recurrence import Recurrence


class Gru4Rec(FoldedInterest):
    """The GRU's state at each occasion."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.user_width = config.width
        self.gru = Recurrence(config.width, config.width, renewal=-1.0)

    def initial(self) -> Tensor:
        """Zero. → [D]"""
        return self.gru.bias.new_zeros(self.gru.units)

    def project(self, events: Tensor) -> Tensor:
        """[..., D] → [..., 3D]"""
        return self.gru.project(events)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, 3D], [B, D] → [B, D]"""
        return self.gru.step(projected, state)

    def read(self, states: Tensor, candidates: Tensor) -> Features:
        """→ user [D]"""
        return Features([states], [])
