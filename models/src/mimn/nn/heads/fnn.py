"""FNN: a tower over a factorization machine's weights and vectors. Zhang, Du and Wang, ECIR 2016, section 3.

Its first layer is what a factorization machine learned before: each field gives its first-order weight and its vector
(eq. 4). `FactorizationMachine` is that model; training it first and keeping its tables is FNN's pre-training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, Tower, flat, pair_products


class FactorizationMachine(FieldHead):
    """logit = w x + sum_{i<j} <e_i, e_j>   (Rendle, ICDM 2010)"""

    first_order = True
    has_tower = False

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        return fields.shared_first.unsqueeze(-1) + fields.own_first + pair_products(fields)


class FnnHead(FieldHead):
    """logit = tower([w; e_1; …; e_F]), the first-order weights summed by the user's and by the candidate's fields"""

    first_order = True

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.tower = Tower(sizes.shared * sizes.dim + 1, sizes.own * sizes.dim + 1, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        shared = torch.cat([fields.shared_first.unsqueeze(-1), flat(fields.shared)], -1)
        own = torch.cat([fields.own_first.unsqueeze(-1), flat(fields.own)], -1)
        logits: Tensor = self.tower(shared, own)
        return logits
