"""What a field head is: click logits from vectors of fields, all of width E.

Some fields are the user's and the request's (their profile, the context, what the state says of them), the others the
candidate's (its ids, its own fields, what the state says of it). A head computes what depends on the first alone once a
user and not once a candidate. Shapes: N users, C candidates each, A shared fields, B own ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimn.nn.gru import glorot_
from mimn.nn.vectorized import Dropout


class FieldInputs(NamedTuple):
    """The fields of N users and their candidates."""

    shared: Tensor
    """[N, A, E]"""
    own: Tensor
    """[N, C, B, E]"""
    shared_first: Tensor
    """[N]: sum of the shared fields' first-order weights."""
    own_first: Tensor
    """[N, C]"""


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Sizes that all heads share."""

    shared: int
    """A"""
    own: int
    """B"""
    dim: int
    """E"""
    units: tuple[int, ...] = (200, 80)
    """Hidden widths of the deep part."""
    dropout: float = 0.0

    @property
    def fields(self) -> int:
        """A + B"""
        return self.shared + self.own


class FieldHead(nn.Module, ABC):
    """A head over fields."""

    first_order = False
    """Whether it reads `shared_first` and `own_first`."""
    has_tower = True
    """Whether layers stand above the fields. Without any, the first-order terms alone set the level of the logits."""

    @abstractmethod
    def forward(self, fields: FieldInputs) -> Tensor:
        """The click logits. → [N, C]"""


class SplitLinear(nn.Module):
    """A linear layer over [shared ++ own] whose shared half is multiplied once a user."""

    def __init__(self, shared: int, own: int, out: int) -> None:
        super().__init__()
        self.by_shared = nn.Parameter(torch.empty(shared, out))
        self.by_own = nn.Parameter(torch.empty(own, out))
        self.bias = nn.Parameter(torch.zeros(out))
        for weight in (self.by_shared, self.by_own):
            glorot_(weight, shared + own, out)

    def forward(self, shared: Tensor, own: Tensor) -> Tensor:
        """[N, S], [N, C, O] → [N, C, out]"""
        return own @ self.by_own + (shared @ self.by_shared + self.bias).unsqueeze(-2)


class Tower(nn.Module):
    """ReLU layers over the concatenated fields, then one logit: the deep part of most heads."""

    def __init__(self, shared: int, own: int, units: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.first = SplitLinear(shared, own, units[0])
        self.rest = nn.ModuleList(linear(a, b) for a, b in zip(units, [*units[1:], 1], strict=True))
        self.dropout = Dropout(dropout)

    def forward(self, shared: Tensor, own: Tensor) -> Tensor:
        """[N, S], [N, C, O] → [N, C]"""
        hidden: Tensor = self.first(shared, own)
        for layer in self.rest:
            hidden = layer(self.dropout(torch.relu(hidden)))
        return hidden.squeeze(-1)


def linear(width: int, out: int) -> nn.Linear:
    """A linear layer with Glorot's uniform weights and zero bias."""
    layer = nn.Linear(width, out)
    glorot_(layer.weight, width, out)
    nn.init.zeros_(layer.bias)
    return layer


def flat(fields: Tensor) -> Tensor:
    """The fields' vectors behind one another. [..., F, E] → [..., F E]"""
    return fields.flatten(-2)


def bi_interaction(fields: FieldInputs) -> Tensor:
    """Half the square of the sum minus the sum of the squares: all pairs' products, summed (Rendle, ICDM 2010; NFM,
    eq. 4). The shared fields' two sums are taken once a user. → [N, C, E]"""
    total = fields.shared.sum(-2).unsqueeze(-2) + fields.own.sum(-2)
    squares = fields.shared.square().sum(-2).unsqueeze(-2) + fields.own.square().sum(-2)
    return 0.5 * (total.square() - squares)


def pair_products(fields: FieldInputs) -> Tensor:
    """The inner products of all pairs, summed: `bi_interaction` summed over E, in fewer operations. → [N, C]"""
    total = fields.shared.sum(-2).unsqueeze(-2) + fields.own.sum(-2)
    squares = flat(fields.shared).square().sum(-1, keepdim=True) + flat(fields.own).square().sum(-1)
    return 0.5 * (total.square().sum(-1) - squares)
