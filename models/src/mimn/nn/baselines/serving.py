"""What `head.onnx` of a sequence bundle computes: DIN or DIEN for one user's list of events and many candidates.

The same numbers as `BaselineModel`, which computes them for training windows, but fast with onnxruntime on one core.
Everything that does not depend on the candidate is computed once; the rest is one batch over the candidates. Three
pieces have no PyTorch form that the exporter turns into a fast one: they are functions of the graph, written in ONNX
here (`FUNCTIONS`), so this module can be exported, but not run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from mimn.nn.baselines.attention import ActivationUnit
from mimn.nn.baselines.dien import Dien
from mimn.nn.baselines.din import Din
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.fields import HeadFields
from mimn.nn.head import masked_softmax, user_pieces
from mimn.nn.official import OfficialMlp

DOMAIN = "mimn"
"""Of the graph's own functions."""
_OPSET = 20


class SequenceHead(nn.Module):
    """One user's features and the MLP around what a baseline reads of the history for each candidate."""

    def __init__(self, model: BaselineModel) -> None:
        """Raises TypeError for a baseline that has no served form."""
        super().__init__()
        if isinstance(model.mlp, OfficialMlp):
            raise TypeError("form 'official' has no served form")
        self.mlp = model.mlp
        self.config = model.config
        self.fields = HeadFields(model.fields, cut=model.config.head != "paper")
        interest = model.interest
        self.reader: Reader
        if isinstance(interest, Din) and isinstance(interest.attention, ActivationUnit):
            self.reader = DinReader(interest.attention)
        elif isinstance(interest, Dien):
            self.reader = DienReader(interest)
        else:
            raise TypeError(f"variant {model.config.variant!r} has no served form")

    def forward(self, candidates: Tensor, history: Tensor, length: Tensor, context: Tensor | None = None) -> Tensor:
        """[C, W + D], [L, D] oldest first, [1] int64 (the number of real events, which come first), [1, K] → [C] in
        (0, 1)"""
        q, item_fields = self.fields.split(candidates)
        candidates = q.squeeze(0)
        real = torch.arange(history.shape[0]) < length
        mean = real.to(history.dtype).unsqueeze(0) @ history / length.clamp(min=1)
        blocks = {"history_mean": mean, "count": length.to(history.dtype).unsqueeze(0)}
        features = [candidates, self.reader(candidates, history, real)]
        if self.config.history_product:
            features.append(candidates * mean)
        logits: Tensor = self.mlp(
            user_pieces(blocks, self.config),
            [piece.unsqueeze(0) for piece in features],
            self.fields.of_request(context),
            item_fields,
        )
        return torch.sigmoid(logits).squeeze(0)


class Reader(nn.Module, ABC):
    """What one baseline computes from the history for each candidate."""

    @abstractmethod
    def forward(self, candidates: Tensor, history: Tensor, real: Tensor) -> Tensor:
        """[C, D], [L, D], [L] bool → [C, .]"""


class DinReader(Reader):
    """The activation unit, split so that no array of candidates x events x D is ever created.

    For a candidate q its first layer is a matrix over the events, f (diag(q) W4 + W2 - W3) + q (W1 + W3) + b. A PReLU
    is slope * x + (1 - slope) * relu(x), so its first part goes through the second layer as part of that matrix, and
    only the second part needs the hidden layer. The second layer's bias adds the same to all scores of a softmax, so it
    is left out.
    """

    def __init__(self, unit: ActivationUnit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, candidates: Tensor, history: Tensor, real: Tensor) -> Tensor:
        """→ [C, D]"""
        q_weight, f_weight, difference, product = self.unit.first.unbind(0)
        by_product = candidates.unsqueeze(1) * product.T + (f_weight - difference).T
        by_candidate = candidates @ (q_weight + difference) + self.unit.first_bias
        matrices = torch.cat([by_product, by_candidate.unsqueeze(-1)], -1)  # [C, H, D + 1]
        facts = torch.cat([history, torch.ones_like(history[:, :1])], -1).T.contiguous()  # [D + 1, L]
        slope, second = self.unit.slope.weight, self.unit.second.weight
        linear = (matrices * (slope * second[0]).unsqueeze(-1)).sum(1) @ facts
        shape = (candidates.shape[0], 1, history.shape[0])
        bent = _call("ReluScores", (matrices, facts, (1 - slope) * second), shape).squeeze(1)
        return masked_softmax(linear + bent, real) @ history


class DienReader(Reader):
    """The first GRU once, the attention as one product, and the second GRU over all candidates at once."""

    def __init__(self, dien: Dien) -> None:
        super().__init__()
        self.fit, self.second = dien.fit, dien.second
        first = dien.first
        self.units = first.units
        # As ONNX's GRU operator has them. Its update gate is what is kept, ours is what is replaced, so it is negated.
        bias = _by_gate(first.bias.unsqueeze(-1), first.units).squeeze(-1)
        self.input = nn.Buffer(_by_gate(first.event.T, first.units))
        self.recurrent = nn.Buffer(_by_gate(torch.cat([first.gates, first.candidate], -1).T, first.units))
        self.bias = nn.Buffer(torch.cat([bias, torch.zeros_like(bias)], -1))

    def forward(self, candidates: Tensor, history: Tensor, real: Tensor) -> Tensor:
        """→ [C, U]"""
        states = _call("Gru", (history, self.input, self.recurrent, self.bias), (history.shape[0], self.units))
        attention = masked_softmax((candidates @ self.fit.T) @ states.T, real)  # [C, L]
        second, U = self.second, self.second.units
        reset, update, change = torch.split(second.project(states), U, -1)
        start = torch.zeros_like(candidates[:, :1]).expand(-1, U)
        weights = (second.gates[:, :U], second.gates[:, U:], second.candidate)
        steps = (reset, update, change, attention.T.unsqueeze(-1))
        return _call("Augru", (start, *steps, *weights), (candidates.shape[0], U))


def _by_gate(weight: Tensor, units: int) -> Tensor:
    """[3U, .] reset, update, change → [1, 3U, .] keep, reset, change"""
    reset, update, change = torch.split(weight.detach(), units)
    return torch.cat([-update, reset, change]).unsqueeze(0)


def _call(function: str, inputs: Sequence[Tensor], shape: Sequence[int | torch.SymInt]) -> Tensor:
    output: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{function}", inputs, dtype=torch.float32, shape=shape, version=1
    )
    return output


def functions(units: int) -> list[onnx.FunctionProto]:
    """The functions that a head's graph calls; `units` is the width of DIEN's first GRU."""
    return [_gru_function(units), _augru_function(), _relu_scores_function()]


def _gru_function(units: int) -> onnx.FunctionProto:
    return _function(
        "Gru",
        ["history", "input", "recurrent", "bias"],
        [
            _constant("batch", [1]),
            _constant("direction_and_batch", [1, 2]),
            _node("Unsqueeze", ["history", "batch"], "one"),
            _node("GRU", ["one", "input", "recurrent", "bias"], "all", hidden_size=units),
            _node("Squeeze", ["all", "direction_and_batch"], "out"),
        ],
    )


def _augru_function() -> onnx.FunctionProto:
    """Each iteration of a Scan is one step of all candidates: h + a u (c - h)."""
    step = [
        _node("Gemm", ["state", "reset_weight", "reset_in"], "reset_sum"),
        _node("Sigmoid", ["reset_sum"], "reset"),
        _node("Gemm", ["state", "update_weight", "update_in"], "update_sum"),
        _node("Sigmoid", ["update_sum"], "update"),
        _node("Mul", ["reset", "state"], "remembered"),
        _node("Gemm", ["remembered", "change_weight", "change_in"], "change_sum"),
        _node("Tanh", ["change_sum"], "change"),
        _node("Sub", ["change", "state"], "difference"),
        _node("Mul", ["update", "attention_in"], "share"),
        _node("Mul", ["share", "difference"], "renewal"),
        _node("Add", ["state", "renewal"], "next"),
    ]
    body = helper.make_graph(
        step,
        "step",
        [_value(n) for n in ("state", "reset_in", "update_in", "change_in", "attention_in")],
        [_value("next", 2)],
    )
    inputs = ["start", "resets", "updates", "changes", "attention", "reset_weight", "update_weight", "change_weight"]
    return _function("Augru", inputs, [_node("Scan", inputs[:5], "out", body=body, num_scan_inputs=4)])


def _relu_scores_function() -> onnx.FunctionProto:
    """Each iteration of a Scan is one candidate, so its hidden layer [H, L] stays in the CPU cache.

    weights relu(matrix facts)
    """
    turn = [
        _node("MatMul", ["matrix", "facts"], "sum"),
        _node("Relu", ["sum"], "hidden"),
        _node("MatMul", ["weights", "hidden"], "scores"),
    ]
    body = helper.make_graph(turn, "candidate", [_value("matrix")], [_value("scores", 2)])
    inputs = ["matrices", "facts", "weights"]
    return _function("ReluScores", inputs, [_node("Scan", ["matrices"], "out", body=body, num_scan_inputs=1)])


def _function(name: str, inputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    function: onnx.FunctionProto = helper.make_function(
        DOMAIN, name, inputs, ["out"], nodes, [helper.make_opsetid("", _OPSET)]
    )
    return function


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _constant(name: str, values: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)


def _value(name: str, axes: int | None = None) -> onnx.ValueInfoProto:
    """A Scan needs the number of axes of its iterations' outputs."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None if axes is None else [None] * axes)
