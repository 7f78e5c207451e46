"""A head graph as a program on one user and many candidates (head.c): what depends on the user alone is computed once,
the rest for a tile of candidates at a time, with a candidate in each lane of a vector.

Possible for graphs in which candidates do not influence each other, as those of MIMN's and the pooling heads. It knows
operations, not MIMN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mimn.rows.head_code import HeadCode, HeadProgram, Input, Op
from mimn.rows.head_values import Joined, Value, arranged, axes_of, entries_of, index_of, parts_of, piece_of, strides_of
from mimn.rows.onnx_file import Graph, Node, NotReadable

_BINARY = {"Add": Op.ADD, "Sub": Op.SUB, "Mul": Op.MUL, "Div": Op.DIV, "Max": Op.MAX, "Min": Op.MIN}
_EACH = {
    "Neg": Op.NEG, "Abs": Op.ABS, "Sqrt": Op.SQRT, "Reciprocal": Op.RECIPROCAL, "Log": Op.LOG, "Exp": Op.EXP,
    "Tanh": Op.TANH, "Sigmoid": Op.SIGMOID, "Softplus": Op.SOFTPLUS,
}  # fmt: skip
_OVER = {"ReduceSum": Op.SUM, "ReduceL2": Op.LENGTH, "Softmax": Op.SOFTMAX}


def head_program(graph: Graph, inputs: Sequence[Input]) -> HeadProgram:
    """The program of a head graph.

    Raises:
        NotReadable: the graph has an operation, or a shape, that no instruction computes.
    """
    if graph.inputs != [given.name for given in inputs] or len(graph.outputs) != 1:
        raise NotReadable(f"inputs {graph.inputs}, outputs {graph.outputs}")
    try:
        return _Compiler(graph, inputs).program()
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise NotReadable(f"not a graph of one user and many candidates: {error}") from error


class _Compiler:
    def __init__(self, graph: Graph, inputs: Sequence[Input]) -> None:
        self.graph = graph
        self.code = HeadCode()
        self.values: dict[str, Value | Joined] = {}
        self.positive: dict[str, Value] = {}
        """Of conditions: what they say is above 0."""
        self.sizes: dict[str, list[int]] = {}
        """Of shapes that the graph asks for: their axes; negative: that many times the candidates."""
        self.zero = self.code.constant(np.zeros(1, np.float32))
        for node in graph.nodes:
            self.constants_of(node)
        for given in inputs:
            self.values[given.name] = self.code.input(given)

    def program(self) -> HeadProgram:
        """All nodes, one after another."""
        handlers: dict[str, Callable[[Node], Value | Joined | None]] = {
            "Gemm": self.product, "MatMul": self.product, "Split": self.split, "Slice": self.slice,
            "Gather": self.gather, "GatherND": self.gather, "Concat": self.concat, "Reshape": self.reshape,
            "Squeeze": self.squeeze, "Unsqueeze": self.unsqueeze, "Transpose": self.transpose, "Clip": self.clip,
            "Greater": self.greater, "Where": self.where, "BatchNormalization": self.normalize, "Relu": self.relu,
            "Pow": self.power, "Shape": self.shape, "Expand": self.expand,
            **dict.fromkeys(_BINARY, self.binary), **dict.fromkeys(_EACH, self.each), **dict.fromkeys(_OVER, self.over),
        }  # fmt: skip
        for node in self.graph.nodes:
            if node.kind not in handlers:
                raise NotReadable(f"operation {node.kind}")
            if (made := handlers[node.kind](node)) is not None:
                self.values[node.outputs[0]] = made
        result = self.of(self.graph.outputs[0])
        if not result.wide or result.cells or prod(result.shape) != 1:
            raise NotReadable("the result is not a number for each candidate")
        return self.code.finished(result)

    def constants_of(self, node: Node) -> None:
        """Store the constants that a node is computed with, if they are not stored yet."""
        known, as_they_are = self.graph.constants, node.inputs
        if _is_turned(node):
            self.values[_turned(node)] = self.code.constant(known[node.inputs[1]].T)
            as_they_are = [name for number, name in enumerate(node.inputs) if number != 1]
        if node.kind == "BatchNormalization":
            scale, shift, mean, variance = (known[name] for name in node.inputs[1:])
            scale = scale / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
            self.values[_scale(node)] = self.code.constant(scale)
            self.values[_shift(node)] = self.code.constant(shift - mean * scale)
            as_they_are = node.inputs[:1]
        for name in as_they_are:
            if name in known and name not in self.values and known[name].dtype == np.float32:
                self.values[name] = self.code.constant(known[name])

    def of(self, name: str) -> Value:
        """A value in one piece."""
        value = self.values.get(name)
        if value is None:
            raise NotReadable(f"{name} is no value")
        if isinstance(value, Joined):
            first, index = value.parts[0], index_of(value.parts[0], value.axis)
            shape = list(first.shape)
            shape[index] = sum(part.shape[index] for part in value.parts)
            joined, begin = self.code.new(wide=first.wide, shape=shape, lead=first.lead), 0
            for part in value.parts:
                self.code.each(Op.COPY, part, into=piece_of(joined, index, begin, begin := begin + part.shape[index]))
            self.values[name] = value = joined
        return value

    def whole(self, name: str) -> list[int]:
        """A constant of whole numbers."""
        return [int(number) for number in self.graph.constants[name].reshape(-1)]

    # -- operations on numbers

    def binary(self, node: Node) -> Value:
        first, second = map(self.of, node.inputs)
        return self.code.binary(_BINARY[node.kind], first, second)

    def each(self, node: Node) -> Value:
        return self.code.each(_EACH[node.kind], self.of(node.inputs[0]))

    def power(self, node: Node) -> Value:
        """A square is a product; other powers are the user's only."""
        base, exponent = map(self.of, node.inputs)
        known = self.graph.constants.get(node.inputs[1])
        if known is not None and known.size == 1 and known.reshape(-1)[0] == 2:
            return self.code.binary(Op.MUL, base, base)
        return self.code.binary(Op.POW, base, exponent)

    def relu(self, node: Node) -> Value:
        return self.code.binary(Op.MAX, self.of(node.inputs[0]), self.zero)

    def clip(self, node: Node) -> Value:
        value = self.of(node.inputs[0])
        for op, name in zip((Op.MAX, Op.MIN), node.inputs[1:], strict=False):
            if name:
                value = self.code.binary(op, value, self.of(name))
        return value

    def normalize(self, node: Node) -> Value:
        """In evaluation mode, of the last of two axes."""
        value = self.of(node.inputs[0])
        if value.rank != 2:
            raise NotReadable("a normalization of another axis than the last")
        scaled = self.code.binary(Op.MUL, value, self.of(_scale(node)))
        return self.code.binary(Op.ADD, scaled, self.of(_shift(node)))

    def greater(self, node: Node) -> None:
        limit = self.graph.constants[node.inputs[1]]
        if limit.size != 1 or limit.reshape(-1)[0] != 0:
            raise NotReadable("a comparison with another number than 0")
        self.positive[node.outputs[0]] = self.of(node.inputs[0])

    def where(self, node: Node) -> Value:
        condition, first, second = node.inputs
        if self.positive[condition] != self.of(first):
            raise NotReadable("a choice by another value")
        return self.code.binary(Op.CHOOSE, self.of(first), self.of(second))

    def over(self, node: Node) -> Value:
        """Along one axis, which has one number afterwards, or is left out; a softmax keeps it."""
        value = self.of(node.inputs[0])
        axes = self.whole(node.inputs[1]) if len(node.inputs) > 1 else [node.attributes.get("axis", -1)]
        if len(axes) != 1 or value.cells:
            raise NotReadable(f"{node.kind} along several axes")
        index, entries = index_of(value, axes[0]), entries_of(value)
        made = self.code.over(_OVER[node.kind], value, index)
        if node.kind == "Softmax" or node.attributes.get("keepdims", 1):
            return made
        return arranged(made, [entry for entry in entries if entry != index])

    def product(self, node: Node) -> Value:
        about = node.attributes
        if about.get("transA") or about.get("alpha", 1.0) != 1 or about.get("beta", 1.0) != 1:
            raise NotReadable("a product of another kind")
        left, right = node.inputs[0], _turned(node) if _is_turned(node) else node.inputs[1]
        lefts = parts_of(self.values[left], -1) or [self.of(left)]
        rights = parts_of(self.values[right], 0) or [self.of(right)]
        return self.code.product(lefts, rights, self.of(node.inputs[2]) if len(node.inputs) > 2 else None)

    def gather(self, node: Node) -> Value:
        """One place of an axis; or a user's numbers at the candidates' cells."""
        value, axis = self.of(node.inputs[0]), node.attributes.get("axis", 0)
        if node.inputs[1] not in self.graph.constants:
            cells = self.of(node.inputs[1])
            if node.kind == "GatherND" and cells.shape[-1] == 1 and not node.attributes.get("batch_dims", 0):
                cells = replace(cells, shape=cells.shape[:-1], strides=cells.strides[:-1])
            elif node.kind == "GatherND" or axis:
                raise NotReadable("cells of another axis than the first")
            return self.code.gather(value, cells)
        at = self.graph.constants[node.inputs[1]]
        if node.kind == "GatherND" or at.ndim:
            raise NotReadable("a choice of several places")
        index, entries = index_of(value, axis), entries_of(value)
        place = int(at) % value.shape[index]
        return arranged(piece_of(value, index, place, place + 1), [entry for entry in entries if entry != index])

    # -- places

    def split(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        index = index_of(value, node.attributes.get("axis", 0))
        n = value.shape[index]
        if len(node.inputs) > 1:
            sizes = self.whole(node.inputs[1])
        else:
            each = -(-n // len(node.outputs))
            sizes = [min(each, n - at) for at in range(0, n, each)]
        if sum(sizes) != n or min(sizes) < 0:
            raise NotReadable("a split of another size")
        ends = np.cumsum(sizes).tolist()
        for name, end, size in zip(node.outputs, ends, sizes, strict=True):
            self.values[name] = piece_of(value, index, end - size, end)

    def slice(self, node: Node) -> Value:
        value = self.of(node.inputs[0])
        begins, ends, axes = (self.whole(name) for name in node.inputs[1:4])
        if len(node.inputs) > 4 and set(self.whole(node.inputs[4])) != {1}:
            raise NotReadable("a slice with gaps")
        for begin, end, axis in zip(begins, ends, axes, strict=True):
            index = index_of(value, axis)
            first, last, _ = slice(begin, end).indices(value.shape[index])
            value = piece_of(value, index, first, last)
        return value

    def concat(self, node: Node) -> Joined | None:
        if any(name in self.sizes for name in node.inputs):
            self.sizes[node.outputs[0]] = [size for name in node.inputs for size in self.sizes_of(name)]
            return None
        parts = [self.of(name) for name in node.inputs]
        axis = node.attributes["axis"] % parts[0].rank
        index = index_of(parts[0], axis)
        if len({(part.wide, part.lead, part.shape[:index], part.shape[index + 1 :]) for part in parts}) > 1:
            raise NotReadable("values of different kinds side by side")
        return Joined(tuple(parts), axis)

    def shape(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        sizes = [1] * value.lead + list(value.shape)
        if value.wide:
            sizes[value.lead] *= -1
        first, last = node.attributes.get("start", 0), node.attributes.get("end", len(sizes))
        self.sizes[node.outputs[0]] = sizes[first:last]

    def sizes_of(self, name: str) -> list[int]:
        return self.sizes[name] if name in self.sizes else self.whole(name)

    def expand(self, node: Node) -> Value:
        """A user's value for each candidate. Others are repeated where they are used."""
        value, sizes = self.of(node.inputs[0]), self.sizes_of(node.inputs[1])
        lead = next((axis for axis, size in enumerate(sizes) if size < 0), None)
        if value.wide or lead is None:
            raise NotReadable("an expansion of another kind")
        return self.code.for_each(value, [-sizes[lead], *sizes[lead + 1 :]], lead)

    def reshape(self, node: Node) -> Value:
        value, sizes = self.of(node.inputs[0]), self.whole(node.inputs[1])
        if not value.contiguous:
            value = self.code.each(Op.COPY, value)
        lead = sizes.index(-1) if value.wide else 0
        rest = prod(size for size in sizes if size != -1)
        sizes = [prod(value.shape) // rest if size == -1 else size for size in sizes]
        if value.cells or prod(sizes) != prod(value.shape) or any(size != 1 for size in sizes[:lead]):
            raise NotReadable(f"{value.shape} as {sizes}")
        shape = tuple(sizes[lead:])
        return replace(value, shape=shape, strides=strides_of(shape), lead=lead)

    def squeeze(self, node: Node) -> Value:
        value = self.of(node.inputs[0])
        axes = {axis % value.rank for axis in self.whole(node.inputs[1])}
        if any(n > 1 for axis, (n, _) in enumerate(axes_of(value, value.rank)) if axis in axes):
            raise NotReadable("a squeeze of a long axis")
        return arranged(value, [entry for axis, entry in enumerate(entries_of(value)) if axis not in axes])

    def unsqueeze(self, node: Node) -> Value:
        value, axes = self.of(node.inputs[0]), self.whole(node.inputs[1])
        entries = entries_of(value)
        for axis in sorted(axis % (value.rank + len(axes)) for axis in axes):
            entries.insert(axis, None)
        return arranged(value, entries)

    def transpose(self, node: Node) -> Value:
        value = self.of(node.inputs[0])
        entries = entries_of(value)
        return arranged(value, [entries[axis] for axis in node.attributes["perm"]])


def _is_turned(node: Node) -> bool:
    """Whether a product takes its matrix transposed."""
    return node.kind == "Gemm" and bool(node.attributes.get("transB"))


def _turned(node: Node) -> str:
    return f"{node.inputs[1]} transposed"


def _scale(node: Node) -> str:
    return f"{node.outputs[0]} scale"


def _shift(node: Node) -> str:
    return f"{node.outputs[0]} shift"
