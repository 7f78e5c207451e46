"""Embedding&MLP: the fields' vectors behind one another, through a tower."""

from __future__ import annotations

from torch import Tensor

from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, Tower, flat


class MlpHead(FieldHead):
    """logit = tower([e_1; …; e_F])"""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.tower = Tower(sizes.shared * sizes.dim, sizes.own * sizes.dim, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        logits: Tensor = self.tower(flat(fields.shared), flat(fields.own))
        return logits
