"""The head: a user's state and some candidates to click logits. `head.onnx` computes the same,
rearranged and followed by a sigmoid (`mimn.nn.serving`).

Everything that depends only on the user is computed once per user and broadcast over the candidates, so one more
candidate costs little. Shapes: N users, C candidates each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimn.baselines import ModelConfig
from mimn.config import MimnConfig, SharedConfig
from mimn.nn import addressing
from mimn.nn.cell import Cell, MimnCell, State
from mimn.nn.fields import NO_FIELDS, FieldVectors, ModelFields
from mimn.nn.gru import glorot_
from mimn.nn.heads import HEADS
from mimn.nn.heads.over_state import FieldTop
from mimn.nn.memory import read
from mimn.nn.sketch import SketchReader, sketch_reader
from mimn.nn.vectorized import Dropout, prelu

COUNT_SCALE = 1 / 7.0
"""log(1 + count) of 1,000 events is about 7."""


class ChannelAttention(nn.Module):
    """How much each interest channel matters for a candidate (DIN's attention over the channels).

    A channel f and a candidate q are compared by [q; f; q - f; q * f] → sigmoid → sigmoid → 1, and the softmax of the
    results weights the sum of the channels. The first product splits into q (W1 + W3) + f (W2 - W3) + (q * f) W4: the
    first term is computed once per candidate, the second once per user.
    """

    def __init__(self, width: int, units: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(4, width, units[0]))
        glorot_(self.first, 4 * width, units[0])
        self.first_bias = nn.Parameter(torch.zeros(units[0]))
        self.second = linear(units[0], units[1])
        self.third = linear(units[1], 1)

    def forward(self, q: Tensor, channels: Tensor, real: Tensor | None = None) -> Tensor:
        """The channels' weighted sum for each candidate; if `real` is given, over the real channels only.

        [..., C, D], [..., m, D], bool that broadcasts to [..., C, m] → [..., C, D]
        """
        scores = self.scores(q, channels)
        return (torch.softmax(scores, -1) if real is None else masked_softmax(scores, real)) @ channels

    def scores(self, q: Tensor, channels: Tensor) -> Tensor:
        """How much each channel matters. [..., C, D], [..., m, D] → [..., C, m]"""
        q_weight, f_weight, difference, product = self.first.unbind(0)
        by_candidate = q @ (q_weight + difference)
        by_user = channels @ (f_weight - difference) + self.first_bias
        by_both = (q.unsqueeze(-2) * channels.unsqueeze(-3)) @ product
        hidden = torch.sigmoid(by_both + by_candidate.unsqueeze(-2) + by_user.unsqueeze(-3))
        scores: Tensor = self.third(torch.sigmoid(self.second(hidden))).squeeze(-1)
        return scores


class Mlp(nn.Module):
    """The layers above the features: two hidden layers with a PReLU (one slope per unit), then one logit.

    The first is split in two: features that depend only on the user go through it once per user.
    """

    def __init__(self, user_width: int, candidate_width: int, config: ModelConfig) -> None:
        super().__init__()
        first, second = config.head_units
        self.by_user = linear(user_width, first)
        self.by_candidate = nn.Linear(candidate_width, first, bias=False)
        for layer in (self.by_user, self.by_candidate):
            glorot_(layer.weight, user_width + candidate_width, first)
        self.second = linear(first, second)
        self.third = linear(second, 1)
        self.first_slope, self.second_slope = nn.PReLU(first, 0.1), nn.PReLU(second, 0.1)
        self.dropout = Dropout(config.head_dropout)
        batch = config.head_norm == "batch"
        self.user_norm: nn.Module = BatchNorm(user_width) if batch else nn.Identity()
        self.candidate_norm: nn.Module = BatchNorm(candidate_width) if batch else nn.Identity()

    def forward(self, user: Tensor, candidates: Tensor) -> Tensor:
        """The logits. [N, U], [N, C, V] → [N, C]"""
        by_user = self.by_user(self.user_norm(user)).unsqueeze(-2)
        hidden = prelu(self.by_candidate(self.candidate_norm(candidates)) + by_user, self.first_slope.weight)
        hidden = prelu(self.second(self.dropout(hidden)), self.second_slope.weight)
        logits: Tensor = self.third(self.dropout(hidden)).squeeze(-1)
        return logits


class BatchNorm(nn.Module):
    """Batch normalization of the last axis, with any number of axes before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] → [..., W]"""
        normalized: Tensor = self.norm(x.reshape(-1, x.shape[-1])).view(x.shape)
        return normalized


class MimnHead(nn.Module):
    """The head of variant `paper`. It reads the state as if the candidate were the next event, but writes nothing:
    the controller takes in the candidate, its read head reads the memory, and the output layer sees both."""

    def __init__(self, config: MimnConfig, cell: MimnCell, fields: ModelFields = NO_FIELDS) -> None:
        super().__init__()
        D, H = config.width, config.controller_units
        self.config = config
        # The cell belongs to the model and is only read here, so it is not registered again.
        self._cell = [cell]
        self.output = linear(H + D, H)
        if config.memory_induction:
            self.attention = ChannelAttention(D, config.attention_units)
        self.sketch = sketch_reader(config)
        products = [D] * (config.memory_induction + config.history_product)
        self.mlp = top(config, [D, 1], [D, D, H, *products, *sketch_widths(self.sketch), *config.read_widths], fields)

    @property
    def mimn_cell(self) -> MimnCell:
        """The model's cell, whose weights the head reads."""
        return self._cell[0]

    def step_output(self, controller: Tensor, read_vector: Tensor) -> Tensor:
        """o = [h; r] Wo + bo, for a step or a read-out. [..., H], [..., D] → [..., H]"""
        output: Tensor = self.output(torch.cat([controller, read_vector], -1))
        return output

    def read_out(self, blocks: State, candidates: Tensor) -> Tensor:
        """The memory as each candidate reads it: the output of a step that writes nothing. [N, C, D] → [N, C, H]"""
        cell = self._cell[0]
        h = cell.controller.step(
            cell.controller.project(candidates), blocks["read"].unsqueeze(-2), blocks["controller"].unsqueeze(-2)
        )
        shares = cell.shares(blocks).unsqueeze(-2) if self.config.shifts else None
        strength, key = cell.controls.read_head(h, shares)
        marks = addressing.landmarks(blocks["memory"], cell.keys())
        weights = addressing.content_weights(key, strength, marks)
        return self.step_output(h, read(blocks["memory"], weights))

    def forward(
        self,
        states: Tensor,
        candidates: Tensor,
        context: Tensor | None = None,
        counts: Tensor | None = None,
        item_fields: Tensor | None = None,
        *,
        reads: Tensor | None = None,
    ) -> Tensor:
        """The click logits; candidates do not influence each other.

        [N, F] of the cell, [N, C, D], [N, K], with a sketch the values of each candidate's cells [N, C, A, S], with
        a ledger what is read [N, C, R], with fields of the item [N, C, W] → [N, C]
        """
        blocks = self._cell[0].unpack(states)
        features = [candidates, blocks["add_mean"].unsqueeze(-2) * candidates, self.read_out(blocks, candidates)]
        if self.config.memory_induction:
            features.append(self.attention(candidates, blocks["channels"]))
        if self.config.history_product:
            features.append(history_product(blocks, candidates))
        if self.sketch is not None:
            features.append(self.sketch(counts))
        if reads is not None:
            features.append(reads)
        logits: Tensor = self.mlp(user_pieces(blocks, self.config), features, context, item_fields)
        return logits


class PoolingHead(nn.Module):
    """The head of variants `pooling` (Embedding&MLP) and `ledger`: the candidate, and the mean of the user's events if
    the state has it."""

    def __init__(self, config: MimnConfig, cell: Cell, fields: ModelFields = NO_FIELDS) -> None:
        super().__init__()
        self.config = config
        self._cell = [cell]
        self.sketch = sketch_reader(config)
        D = config.width
        reads = [*sketch_widths(self.sketch), *config.read_widths]
        user = [1] if config.variant == "ledger" else [D, 1]
        self.mlp = top(config, user, [D] * (1 + config.history_product) + reads, fields)

    def forward(
        self,
        states: Tensor,
        candidates: Tensor,
        context: Tensor | None = None,
        counts: Tensor | None = None,
        item_fields: Tensor | None = None,
        *,
        reads: Tensor | None = None,
    ) -> Tensor:
        """The click logits; as `MimnHead.forward`. → [N, C]"""
        blocks = self._cell[0].unpack(states)
        features = [candidates]
        if self.config.history_product:
            features.append(history_product(blocks, candidates))
        if self.sketch is not None:
            features.append(self.sketch(counts))
        if reads is not None:
            features.append(reads)
        logits: Tensor = self.mlp(user_pieces(blocks, self.config), features, context, item_fields)
        return logits


def sketch_widths(reader: SketchReader | None) -> list[int]:
    """Values that a head reads of the sketch for one candidate: none without it."""
    return [] if reader is None else [reader.width]


def user_pieces(blocks: State, config: SharedConfig) -> list[Tensor]:
    """What a head reads of the user: the mean event vector [N, D] if the state has it, and the log of the count [N, 1],
    which ends at `config.count_limit`.

    The paper's sums enter as means: a head trained on 200 events would not know the sum of 10,000.
    """
    means = [blocks["history_mean"]] if "history_mean" in blocks else []
    count = blocks["count"].clamp_max(config.count_limit) if config.count_limit else blocks["count"]
    return [*means, torch.log1p(count) * COUNT_SCALE]


def user_features(blocks: State, config: SharedConfig, context: Tensor | None) -> Tensor:
    """`user_pieces` and the request's vector behind one another. → [N, D + 1 + K]"""
    pieces = user_pieces(blocks, config)
    return torch.cat(pieces if context is None else [*pieces, context], -1)


class MlpTop(Mlp):
    """The layers above the read-outs as the paper has them: everything behind one another through the MLP."""

    def forward(  # type: ignore[override]  # it takes the pieces that `Mlp` takes concatenated
        self,
        user: Sequence[Tensor],
        candidate: Sequence[Tensor],
        request: Tensor | None = None,
        item_fields: Tensor | None = None,
    ) -> Tensor:
        """The logits. [N, ...] each, [N, C, ...] each, [N, K], [N, C, W] → [N, C]"""
        users = [*user, *([] if request is None else [request])]
        candidates = [*candidate, *([] if item_fields is None else [item_fields])]
        logits: Tensor = super().forward(torch.cat(users, -1), torch.cat(candidates, -1))
        return logits


class FieldHeadTop(nn.Module):
    """A field head in the same place: the vectors of request and item are cut into their fields."""

    def __init__(self, top: FieldTop, fields: ModelFields) -> None:
        super().__init__()
        self.over = top
        # The tables belong to the model; here they only say how a vector is cut.
        self._fields = [fields]

    def forward(
        self,
        user: Sequence[Tensor],
        candidate: Sequence[Tensor],
        request: Tensor | FieldVectors | None = None,
        item_fields: Tensor | FieldVectors | None = None,
    ) -> Tensor:
        """The logits; as `MlpTop.forward`."""
        logits: Tensor = self.over(user, candidate, *self.cut(user[0], candidate[0], request, item_fields))
        return logits

    def cut(
        self,
        of_user: Tensor,
        of_candidate: Tensor,
        request: Tensor | FieldVectors | None,
        item_fields: Tensor | FieldVectors | None,
    ) -> tuple[FieldVectors, FieldVectors]:
        """The fields of the request and of the items; those that are cut already stay as they are.

        [N, .], [N, C, .], [N, K], [N, C, W]; the first two say how many users and candidates there are
        """
        fields = self._fields[0]
        if request is None:
            request = of_user.new_zeros((len(of_user), 0))
        if item_fields is None:
            item_fields = of_candidate.new_zeros((*of_candidate.shape[:2], 0))
        return (
            request if isinstance(request, FieldVectors) else fields.request.fields(request),
            item_fields if isinstance(item_fields, FieldVectors) else fields.item.fields(item_fields),
        )


def top(
    config: ModelConfig, user_widths: Sequence[int], candidate_widths: Sequence[int], fields: ModelFields
) -> MlpTop | FieldHeadTop:
    """The layers above the read-outs of these widths that `config.head` names."""
    if config.head == "paper":
        request = len(config.context_features) + fields.request.width
        return MlpTop(sum(user_widths) + request, sum(candidate_widths) + fields.item.width, config)
    over = FieldTop(
        HEADS[config.head],
        user_widths=user_widths,
        candidate_widths=candidate_widths,
        shared_fields=len(fields.request.specs),
        own_fields=len(fields.item.specs),
        dim=config.embedding_dim,
        units=config.head_units,
        dropout=config.head_dropout,
    )
    return FieldHeadTop(over, fields)


def history_product(blocks: State, candidates: Tensor) -> Tensor:
    """The candidates times the user's mean event vector, element by element. [N, C, D] → [N, C, D]"""
    return candidates * blocks["history_mean"].unsqueeze(-2)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """The softmax over the places where `mask` is true, exactly 0 elsewhere; a row without any true place is all 0."""
    return torch.softmax(scores.masked_fill(~mask, -1e9), -1) * mask


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A dense layer with Glorot-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
