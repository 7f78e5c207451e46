"""RUM: a memory that the candidate attends to. Chen et al., WSDM 2018, in the form that MIMN's authors compare with.

MIMN without what MIMN adds: no slot keys, no re-balancing, no interest channels, a plain cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn import addressing
from mimn.nn.baselines.attention import attention_unit
from mimn.nn.baselines.interest import Features, Interest, Occasions, Window
from mimn.nn.cell import states_at
from mimn.nn.compilation import compiled
from mimn.nn.gru import Gru
from mimn.nn.head import linear
from mimn.nn.memory import read, write


class Rum(Interest):
    """The controller at each occasion, and for each candidate the memory slots' sum weighted by how well each fits.

    One step: h_t = GRU([x_t; r_{t-1}], h_{t-1}); a read and a write head, linear in h_t; r_t = w^r_t M_{t-1}; M_t by
    erase and add. A head's weights are softmax_i((softplus(strength) + 1) cos(k, M_i)).
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
        # Blank in size but not in direction: equal slots would stay equal.
        self.initial_memory: Tensor
        self.register_buffer("initial_memory", torch.randn(m, D) * 1e-5)

    def encode(self, events: Tensor) -> Tensor:
        """Controller, read vector and memory after each event. [B, T, D] → [B, T + 1, H + D + m * D]"""
        start = events.new_zeros(len(events), sum(self.sizes[:2]))
        states = [torch.cat([start, self.initial_memory.flatten().expand(len(events), -1)], -1)]
        for projected in self.controller.project(events).unbind(1):
            states.append(self.step(projected, states[-1]))
        return torch.stack(states, 1)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, 3H], [B, H + D + m * D] → [B, H + D + m * D]"""
        controller, read_vector, flat = torch.split(state, self.sizes, -1)
        memory = torch.unflatten(flat, -1, self.shape)
        controller = self.controller.step(projected, read_vector, controller)
        keys, strengths, erase, add = torch.split(self.controls(controller), self.columns, -1)
        keys = torch.unflatten(torch.tanh(keys), -1, (2, self.shape[1]))
        similarity = addressing.direction(keys) @ addressing.direction(memory).transpose(-1, -2)
        weights = torch.softmax((nn.functional.softplus(strengths).unsqueeze(-1) + 1.0) * similarity, -1)
        read_weights, write_weights = weights.unbind(-2)
        read_vector = read(memory, read_weights.unsqueeze(-2)).squeeze(-2)
        memory = write(memory, write_weights, torch.sigmoid(erase), torch.tanh(add))
        return torch.cat([controller, read_vector, memory.flatten(-2)], -1)

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ user [H], candidate [D]"""
        controller, _, memory = torch.split(states_at(window.encoded, occasions.positions), self.sizes, -1)
        slots = torch.unflatten(memory, -1, self.shape)
        all_slots = torch.ones(self.shape[0], dtype=torch.bool, device=slots.device)
        return Features([controller], [self.attention(occasions.candidates, slots, all_slots)])

    def compile_steps(self) -> None:
        """Compile the step."""
        self.step = compiled(self.step)  # type: ignore[method-assign]  # what torch.compile is for
