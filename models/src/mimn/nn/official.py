"""Variant `official`: the published code (UIC-Paper/MIMN, commit 5cd5ccf), bugs included, behind the same interface.

For comparison with the published tables, never for serving. Intended differences from the paper's cell:

* padding runs through the cell, or resets most of the state, but not the read vector, the utilization and the sums;
* the head sees one interest channel, the last step's; the others are zero for the head, but their states are kept;
* the regularized utilization is sharpened twice, the write only once;
* utilization is divided by 400 and sums are not divided, batch normalization is an affine map whose statistics are
  never trained, the click loss is half the usual one, and the utilization loss is divided by slots and batch twice.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mimn.config import MimnConfig, state_layout
from mimn.nn import addressing
from mimn.nn.auxiliary import UNITS
from mimn.nn.cell import Cell, State
from mimn.nn.gru import Gru
from mimn.nn.head import ChannelAttention, linear
from mimn.nn.memory import read, write
from mimn.nn.vectorized import prelu

CLIP = 20.0
LONGEST = 400.0
"""Divisor of the utilization, independent of the history's length."""
COSINE_EPSILON = 1e-8
TINY = 1e-24
"""Floor for a sum of squares under a root: the gradient of a zero vector's length is finite, and no value changes by
more than 1e-12."""
RESET = ("controller", "memory", "channels", "add_sum")
"""The blocks that padding resets."""


class OfficialCell(Cell):
    """One step of the published cell.

    The columns of its controls: for the read head, then for the write head, key D, strength 1, an unused one,
    shift 3, sharpening 1; then erase D and add D.
    """

    def __init__(self, config: MimnConfig) -> None:
        super().__init__(state_layout(config))
        m, D, H = config.slots, config.width, config.controller_units
        self.config = config
        self.controller = Gru(D, D, H)
        inputs = H + (m if config.utilization else 0)
        self.columns = [D, 1, 1, 3, 1, D, 1, 1, 3, 1, D, D]
        self.controls_weight = truncated_normal(inputs, sum(self.columns), 1 / sqrt(H))
        self.controls_bias = nn.Parameter(torch.zeros(sum(self.columns)))
        self.slot_keys = nn.Parameter(torch.randn(m, D) * 0.5)
        self.initial_read = learned_read(D)
        self.initial_memory: Tensor
        self.register_buffer("initial_memory", torch.randn(m, D) * 1e-5)
        if config.memory_induction:
            self.channel = Gru(D, D, D)
        self.output_weight = truncated_normal(H + D, H, 1 / sqrt(H + D))
        self.output_bias = nn.Parameter(torch.zeros(H))

    def initial_blocks(self) -> State:
        """Zero, except for a learned read vector and the blank memory."""
        blocks = super().initial_blocks()
        return blocks | {"read": torch.tanh(self.initial_read), "memory": torch.tanh(self.initial_memory)}

    def project(self, events: Tensor) -> Tensor:
        """The event's products in the controller and in the channel GRU. [..., D] → [..., 3H (+ 3D)]"""
        projected = self.controller.project(events)
        if self.config.memory_induction:
            projected = torch.cat([projected, self.channel.project(events)], -1)
        return projected

    def controls(self, controller: Tensor, utilization: Tensor) -> tuple[Tensor, ...]:
        """The columns of the parameter layer, split. [..., H], [..., m] → 12 tensors"""
        if self.config.utilization:
            share = (utilization / LONGEST).detach().expand(*controller.shape[:-1], -1)
            controller = torch.cat([controller, share], -1)
        columns = (controller @ self.controls_weight + self.controls_bias).clamp(-CLIP, CLIP)
        return torch.split(columns, self.columns, -1)

    def address(self, key: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
        """Content weights of one head. [..., k, D], [..., k, 1] (raw), [..., m, D] → [..., k, m]"""
        key = torch.tanh(key)
        beta = 2.0 * (nn.functional.softplus(strength) + 1.0)
        similarity = cosine(key, torch.tanh(self.slot_keys)) + cosine(key, memory)
        return torch.softmax(beta * 0.5 * similarity, -1)

    def output(self, controller: Tensor, read_vector: Tensor) -> Tensor:
        """o = clip([h; r] Wo + bo). [..., H], [..., D] → [..., H]"""
        return (torch.cat([controller, read_vector], -1) @ self.output_weight + self.output_bias).clamp(-CLIP, CLIP)

    def step(self, projected: Tensor, event: Tensor, state: Tensor) -> Tensor:
        """The states after one event each. [B, 3H (+ 3D)], [B, D], [B, F] → [B, F]"""
        config, old = self.config, self.unpack(state)
        memory = old["memory"]
        to_controller, *to_channel = torch.split(
            projected, [3 * config.controller_units] + [3 * config.width] * config.memory_induction, -1
        )
        h = self.controller.step(to_controller, old["read"], old["controller"])
        controls = self.controls(h, old["utilization"])
        read_key, read_strength = controls[:2]
        write_key, write_strength, _, shift, sharpening, erase, add = controls[5:]
        read_weights = self.address(read_key.unsqueeze(-2), read_strength.unsqueeze(-2), memory).squeeze(-2)
        write_weights = self.address(write_key.unsqueeze(-2), write_strength.unsqueeze(-2), memory).squeeze(-2)
        counted = write_weights
        if config.utilization:
            q, gamma = torch.softmax(shift, -1), 4.0 * (nn.functional.softplus(sharpening) + 1.0)
            write_weights = addressing.shift_and_sharpen(write_weights, q, gamma)
            counted = addressing.shift_and_sharpen(write_weights.detach(), q, gamma)

        new: State = {"controller": h, "read": read(memory, read_weights.unsqueeze(-2)).squeeze(-2)}
        if config.memory_induction:
            selected = addressing.strongest(read_weights)
            slot = read(memory, selected.unsqueeze(-2)).squeeze(-2).detach()
            channel = read(old["channels"], selected.unsqueeze(-2)).squeeze(-2)
            channel = self.channel.step(to_channel[0], slot, channel).unsqueeze(-2)
            here = selected.unsqueeze(-1) > 0
            new["channels"] = torch.where(here, channel, old["channels"])
            new["last_channel"] = torch.where(here, channel, torch.zeros_like(channel))
        add = torch.tanh(add)
        new["memory"] = write(memory, write_weights, torch.sigmoid(erase), add)
        new["utilization"] = old["utilization"] + counted
        new["add_sum"] = old["add_sum"] + write_weights.detach().unsqueeze(-1) * add.unsqueeze(-2)
        new["history_sum"] = old["history_sum"] + event
        new["output"] = self.output(h, new["read"])
        return self.pack(new)

    def pad(self, stepped: Tensor, state: Tensor, real: Tensor) -> Tensor:
        """The states after a step in which the rows without `real` were padding (a zero event)."""
        if self.config.padding == "run":
            return stepped
        start, after = self.unpack(self.initial(len(stepped))), self.unpack(stepped)
        reset = self.pack({name: start[name] if name in RESET else value for name, value in after.items()})
        return torch.where(real, stepped, reset)


class OfficialHead(nn.Module):
    """The published head."""

    def __init__(self, config: MimnConfig, cell: OfficialCell) -> None:
        super().__init__()
        D, H = config.width, config.controller_units
        self.config = config
        self._cell = [cell]
        if config.memory_induction:
            self.attention = ChannelAttention(D, config.attention_units)
        self.mlp = OfficialMlp(3 * D + H + (D if config.memory_induction else 0), config.head_units)

    def read_out(self, blocks: State, candidates: Tensor) -> Tensor:
        """The output of one more step of the cell, with the candidate as its event. [N, C, D] → [N, C, H]"""
        cell = self._cell[0]
        h = cell.controller.step(
            cell.controller.project(candidates), blocks["read"].unsqueeze(-2), blocks["controller"].unsqueeze(-2)
        )
        key, strength = cell.controls(h, blocks["utilization"].unsqueeze(-2))[:2]
        return cell.output(h, read(blocks["memory"], cell.address(key, strength, blocks["memory"])))

    def forward(self, states: Tensor, candidates: Tensor, context: Tensor | None = None) -> Tensor:
        """The difference of the two logits, click minus no click. [N, F], [N, C, D], None → [N, C]"""
        blocks = self._cell[0].unpack(states)
        history = blocks["history_sum"].unsqueeze(-2).expand_as(candidates)
        features = [candidates, history, self.read_out(blocks, candidates)]
        if self.config.memory_induction:
            features.append(self.attention(candidates, blocks["last_channel"]))
        features.append(blocks["add_sum"].mean(-2).unsqueeze(-2) * candidates)
        difference: Tensor = self.mlp(torch.cat(features, -1))
        return difference


class OfficialMlp(nn.Module):
    """The published layers above the features. Returns the difference of the two logits: the softmax of two logits is
    the sigmoid of their difference."""

    def __init__(self, width: int, units: tuple[int, int]) -> None:
        super().__init__()
        self.norm = NeverTrainedNorm(width)
        self.first = linear(width, units[0])
        self.second = linear(*units)
        self.third = linear(units[1], 2)
        self.first_slope, self.second_slope = (nn.PReLU(count, 0.1) for count in units)

    def forward(self, features: Tensor) -> Tensor:
        """Click minus no click. [..., W] → [...]"""
        hidden = prelu(self.first(self.norm(features)), self.first_slope.weight)
        hidden = prelu(self.second(hidden), self.second_slope.weight)
        click, no_click = self.third(hidden).unbind(-1)
        difference: Tensor = click - no_click
        return difference


class NeverTrainedNorm(nn.Module):
    """Batch normalization whose moving mean and variance stay 0 and 1: scale * x / sqrt(1.001) + shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] → [..., W]"""
        return x * (self.scale / sqrt(1.001)) + self.shift


class OfficialAuxiliaryNet(nn.Module):
    """The published auxiliary net: [o; e] → affine → 100 sigmoid → 50 sigmoid → 2, softmax."""

    def __init__(self, output_width: int, event_width: int) -> None:
        super().__init__()
        self.norm = NeverTrainedNorm(output_width + event_width)
        self.layers = nn.Sequential(
            linear(output_width + event_width, UNITS[0]),
            nn.Sigmoid(),
            linear(UNITS[0], UNITS[1]),
            nn.Sigmoid(),
            linear(UNITS[1], 2),
        )

    def forward(self, outputs: Tensor, events: Tensor) -> Tensor:
        """The probability that the event follows, plus 1e-6. [..., H], [..., D] → [...]"""
        logits = self.layers(self.norm(torch.cat([outputs, events], -1)))
        return torch.softmax(logits, -1)[..., 0] + 1e-6

    def loss(self, outputs: Tensor, events: Tensor, negatives: Tensor, real: Tensor) -> Tensor:
        """The mean over all steps, real or not; padding counts as 0.

        outputs [B, T, H]; events [B, T, D], one step later; negatives [B, T, D]; real [B, T] bool, of `events` → []
        """
        each = -torch.log(self(outputs, events)) - torch.log(1.0 - self(outputs, negatives))
        return (each * real).mean()


def click_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Half the mean log loss, because the mean runs over both classes. All [...] → []

    The published code has one occasion per row and no `weights`; windows need weights for empty places.
    """
    click, no_click = torch.sigmoid(logits) + 1e-8, torch.sigmoid(-logits) + 1e-8
    losses = -(labels * torch.log(click) + (1.0 - labels) * torch.log(no_click)) / 2.0
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum().clamp_min(1e-9)


def utilization_loss(utilization: Tensor) -> Tensor:
    """Mean over batch and slots of (g_i - mean g)^2, divided by slots and batch once more. [B, m] → []"""
    batch, m = utilization.shape
    return (utilization - utilization.mean(-1, keepdim=True)).square().mean() / m / batch


def cosine(keys: Tensor, slots: Tensor) -> Tensor:
    """k M_i / (|k| |M_i| + 1e-8). [..., k, D], [..., m, D] → [..., k, m]"""
    key_norm = (keys * keys).sum(-1, keepdim=True).clamp_min(TINY).sqrt()
    slot_norm = (slots * slots).sum(-1).clamp_min(TINY).sqrt().unsqueeze(-2)
    return keys @ slots.transpose(-1, -2) / (key_norm * slot_norm + COSINE_EPSILON)


def learned_read(width: int) -> nn.Parameter:
    """The read vector before any event, before its tanh; uniform within sqrt(6 / (1 + D)) at the start. → [D]"""
    limit = sqrt(6 / (1 + width))
    return nn.Parameter(torch.empty(width).uniform_(-limit, limit))


def truncated_normal(inputs: int, outputs: int, std: float) -> nn.Parameter:
    """A weight drawn from a normal distribution cut at two standard deviations."""
    weight = nn.Parameter(torch.empty(inputs, outputs))
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    return weight
