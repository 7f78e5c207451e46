"""MIMN's step in as few operations as possible, for `step.onnx`: the cell's equations in another arrangement.

UIC runs the step for a few users at a time, and for a hot user's events one by one. There the fixed cost of an
operation exceeds the cost of its arithmetic. So all products with the same input are one product, a slot is gathered by
index instead of multiplied by a one-hot vector, and the running means, adjacent in the state, are updated together.
Training uses the cell, whose form suits an unroll; export compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.nn import addressing
from mimn.nn.cell import MimnCell, running_mean
from mimn.nn.gru import Gru
from mimn.nn.memory import read, write


class FusedGru(nn.Module):
    """A `Gru` whose event, side input and state are multiplied as one vector."""

    def __init__(self, gru: Gru) -> None:
        super().__init__()
        gates, candidate = [2 * gru.units, gru.units], 2 * gru.units
        self.units = gru.units
        self.gates, self.candidate, self.gates_bias, self.candidate_bias = (
            nn.Parameter(value.detach().clone(), requires_grad=False)
            for value in (
                torch.cat([gru.event[:, :candidate], gru.side[:, :candidate], gru.gates]),
                torch.cat([gru.event[:, candidate:], gru.side[:, candidate:], gru.candidate]),
                *torch.split(gru.bias, gates),
            )
        )

    def forward(self, event: Tensor, side: Tensor, state: Tensor) -> Tensor:
        """The state after one event. [B, D], [B, D], [B, units] → [B, units]"""
        gates = torch.addmm(self.gates_bias, torch.cat([event, side, state], -1), self.gates)
        reset, keep = torch.sigmoid(gates).chunk(2, -1)
        inputs = torch.cat([event, side, reset * state], -1)
        candidate = torch.tanh(torch.addmm(self.candidate_bias, inputs, self.candidate))
        return candidate + keep * (state - candidate)


class FusedCell(nn.Module):
    """The step of a `MimnCell`, with its weights as they are now."""

    def __init__(self, cell: MimnCell) -> None:
        super().__init__()
        config, D = cell.config, cell.config.width
        self.config = config
        self.controller = FusedGru(cell.controller)
        columns = [2, 2 * D, D, D] + ([3, 1] if config.shifts else [])
        """Strengths, keys, add, erase (, shift, gamma): `ControlLayer`."""
        self.control_weights, self.control_biases = (
            nn.ParameterList(
                nn.Parameter(part.clone(), requires_grad=False) for part in torch.split(value, columns, -1)
            )
            for value in (cell.controls.weight.detach(), cell.controls.bias.detach())
        )
        self.marks: Tensor
        self.register_buffer("marks", addressing.direction(cell.keys()).detach().clone())
        if config.memory_induction:
            self.channel = FusedGru(cell.channel)
            self.places: Tensor
            """Row i: the place of slot i in the flat memory, or of its channel in the flat channels."""
            self.register_buffer("places", torch.arange(config.slots * D).view(config.slots, D))
        if config.transfers:
            self.transfer = cell.transfer

    def forward(self, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, D], [B, F] → [B, F]; row b depends only on row b."""
        config, D, m, slots = self.config, self.config.width, self.config.slots, self.config.slots * self.config.width
        means = m * config.utilization + 2 * D
        sizes = [config.controller_units, D, slots] + [slots] * config.memory_induction + [means, 1]
        controller, side, memory, *channels, mean, count = torch.split(state, sizes, -1)
        cubes = torch.unflatten(memory, -1, (m, D))
        shares = mean[:, :m] if config.utilization else None

        controller = self.controller(event, side, controller)
        inputs = controller if shares is None or not config.shifts else torch.cat([controller, shares], -1)
        strengths, keys, add, erase, *rebalance = (
            torch.addmm(bias, inputs, weight)
            for bias, weight in zip(self.control_biases, self.control_weights, strict=True)
        )
        keys, add, erase = torch.unflatten(torch.tanh(keys), -1, (2, D)), torch.tanh(add), torch.sigmoid(erase)
        if config.bounded_writes:
            add = add * erase
        sharpness = (nn.functional.softplus(strengths) + 1.0).unsqueeze(-1) / _length(keys)
        marks = cubes / _length(cubes) + self.marks
        reads, writes = torch.split(torch.softmax(sharpness * (keys @ marks.transpose(-1, -2)), -1), 1, -2)
        new = [controller, read(cubes, reads).squeeze(-2)]
        if config.transfers:
            matrix = torch.softmax(torch.unflatten(self.transfer(shares), -1, (m, m)), -1)
            writes = writes @ matrix
        written = writes.squeeze(-2)
        if config.shifts:
            shift, gamma = rebalance
            gamma = 4.0 * (nn.functional.softplus(gamma) + 1.0)
            written = addressing.shift_and_sharpen(written, torch.softmax(shift, -1), gamma)
        new.append(write(cubes, written, erase, add).flatten(-2))
        if config.memory_induction:
            place = self.places.index_select(0, reads.squeeze(-2).argmax(-1))
            channel = self.channel(event, memory.gather(-1, place), channels[0].gather(-1, place))
            new.append(channels[0].scatter(-1, place, channel))
        count = count + 1.0
        values = [written] * config.utilization + [add, event]
        return torch.cat([*new, running_mean(mean, torch.cat(values, -1), count), count], -1)


def _length(x: Tensor) -> Tensor:
    """The divisor of `addressing.direction`. [..., D] → [..., 1]"""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.clamp_min(addressing.TINY**0.5)
