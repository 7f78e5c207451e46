"""Slots addressed by a hash: each event updates its category's slot, and a candidate reads its own category's slot.

A GRU whose state consists of m small states. Where to write need not be learned, and only the categories that share a
slot can overwrite it. Served vectors have the number of their slot as a last column, so a step needs no category.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.interest import Features, FoldedInterest, Occasions, Window
from mimn.nn.baselines.recurrence import Recurrence
from mimn.nn.head import linear


class Hashed(FoldedInterest):
    """The slot of the candidate's category, and its similarity to the candidate, element by element.

    A category in row r of its table has slot r % m, as in a sketch.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.shape = (config.slots, config.units)
        self.candidate_width = 2 * config.units
        self.gru = Recurrence(config.width, config.units, renewal=-1.0)
        self.likeness = linear(config.width, config.units)

    def initial(self) -> Tensor:
        """Unwritten slots. → [m * H]"""
        return self.gru.bias.new_zeros(self.config.slots * self.config.units)

    def category_columns(self, rows: Tensor) -> Tensor:
        """The slot. [...] int64 → [..., 1]"""
        return (rows % self.config.slots).to(torch.float32).unsqueeze(-1)

    def project(self, events: Tensor) -> Tensor:
        """The GRU's products, and the slot. [..., D + 1] → [..., 3H + 1]"""
        vectors, slot = events[..., :-1], events[..., -1:]
        return torch.cat([self.gru.project(vectors), slot], -1)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, 3H + 1], [B, m * H] → [B, m * H]"""
        slots, mine = torch.unflatten(state, -1, self.shape), self.is_slot(projected[..., -1:])
        old = (mine.unsqueeze(-1) * slots).sum(-2)
        new = self.gru.step(projected[..., :-1], old)
        return torch.where(mine.unsqueeze(-1) > 0, new.unsqueeze(-2), slots).flatten(-2)

    def read(self, states: Tensor, candidates: Tensor) -> Features:
        """→ candidate [H], [H]"""
        slots = self.is_slot(candidates[..., -1:]) @ torch.unflatten(states, -1, self.shape)
        return Features([], [slots, slots * self.likeness(candidates[..., :-1])])

    def is_slot(self, slot: Tensor) -> Tensor:
        """1 for the slot, 0 for the others. [..., 1] → [..., m]"""
        return (slot == torch.arange(self.shape[0], device=slot.device)).to(slot.dtype)

    def encode(self, events: Tensor) -> Tensor:
        """The events: the chains below advance far faster than all states together."""
        return events

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """→ candidate [H], [H]"""
        m, T = self.config.slots, window.events.shape[1]
        written = window.categories % m
        # Row 0 is an unwritten slot; row 1 + b T + t is the slot after event t of window b.
        states = torch.cat([window.events.new_zeros(1, self.config.units), self.chains(window.events, written)])
        same = written[:, None, None] == (occasions.categories % m).unsqueeze(-1)
        steps = torch.arange(1, T + 1, device=written.device)
        latest = torch.where(same & occasions.before(T).unsqueeze(-2), steps, 0).amax(-1)
        first = T * torch.arange(len(written), device=written.device).view(-1, 1, 1)
        slots = states[torch.where(latest > 0, latest + first, 0)]
        return Features([], [slots, slots * self.likeness(occasions.candidates)])

    def chains(self, events: Tensor, written: Tensor) -> Tensor:
        """The slot after each event. [B, T, D], [B, T] int64, the slots → [B T, H]

        The events of one slot form a chain; all chains of all windows advance together, longest first, so
        the unfinished chains are always the first ones.
        """
        B, m = len(written), self.config.slots
        chain = (written + m * torch.arange(B, device=written.device).unsqueeze(-1)).flatten()
        lengths = torch.bincount(chain, minlength=B * m)
        by_chain = torch.argsort(chain, stable=True)
        starts = (lengths.cumsum(0) - lengths)[torch.argsort(lengths, descending=True, stable=True)]
        going = (lengths.unsqueeze(-1) > torch.arange(int(lengths.max()), device=written.device)).sum(0).tolist()
        projected = self.gru.project(events.flatten(0, 1))
        state = events.new_zeros(going[0], self.config.units)
        states, order = [], []
        for step, count in enumerate(going):
            order.append(by_chain[starts[:count] + step])
            state = self.gru.step(projected[order[-1]], state[:count])
            states.append(state)
        return torch.cat(states)[torch.argsort(torch.cat(order))]
