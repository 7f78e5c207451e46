"""A head graph as a program on one user and many candidates (head.c): what depends on the user alone is computed once,
the rest for a tile of candidates at a time, with a candidate in each lane of a vector.

Possible for graphs in which candidates do not influence each other, as those of MIMN's and the pooling heads are. A value
has a shape and strides, as in numpy, so splitting, reshaping, transposing and joining before a product cost nothing:
they are places. A value of the candidates has the shape that one candidate has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.onnx_file import Graph, Node, NotReadable
from mimn.rows.rooms import reused_rooms


class Op(IntEnum):
    """As in head.c."""

    PRODUCT = 0
    ADD = auto()
    SUB = auto()
    MUL = auto()
    DIV = auto()
    MAX = auto()
    MIN = auto()
    POW = auto()
    CHOOSE = auto()
    """The first where it is above 0, else the second."""
    NEG = auto()
    ABS = auto()
    SQRT = auto()
    RECIPROCAL = auto()
    LOG = auto()
    EXP = auto()
    TANH = auto()
    SIGMOID = auto()
    SOFTPLUS = auto()
    COPY = auto()
    SUM = auto()
    LENGTH = auto()
    SOFTMAX = auto()
    GATHER = auto()


class Kind(IntEnum):
    """Of an input, as in head.c."""

    OF_USER = 0
    OF_CANDIDATES = auto()
    CELLS = auto()


CANDIDATES = "candidates"
"""The free axis of an input."""
ROOM = 16
"""A user's values have room up to the next multiple of this many numbers."""
_AXES = 3
_BINARY = {"Add": Op.ADD, "Sub": Op.SUB, "Mul": Op.MUL, "Div": Op.DIV, "Max": Op.MAX, "Min": Op.MIN, "Pow": Op.POW}
_EACH = {
    "Neg": Op.NEG, "Abs": Op.ABS, "Sqrt": Op.SQRT, "Reciprocal": Op.RECIPROCAL, "Log": Op.LOG, "Exp": Op.EXP,
    "Tanh": Op.TANH, "Sigmoid": Op.SIGMOID, "Softplus": Op.SOFTPLUS,
}  # fmt: skip
_OVER = {"ReduceSum": Op.SUM, "ReduceL2": Op.LENGTH, "Softmax": Op.SOFTMAX}
_OF_USER_ONLY = {Op.POW}
_OF_CANDIDATES_ONLY = {Op.SOFTMAX}


@dataclass(frozen=True, slots=True)
class Input:
    """Of the graph: its name, and its shape with `CANDIDATES` for the free axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class HeadProgram:
    """Instructions, flat; the constants, with which a user's numbers begin; and where things are."""

    once: NDArray[np.int32]
    """What is computed for the user,"""
    each: NDArray[np.int32]
    """and for the candidates."""
    inputs: NDArray[np.int32]
    """By input: its `Kind`, its place, its width. [I, 3]"""
    constants: NDArray[np.float32]
    user: int
    """Numbers of the user, constants included;"""
    rows: int
    """of a candidate;"""
    result: int
    """the score's place among them."""


@dataclass(frozen=True, slots=True)
class _Value:
    """Numbers of the user, or of each candidate."""

    wide: bool
    """Whether it is the candidates'."""
    place: int
    shape: tuple[int, ...]
    """For candidates: what the candidates' axis of the graph has for one of them (4 of [4 C, W]), and the axes behind."""
    strides: tuple[int, ...]
    lead: int = 0
    """Axes, of one, before the candidates'."""
    cells: bool = False
    """Not numbers: the places of cells, in the input of this `place`."""

    @property
    def rank(self) -> int:
        return self.lead + len(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie one behind another."""
        return all(
            n == 1 or have == want for n, have, want in zip(self.shape, self.strides, _strides(self.shape), strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Joined:
    """Values that the graph joins along an axis, as long as nothing needs them side by side."""

    parts: tuple[_Value, ...]
    axis: int


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
        self.code: dict[bool, list[list[int]]] = {False: [], True: []}
        """Instructions, by whether they are the candidates'."""
        self.wide_places: list[list[int]] = []
        """By instruction of the candidates, its fields that are places of theirs."""
        self.rooms: list[tuple[int, int]] = []
        """Place and size of each value of the candidates."""
        self.used = {False: 0, True: 0}
        self.values: dict[str, _Value | _Joined] = {}
        self.positive: dict[str, _Value] = {}
        """Of conditions: what they say is above 0."""
        self.constants: list[NDArray[np.float32]] = []
        for node in graph.nodes:
            self.prepare(node)
        for node in graph.nodes:
            for name in _as_they_are(node):
                if name in graph.constants and graph.constants[name].dtype == np.float32:
                    self.constant(name, graph.constants[name])
        self.inputs = [self.input(number, given) for number, given in enumerate(inputs)]

    def program(self) -> HeadProgram:
        """All nodes, one after another."""
        handlers: dict[str, Callable[[Node], None]] = {
            "Gemm": self.gemm, "MatMul": self.gemm, "Split": self.split, "Slice": self.slice, "Gather": self.gather,
            "GatherND": self.gather, "Concat": self.concat, "Reshape": self.reshape, "Squeeze": self.squeeze,
            "Unsqueeze": self.unsqueeze, "Transpose": self.transpose, "Clip": self.clip, "Greater": self.greater,
            "Where": self.where, "BatchNormalization": self.normalize,
            **dict.fromkeys(_BINARY, self.binary_node), **dict.fromkeys(_EACH, self.each_node),
            **dict.fromkeys(_OVER, self.over),
        }  # fmt: skip
        for node in self.graph.nodes:
            if node.kind not in handlers:
                raise NotReadable(f"operation {node.kind}")
            handlers[node.kind](node)
        result = self.of(self.graph.outputs[0])
        if not result.wide or result.cells or prod(result.shape) != 1:
            raise NotReadable("the result is not a number for each candidate")
        each = self.code[True]
        touched = [[row[field] for field in fields] for row, fields in zip(each, self.wide_places, strict=True)]
        keep = sum(kind == Kind.OF_CANDIDATES for kind, _, _ in self.inputs)
        place_of, rows = reused_rooms(self.rooms, touched, keep, result.place)
        for row, fields in zip(each, self.wide_places, strict=True):
            for field in fields:
                row[field] = place_of(row[field])
        once, code = (
            np.array([number for row in part for number in row], np.int32) for part in (self.code[False], each)
        )
        constants = np.concatenate([np.zeros(0, np.float32), *self.constants])
        inputs = np.array(self.inputs, np.int32)
        return HeadProgram(once, code, inputs, constants, self.used[False], rows, place_of(result.place))

    def prepare(self, node: Node) -> None:
        """Make the constants that a node is computed with, where they are not the graph's own."""
        known = self.graph.constants
        if _is_turned(node):
            weight = known[node.inputs[1]]
            self.constant(_turned(node.inputs[1]), np.ascontiguousarray(weight.T))
        if node.kind == "BatchNormalization":
            scale, shift, mean, variance = (known[name] for name in node.inputs[1:])
            scale = scale / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
            self.constant(_scale(node), scale)
            self.constant(_shift(node), shift - mean * scale)

    def constant(self, name: str, array: NDArray[Any]) -> None:
        """A constant of a name; those are the user's first numbers."""
        if name not in self.values:
            value = self.new(wide=False, shape=array.shape)
            flat = np.zeros(self.used[False] - value.place, np.float32)
            flat[: array.size] = array.reshape(-1)
            self.constants.append(flat)
            self.values[name] = value

    def input(self, number: int, given: Input) -> tuple[int, int, int]:
        """Room for an input; its kind, its place and its width."""
        sizes = [1 if size == CANDIDATES else int(size) for size in given.shape]
        width = prod(sizes)
        if given.shape[0] != CANDIDATES:
            if given.dtype != "float32":
                raise NotReadable(f"{given.name} of {given.dtype}")
            value = self.new(wide=False, shape=tuple(sizes))
            self.values[given.name] = value
            return Kind.OF_USER, value.place, width
        if given.dtype == "int64":
            self.values[given.name] = _Value(True, number, tuple(sizes), _strides(sizes), cells=True)
            return Kind.CELLS, 0, width
        value = self.new(wide=True, shape=tuple(sizes))
        self.values[given.name] = value
        return Kind.OF_CANDIDATES, value.place, width

    def new(self, *, wide: bool, shape: Sequence[int], lead: int = 0) -> _Value:
        """Room for a value."""
        value = _Value(wide, self.used[wide], tuple(shape), _strides(shape), lead)
        if wide:
            self.rooms.append((value.place, prod(shape)))
        self.used[wide] += prod(shape) if wide else -(-prod(shape) // ROOM) * ROOM
        return value

    def of(self, name: str) -> _Value:
        """A value in one piece."""
        value = self.values.get(name)
        if value is None:
            raise NotReadable(f"{name} is no value")
        if isinstance(value, _Joined):
            first, index = value.parts[0], _index(value.parts[0], value.axis)
            shape = list(first.shape)
            shape[index] = sum(part.shape[index] for part in value.parts)
            joined, begin = self.new(wide=first.wide, shape=shape, lead=first.lead), 0
            for part in value.parts:
                self.each(Op.COPY, part, into=_piece(joined, index, begin, begin := begin + part.shape[index]))
            self.values[name] = value = joined
        return value

    def whole(self, name: str) -> list[int]:
        """A constant of whole numbers."""
        return [int(number) for number in self.graph.constants[name].reshape(-1)]

    # -- operations on each number

    def binary_node(self, node: Node) -> None:
        first, second = map(self.of, node.inputs)
        self.values[node.outputs[0]] = self.binary(_BINARY[node.kind], first, second)

    def each_node(self, node: Node) -> None:
        self.values[node.outputs[0]] = self.each(_EACH[node.kind], self.of(node.inputs[0]))

    def clip(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        for op, name in zip((Op.MAX, Op.MIN), node.inputs[1:], strict=False):
            if name:
                value = self.binary(op, value, self.of(name))
        self.values[node.outputs[0]] = value

    def normalize(self, node: Node) -> None:
        """In evaluation mode, of the last of two axes."""
        value = self.of(node.inputs[0])
        if value.rank != 2:
            raise NotReadable("a normalization of another axis than the last")
        scaled = self.binary(Op.MUL, value, self.of(_scale(node)))
        self.values[node.outputs[0]] = self.binary(Op.ADD, scaled, self.of(_shift(node)))

    def greater(self, node: Node) -> None:
        limit = self.graph.constants[node.inputs[1]]
        if limit.size != 1 or float(limit.reshape(())) != 0:
            raise NotReadable("a comparison with another number than 0")
        self.positive[node.outputs[0]] = self.of(node.inputs[0])

    def where(self, node: Node) -> None:
        condition, first, second = node.inputs
        if self.positive[condition] != self.of(first):
            raise NotReadable("a choice by another value")
        self.values[node.outputs[0]] = self.binary(Op.CHOOSE, self.of(first), self.of(second))

    def binary(self, op: Op, a: _Value, b: _Value) -> _Value:
        """Of two values, each repeated along axes that it does not have."""
        rank = max(a.rank, b.rank)
        wide = a.wide or b.wide
        leads = {rank - value.rank + value.lead for value in (a, b) if value.wide}
        if len(leads) > 1 or (wide and op in _OF_USER_ONLY):
            raise NotReadable(f"{op.name} of candidates with others")
        axes_a, axes_b = (_axes(value, rank) for value in (a, b))
        lead = leads.pop() if wide else 0
        if any(n > 1 for n, _ in (*axes_a[:lead], *axes_b[:lead])):
            raise NotReadable("an axis before the candidates'")
        sizes = []
        for (n, _), (m, _) in zip(axes_a[lead:], axes_b[lead:], strict=True):
            if n != m and 1 not in (n, m):
                raise NotReadable(f"{op.name} of {a.shape} and {b.shape}")
            sizes.append(max(n, m))
        out = self.new(wide=wide, shape=sizes, lead=lead)
        strides = [[step if n > 1 else 0 for n, step in axes[lead:]] for axes in (axes_a, axes_b)]
        self.emit(op, out, sizes, [out.strides, *strides], a, b)
        return out

    def each(self, op: Op, a: _Value, into: _Value | None = None) -> _Value:
        """Of each number of a value."""
        out = self.new(wide=a.wide, shape=a.shape, lead=a.lead) if into is None else into
        self.emit(op, out, a.shape, [out.strides, a.strides, a.strides], a, a)
        return out

    def emit(
        self, op: Op, out: _Value, sizes: Sequence[int], strides: list[Sequence[int]], a: _Value, b: _Value
    ) -> None:
        """An instruction on each number: the fewest axes, and strides of result and operands."""
        if a.cells or b.cells:
            raise NotReadable("arithmetic with cells")
        axes: list[list[int]] = []
        for n, *steps in zip(sizes, *strides, strict=True):
            if n == 1:
                continue
            if axes and all(outer == n * inner for outer, inner in zip(axes[-1][1:], steps, strict=True)):
                axes[-1] = [axes[-1][0] * n, *steps]
            else:
                axes.append([n, *steps])
        self.instruct(op, out, axes, a, b)

    def instruct(self, op: Op, out: _Value, axes: Sequence[Sequence[int]], a: _Value, b: _Value) -> None:
        if len(axes) > _AXES:
            raise NotReadable(f"{op.name} along {len(axes)} axes")
        padded = [*[[1, 0, 0, 0]] * (_AXES - len(axes)), *axes]
        fields = [op, out.place, a.place, b.place, a.wide, b.wide, *(axis[f] for f in range(4) for axis in padded)]
        self.add(fields, out, [field for field, value in ((3, a), (4, b)) if value.wide and not value.cells])

    def add(self, fields: Sequence[int], out: _Value, read: Sequence[int]) -> None:
        """An instruction; which of its fields are places of the candidates that it reads."""
        self.code[out.wide].append([1 + len(fields), *map(int, fields)])
        if out.wide:
            self.wide_places.append([2, *read])

    def over(self, node: Node) -> None:
        """Sums, lengths and softmaxes of the last axis."""
        op, a = _OVER[node.kind], self.of(node.inputs[0])
        axes = self.whole(node.inputs[1]) if len(node.inputs) > 1 else [node.attributes.get("axis", -1)]
        kept = op is Op.SOFTMAX or node.attributes.get("keepdims", 1)
        if a.cells or [axis % a.rank for axis in axes] != [a.rank - 1] or not kept or (a.wide and len(a.shape) < 2):
            raise NotReadable(f"{node.kind} along another axis than the last")
        if not a.wide and op in _OF_CANDIDATES_ONLY:
            raise NotReadable(f"{node.kind} of the user")
        shape = a.shape if op is Op.SOFTMAX else (*a.shape[:-1], 1)
        out = self.new(wide=a.wide, shape=shape, lead=a.lead)
        self.instruct(op, out, [[*axis, 0] for axis in zip(a.shape, out.strides, a.strides, strict=True)], a, a)
        self.values[node.outputs[0]] = out

    # -- products

    def gemm(self, node: Node) -> None:
        """A product with a matrix of the user, and a summand. Joined rows and columns are summed piece by piece."""
        about = node.attributes
        if about.get("transA") or about.get("alpha", 1.0) != 1 or about.get("beta", 1.0) != 1:
            raise NotReadable("a product of another kind")
        left, right = node.inputs[0], _turned(node.inputs[1]) if _is_turned(node) else node.inputs[1]
        lefts = _parts(self.values[left], -1) or [self.of(left)]
        rights = _parts(self.values[right], 0) or [self.of(right)]
        first = lefts[0]
        if any(part.cells or len(part.shape) != 2 for part in lefts) or any(
            part.wide or len(part.shape) != 2 for part in rights
        ):
            raise NotReadable(f"a product of {left} and {right}")
        rights = [part if part.strides[1] == 1 or part.shape[1] == 1 else self.each(Op.COPY, part) for part in rights]
        out = self.new(wide=first.wide, shape=(first.shape[0], rights[0].shape[1]), lead=first.lead)
        summand = [0, 0, 0, 0]
        if len(node.inputs) > 2:
            summand = self.summand(self.of(node.inputs[2]), out)
        pieces = _pieces(lefts, rights)
        fields = [Op.PRODUCT, out.place, *out.shape, *summand, len(pieces)]
        read = [1 + len(fields) + 6 * number for number in range(len(pieces))] + [5] * (summand[1] == 2)
        self.add([*fields, *(number for piece in pieces for number in piece)], out, read)
        self.values[node.outputs[0]] = out

    @staticmethod
    def summand(value: _Value, out: _Value) -> list[int]:
        """Where a product's summand is, whose it is, and its strides."""
        axes = _axes(value, out.rank)[out.lead :]
        if value.rank > out.rank or value.cells or (value.wide and value.lead != out.lead):
            raise NotReadable("a summand of another shape")
        if any(n not in (1, size) for (n, _), size in zip(axes, out.shape, strict=True)):
            raise NotReadable("a summand of another size")
        return [value.place, 1 + value.wide, *(step if n > 1 else 0 for n, step in axes)]

    # -- places

    def split(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        index = _index(value, node.attributes.get("axis", 0))
        n = value.shape[index]
        if len(node.inputs) > 1:
            sizes = self.whole(node.inputs[1])
        else:
            each = -(-n // len(node.outputs))
            sizes = [min(each, n - at) for at in range(0, n, each)]
        if sum(sizes) != n:
            raise NotReadable("a split of another size")
        ends = np.cumsum(sizes).tolist()
        for name, end, size in zip(node.outputs, ends, sizes, strict=True):
            self.values[name] = _piece(value, index, end - size, end)

    def slice(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        begins, ends, axes = (self.whole(name) for name in node.inputs[1:4])
        if len(node.inputs) > 4 and set(self.whole(node.inputs[4])) != {1}:
            raise NotReadable("a slice with gaps")
        for begin, end, axis in zip(begins, ends, axes, strict=True):
            index = _index(value, axis)
            first, last, _ = slice(begin, end).indices(value.shape[index])
            value = _piece(value, index, first, last)
        self.values[node.outputs[0]] = value

    def gather(self, node: Node) -> None:
        """One place of an axis; or a user's numbers at the candidates' cells."""
        value = self.of(node.inputs[0])
        if node.inputs[1] in self.graph.constants:
            at = self.graph.constants[node.inputs[1]]
            if node.kind == "GatherND" or at.ndim:
                raise NotReadable("a choice of several places")
            index = _index(value, node.attributes.get("axis", 0))
            place = int(at) % value.shape[index]
            axes = _entries(value)
            axes.remove(index)
            self.values[node.outputs[0]] = _arranged(_piece(value, index, place, place + 1), axes)
            return
        cells = self.of(node.inputs[1])
        if node.kind == "GatherND":
            if node.attributes.get("batch_dims", 0) or cells.shape[-1] != 1:
                raise NotReadable("cells of several axes")
            cells = replace(cells, shape=cells.shape[:-1], strides=cells.strides[:-1])
        shape = (*cells.shape, *value.shape[1:])
        if (
            not cells.cells
            or value.wide
            or len(value.shape) > 2
            or len(cells.shape) != 2
            or node.attributes.get("axis")
        ):
            raise NotReadable("cells of another kind")
        if not cells.contiguous or cells.shape[0] != 1:
            raise NotReadable("some of the cells")
        out = self.new(wide=True, shape=shape, lead=cells.lead)
        (cell_count, *rest), (cell_step, *step) = value.shape, value.strides
        count, numbers = cells.shape[1], (rest or [1])[0]
        axes = [[cell_count, 0, cell_step, 0], [count, numbers, 0, 0], [numbers, 1, (step or [0])[0], 0]]
        self.instruct(Op.GATHER, out, axes, value, cells)
        self.values[node.outputs[0]] = out

    def concat(self, node: Node) -> None:
        parts = [self.of(name) for name in node.inputs]
        axis = node.attributes["axis"] % parts[0].rank
        index = _index(parts[0], axis)
        others = {(part.wide, part.lead, part.shape[:index], part.shape[index + 1 :]) for part in parts}
        if len(others) > 1:
            raise NotReadable("values of different kinds side by side")
        self.values[node.outputs[0]] = _Joined(tuple(parts), axis)

    def reshape(self, node: Node) -> None:
        value, sizes = self.of(node.inputs[0]), self.whole(node.inputs[1])
        if not value.contiguous:
            value = self.each(Op.COPY, value)
        lead = sizes.index(-1) if value.wide else 0
        rest = prod(size for size in sizes if size != -1)
        sizes = [prod(value.shape) // rest if size == -1 else size for size in sizes]
        if prod(sizes) != prod(value.shape) or any(size != 1 for size in sizes[:lead]):
            raise NotReadable(f"{value.shape} as {sizes}")
        shape = tuple(sizes[lead:])
        self.values[node.outputs[0]] = replace(value, shape=shape, strides=_strides(shape), lead=lead)

    def squeeze(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        axes = {axis % value.rank for axis in self.whole(node.inputs[1])}
        entries = [entry for axis, entry in enumerate(_entries(value)) if axis not in axes]
        if any(n > 1 for axis, (n, _) in enumerate(_axes(value, value.rank)) if axis in axes):
            raise NotReadable("a squeeze of a long axis")
        self.values[node.outputs[0]] = _arranged(value, entries)

    def unsqueeze(self, node: Node) -> None:
        value, axes = self.of(node.inputs[0]), self.whole(node.inputs[1])
        rank = value.rank + len(axes)
        entries: list[int | None] = list(_entries(value))
        for axis in sorted(axis % rank for axis in axes):
            entries.insert(axis, None)
        self.values[node.outputs[0]] = _arranged(value, entries)

    def transpose(self, node: Node) -> None:
        value = self.of(node.inputs[0])
        entries = _entries(value)
        self.values[node.outputs[0]] = _arranged(value, [entries[axis] for axis in node.attributes["perm"]])


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of numbers that lie one behind another."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _entries(value: _Value) -> list[int | None]:
    """By axis of the graph, which of the value's it is; None: of one, before the candidates'."""
    return [*[None] * value.lead, *range(len(value.shape))]


def _arranged(value: _Value, entries: Sequence[int | None]) -> _Value:
    """The value with its axes in another order, and new axes of one (None).

    Raises:
        NotReadable: the candidates' axis is missing, or another one comes before it.
    """
    lead = list(entries).index(0) if value.wide and 0 in entries else 0
    if value.wide and (0 not in entries or any(entry is not None for entry in entries[:lead])):
        raise NotReadable("the candidates' axis is not the first")
    axes = [(1, 0) if entry is None else (value.shape[entry], value.strides[entry]) for entry in entries[lead:]]
    return replace(value, shape=tuple(n for n, _ in axes), strides=tuple(step for _, step in axes), lead=lead)


def _axes(value: _Value, rank: int) -> list[tuple[int, int]]:
    """Size and stride of each axis of the graph, with `rank` axes."""
    own = list(zip(value.shape, value.strides, strict=True))
    return [(1, 0)] * (rank - len(own)) + own


def _index(value: _Value, axis: int) -> int:
    """Which of a value's axes an axis of the graph is.

    Raises:
        NotReadable: it is the candidates', or one before it.
    """
    index = axis % value.rank - value.lead
    if value.wide and index < 1:
        raise NotReadable("an operation along the candidates")
    return index


def _piece(value: _Value, index: int, begin: int, end: int) -> _Value:
    """From `begin` to `end` of an axis."""
    if value.cells:
        raise NotReadable("some of the cells")
    shape = list(value.shape)
    shape[index] = end - begin
    return replace(value, place=value.place + begin * value.strides[index], shape=tuple(shape))


def _parts(value: _Value | _Joined, axis: int) -> list[_Value]:
    """The parts of what is joined along this axis of two; none of others."""
    if not isinstance(value, _Joined) or value.axis != axis % value.parts[0].rank:
        return []
    return list(value.parts)


def _pieces(lefts: Sequence[_Value], rights: Sequence[_Value]) -> list[tuple[int, ...]]:
    """A product's sum cut where a part of one of its sides ends: place and strides of left, place and stride of right, and
    how many."""
    ends = [set(np.cumsum([part.shape[axis] for part in parts]).tolist()) for parts, axis in ((lefts, 1), (rights, 0))]
    if max(ends[0]) != max(ends[1]):
        raise NotReadable("sizes of a product")
    pieces, begin = [], 0
    for end in sorted(ends[0] | ends[1]):
        left, of_left = _part_at(lefts, 1, begin)
        right, of_right = _part_at(rights, 0, begin)
        pieces.append((
            left.place + of_left * left.strides[1], left.strides[0], left.strides[1],
            right.place + of_right * right.strides[0], right.strides[0], end - begin,
        ))  # fmt: skip
        begin = end
    return pieces


def _part_at(parts: Sequence[_Value], axis: int, at: int) -> tuple[_Value, int]:
    """The part that holds a place of the joined axis, and which place of the part that is."""
    for part in parts:
        if at < part.shape[axis]:
            return part, at
        at -= part.shape[axis]
    raise NotReadable("sizes of a product")


def _as_they_are(node: Node) -> list[str]:
    """The inputs of a node that are not replaced by what `prepare` makes of them."""
    if node.kind == "BatchNormalization":
        return node.inputs[:1]
    return [name for number, name in enumerate(node.inputs) if not (number == 1 and _is_turned(node))]


def _is_turned(node: Node) -> bool:
    """Whether a product takes its matrix transposed."""
    return node.kind == "Gemm" and bool(node.attributes.get("transB"))


def _turned(name: str) -> str:
    return f"{name} transposed"


def _scale(node: Node) -> str:
    return f"{node.outputs[0]} scale"


def _shift(node: Node) -> str:
    return f"{node.outputs[0]} shift"
