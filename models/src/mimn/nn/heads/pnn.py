"""PNN: a tower over the fields and their products. Qu et al., ICDM 2016, section III.

`inner`: the inner product of every pair of fields. `outer`: the outer product of the fields' sum with itself, which the
paper takes in place of all pairs' sum (eq. 12 and 13), E x E numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimn.nn.heads.afm import pairs
from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, Tower, flat


class InnerPnnHead(FieldHead):
    """logit = tower([e_1; …; e_F; <e_i, e_j> for i < j])"""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        A, B, E = sizes.shared, sizes.own, sizes.dim
        self.among_shared, self.among_own = pairs(A), pairs(B)
        of_user, of_candidate = len(self.among_shared[0]), A * B + len(self.among_own[0])
        self.tower = Tower(A * E + of_user, B * E + of_candidate, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        shared, own = fields.shared, fields.own
        first, second = self.among_shared
        of_user = (shared[:, first] * shared[:, second]).sum(-1)
        first, second = self.among_own
        mixed = own @ shared.unsqueeze(1).mT  # [N, C, B, A]
        among = (own[:, :, first] * own[:, :, second]).sum(-1)
        logits: Tensor = self.tower(
            torch.cat([flat(shared), of_user], -1), torch.cat([flat(own), flat(mixed), among], -1)
        )
        return logits


class OuterPnnHead(FieldHead):
    """logit = tower([e_1; …; e_F; s s^T]), s = sum of the e_i"""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        A, B, E = sizes.shared, sizes.own, sizes.dim
        self.tower = Tower(A * E, B * E + E * E, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        total = fields.shared.sum(-2).unsqueeze(-2) + fields.own.sum(-2)
        outer = flat(total.unsqueeze(-1) * total.unsqueeze(-2))
        logits: Tensor = self.tower(flat(fields.shared), torch.cat([flat(fields.own), outer], -1))
        return logits
