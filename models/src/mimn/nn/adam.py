"""Adam as TensorFlow 1 computes it, for variant `official`: epsilon is added outside the bias correction.

`torch.optim.Adam` corrects the second moment before it adds epsilon, which gives larger steps while moments are small.
Table rows that are not in a batch keep moving here, as they do there under dense gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class TensorFlowAdam(Optimizer):
    """lr_t = lr sqrt(1 - b2^t) / (1 - b1^t); p -= lr_t m / (sqrt(v) + eps)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a closure has no use here
        """Update every parameter that has a gradient by one step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
                state["step"] += 1
                t, m, v = state["step"], state["m"], state["v"]
                m.lerp_(parameter.grad, 1 - first)
                v.lerp_(parameter.grad.square(), 1 - second)
                rate: float = group["lr"] * sqrt(1 - second**t) / (1 - first**t)
                update: Tensor = m / (v.sqrt() + group["eps"])
                parameter.sub_(update, alpha=rate)
