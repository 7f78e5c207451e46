"""Wide & Deep: a linear model over fields and crosses beside a tower. Cheng et al., DLRS 2016, eq. 3.

The wide part is the first-order weights; a cross (`kind = "cross"`) is a field like any other, whose weight is learned
for each pair of values.
"""

from __future__ import annotations

from torch import Tensor

from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, Tower, flat


class WideDeepHead(FieldHead):
    """logit = w x + tower([e_1; …; e_F])"""

    first_order = True

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.tower = Tower(sizes.shared * sizes.dim, sizes.own * sizes.dim, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        wide = fields.shared_first.unsqueeze(-1) + fields.own_first
        logits: Tensor = wide + self.tower(flat(fields.shared), flat(fields.own))
        return logits
