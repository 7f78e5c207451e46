"""Deep Crossing: residual units over the stacked fields. Shan et al., KDD 2016, section 4."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, SplitLinear, flat, linear
from mimn.nn.vectorized import Dropout


class DeepCrossingHead(FieldHead):
    """x_0 = [e_1; …; e_F];  x_{l+1} = relu(x_l + W_2 relu(W_1 x_l + b_1) + b_2);  logit = w x_L + b (eq. 3)

    One unit a hidden width. The first product of the first unit is cut in two, so that users pay for it once.
    """

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        shared, own = sizes.shared * sizes.dim, sizes.own * sizes.dim
        first, *others = sizes.units
        self.first = SplitLinear(shared, own, first)
        self.inner = nn.ModuleList(linear(shared + own, width) for width in others)
        self.outer = nn.ModuleList(linear(width, shared + own) for width in sizes.units)
        self.last = linear(shared + own, 1)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        shared, own = flat(fields.shared), flat(fields.own)
        x = torch.cat([shared.unsqueeze(-2).expand(-1, own.shape[1], -1), own], -1)
        hidden = self.first(shared, own)
        for at, outer in enumerate(self.outer):
            if at:
                hidden = self.inner[at - 1](x)
            x = torch.relu(x + outer(self.dropout(torch.relu(hidden))))
        logits: Tensor = self.last(x).squeeze(-1)
        return logits
