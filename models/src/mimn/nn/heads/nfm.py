"""NFM: a tower over the bi-interaction of all fields. He and Chua, SIGIR 2017, eq. 3 to 6."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, bi_interaction, linear
from mimn.nn.vectorized import Dropout


class NfmHead(FieldHead):
    """logit = w x + h^T relu(… relu(W_1 f_BI + b_1))"""

    first_order = True

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        widths = (sizes.dim, *sizes.units, 1)
        self.layers = nn.ModuleList(linear(a, b) for a, b in pairwise(widths))
        self.dropout = Dropout(sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        hidden = self.dropout(bi_interaction(fields))
        for layer in self.layers[:-1]:
            hidden = self.dropout(torch.relu(layer(hidden)))
        deep: Tensor = self.layers[-1](hidden).squeeze(-1)
        return fields.shared_first.unsqueeze(-1) + fields.own_first + deep
