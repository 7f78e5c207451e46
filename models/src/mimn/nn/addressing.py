"""Read and write addressing: positive weights over the m memory slots that sum to 1.

Pure functions of tensors. Two forms of re-balancing exist for the write weights: the paper's weight transfer matrix and
the published code's shift and sharpen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-12
"""Floor for the sum of squares that a vector is divided by: the direction of a zero vector is zero and its gradient
finite. Far below the value of a blank memory slot (about 4e-9). A floor and not a summand, because the ONNX optimizer
treats a summand this small as zero and drops it."""
LOG_FLOOR = 1e-30
"""Smallest weight that sharpening distinguishes from zero; its logarithm and the logarithm's gradient are finite."""


def direction(x: Tensor) -> Tensor:
    """`x` [..., D] scaled to length 1; zero stays zero."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True).clamp_min(TINY))


def landmarks(memory: Tensor, slot_keys: Tensor) -> Tensor:
    """What a key is compared with: for each slot, the sum of the directions of its content and its learned static key.

    Content is not enough to keep the slots apart: after the first writes all slots are similar.

    memory [..., m, D], slot_keys [m, D] → [..., m, D]
    """
    return direction(memory) + direction(slot_keys)


def content_weights(key: Tensor, strength: Tensor, marks: Tensor) -> Tensor:
    """w_i = softmax_i(beta * (cos(k, K_i) + cos(k, M_i)) / 2) with beta = 2 * (softplus(strength) + 1).

    Args:
        key: [..., k, D], any scale.
        strength: [..., k, 1], before the softplus.
        marks: [..., m, D] from `landmarks`.

    Returns: [..., k, m], each row sums to 1.
    """
    similarity = direction(key) @ marks.transpose(-1, -2)
    return torch.softmax((nn.functional.softplus(strength) + 1.0) * similarity, -1)


def transfer(weights: Tensor, logits: Tensor) -> Tensor:
    """The paper's re-balancing (eq. 7): w P, where row i of P says where slot i's weight goes.

    weights [B, m], logits [B, m * m] → [B, m]; rows still sum to 1, because each row of P does.
    """
    m = weights.shape[-1]
    matrix = torch.softmax(logits.view(-1, m, m), -1)
    return (weights.unsqueeze(-2) @ matrix).squeeze(-2)


def shift_and_sharpen(weights: Tensor, shift: Tensor, gamma: Tensor) -> Tensor:
    """The published code's re-balancing: a circular shift by at most one slot, then a power, normalized.

    (q0 w_i + q1 w_{i-1} + q2 w_{i+1})^gamma / sum, computed in logarithms, because the power can underflow to 0/0.

    weights [B, m], shift [B, 3] summing to 1 (stay, from the slot before, from the slot after), gamma [B, 1] → [B, m]
    """
    stay, before, after = torch.split(shift, 1, -1)
    shifted = stay * weights + before * torch.roll(weights, 1, -1) + after * torch.roll(weights, -1, -1)
    return torch.softmax(gamma * torch.log(shifted.clamp_min(LOG_FLOOR)), -1)


def strongest(weights: Tensor) -> Tensor:
    """1 at the largest weight of each row (the first of equals), 0 elsewhere; no gradient. [..., m] → [..., m]"""
    first = weights.argmax(-1, keepdim=True)
    return (first == torch.arange(weights.shape[-1], device=weights.device)).to(weights.dtype)
