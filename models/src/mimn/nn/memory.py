"""Reading from and writing to the memory slots: pure functions of tensors (NTM, sections 3.1 and 3.2)."""

from __future__ import annotations

from torch import Tensor


def read(memory: Tensor, weights: Tensor) -> Tensor:
    """r = sum_i w_i M_i for each of k rows of weights. [..., m, D], [..., k, m] → [..., k, D]"""
    return weights @ memory


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory after one write head has erased and added.

    M'_i = M_i * (1 - w_i e) + w_i a, computed as M_i + w_i (a - e M_i).

    Args:
        memory: [B, m, D], slots before the write.
        weights: [B, m], non-negative, each row sums to 1.
        erase: [B, D] in [0, 1].
        add: [B, D].

    Returns: [B, m, D]. The argument is not modified.
    """
    return memory + weights.unsqueeze(-1) * (add.unsqueeze(-2) - erase.unsqueeze(-2) * memory)
