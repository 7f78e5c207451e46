"""The controller's signals to the heads at one step: one linear layer, its columns split into named signals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimn.config import MimnConfig


class Controls(NamedTuple):
    """The control signals of one read head and one write head, B rows."""

    strengths: Tensor
    """[B, 2, 1], read and write, before the softplus (beta)."""
    keys: Tensor
    """[B, 2, D] in (-1, 1), read and write (k)."""
    add: Tensor
    """[B, D] in (-1, 1) (a); with `bounded_writes` already multiplied by the erase gate."""
    erase: Tensor
    """[B, D] in (0, 1) (e)."""
    shift: Tensor | None
    """[B, 3] summing to 1, with rebalance `shift` only."""
    gamma: Tensor | None
    """[B, 1] above 4, the sharpening, with rebalance `shift` only."""


class ControlLayer(nn.Module):
    """The layer from the controller to the control signals.

    Columns: strength of read and write head, key of read and write head, add, erase (, shift, gamma). With rebalance
    `shift` the layer also sees each slot's share of the past writes, without a gradient.
    """

    def __init__(self, config: MimnConfig) -> None:
        super().__init__()
        D = config.width
        self.width = D
        self.shifts = config.shifts
        self.bounded = config.bounded_writes
        self.sizes = [2, 3 * D, D] + ([3, 1] if self.shifts else [])
        inputs = config.controller_units + (config.slots if self.shifts else 0)
        self.weight = nn.Parameter(torch.empty(inputs, sum(self.sizes)))
        self.bias = nn.Parameter(torch.zeros(sum(self.sizes)))
        std = config.controller_units**-0.5
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, controller: Tensor, shares: Tensor | None) -> Controls:
        """The control signals. [B, H], [B, m] (None unless rebalance is `shift`) → `Controls`"""
        columns = torch.addmm(self.bias, self._inputs(controller, shares), self.weight)
        strengths, tanh, erase, *rebalance = torch.split(columns, self.sizes, -1)
        keys, add = torch.split(torch.tanh(tanh), [2 * self.width, self.width], -1)
        erase = torch.sigmoid(erase)
        shift, gamma = rebalance if self.shifts else (None, None)
        return Controls(
            strengths=strengths.unsqueeze(-1),
            keys=torch.unflatten(keys, -1, (2, self.width)),
            add=add * erase if self.bounded else add,
            erase=erase,
            shift=None if shift is None else torch.softmax(shift, -1),
            gamma=None if gamma is None else 4.0 * (nn.functional.softplus(gamma) + 1.0),
        )

    def read_head(self, controller: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor]:
        """Only the read head's strength and key. [..., H], [..., m] → [..., 1], [..., D]"""
        columns = [0, *range(2, 2 + self.width)]
        own = self._inputs(controller, shares) @ self.weight[:, columns] + self.bias[columns]
        strength, key = torch.split(own, [1, self.width], -1)
        return strength, torch.tanh(key)

    def _inputs(self, controller: Tensor, shares: Tensor | None) -> Tensor:
        if shares is None:
            return controller
        return torch.cat([controller, shares.expand(*controller.shape[:-1], -1)], -1)
