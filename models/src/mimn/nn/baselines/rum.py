"""RUM: a memory that the candidate attends to. Chen et al., WSDM 2018, in the form that MIMN's authors compare with.

Like MIMN without its additions: no slot keys, no re-balancing, no interest channels, a plain cosine.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn import addressing, official
from mimn.nn.baselines.attention import attention_unit
from mimn.nn.baselines.interest import Features, FoldedInterest
from mimn.nn.gru import Gru
from mimn.nn.head import linear
from mimn.nn.memory import read, write


class Rum(FoldedInterest):
    """The controller at each occasion, and for each candidate the memory slots' sum weighted by their scores.

    One step: h_t = GRU([x_t; r_{t-1}], h_{t-1}); a read and a write head, linear in h_t; r_t = w^r_t M_{t-1}; M_t by
    erase and add. A head's weights are softmax_i((softplus(strength) + 1) cos(k, M_i)). h_0 and r_0 are zero.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        D, H, m = config.width, config.units, config.slots
        self.sizes = [H, D, m * D]
        self.shape = (m, D)
        self.user_width, self.candidate_width = H, D
        self.controller = Gru(D, D, H)
        self.columns = [2 * D, 2, D, D]
        self.controls = linear(H, sum(self.columns))
        self.attention = attention_unit(config)
        # Almost zero, but not equal: slots that start equal would stay equal.
        self.initial_memory: Tensor
        self.register_buffer("initial_memory", torch.randn(m, D) * 1e-5)

    def initial(self) -> Tensor:
        """Controller, read vector and memory before any event. → [H + D + m * D]"""
        memory = self.initial_memory.flatten()
        return torch.cat([memory.new_zeros(sum(self.sizes[:2])), memory])

    def project(self, events: Tensor) -> Tensor:
        """[..., D] → [..., 3H]"""
        return self.controller.project(events)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, 3H], [B, H + D + m * D] → [B, H + D + m * D]"""
        controller, read_vector, flat = torch.split(state, self.sizes, -1)
        memory = torch.unflatten(flat, -1, self.shape)
        controller = self.controller.step(projected, read_vector, controller)
        keys, strengths, erase, add = torch.split(self.parameters_of(controller), self.columns, -1)
        keys = torch.unflatten(torch.tanh(keys), -1, (2, self.shape[1]))
        similarity = self.similarity(keys, memory)
        weights = torch.softmax((nn.functional.softplus(strengths).unsqueeze(-1) + 1.0) * similarity, -1)
        read_weights, write_weights = weights.unbind(-2)
        read_vector = read(memory, read_weights.unsqueeze(-2)).squeeze(-2)
        memory = write(memory, write_weights, torch.sigmoid(erase), torch.tanh(add))
        return torch.cat([controller, read_vector, memory.flatten(-2)], -1)

    def parameters_of(self, controller: Tensor) -> Tensor:
        """The parameters of the two heads: keys, strengths, erase and add. [B, H] → [B, 4D + 2]"""
        parameters: Tensor = self.controls(controller)
        return parameters

    def similarity(self, keys: Tensor, memory: Tensor) -> Tensor:
        """The cosine of each key and each slot. [B, 2, D], [B, m, D] → [B, 2, m]"""
        return addressing.direction(keys) @ addressing.direction(memory).transpose(-1, -2)

    def read(self, states: Tensor, candidates: Tensor) -> Features:
        """→ user [H], candidate [D]"""
        controller, _, memory = torch.split(states, self.sizes, -1)
        slots = torch.unflatten(memory, -1, self.shape)
        all_slots = torch.ones(self.shape[0], dtype=torch.bool, device=slots.device)
        return Features([controller], [self.attention(candidates, slots, all_slots)])


class OfficialRum(Rum):
    """RUM as MIMN's authors published it (UIC-Paper/MIMN, commit 5cd5ccf): the first read vector is learned, head
    parameters are clipped to ±20, the cosine has 1e-8 in its denominator, and the head layer starts as a truncated
    normal of standard deviation 1 / sqrt(H)."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        deviation = 1.0 / sqrt(config.units)
        nn.init.trunc_normal_(self.controls.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        self.initial_read = official.learned_read(config.width)

    def initial(self) -> Tensor:
        """As `Rum.initial`; read vector and memory pass through tanh."""
        controller = self.initial_read.new_zeros(self.sizes[0])
        return torch.cat([controller, torch.tanh(self.initial_read), torch.tanh(self.initial_memory).flatten()])

    def parameters_of(self, controller: Tensor) -> Tensor:
        """As `Rum.parameters_of`, clipped."""
        return super().parameters_of(controller).clamp(-official.CLIP, official.CLIP)

    def similarity(self, keys: Tensor, memory: Tensor) -> Tensor:
        """As `Rum.similarity`, with 1e-8 in the denominator."""
        return official.cosine(keys, memory)
