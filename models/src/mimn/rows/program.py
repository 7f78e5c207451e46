"""A step graph as a program on one user's row: a list of instructions on places in an array of float32.

Possible for graphs whose rows do not depend on each other and whose values have the batch as their first axis, as
`mimn.nn.fused` writes them. Splitting, reshaping and transposed reading cost nothing here: they are places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from math import prod

import numpy as np
from numpy.typing import NDArray

from mimn.rows.onnx_file import Graph, Node, NotReadable
from mimn.rows.rooms import reused_rooms


class Op(IntEnum):
    """As in rows.h."""

    DENSE = 0
    SPARSE = auto()
    TANH = auto()
    SIGMOID = auto()
    EXP = auto()
    RELU = auto()
    ABS = auto()
    NEG = auto()
    ADD = auto()
    SUB = auto()
    MUL = auto()
    DIV = auto()
    SOFTMAX = auto()
    LPNORM = auto()
    HARDMAX = auto()
    BATCHED = auto()
    TURN = auto()
    COPY = auto()


INPUTS = 2
"""The first values: the event and the state. They come from outside."""
CONSTANT = 1 << 24
"""Added to a place: it is one of the constants."""
VECTOR = 16
"""Every value has room up to the next multiple of this many numbers."""
_WIDEST_SOFTMAX, _LARGEST_SOFTMAX = 16, 256
_DENSE_SHARE = 0.5
"""Matrices with a smaller share of numbers other than 0 are multiplied run by run."""
_EACH = {"Tanh": Op.TANH, "Sigmoid": Op.SIGMOID, "Exp": Op.EXP, "Abs": Op.ABS, "Neg": Op.NEG, "Relu": Op.RELU}
_BINARY = {"Add": Op.ADD, "Sub": Op.SUB, "Mul": Op.MUL, "Div": Op.DIV}
_HOW = {0: 0, 1.0: 1, -1.0: 2}


@dataclass(frozen=True, slots=True)
class RowProgram:
    """Instructions [I, 9] and runs of sparse matrices, flat; constants; and where things are in a row's values."""

    code: NDArray[np.int32]
    constants: NDArray[np.float32]
    instructions: int
    values: int
    """Numbers a row needs."""
    event: int
    event_size: int
    state: int
    state_size: int
    result: int


@dataclass(frozen=True, slots=True)
class _Value:
    place: int
    shape: tuple[int, ...]
    """Without the batch."""

    @property
    def size(self) -> int:
        return prod(self.shape)


def row_program(graph: Graph, event_size: int, state_size: int) -> RowProgram:
    """The program of a step graph.

    Raises:
        NotReadable: the graph has an operation, or a shape, that no instruction computes.
    """
    if graph.inputs != ["event", "state"] or len(graph.outputs) != 1:
        raise NotReadable(f"inputs {graph.inputs}, outputs {graph.outputs}")
    try:
        return _Compiler(graph, event_size, state_size).program()
    except (IndexError, KeyError, ValueError) as error:
        raise NotReadable(f"not a graph of matrices: {error}") from error


class _Compiler:
    def __init__(self, graph: Graph, event_size: int, state_size: int) -> None:
        self.graph = graph
        self.code: list[list[int]] = []
        self.runs: list[tuple[int, list[int]]] = []
        """Instruction, and the runs of its matrix."""
        self.constants: list[NDArray[np.float32]] = []
        self.stored: dict[tuple[str, str], int] = {}
        self.used = self.held = 0
        self.rooms: list[tuple[int, int]] = []
        self.values: dict[str, _Value] = {}
        self.event = self.new((event_size,))
        self.state = self.new((state_size,))
        self.values |= {"event": self.event, "state": self.state}

    def program(self) -> RowProgram:
        """All nodes, one after another."""
        for node in self.graph.nodes:
            self.node(node)
        result = self.values.get(self.graph.outputs[0])
        if result is None or result.shape != self.state.shape or result.place >= CONSTANT:
            raise NotReadable("the result is not a state")
        if not self.code or result.place != self.rooms[-1][0]:
            raise NotReadable("the result is not what the last node computes")
        values, place = _with_reused_room(self.code, self.rooms)
        flat = [number for row in self.code for number in row]
        for at, runs in self.runs:
            flat[at * 9 + 8] = len(flat)
            flat += [len(runs) // 4, *runs]
        constants = np.concatenate([np.zeros(0, np.float32), *self.constants])
        return RowProgram(
            np.array(flat, np.int32), constants, len(self.code), values,
            self.event.place, self.event.size, self.state.place, self.state.size, place,
        )  # fmt: skip

    def new(self, shape: tuple[int, ...]) -> _Value:
        """Room for a value."""
        value = _Value(self.used, shape)
        self.rooms.append((self.used, _padded(value.size)))
        self.used += _padded(value.size)
        return value

    def constant(self, array: NDArray[np.float32], kind: str, name: str) -> int:
        """The offset of a constant, which is stored once for each kind of use."""
        if (kind, name) not in self.stored:
            flat = np.zeros(_padded(array.size), np.float32)
            flat[: array.size] = array.reshape(-1)
            self.stored[kind, name] = self.held
            self.constants.append(flat)
            self.held += len(flat)
        return self.stored[kind, name]

    def emit(self, op: Op, shape: tuple[int, ...], a: int, *, b: int = 0, k: int = 0, unit: int = 0) -> _Value:
        """A new value, made by one instruction."""
        out = self.new(shape)
        self.code.append([op, out.place, a, b, out.size, k, 0, 0, unit])
        return out

    def node(self, node: Node) -> None:
        """Compile one node."""
        kind, inputs = node.kind, node.inputs
        first = self.of(inputs[0])
        shape = first.shape
        axis = node.attributes.get("axis", 0 if kind in ("Split", "Concat") else -1)
        if axis not in (-1, len(shape)):
            raise NotReadable(f"{kind} along another axis than the last")
        if kind in _EACH:
            result = self.emit(_EACH[kind], shape, first.place)
        elif kind in _BINARY:
            result = self.binary(node, first)
        elif kind == "Gemm":
            result = self.gemm(node, first)
        elif kind == "Split":
            self.split(node, first)
            return
        elif kind == "Concat":
            result = self.concat([self.of(name) for name in inputs])
        elif kind == "Reshape":
            batch, *sizes = self.whole(inputs[1])
            result = _Value(first.place, tuple(sizes))
            if batch != -1 or result.size != first.size:
                raise NotReadable("a reshape that mixes rows")
        elif kind == "Softmax" and shape[-1] <= _WIDEST_SOFTMAX and first.size <= _LARGEST_SOFTMAX:
            result = self.emit(Op.SOFTMAX, shape, first.place, unit=shape[-1])
        elif kind in ("LpNormalization", "Hardmax") and node.attributes.get("p", 2) == 2:
            op = Op.LPNORM if kind == "LpNormalization" else Op.HARDMAX
            result = self.emit(op, shape, first.place, unit=shape[-1])
        elif kind == "Transpose" and node.attributes.get("perm") == [0, 2, 1]:
            result = self.emit(Op.TURN, (shape[1], shape[0]), first.place, unit=shape[1])
        elif kind == "MatMul" and len(shape) == 2 == len(self.of(inputs[1]).shape):
            other = self.of(inputs[1])
            if other.shape[0] != shape[1]:
                raise NotReadable("sizes of a product")
            sizes = [shape[0], other.shape[1]]
            result = self.emit(Op.BATCHED, tuple(sizes), first.place, b=other.place, k=shape[1], unit=sizes[1])
        else:
            raise NotReadable(f"operation {kind} on {shape}")
        self.values[node.outputs[0]] = result

    def of(self, name: str) -> _Value:
        """A value that a node computed, or a constant as one."""
        if name in self.values:
            return self.values[name]
        array = self.graph.constants.get(name)
        if array is None or array.dtype != np.float32:
            raise NotReadable(f"{name} is no value")
        return _Value(CONSTANT + self.constant(array, "value", name), array.shape)

    def whole(self, name: str) -> list[int]:
        """A constant of whole numbers."""
        if name not in self.graph.constants:
            raise NotReadable(f"{name} is computed")
        return [int(number) for number in self.graph.constants[name]]

    def binary(self, node: Node, first: _Value) -> _Value:
        """Of two values of the same size, or the second has one number."""
        second = self.of(node.inputs[1])
        if second.shape not in (first.shape, (1,)) or first.place >= CONSTANT:
            raise NotReadable(f"{node.kind} of {first.shape} and {second.shape}")
        unit = 1 if second.size == 1 else 0
        return self.emit(_BINARY[node.kind], first.shape, first.place, b=second.place, unit=unit)

    def gemm(self, node: Node, x: _Value) -> _Value:
        """`x @ weight`, plus or minus a vector or a value."""
        name = node.inputs[1]
        weight = self.graph.constants.get(name)
        attributes = node.attributes
        plain = attributes.get("alpha", 1.0) == 1.0 and not attributes.get("transA") and not attributes.get("transB")
        if weight is None or weight.ndim != 2 or x.shape != weight.shape[:1] or not plain:
            raise NotReadable("a product with anything but a constant matrix")
        K, N = weight.shape
        how, added = 0, 0
        if len(node.inputs) > 2:
            summand = self.of(node.inputs[2])
            if summand.shape != (N,) or attributes.get("beta", 1.0) not in _HOW:
                raise NotReadable("a summand of another shape")
            how, added = _HOW[attributes.get("beta", 1.0)], summand.place
        out = self.new((N,))
        padded = np.zeros((K, _padded(N)), np.float32)
        padded[:, :N] = weight
        self.code.append([Op.DENSE, out.place, x.place, added, padded.shape[1], K, 0, how, 0])
        if np.count_nonzero(weight) < _DENSE_SHARE * weight.size and (found := _runs(weight)) is not None:
            runs, numbers = found
            self.code[-1][0], self.code[-1][6] = Op.SPARSE, self.constant(numbers, "runs", name)
            self.runs.append((len(self.code) - 1, runs))
        else:
            self.code[-1][6] = self.constant(padded, "matrix", name)
        return out

    def split(self, node: Node, x: _Value) -> None:
        """Pieces of a flat value are places in it."""
        sizes = self.whole(node.inputs[1])
        if len(x.shape) != 1 or sum(sizes) != x.size:
            raise NotReadable("a split of a matrix")
        begins = np.cumsum([0, *sizes]).tolist()
        for name, begin, size in zip(node.outputs, begins, sizes, strict=False):
            self.values[name] = _Value(x.place + begin, (size,))

    def concat(self, parts: Sequence[_Value]) -> _Value:
        """Copies of flat values, side by side."""
        if any(len(part.shape) != 1 for part in parts):
            raise NotReadable("a concatenation of matrices")
        out = self.new((sum(part.size for part in parts),))
        place = out.place
        for part in parts:
            self.code.append([Op.COPY, place, part.place, 0, part.size, 0, 0, 0, 0])
            place += part.size
        return out


def _padded(size: int) -> int:
    return -(-size // VECTOR) * VECTOR


def _runs(weight: NDArray[np.float32]) -> tuple[list[int], NDArray[np.float32]] | None:
    """The numbers other than 0, in runs along a row or a diagonal: first row, first column, how many (negative: on a
    diagonal), and their offset in the second result. None if some column would not be summed from its first row to its
    last."""
    left = weight != 0
    found: list[tuple[int, int, int]] = []
    for k, n in np.argwhere(left).tolist():
        if not left[k, n]:
            continue
        along = _length(left[k, n:])
        across = _length(np.diagonal(left[k:, n:]))
        if along >= across:
            left[k, n : n + along] = False
            found.append((k, n, along))
        else:
            left[np.arange(k, k + across), np.arange(n, n + across)] = False
            found.append((k, n, -across))
    latest = np.full(weight.shape[1], -1)
    runs: list[int] = []
    numbers: list[NDArray[np.float32]] = []
    held = 0
    for k, n, count in sorted(found):
        size = abs(count)
        its_rows = np.full(size, k) if count > 0 else np.arange(k, k + size)
        its_columns = np.arange(n, n + size)
        if (latest[its_columns] >= its_rows).any():
            return None
        latest[its_columns] = its_rows
        runs += [k, n, count, held]
        numbers.append(weight[its_rows, its_columns])
        held += size
    return runs, np.concatenate([np.zeros(0, np.float32), *numbers])


def _length(true: NDArray[np.bool_]) -> int:
    """How many of the first are true."""
    return len(true) if true.all() else int(np.argmin(true))


def _with_reused_room(code: list[list[int]], rooms: list[tuple[int, int]]) -> tuple[int, int]:
    """Move values to places whose earlier values are no longer needed, in `code`. Returns how many numbers a row needs,
    and where the last value is (`reused_rooms`)."""
    fields = [[f for f in (1, 2, 3) if row[f] < CONSTANT and (f != 3 or _reads_second(row))] for row in code]
    touched = [[row[f] for f in of] for row, of in zip(code, fields, strict=True)]
    place_of, top = reused_rooms(rooms, touched, INPUTS, rooms[-1][0])
    for row, of in zip(code, fields, strict=True):
        for f in of:
            row[f] = place_of(row[f])
    return top + VECTOR, place_of(rooms[-1][0])  # a summand is read up to the next multiple of VECTOR


def _reads_second(row: list[int]) -> bool:
    return row[0] in (Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.BATCHED) or (row[0] in (Op.DENSE, Op.SPARSE) and row[7] != 0)
