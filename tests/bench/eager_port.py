"""MIMN's encoder as one would first write it: the yardstick of the encoder's speed, and of its values.

Variant `paper` with transfer re-balancing and interest channels, one step after the other, every step from its inputs:
concatenations and one product a gate, every channel evaluated and the wrong ones masked. No trap of the framework is
stepped into on purpose: the time axis is unbound, not indexed, and no gradient is computed that nothing needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mimn.nn.cell import MimnCell


@dataclass
class _State:
    h: Tensor
    r: Tensor
    memory: Tensor
    channels: Tensor
    g: Tensor
    add_sum: Tensor
    history_sum: Tensor


class EagerPort(nn.Module):
    """The encoder with the weights of a `MimnCell`, in the layout that an eager port would give them."""

    read_strength: nn.Linear
    write_strength: nn.Linear
    read_key: nn.Linear
    write_key: nn.Linear
    add: nn.Linear
    erase: nn.Linear

    def __init__(self, cell: MimnCell) -> None:
        super().__init__()
        config = cell.config
        if not (config.memory_induction and config.transfers) or config.bounded_writes:
            raise ValueError("the port knows variant `paper` with transfer re-balancing and interest channels alone")
        self.cell, self.D, self.H = [cell], config.width, config.controller_units
        with torch.no_grad():
            controller = self._gru(cell.controller.event, cell.controller.side, cell.controller.gates)
            self.controller_gates = nn.Parameter(controller)
            self.controller_candidate = nn.Parameter(
                self._gru(cell.controller.event, cell.controller.side, cell.controller.candidate, candidate=True)
            )
            self.controller_bias = nn.Parameter(cell.controller.bias.clone())
            self.channel_gates = nn.Parameter(self._gru(cell.channel.event, cell.channel.side, cell.channel.gates))
            self.channel_candidate = nn.Parameter(
                self._gru(cell.channel.event, cell.channel.side, cell.channel.candidate, candidate=True)
            )
            self.channel_bias = nn.Parameter(cell.channel.bias.clone())
            D, weight, bias = self.D, cell.controls.weight, cell.controls.bias
            names = ("read_strength", "write_strength", "read_key", "write_key", "add", "erase")
            for name, w, b in zip(
                names,
                torch.split(weight, [1, 1, D, D, D, D], -1),
                torch.split(bias, [1, 1, D, D, D, D], -1),
                strict=True,
            ):
                layer = nn.Linear(self.H, w.shape[1])
                layer.weight.copy_(w.T)
                layer.bias.copy_(b)
                setattr(self, name, layer.to(weight.dtype))
            self.slot_keys = nn.Parameter(cell.slot_keys.clone())
            self.transfer = nn.Linear(config.slots, config.slots**2).to(weight.dtype)
            self.transfer.load_state_dict(cell.transfer.state_dict())
            self.initial_read = nn.Parameter(cell.initial_read.clone())

    @staticmethod
    def _gru(event: Tensor, side: Tensor, state: Tensor, *, candidate: bool = False) -> Tensor:
        units = event.shape[1] // 3
        columns = slice(2 * units, None) if candidate else slice(0, 2 * units)
        return torch.cat([event[:, columns], side[:, columns], state])

    def forward(self, events: Tensor) -> Tensor:
        """The last states, laid out as the cell's. [B, T, D] → [B, F]"""
        B, (m, D) = len(events), self.slot_keys.shape
        state = _State(
            h=events.new_zeros(B, self.H),
            r=torch.tanh(self.initial_read).expand(B, -1),
            memory=torch.tanh(self.cell[0].initial_memory).expand(B, -1, -1),
            channels=events.new_zeros(B, m, D),
            g=events.new_zeros(B, m),
            add_sum=events.new_zeros(B, D),
            history_sum=events.new_zeros(B, D),
        )
        for t, x in enumerate(events.unbind(1)):
            state = self.step(x, state, t)
        T = events.shape[1]
        return self.cell[0].pack(
            {
                "controller": state.h,
                "read": state.r,
                "memory": state.memory,
                "channels": state.channels,
                "shares": state.g / T,
                "add_mean": state.add_sum / T,
                "history_mean": state.history_sum / T,
                "count": events.new_full((B, 1), T),
            }
        )

    def step(self, x: Tensor, old: _State, t: int) -> _State:
        """One event into each of B states. [B, D]"""
        h = _gru_step(
            torch.cat([x, old.r], -1), old.h, self.controller_gates, self.controller_candidate, self.controller_bias
        )
        read_weights = self.address(torch.tanh(self.read_key(h)), self.read_strength(h), old.memory)
        write_weights = self.address(torch.tanh(self.write_key(h)), self.write_strength(h), old.memory)
        m = write_weights.shape[-1]
        matrix = torch.softmax(self.transfer(old.g.detach() / max(t, 1)).view(-1, m, m), -1)
        write_weights = torch.bmm(write_weights.unsqueeze(1), matrix).squeeze(1)
        r = (read_weights.unsqueeze(-1) * old.memory).sum(1)
        chosen = nn.functional.one_hot(read_weights.argmax(-1), m).to(x.dtype).unsqueeze(-1)
        inputs = torch.cat([x.unsqueeze(1).expand(-1, m, -1), old.memory.detach()], -1)
        stepped = _gru_step(inputs, old.channels, self.channel_gates, self.channel_candidate, self.channel_bias)
        channels = chosen * stepped + (1 - chosen) * old.channels
        erase, add = torch.sigmoid(self.erase(h)), torch.tanh(self.add(h))
        memory = old.memory * (1 - write_weights.unsqueeze(-1) * erase.unsqueeze(1))
        memory = memory + write_weights.unsqueeze(-1) * add.unsqueeze(1)
        return _State(h, r, memory, channels, old.g + write_weights, old.add_sum + add, old.history_sum + x)

    def address(self, key: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
        """Content weights of one head. [B, D], [B, 1], [B, m, D] → [B, m]"""
        beta = 2 * (nn.functional.softplus(strength) + 1)
        static = _cosine(key.unsqueeze(1), torch.tanh(self.slot_keys).unsqueeze(0))
        return torch.softmax(beta * (static + _cosine(key.unsqueeze(1), memory)) / 2, -1)


def _gru_step(inputs: Tensor, state: Tensor, gates: Tensor, candidate: Tensor, bias: Tensor) -> Tensor:
    units = state.shape[-1]
    reset, keep = torch.sigmoid(torch.cat([inputs, state], -1) @ gates + bias[: 2 * units]).chunk(2, -1)
    proposed = torch.tanh(torch.cat([inputs, reset * state], -1) @ candidate + bias[2 * units :])
    return keep * state + (1 - keep) * proposed


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    similarity: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return similarity
