"""MIMN's step for `step.onnx`: the cell's equations in the operations that cost least, written node by node.

Written for two readers. UIC compiles the graph, where it can, as a program on one user's row (`mimn.rows`): there
arithmetic counts, splitting and reshaping cost nothing, and a product with zeros and ones is a copy. Elsewhere
onnxruntime runs it, for a few users at a time, where each operation has a fixed cost. For both, all values are
matrices with one row a user, and all operations are rounded alike in both:

* Slots lie side by side, [B, m * D]. A weight is spread over its slot's D columns, and slots are summed, by a `Gemm`
  with a constant matrix of zeros and ones. Such sums have one term that is not zero, or one a slot, so they are exact
  or as exact as any sum.
* All that a `Gemm` can take is in one.
* Means are updated together, and what goes into them is added up by a chain of `Gemm`s instead of a `Concat`.

Training uses the cell, whose form suits an unroll; export compares the two. Built without PyTorch's exporter, which
would write a direction as four operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from mimn.nn import addressing
from mimn.nn.cell import MimnCell
from mimn.nn.constants import slot_directions
from mimn.nn.gru import Gru
from mimn.state.layout import StateLayout

Floats = NDArray[np.float32]


ARTANH = (1.99999967, 0.66675976, 0.39590060, 0.34222454)
"""Of 1, z^2, z^4, z^6 in 2 artanh(z) / z: a Chebyshev fit for z up to 1/3, within 1.2e-7 of log(1 + u)."""


class _Graph:
    """Nodes and constants of a graph as they are written. Values are named by their numbers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._names: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of a new node."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def pieces(self, x: str, *sizes: int) -> list[str]:
        """Neighboring columns of `x`."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(len(sizes))]
        lengths = self.constant(np.array(sizes, np.int64))
        self.nodes.append(helper.make_node("Split", [x, lengths], names, axis=-1))
        return names

    def constant(self, value: NDArray[np.generic], name: str = "") -> str:
        """The name of a constant; equal ones are stored once."""
        key = (value.dtype.str, value.tobytes(), value.shape)
        if key not in self._names:
            self._names[key] = name or f"c{len(self._names)}"
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), self._names[key]))
        return self._names[key]

    def gemm(
        self, x: str, weight: Floats, plus: str | Floats | None = None, *, minus: bool = False, name: str = ""
    ) -> str:
        """`x @ weight + plus`, or with `minus` `x @ weight - plus`; `plus` is a vector or another value [B, N].

        Learned weights have a `name` in the file.
        """
        names = (f"{name}.weight", f"{name}.bias") if name else ("", "")
        summand = [] if plus is None else [plus if isinstance(plus, str) else self.constant(plus, names[1])]
        return self.add("Gemm", x, self.constant(weight, names[0]), *summand, **({"beta": -1.0} if minus else {}))

    def number(self, value: float) -> str:
        """A constant that broadcasts."""
        return self.constant(np.array([value], np.float32))

    def softplus(self, x: str) -> str:
        """log(1 + e^x) within 1e-7, in operations that are rounded alike everywhere (the runtime's own is not).

        With u = e^-|x| it is max(x, 0) + log(1 + u), and log(1 + u) = 2 artanh(z) of z = u / (2 + u), at most 1/3.
        """
        u = self.add("Exp", self.add("Neg", self.add("Abs", x)))
        z = self.add("Div", u, self.add("Add", u, self.number(2)))
        square = self.add("Mul", z, z)
        series = self.number(ARTANH[-1])
        for coefficient in ARTANH[-2::-1]:
            series = self.add("Add", self.add("Mul", square, series), self.number(coefficient))
        return self.add("Add", self.add("Relu", x), self.add("Mul", z, series))

    def shape(self, x: str, *sizes: int) -> str:
        """`x` as [B, *sizes]."""
        return self.add("Reshape", x, self.constant(np.array([-1, *sizes], np.int64)))


def step_onnx(cell: MimnCell, layout: StateLayout, opset: int) -> onnx.ModelProto:
    """The step of a cell with its weights as they are now: `event` [B, D], `state` [B, F] → `next_state` [B, F].

    Row b depends only on row b. `layout` is the cell's; its float16 blocks are rounded as stored.
    """
    step = _Step(cell, layout)
    step.write()
    g = step.graph
    batched = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("event", cell.config.width), ("state", layout.floats), ("next_state", layout.floats))
    ]
    graph = helper.make_graph(g.nodes, "step", batched[:2], batched[2:], g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


class _Step:
    """Writes the graph of one cell."""

    def __init__(self, cell: MimnCell, layout: StateLayout) -> None:
        config = cell.config
        self.cell, self.config, self.layout, self.graph = cell, config, layout, _Graph()
        m, D = config.slots, config.width
        self.spread = np.repeat(np.eye(m, dtype=np.float32), D, 1)
        """[m, m * D]: a slot's weight to its columns."""
        self.summed = np.tile(np.eye(D, dtype=np.float32), (m, 1))
        """[m * D, D]: the sum over slots. Its transpose repeats a vector for each slot."""
        self.mean_sizes = [m] * config.utilization + [D, D]

    def write(self) -> None:
        """The whole step."""
        g, config, m, D = self.graph, self.config, self.config.slots, self.config.width
        sizes = [config.controller_units, D, m * D] + [m * D] * config.memory_induction + [sum(self.mean_sizes), 1]
        controller, side, memory, *channels, mean, count = g.pieces("state", *sizes)

        taken, change = self._gru("controller", self.cell.controller, side, controller)
        controller = g.add("Add", controller, g.add("Mul", taken, change))
        inputs = g.add("Concat", controller, mean, axis=-1) if config.shifts else controller
        strengths, keys, add, erase, *rebalance = self._controls(inputs)
        both = self._content_weights(strengths, keys, memory)
        flat = g.shape(both, 2 * m)
        reading = g.gemm(flat, _rows(self.spread, 0, 2 * m))
        new = [controller, g.gemm(g.add("Mul", reading, memory), self.summed)]

        written, to_slots = self._write_weights(rebalance, flat, mean)
        if config.bounded_writes:
            add = g.add("Mul", add, erase)
        erased = g.add("Mul", g.gemm(erase, self.summed.T), memory)
        change = g.add("Sub", g.gemm(add, self.summed.T), erased)
        new.append(g.add("Add", memory, g.add("Mul", g.gemm(written, to_slots @ self.spread), change)))
        if config.memory_induction:
            new.append(self._channels(both, memory, channels[0]))
        count = g.add("Add", count, g.number(1))
        change = self._mean_changes(mean, written, to_slots, add)
        self._end([*new, g.add("Add", mean, g.add("Div", change, count)), count])

    def _gru(self, name: str, gru: Gru, side: str, state: str) -> tuple[str, str]:
        """The candidate's share in the new state, and candidate minus state. [B, D], [B, units] → twice [B, units]"""
        g, units = self.graph, gru.units
        rows = np.concatenate([_array(gru.event), _array(gru.side)])
        inner = np.concatenate([_array(gru.gates), np.zeros((units, units), np.float32)], 1)
        # The update gate says how much is kept. Its negative says how much is taken.
        sign = np.repeat(np.array([1, -1, 1], np.float32), units)
        x = g.add("Concat", "event", side, state, axis=-1)
        total = g.gemm(x, np.concatenate([rows, inner]) * sign, _array(gru.bias) * sign, name=f"{name}.gates")
        gates, outer = g.pieces(total, 2 * units, units)
        resets, taken = g.pieces(g.add("Sigmoid", gates), units, units)
        candidate = g.gemm(g.add("Mul", resets, state), _array(gru.candidate), outer, name=f"{name}.candidate")
        return taken, g.add("Sub", g.add("Tanh", candidate), state)

    def _controls(self, inputs: str) -> list[str]:
        """Strengths [B, 2 * m] (of each head, repeated for its slots, before the softplus), keys [B, 2 * D], add and
        erase [B, D], and with rebalance `shift` shift [B, 3] and gamma [B, m], both before their functions."""
        g, m, D = self.graph, self.config.slots, self.config.width
        weight, bias = _array(self.cell.controls.weight), _array(self.cell.controls.bias)
        if self.config.shifts:  # behind the shares, the input has the other means
            weight = _rows(weight, 0, self.config.controller_units + sum(self.mean_sizes))
        columns = [*np.repeat([0, 1], m), *range(2, 2 + 4 * D)]
        sizes = [2 * m, 3 * D, D]
        if self.config.shifts:
            columns += [*range(2 + 4 * D, 5 + 4 * D), *[5 + 4 * D] * m]
            sizes += [3, m]
        strengths, tanh, erase, *rebalance = g.pieces(
            g.gemm(inputs, weight[:, columns], bias[columns], name="controls"), *sizes
        )
        return [strengths, *g.pieces(g.add("Tanh", tanh), 2 * D, D), g.add("Sigmoid", erase), *rebalance]

    def _content_weights(self, strengths: str, keys: str, memory: str) -> str:
        """Of read and write head over the slots before anything moves them. → [B, 2, m]"""
        g, m, D = self.graph, self.config.slots, self.config.width
        static = slot_directions(self.cell)
        marks = g.add("Add", g.add("LpNormalization", g.shape(memory, m, D), axis=-1), g.constant(static, "slot_keys"))
        turned = g.add("Transpose", marks, perm=[0, 2, 1])
        similarity = g.add("MatMul", g.add("LpNormalization", g.shape(keys, 2, D), axis=-1), turned)
        sharpness = g.shape(g.add("Add", g.softplus(strengths), g.number(1)), 2, m)
        return g.add("Softmax", g.add("Mul", sharpness, similarity), axis=-1)

    def _write_weights(self, rebalance: Sequence[str], flat: str, mean: str) -> tuple[str, Floats]:
        """The write weights after re-balancing, as a value and the matrix that sums it to [B, m]."""
        g, m = self.graph, self.config.slots
        own = _rows(np.eye(m, dtype=np.float32), m, 2 * m)
        """[2 m, m]: of both heads' weights, the write head's."""
        if self.config.transfers:
            weight, bias = _array(self.cell.transfer.weight).T, _array(self.cell.transfer.bias)
            logits = g.gemm(mean, _rows(weight, 0, sum(self.mean_sizes)), bias, name="transfer")
            matrix = g.shape(g.add("Softmax", g.shape(logits, m, m), axis=-1), m * m)
            return g.add("Mul", g.gemm(flat, np.repeat(own, m, 1)), matrix), np.tile(
                np.eye(m, dtype=np.float32), (m, 1)
            )
        if not self.config.shifts:
            return flat, own
        moved = np.concatenate([np.roll(own, by, 1) for by in (0, 1, -1)], 1)
        shift = g.add("Softmax", rebalance[0], axis=-1)
        parts = g.add("Mul", g.gemm(flat, moved), g.gemm(shift, np.repeat(np.eye(3, dtype=np.float32), m, 1)))
        shifted = g.gemm(parts, np.tile(np.eye(m, dtype=np.float32), (3, 1)))
        logs = g.add("Log", g.add("Clip", shifted, g.constant(np.array(addressing.LOG_FLOOR, np.float32))))
        gamma = g.softplus(rebalance[1])
        gamma = g.add("Mul", g.add("Add", gamma, g.number(1)), g.number(4))
        return g.add("Softmax", g.add("Mul", gamma, logs), axis=-1), np.eye(m, dtype=np.float32)

    def _channels(self, both: str, memory: str, channels: str) -> str:
        """Memory induction: the channel of the slot that was read most takes in the event. → [B, m * D]"""
        g, m = self.graph, self.config.slots
        strongest = g.shape(g.add("Hardmax", both, axis=-1), 2 * m)
        chosen = g.gemm(strongest, _rows(self.spread, 0, 2 * m))
        slot, channel = (g.gemm(g.add("Mul", chosen, slots), self.summed) for slots in (memory, channels))
        taken, change = self._gru("channel", self.cell.channel, slot, channel)
        spread = g.gemm(g.add("Mul", taken, change), self.summed.T)
        return g.add("Add", channels, g.add("Mul", chosen, spread))

    def _mean_changes(self, mean: str, written: str, to_slots: Floats, add: str) -> str:
        """The newest value of each mean minus the mean: write weights, add vector and event. → [B, means]"""
        g, m, D = self.graph, self.config.slots, self.config.width
        width, shares = sum(self.mean_sizes), m * self.config.utilization
        columns = np.eye(width, dtype=np.float32)
        added = columns[shares : shares + D]
        if shares:
            change = g.gemm(written, to_slots @ columns[:m], mean, minus=True)
            change = g.gemm(add, added, change)
        else:
            change = g.gemm(add, added, mean, minus=True)
        return g.gemm("event", columns[-D:], change)

    def _end(self, parts: Sequence[str]) -> None:
        """Join the parts of the next state, with float16 blocks rounded as stored."""
        g = self.graph
        if self.layout.half_floats:
            *half, means, count = parts
            joined = g.add("Cast", g.add("Concat", *half, axis=-1), to=TensorProto.FLOAT16)
            parts = [g.add("Cast", joined, to=TensorProto.FLOAT), means, count]
        g.nodes.append(helper.make_node("Concat", parts, ["next_state"], axis=-1))


def _array(value: Tensor) -> Floats:
    array: Floats = value.detach().cpu().numpy().astype(np.float32)
    return array


def _rows(weight: Floats, first: int, rows: int) -> Floats:
    """`weight` as the rows from `first` on of a matrix with `rows` rows; the others are zero."""
    whole = np.zeros((rows, weight.shape[1]), np.float32)
    whole[first : first + len(weight)] = weight
    return whole
