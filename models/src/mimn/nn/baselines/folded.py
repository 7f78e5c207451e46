"""A baseline whose interest is a state, as services use it: a cell that folds one event, and a head over its state.

Both are views of a trained `BaselineModel` and share its weights and its code above the read-out. With them `step.onnx`
and `head.onnx` are made, checked and served as MIMN's are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig, folded_blocks, step_layout
from mimn.nn.baselines.interest import FoldedInterest
from mimn.nn.baselines.readout import ReadOut
from mimn.nn.cell import Cell, State, running_mean


class FoldedCell(Cell):
    """The interest's state, and the mean and the count of the events."""

    def __init__(self, config: BaselineConfig, interest: FoldedInterest) -> None:
        super().__init__(step_layout(config))
        self.config, self.interest = config, interest
        self._recurrent = sum(block.size for block in folded_blocks(config))

    def initial_blocks(self) -> State:
        """The interest's start; mean and count are zero."""
        start, at = self.interest.initial(), 0
        blocks = super().initial_blocks()
        for block in folded_blocks(self.config):
            blocks[block.name] = start[at : at + block.size].view(block.shape)
            at += block.size
        return blocks

    def project(self, events: Tensor) -> Tensor:
        """The interest's part of a step that depends on the event alone. [..., D + X] → [..., P]"""
        return self.interest.project(events)

    def step(self, projected: Tensor, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, P], [B, D + X], [B, F] → [B, F]"""
        recurrent, mean, count = self.parts(state)
        count = count + 1.0
        mean = running_mean(mean, event[..., : self.config.width], count)
        return torch.cat([self.interest.step(projected, recurrent), mean, count], -1)

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The interest's state, the mean and the count. [..., F] → [..., R], [..., D], [..., 1]"""
        recurrent, mean, count = torch.split(state, [self._recurrent, self.config.width, 1], -1)
        return recurrent, mean, count


class FoldedHead(nn.Module):
    """What the candidates read of the state, and the layers above."""

    def __init__(self, cell: FoldedCell, readout: ReadOut) -> None:
        super().__init__()
        self.cell, self.readout = cell, readout

    def forward(
        self,
        states: Tensor,
        candidates: Tensor,
        context: Tensor | None = None,
        counts: Tensor | None = None,
        item_fields: Tensor | None = None,
        *,
        reads: Tensor | None = None,
    ) -> Tensor:
        """The click logits; as `MimnHead.forward`, of candidates [N, C, D + X]. → [N, C]"""
        recurrent, mean, count = self.cell.parts(states)
        logits: Tensor = self.readout(
            candidates[..., : self.cell.config.width],
            {"history_mean": mean, "count": count},
            self.cell.interest.read(recurrent, candidates),
            context,
            counts,
            item_fields,
            reads=reads,
        )
        return logits
