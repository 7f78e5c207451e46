"""The head for serving: the same numbers as `MimnHead` for one user, with fewer products.

A head is linear between its activations. So everything that depends only on the user's state is multiplied into the
weights once per request, and constants are multiplied out once per export. Per candidate this remains:

* the attention's first product q (W1 + W3) + (q * f_k) W4 is q A_k, with A_k = (W1 + W3) + diag(f_k) W4 for the m
  channels side by side: one product instead of m, and no q * f_k;
* the first layer above the features, without computing the features. Candidate times a mean is a diagonal on the
  weights; the read-out and the channels' sum are weights [C, m] over m vectors, so the m vectors go through the layer
  and the weights are applied afterwards; batch normalization in evaluation mode is a scale and a shift.

Training needs the features (batch statistics, dropout), so this is a separate module. Export makes it from a trained
head, and parity compares it with that head and with the equations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import prelu, softplus

from mimn.nn import addressing
from mimn.nn.fields import FieldVectors
from mimn.nn.head import BatchNorm, FieldHeadTop, MimnHead, MlpTop, user_features, user_pieces


class ServingReads(nn.Module):
    """What `MimnHead` reads of one user's state for each candidate, with fewer products."""

    attend: Tensor
    """The attention's first layer of the candidate [D, A],"""
    attend_product: Tensor
    """of candidate times channel [D, A],"""
    attend_channel: Tensor
    """of the channel [D, A],"""
    attend_bias: Tensor
    """[A]"""
    attend_second: nn.Linear
    attend_third: nn.Linear

    def __init__(self, head: MimnHead) -> None:
        super().__init__()
        self.config, self.cell = head.config, head.mimn_cell
        if self.config.memory_induction:
            with torch.no_grad():
                q_weight, f_weight, difference, product = head.attention.first.unbind(0)
                keep(self, "attend", q_weight + difference)
                keep(self, "attend_product", product)
                keep(self, "attend_channel", f_weight - difference)
                keep(self, "attend_bias", head.attention.first_bias)
            self.attend_second, self.attend_third = head.attention.second, head.attention.third

    def controller(self, q: Tensor, state: Tensor) -> Tensor:
        """The controller as if each candidate were the next event. [C, D], [1, F] → [C, H]"""
        gru, blocks = self.cell.controller, self.cell.unpack(state)
        side, h = blocks["read"], blocks["controller"]
        units = gru.units
        to_gates, to_candidate = gru.event[:, : 2 * units], gru.event[:, 2 * units :]
        of_user = side @ gru.side + gru.bias
        gates = torch.addmm(torch.addmm(of_user[:, : 2 * units], h, gru.gates), q, to_gates)
        reset, keep = torch.sigmoid(gates).chunk(2, -1)
        candidate = torch.tanh(
            torch.addmm(torch.addmm(of_user[:, 2 * units :], q, to_candidate), reset, h.T * gru.candidate)
        )
        return candidate + keep * (h - candidate)

    def read_weights(self, controller: Tensor, blocks: dict[str, Tensor]) -> Tensor:
        """How much of each slot each candidate reads. [C, H] → [C, m]"""
        shares = self.cell.shares(blocks).unsqueeze(0) if self.config.shifts else None
        strength, key = self.cell.controls.read_head(controller, shares)
        marks = addressing.landmarks(blocks["memory"], self.cell.keys())
        length = torch.linalg.vector_norm(key, dim=-1, keepdim=True).clamp_min(addressing.TINY**0.5)
        return torch.softmax((key @ marks.T) * ((softplus(strength) + 1.0) / length), -1)

    def channel_weights(self, q: Tensor, channels: Tensor) -> Tensor:
        """The weight of each interest channel for each candidate. [C, D], [m, D] → [C, m]"""
        m, D = channels.shape
        weights = self.attend.unsqueeze(1) + channels.T.unsqueeze(-1) * self.attend_product.unsqueeze(1)
        bias = torch.addmm(self.attend_bias.unsqueeze(0), channels, self.attend_channel)
        hidden = torch.sigmoid(torch.addmm(bias.reshape(1, -1), q, weights.reshape(D, -1)))
        hidden = torch.sigmoid(self.attend_second(hidden.reshape(-1, bias.shape[-1])))
        # The third layer's bias is the same for all channels, so it does not change the softmax.
        return torch.softmax((hidden @ self.attend_third.weight.T).reshape(-1, m), -1)


def keep(module: nn.Module, name: str, value: Tensor) -> None:
    """Make `value` a constant of the served graph."""
    module.register_buffer(name, value.detach().clone())


class ServingHead(nn.Module):
    """`MimnHead` in evaluation mode for one user at a time. Its weights are the head's at construction.

    The first layer above the features, U units, behind its normalization:
    """

    by_user: Tensor
    """[D + 1 + K, U], of the user's features."""
    bias: Tensor
    """[1, U]"""
    plain: Tensor
    """[D, U], of the candidate."""
    by_add: Tensor
    """[D, U], of candidate times mean add vector."""
    by_history: Tensor
    """[D, U], of candidate times mean event vector."""
    by_controller: Tensor
    """[H, U], through the output layer."""
    by_read: Tensor
    """[D, U], of a memory slot, through the output layer."""
    by_channels: Tensor
    """[D, U], of an interest channel."""
    by_counts: Tensor
    """[R + W, U], of what is read of the sketch and the ledger, and of the item's fields."""

    def __init__(self, head: MimnHead) -> None:
        super().__init__()
        config = self.config = head.config
        self.cell, self.sketch = head.mimn_cell, head.sketch
        self.reads = ServingReads(head)
        D, H = config.width, config.controller_units
        mlp = head.mlp
        if not isinstance(mlp, MlpTop):
            raise TypeError("only the paper's head has a served form of its own")
        with torch.no_grad():
            by_user, user_shift = _normalized(mlp.by_user.weight, mlp.user_norm)
            by_candidate, candidate_shift = _normalized(mlp.by_candidate.weight, mlp.candidate_norm)
            sizes = [D, D, H, *[D] * (config.memory_induction + config.history_product)]
            pieces = list(torch.split(by_candidate, [*sizes, len(by_candidate) - sum(sizes)]))
            plain, by_add, by_output = pieces[:3]
            from_controller, from_read = torch.split(head.output.weight.T, [H, D])
            bias = mlp.by_user.bias + user_shift + candidate_shift + head.output.bias @ by_output
            keep(self, "by_user", by_user)
            keep(self, "bias", bias.unsqueeze(0))
            keep(self, "plain", plain)
            keep(self, "by_add", by_add)
            keep(self, "by_controller", from_controller @ by_output)
            keep(self, "by_read", from_read @ by_output)
            keep(self, "by_channels", pieces[3] if config.memory_induction else torch.empty(0))
            keep(self, "by_history", pieces[-2] if config.history_product else torch.empty(0))
            keep(self, "by_counts", pieces[-1])
        self.first_activation, self.second_activation = _Prelu(mlp.first_slope), _Prelu(mlp.second_slope)
        self.second, self.third = mlp.second, mlp.third

    def forward(
        self,
        state: Tensor,
        candidates: Tensor,
        context: Tensor | None = None,
        counts: Tensor | None = None,
        *,
        reads: Tensor | None = None,
        item_fields: Tensor | None = None,
    ) -> Tensor:
        """The click logits; as `MimnHead.forward`, but for one user.

        [1, F], [1, C, D], [1, K], [1, C, A, S], [1, C, R], [1, C, W] → [1, C]
        """
        q = candidates.squeeze(0)
        blocks = {name: value.squeeze(0) for name, value in self.cell.unpack(state).items()}
        controller = self.reads.controller(q, state)
        inputs = [q, controller, self.reads.read_weights(controller, blocks)]
        weights = self.plain + blocks["add_mean"].unsqueeze(-1) * self.by_add
        if self.config.history_product:
            weights = weights + blocks["history_mean"].unsqueeze(-1) * self.by_history
        rows = [weights, self.by_controller, blocks["memory"] @ self.by_read]
        if self.config.memory_induction:
            inputs.append(self.reads.channel_weights(q, blocks["channels"]))
            rows.append(blocks["channels"] @ self.by_channels)
        if self.sketch is not None:
            inputs.append(self.sketch(counts).squeeze(0))
        if reads is not None:
            inputs.append(reads.squeeze(0))
        if item_fields is not None:
            inputs.append(item_fields.squeeze(0))
        if len(self.by_counts):
            rows.append(self.by_counts)
        user = torch.addmm(self.bias, user_features(self.cell.unpack(state), self.config, context), self.by_user)
        hidden = self.first_activation(torch.addmm(user, torch.cat(inputs, -1), torch.cat(rows)))
        hidden = self.second_activation(self.second(hidden))
        logits: Tensor = self.third(hidden).squeeze(-1)
        return logits.unsqueeze(0)


class ServingFieldHead(nn.Module):
    """A field head over MIMN's state for one user at a time: `ServingReads`, and the output layer and the layer that
    makes its result one field multiplied out as one."""

    from_controller: Tensor
    """[H, E], of the controller;"""
    from_read: Tensor
    """[D, E], of a memory slot;"""
    bias: Tensor
    """[1, E]"""

    def __init__(self, head: MimnHead) -> None:
        super().__init__()
        if not isinstance(head.mlp, FieldHeadTop):
            raise TypeError("the paper's head has a served form of its own")
        self.config, self.cell, self.sketch = head.config, head.mimn_cell, head.sketch
        self.reads, self.top = ServingReads(head), head.mlp
        with torch.no_grad():
            units = [self.config.controller_units, self.config.width]
            controller, read = torch.split(head.output.weight.T, units)
            layer, bias = self.top.over.candidate[OUTPUT], head.output.bias.detach()
            if isinstance(layer, nn.Linear):
                controller, read = controller @ layer.weight.T, read @ layer.weight.T
                bias = bias @ layer.weight.T + layer.bias
            keep(self, "from_controller", controller)
            keep(self, "from_read", read)
            keep(self, "bias", bias.unsqueeze(0))

    def forward(
        self,
        state: Tensor,
        candidates: Tensor,
        context: FieldVectors | None = None,
        counts: Tensor | None = None,
        *,
        reads: Tensor | None = None,
        item_fields: FieldVectors | None = None,
    ) -> Tensor:
        """The click logits; as `ServingHead.forward`, with fields that are cut."""
        q, blocks = candidates.squeeze(0), self.cell.unpack(state)
        of_user = {name: value.squeeze(0) for name, value in blocks.items()}
        controller = self.reads.controller(q, state)
        weights = self.reads.read_weights(controller, of_user)
        output = torch.addmm(self.bias, controller, self.from_controller) + weights @ (
            of_user["memory"] @ self.from_read
        )
        pieces = [q, q * blocks["add_mean"], output]
        if self.config.memory_induction:
            pieces.append(self.reads.channel_weights(q, of_user["channels"]) @ of_user["channels"])
        if self.config.history_product:
            pieces.append(q * blocks["history_mean"])
        if self.sketch is not None:
            pieces.append(self.top.over.candidate[len(pieces)](self.sketch(counts).squeeze(0)))
        if reads is not None:
            pieces.append(self.top.over.candidate[len(pieces)](reads.squeeze(0)))
        user, own = user_pieces(blocks, self.config), [piece.unsqueeze(0) for piece in pieces]
        logits: Tensor = self.top.over.over_projected(user, own, *self.top.cut(user[0], own[0], context, item_fields))
        return logits


OUTPUT = 2
"""Which read-out of `MimnHead` is the output layer's."""


class _Prelu(nn.Module):
    """PReLU. If no slope is above 1 it is the larger of x and slope * x, which onnxruntime computes with vector
    instructions; it computes its PReLU operator one value at a time."""

    def __init__(self, trained: nn.PReLU) -> None:
        super().__init__()
        self.slope = trained.weight
        self.is_larger = bool((trained.weight <= 1).all())

    def forward(self, x: Tensor) -> Tensor:
        """[C, U] → [C, U]"""
        return torch.maximum(x, self.slope * x) if self.is_larger else prelu(x, self.slope)


def _normalized(weight: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A normalization in evaluation mode and the weights before it, as one layer: weights [W, U] and bias [U].

    weight [U, W] → x W' + b' = norm(x) weight^T
    """
    if not isinstance(norm, BatchNorm):
        return weight.T, torch.zeros(len(weight))
    batch = norm.norm
    assert batch.running_mean is not None  # noqa: S101 (our batch norms always keep statistics)
    assert batch.running_var is not None  # noqa: S101 (as above)
    scale = batch.weight * torch.rsqrt(batch.running_var + batch.eps)
    return scale.unsqueeze(-1) * weight.T, (batch.bias - batch.running_mean * scale) @ weight.T
