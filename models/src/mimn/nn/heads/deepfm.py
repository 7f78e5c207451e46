"""DeepFM: a factorization machine and a tower over the same vectors. Guo et al., IJCAI 2017, eq. 1 to 3."""

from __future__ import annotations

from torch import Tensor

from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, Tower, flat, pair_products


class DeepFmHead(FieldHead):
    """logit = w x + sum_{i<j} <e_i, e_j> + tower([e_1; …; e_F])"""

    first_order = True

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.tower = Tower(sizes.shared * sizes.dim, sizes.own * sizes.dim, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        machine = fields.shared_first.unsqueeze(-1) + fields.own_first + pair_products(fields)
        logits: Tensor = machine + self.tower(flat(fields.shared), flat(fields.own))
        return logits
