"""DCN: explicit crosses of growing order beside a tower. Wang et al., ADKDD 2017 (v1) and WWW 2021 (v2).

v1's layers keep x_l = a_l x_0 + b_l with one number a_l a candidate, so a user's share of x_0 w is taken once a user.
v2's layers mix all coordinates; its first product is cut in two, the later ones are not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.nn.gru import glorot_
from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, SplitLinear, Tower, flat, linear

LAYERS = 3


class DcnHead(FieldHead):
    """x_{l+1} = x_0 (x_l^T w_l) + b_l + x_l;  logit = v^T x_L + tower(x_0)   (2017, eq. 3)"""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.shared = sizes.shared * sizes.dim
        width = self.shared + sizes.own * sizes.dim
        self.weights = nn.Parameter(torch.empty(width, LAYERS + 1))
        """[:, l] is w_l; the last column is v."""
        glorot_(self.weights, width, 1)
        self.biases = nn.Parameter(torch.zeros(LAYERS, width))
        self.tower = Tower(self.shared, width - self.shared, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        shared, own = flat(fields.shared), flat(fields.own)
        by_weight = (shared @ self.weights[: self.shared]).unsqueeze(-2) + own @ self.weights[self.shared :]
        # b_l = the biases so far; a_{l+1} = a_l + x_l w_l = a_l + a_l (x_0 w_l) + b_l w_l
        sums = torch.cat([torch.zeros_like(self.biases[:1]), self.biases.cumsum(0)])
        of_bias = (sums * self.weights.T).sum(-1)
        a = torch.ones_like(by_weight[..., 0])
        for layer in range(LAYERS):
            a = a + a * by_weight[..., layer] + of_bias[layer]
        logits: Tensor = a * by_weight[..., LAYERS] + of_bias[LAYERS] + self.tower(shared, own)
        return logits


class DcnV2Head(FieldHead):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l;  logit = v^T x_L + tower(x_0)   (2021, eq. 1, parallel form)"""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        shared, own = sizes.shared * sizes.dim, sizes.own * sizes.dim
        width = shared + own
        self.first = SplitLinear(shared, own, width)
        self.others = nn.ModuleList(linear(width, width) for _ in range(LAYERS - 1))
        self.last = linear(width, 1)
        self.tower = Tower(shared, own, sizes.units, sizes.dropout)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        shared, own = flat(fields.shared), flat(fields.own)
        x0 = torch.cat([shared.unsqueeze(-2).expand(-1, own.shape[1], -1), own], -1)
        x = x0 * self.first(shared, own) + x0
        for layer in self.others:
            x = x0 * layer(x) + x
        logits: Tensor = self.last(x).squeeze(-1) + self.tower(shared, own)
        return logits
