"""AFM: pairs of fields weighed by attention. Xiao et al., IJCAI 2017, eq. 4 to 7.

The pairs among a user's own fields, and their attention, are computed once a user; the softmax is over all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.nn.gru import glorot_
from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, linear
from mimn.nn.vectorized import Dropout


class AfmHead(FieldHead):
    """logit = w x + p^T sum_{i<j} a_ij (e_i * e_j),  a = softmax(h^T relu(W (e_i * e_j) + b))"""

    first_order = True
    has_tower = False

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        self.attention = linear(sizes.dim, sizes.units[-1])
        self.h = nn.Parameter(torch.empty(sizes.units[-1], 1))
        self.p = nn.Parameter(torch.empty(sizes.dim, 1))
        for weight in (self.h, self.p):
            glorot_(weight, len(weight), 1)
        self.dropout = Dropout(sizes.dropout)
        self.among_shared = pairs(sizes.shared)
        self.among_own = pairs(sizes.own)

    def forward(self, fields: FieldInputs) -> Tensor:
        """→ [N, C]"""
        shared, own = fields.shared, fields.own
        first, second = self.among_shared
        of_user = shared[:, first] * shared[:, second]
        first, second = self.among_own
        mixed = shared.unsqueeze(1).unsqueeze(-2) * own.unsqueeze(2)
        of_candidate = torch.cat([mixed.flatten(2, 3), own[:, :, first] * own[:, :, second]], 2)
        by_user, by_candidate = self._scores(of_user), self._scores(of_candidate)
        scores = torch.cat([by_user.unsqueeze(1).expand(-1, own.shape[1], -1), by_candidate], -1)
        weights = self.dropout(torch.softmax(scores, -1))
        n = len(self.among_shared[0])
        pooled = weights[..., :n] @ of_user + (weights[..., n:].unsqueeze(-2) @ of_candidate).squeeze(-2)
        crossed: Tensor = (pooled @ self.p).squeeze(-1)
        return fields.shared_first.unsqueeze(-1) + fields.own_first + crossed

    def _scores(self, products: Tensor) -> Tensor:
        scores: Tensor = (torch.relu(self.attention(products)) @ self.h).squeeze(-1)
        return scores


def pairs(n: int) -> tuple[list[int], list[int]]:
    """All i < j below n."""
    both = [(i, j) for i in range(n) for j in range(i + 1, n)]
    return [i for i, _ in both], [j for _, j in both]
