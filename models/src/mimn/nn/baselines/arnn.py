"""ARNN: GRU4REC whose candidate also attends to all the GRU's states, the form that MIMN's authors compare with."""

from __future__ import annotations

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.attention import attention_unit, compile_scores
from mimn.nn.baselines.din import attend
from mimn.nn.baselines.gru4rec import Gru4Rec
from mimn.nn.baselines.interest import Features, Occasions, Window


class Arnn(Gru4Rec):
    """The GRU's state at each occasion, and for each candidate the sum of the states weighted by their scores."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.candidate_width = config.width
        self.attention = attention_unit(config)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ user [D], candidate [D]"""
        user, _ = super().forward(window, occasions)
        return Features(user, [attend(self.attention, window.encoded[:, 1:], occasions)])

    def compile_steps(self) -> None:
        """Compile the GRU's step and the attention."""
        super().compile_steps()
        compile_scores(self.attention)
