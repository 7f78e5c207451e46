"""PyTorch to ONNX: the two graphs of a bundle, and the one of a sequence bundle.

The graphs take vectors and states, never ids. Everything about the exporting machine (paths, traces, versions) is
stripped, so on one processor the same weights give the same bytes. Of the step they do on every processor
(`mimn.nn.constants`); products in the head that are multiplied out ahead may differ in their last bits.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn

from mimn.bundle.specs import HEAD, STEP, GraphSpec, TensorSpec
from mimn.bundle.writer import GraphFile
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.baselines.serving import SequenceHead, functions
from mimn.nn.cell import MimnCell
from mimn.nn.fields import HeadFields, item_width, request_width
from mimn.nn.fused import step_onnx
from mimn.nn.head import MimnHead, MlpTop
from mimn.nn.model import MimnModel
from mimn.nn.serving import ServingFieldHead, ServingHead
from mimn.nn.sketch import SketchReader, sketch_reader
from mimn.state.layout import StateLayout

OPSET = 20
StateModel = MimnModel | BaselineModel
"""A model with a cell and a head; a baseline has them if its interest is a state."""
_EXAMPLE_ROWS = 3
"""More than one, because the exporter treats an axis of size 1 as a constant."""


class StepModule(nn.Module):
    """What `step.onnx` computes: the cell, with its result rounded as stored, so cached and stored states are the
    same."""

    def __init__(self, model: StateModel, layout: StateLayout) -> None:
        super().__init__()
        self.cell = model.cell
        self.layout = layout

    def forward(self, event: Tensor, state: Tensor) -> Tensor:
        """[B, D], [B, F] → [B, F]"""
        return round_state(self.cell(event, state), self.layout)

    def initial(self, batch: int) -> Tensor:
        """The initial state as stored: [batch, F]."""
        return round_state(self.cell.initial(batch), self.layout)


class HeadModule(nn.Module):
    """What `head.onnx` computes: the head for one user, with probabilities instead of logits."""

    def __init__(self, model: StateModel, *, serving: bool = False) -> None:
        """`serving`: use the form in which a candidate costs less (`mimn.nn.serving`)."""
        super().__init__()
        head = model.head
        self.head: nn.Module = head
        if serving and isinstance(head, MimnHead):
            self.head = ServingHead(head) if isinstance(head.mlp, MlpTop) else ServingFieldHead(head)
        # Registered here, because the head reads their weights and does not own them.
        self.cell = model.cell
        self.fields = HeadFields(model.fields, cut=serving and model.config.head != "paper")

    def forward(self, candidates: Tensor, state: Tensor, context: Tensor | None = None) -> Tensor:
        """[C, W + D], [1, F], [1, K] → [C] in (0, 1)"""
        q, item_fields = self.fields.split(candidates)
        logits: Tensor = self.head(state, q, self.fields.of_request(context), item_fields=item_fields)
        return torch.sigmoid(logits).squeeze(0)


class SketchHeadModule(HeadModule):
    """The same with a sketch: takes a user's whole state, and reads the candidates' cells at time `now`."""

    def __init__(self, model: StateModel, reader: SketchReader, *, serving: bool = False) -> None:
        super().__init__(model, serving=serving)
        self.reader = reader

    def forward(  # type: ignore[override]  # takes two more inputs on purpose
        self, candidates: Tensor, state: Tensor, addresses: Tensor, now: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """[C, W + D], [1, F], [C, A], [1, 2, S], [1, K] → [C] in (0, 1)"""
        counts = self.reader.counts(state, addresses, now)
        q, item_fields = self.fields.split(candidates)
        logits: Tensor = self.head(
            state[:, self.reader.sketch.rest], q, self.fields.of_request(context), counts, item_fields=item_fields
        )
        return torch.sigmoid(logits).squeeze(0)


class LedgerHeadModule(HeadModule):
    """The same with a ledger: takes the rest of a user's state, and what was read of the ledger."""

    def forward(  # type: ignore[override]  # takes one more input on purpose
        self, candidates: Tensor, state: Tensor, reads: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """[C, W + D], [1, F], [C, R], [1, K] → [C] in (0, 1)"""
        q, item_fields = self.fields.split(candidates)
        logits: Tensor = self.head(
            state, q, self.fields.of_request(context), reads=reads.unsqueeze(0), item_fields=item_fields
        )
        return torch.sigmoid(logits).squeeze(0)


class SketchLedgerHeadModule(SketchHeadModule):
    """The same with both."""

    def forward(  # type: ignore[override]  # noqa: PLR0917 (one more input on purpose, and inputs have an order)
        self,
        candidates: Tensor,
        state: Tensor,
        addresses: Tensor,
        now: Tensor,
        reads: Tensor,
        context: Tensor | None = None,
    ) -> Tensor:
        """[C, W + D], [1, F], [C, A], [1, 2, S], [C, R], [1, K] → [C] in (0, 1)"""
        counts = self.reader.counts(state, addresses, now)
        q, item_fields = self.fields.split(candidates)
        logits: Tensor = self.head(
            state[:, self.reader.sketch.rest],
            q,
            self.fields.of_request(context),
            counts,
            reads=reads.unsqueeze(0),
            item_fields=item_fields,
        )
        return torch.sigmoid(logits).squeeze(0)


def head_module(model: StateModel, *, serving: bool = False) -> HeadModule:
    """What `head.onnx` of a model computes, in the form for training or for serving."""
    reader, ledger = sketch_reader(model.config), model.config.ledger
    if reader is None:
        return (HeadModule if ledger is None else LedgerHeadModule)(model, serving=serving)
    return (SketchHeadModule if ledger is None else SketchLedgerHeadModule)(model, reader, serving=serving)


def round_state(state: Tensor, layout: StateLayout) -> Tensor:
    """`state` [..., F] with each value as it reads back after storage (`StateLayout.round` in PyTorch)."""
    if not layout.half_floats:
        return state
    half, rest = torch.split(state, [layout.half_floats, layout.floats - layout.half_floats], -1)
    return torch.cat([half.to(torch.float16).to(torch.float32), rest], -1)


def step_graph(model: StateModel, layout: StateLayout) -> GraphFile:
    """`step.onnx` of a model in evaluation mode, and its manifest entry. `layout` is the cell's."""
    D, F = vector_width(model), layout.floats
    if isinstance(model.cell, MimnCell):
        data = _to_bytes(step_onnx(model.cell, layout, OPSET))
    else:
        plain = StepModule(model, layout)
        example = (torch.randn(_EXAMPLE_ROWS, D), plain.initial(_EXAMPLE_ROWS))
        data = _to_onnx(plain, example, ["event", "state"], "next_state", ({0: "batch"}, {0: "batch"}))
    inputs = (TensorSpec("event", ("batch", D)), TensorSpec("state", ("batch", F)))
    return GraphFile(data, GraphSpec(STEP, inputs, (TensorSpec("next_state", ("batch", F)),)))


def head_graph(model: StateModel, layout: StateLayout) -> GraphFile:
    """`head.onnx` of a model in evaluation mode, and its manifest entry. `layout` is for a user's whole state.

    The ledger is not an input: what is read of it is (`mimn.bundle.reads`).
    """
    D, F = item_width(model.fields) + vector_width(model), layout.floats
    K = len(model.config.context_features) + request_width(model.fields)
    sketch, ledger = model.config.sketch, model.config.ledger
    F -= 0 if ledger is None else ledger.words
    example = [torch.randn(_EXAMPLE_ROWS, D), torch.rand(1, F)]
    inputs = [TensorSpec("candidates", ("candidates", D)), TensorSpec("state", (1, F))]
    free: list[dict[int, str]] = [{0: "candidates"}, {}]
    if sketch is not None:
        A, S = sketch.addresses, len(sketch.half_lives)
        example += [torch.zeros(_EXAMPLE_ROWS, A, dtype=torch.int64), torch.ones(1, 2, S)]
        inputs += [TensorSpec("addresses", ("candidates", A), "int64"), TensorSpec("now", (1, 2, S))]
        free += [{0: "candidates"}, {}]
    if ledger is not None:
        example.append(torch.randn(_EXAMPLE_ROWS, model.config.read_width))
        inputs.append(TensorSpec("reads", ("candidates", model.config.read_width)))
        free.append({0: "candidates"})
    if K:
        example.append(torch.randn(1, K))
        inputs.append(TensorSpec("context", (1, K)))
        free.append({})
    data = _to_onnx(
        head_module(model, serving=True), tuple(example), [spec.name for spec in inputs], "scores", tuple(free)
    )
    return GraphFile(data, GraphSpec(HEAD, tuple(inputs), (TensorSpec("scores", ("candidates",)),)))


def vector_width(model: StateModel) -> int:
    """D + X: width of an event's vector in a bundle of this model."""
    return model.config.width + model.category_columns(torch.zeros(1, dtype=torch.int64)).shape[-1]


def sequence_head_graph(model: BaselineModel) -> GraphFile:
    """`head.onnx` of DIN or DIEN in evaluation mode, and its manifest entry.

    Raises:
        TypeError: another baseline.
    """
    D, W, K = model.config.width, item_width(model.fields), request_width(model.fields)
    example = [torch.randn(_EXAMPLE_ROWS, W + D), torch.randn(_EXAMPLE_ROWS + 2, D), torch.tensor([_EXAMPLE_ROWS])]
    inputs = [
        TensorSpec("candidates", ("candidates", W + D)),
        TensorSpec("history", ("history", D)),
        TensorSpec("length", (1,), "int64"),
    ]
    free: list[dict[int, str]] = [{0: "candidates"}, {0: "history"}, {}]
    if K:
        example.append(torch.randn(1, K))
        inputs.append(TensorSpec("context", (1, K)))
        free.append({})
    module, names = SequenceHead(model), [spec.name for spec in inputs]
    data = _to_onnx(module, tuple(example), names, "scores", tuple(free), functions=functions(D))
    return GraphFile(data, GraphSpec(HEAD, tuple(inputs), (TensorSpec("scores", ("candidates",)),)))


def _to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    output: str,
    free: tuple[dict[int, str], ...],
    *,
    functions: Sequence[onnx.FunctionProto] = (),
) -> bytes:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=inputs,
            output_names=[output],
            dynamic_shapes=free,
            dynamo=True,
            optimize=True,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    called = {(node.domain, node.op_type) for node in proto.graph.node}
    proto.functions.extend(function for function in functions if (function.domain, function.name) in called)
    _plain_softplus(proto.graph)
    return _to_bytes(proto)


def _to_bytes(proto: onnx.ModelProto) -> bytes:
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _plain_softplus(graph: onnx.GraphProto) -> None:
    """Replace the exporter's `Where(x > 20, x, Softplus(x))` by `Softplus(x)`. In float32 both are equal, and the
    runtime can fuse the single operation with the product before it."""
    made = {output: node for node in graph.node for output in node.output}
    thresholds = set()
    for where in [node for node in graph.node if node.op_type == "Where"]:
        above, _, plain = (made.get(name) for name in where.input)
        if above is None or plain is None or (above.op_type, plain.op_type) != ("Greater", "Softplus"):
            continue
        if plain.input[0] == above.input[0] == where.input[1]:
            plain.output[0] = where.output[0]
            graph.node.remove(where)
            graph.node.remove(above)
            thresholds.add(above.input[1])
    used = {name for node in graph.node for name in node.input}
    for value in [value for value in graph.initializer if value.name in thresholds - used]:
        graph.initializer.remove(value)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove everything that says where and how the graph was made."""
    proto.ClearField("producer_version")
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    graph = proto.graph
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress output and its notes about packages that are not installed."""
    registration = logging.getLogger("torch.onnx")
    before = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        registration.setLevel(before)
