"""MIMN's cell: one behavior event folded into a user's state. Training unrolls this module; `step.onnx` computes the
same in a fused form (`mimn.nn.fused`), and export compares the two.

Callers see a state as a flat vector [B, F]; inside it consists of named blocks (`cell_layout`). The module holds
nothing about a user: the state is passed in and returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mimn.config import MimnConfig, cell_layout
from mimn.nn import addressing
from mimn.nn.controls import ControlLayer
from mimn.nn.gru import Gru
from mimn.nn.memory import read, write
from mimn.state.layout import StateLayout

State = dict[str, Tensor]
"""The blocks of B states by name, each [B, *shape]."""


class Cell(nn.Module, ABC):
    """Base of all cells: a layout, an initial state, and a step from (event, state) to state."""

    def __init__(self, layout: StateLayout) -> None:
        super().__init__()
        self.layout = layout
        self._sizes = [block.size for block in layout.blocks]
        self.zero: Tensor
        """On the cell's device and of its type, even for a cell without weights."""
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def initial(self, batch: int) -> Tensor:
        """The state of users without events: [batch, F] float32, each row the same."""
        return self.pack({name: value.expand(batch, *value.shape) for name, value in self.initial_blocks().items()})

    def initial_blocks(self) -> State:
        """The initial blocks, without a batch axis: zero unless a cell overrides this."""
        return {block.name: self.zero.expand(block.shape) for block in self.layout.blocks}

    def unpack(self, state: Tensor) -> State:
        """The blocks of flat states [..., F], each [..., *shape], as views."""
        pieces = torch.split(state, self._sizes, -1)
        return {
            block.name: torch.unflatten(piece, -1, block.shape) if len(block.shape) > 1 else piece
            for block, piece in zip(self.layout.blocks, pieces, strict=True)
        }

    def pack(self, blocks: State) -> Tensor:
        """The flat states [..., F] of named blocks; the inverse of `unpack`."""
        return torch.cat([blocks[block.name].flatten(-len(block.shape)) for block in self.layout.blocks], -1)

    @abstractmethod
    def project(self, events: Tensor) -> Tensor:
        """The part of a step that depends only on the event. An unroll computes it for all steps at once.

        [..., D] → [..., P]
        """

    @abstractmethod
    def step(self, projected: Tensor, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, P], [B, D], [B, F] → [B, F]; row b depends only on row b."""

    def pad(self, stepped: Tensor, state: Tensor, real: Tensor) -> Tensor:
        """The states after a step: the new ones in rows with `real` ([B, 1] bool), the old ones in rows with
        padding."""
        return torch.where(real, stepped, state)

    def forward(self, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, D], [B, F] → [B, F]"""
        return self.step(self.project(event), event, state)


class MimnCell(Cell):
    """The paper's cell (variant `paper`). One step, in this order:

    1. controller    h_t = GRU([x_t; r_{t-1}], h_{t-1})
    2. controls      of one read and one write head, linear in h_t
    3. addressing    w^r_t and w^w_t over the slots of M_{t-1}
    4. re-balancing  w^w_t by the slots' utilization g_{t-1}
    5. reading       r_t = w^r_t M_{t-1}, before the write
    6. induction     the channel of the slot with the largest read weight takes in x_t and M_{t-1}(i)
    7. writing       M_t by erase and add; g_t = g_{t-1} + w^w_t: the re-balanced weights are what is counted

    The sums over all events (g_t, the add vectors, the event vectors) are stored as means, the only form in which they
    are read.
    """

    def __init__(self, config: MimnConfig) -> None:
        super().__init__(cell_layout(config))
        m, D, H = config.slots, config.width, config.controller_units
        self.config = config
        self.controller = Gru(D, D, H)
        self.controls = ControlLayer(config)
        self.slot_keys = nn.Parameter(torch.randn(m, D) * 0.5)
        limit = (6.0 / (1 + D)) ** 0.5
        self.initial_read = nn.Parameter(torch.empty(D).uniform_(-limit, limit))
        # Near zero, but with distinct directions; the same for all users and not trained.
        self.initial_memory: Tensor
        self.register_buffer("initial_memory", torch.randn(m, D) * 1e-5)
        if config.memory_induction:
            self.channel = Gru(D, D, D)
        if config.transfers:
            self.transfer = nn.Linear(m, m * m)
            nn.init.normal_(self.transfer.weight, std=0.1)
            # Near identity: with a uniform matrix all slots would get the same writes and stay the same forever.
            self.transfer.bias = nn.Parameter(4.0 * torch.eye(m).flatten())

    def initial_blocks(self) -> State:
        """Zero, except for a learned read vector and the blank memory."""
        blocks = super().initial_blocks()
        return blocks | {"read": torch.tanh(self.initial_read), "memory": torch.tanh(self.initial_memory)}

    def keys(self) -> Tensor:
        """The static key of each slot: [m, D]."""
        return torch.tanh(self.slot_keys)

    def shares(self, blocks: State) -> Tensor:
        """g / count: each slot's share of the writes so far, without a gradient. → [..., m]"""
        return blocks["shares"].detach()

    def project(self, events: Tensor) -> Tensor:
        """The event's products in the controller and in the channel GRU. [..., D] → [..., 3H (+ 3D)]"""
        projected = self.controller.project(events)
        if self.config.memory_induction:
            projected = torch.cat([projected, self.channel.project(events)], -1)
        return projected

    def step(self, projected: Tensor, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, 3H (+ 3D)], [B, D], [B, F] → [B, F]"""
        old = self.unpack(state)
        memory = old["memory"]
        H, D = self.config.controller_units, self.config.width
        to_controller, *to_channel = torch.split(projected, [3 * H] + [3 * D] * self.config.memory_induction, -1)
        new: State = {}

        new["controller"] = self.controller.step(to_controller, old["read"], old["controller"])
        shares = self.shares(old) if self.config.shifts or self.config.transfers else None
        controls = self.controls(new["controller"], shares if self.config.shifts else None)
        marks = addressing.landmarks(memory, self.keys())
        read_weights, write_weights = addressing.content_weights(controls.keys, controls.strengths, marks).unbind(-2)
        if self.config.transfers:
            write_weights = addressing.transfer(write_weights, self.transfer(shares))
        if self.config.shifts:
            write_weights = addressing.shift_and_sharpen(write_weights, controls.shift, controls.gamma)

        if self.config.memory_induction:
            selected = addressing.strongest(read_weights)
            new["read"], slot = read(memory, torch.stack([read_weights, selected], -2)).unbind(-2)
            channel = read(old["channels"], selected.unsqueeze(-2)).squeeze(-2)
            channel = self.channel.step(to_channel[0], slot.detach(), channel)
            new["channels"] = torch.where(selected.unsqueeze(-1) > 0, channel.unsqueeze(-2), old["channels"])
        else:
            new["read"] = read(memory, read_weights.unsqueeze(-2)).squeeze(-2)

        new["memory"] = write(memory, write_weights, controls.erase, controls.add)
        new["count"] = old["count"] + 1.0
        if self.config.utilization:
            new["shares"] = running_mean(old["shares"], write_weights, new["count"])
        new["add_mean"] = running_mean(old["add_mean"], controls.add, new["count"])
        new["history_mean"] = running_mean(old["history_mean"], event, new["count"])
        return self.pack(new)


class PoolingCell(Cell):
    """The baseline's cell (variant `pooling`): the mean and the count of the event vectors."""

    def __init__(self, config: MimnConfig) -> None:
        super().__init__(cell_layout(config))

    def project(self, events: Tensor) -> Tensor:
        """There is nothing to compute ahead. [..., D] → [..., 0]"""
        return events[..., :0]

    def step(self, projected: Tensor, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, 0], [B, D], [B, F] → [B, F]"""
        old = self.unpack(state)
        count = old["count"] + 1.0
        return self.pack({"history_mean": running_mean(old["history_mean"], event, count), "count": count})

    def states_at(self, events: Tensor, state: Tensor, positions: Tensor) -> Tensor:
        """The states after `positions` events each, as sums. [B, T, D], [B, F], [B, P] → [B, P, F]"""
        old = self.unpack(state)
        sums = nn.functional.pad(events.cumsum(1), (0, 0, 1, 0))
        added = sums[torch.arange(len(sums), device=sums.device).unsqueeze(-1), positions]
        count = old["count"].unsqueeze(1) + positions.unsqueeze(-1)
        mean = (added + (old["history_mean"] * old["count"]).unsqueeze(1)) / count.clamp_min(1.0)
        return self.pack({"history_mean": mean, "count": count})


class CountCell(Cell):
    """The cell of variant `ledger`: the count of events, which no weight and no vector changes."""

    def __init__(self, config: MimnConfig) -> None:
        super().__init__(cell_layout(config))

    def project(self, events: Tensor) -> Tensor:
        """There is nothing to compute ahead. [..., D] → [..., 0]"""
        return events[..., :0]

    def step(self, projected: Tensor, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, 0], [B, D], [B, 1] → [B, 1]"""
        return state + 1.0

    def states_at(self, events: Tensor, state: Tensor, positions: Tensor) -> Tensor:
        """The states after `positions` events each. [B, T, D], [B, 1], [B, P] → [B, P, 1]"""
        return state.unsqueeze(1) + positions.unsqueeze(-1)


def running_mean(mean: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """The mean of `count` values, given the last one (`value`) and the `mean` of the earlier ones. [..., W], [...,
    1]"""
    return mean + (value - mean) / count


def unroll(cell: Cell, events: Tensor, state: Tensor, real: Tensor | None = None) -> Tensor:
    """The states before, between and after the events.

    Args:
        events: [B, T, D].
        state: [B, F], where the histories start (`cell.initial(B)`, or the end of the window before).
        real: [B, T] bool, False where `events` is padding; None if there is no padding. None also works with padding at
            the end, as long as only states before the padding are used, and makes the steps cheaper.

    Returns: [B, T + 1, F]; entry n is the state after the first n events, so entry 0 is `state`.
    """
    states = [state]
    rows = [None] * events.shape[1] if real is None else real.unsqueeze(-1).unbind(1)
    for projected, event, row in zip(cell.project(events).unbind(1), events.unbind(1), rows, strict=True):
        stepped = cell.step(projected, event, states[-1])
        states.append(stepped if row is None else cell.pad(stepped, states[-1], row))
    return torch.stack(states, 1)


def states_at(states: Tensor, positions: Tensor) -> Tensor:
    """The states after `positions` events each. [B, T + 1, F], [B, P] int64 → [B, P, F]"""
    return states[torch.arange(len(states), device=states.device).unsqueeze(-1), positions]
