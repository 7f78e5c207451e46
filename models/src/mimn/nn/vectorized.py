"""PReLU and dropout in operations that torch computes with vector instructions on a processor.

Torch chooses by booleans (`where`, and the gradient of `prelu`) one value at a time, and draws a number of 64 bits for
each value that dropout may drop: a fifth of the time of a training (decision 202).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where positive, slope * x elsewhere; one slope per unit. [..., U], [U] → [..., U]"""
    if x.requires_grad:
        y: Tensor = _Prelu.apply(x, slope)  # type: ignore[no-untyped-call]  # torch has no types for it
        return y
    return x.relu() - slope * (-x).relu()


class _Prelu(torch.autograd.Function):
    """`prelu` with a gradient that makes no booleans."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        """As `prelu`."""
        ctx.save_for_backward(x, slope)
        return functional.prelu(x.reshape(-1, x.shape[-1]), slope).view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of x and of the slopes. [..., U] → [..., U], [U]"""
        x, slope = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradient, x, 0.0)
        below = gradient - above
        return torch.addcmul(above, below, slope), (below * x).flatten(0, -2).sum(0)


class Dropout(nn.Module):
    """Drops each value with probability `p` and divides the others by 1 - p; does nothing outside of training.

    On a processor four values share a random number of 64 bits, so `p` is rounded to 16 bits. What the others are
    divided by is rounded alike: a value keeps its mean.
    """

    def __init__(self, p: float) -> None:
        """`p` is at least 0 and below 1."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[...] → [...]"""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        dropped = min(max(round(self.p * 2**16), 1), 2**16 - 1)
        last = dropped - 2**15 - 1  # the largest number of 16 bits, with a sign, that drops a value
        drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = drawn[: x.numel()].clamp_(last, last + 1).view(x.shape).to(x.dtype).sub_(last)
        return x * kept.div_(1 - dropped / 2**16)
