"""The instructions of a head program, as head.c reads them, and the room of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.head_values import GROUP, Value, axes_of, pieces_of, strides_of
from mimn.rows.onnx_file import NotReadable
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
MOST_NUMBERS = 1 << 24
"""Of a user, and of a candidate."""
_AXES, _PIECE = 3, 7
_OF_USER_ONLY, _OF_CANDIDATES_ONLY = {Op.POW}, {Op.SOFTMAX}


@dataclass(frozen=True, slots=True)
class Input:
    """Of the graph: its name, and its shape with `CANDIDATES` for the free axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class HeadProgram:
    """Instructions, flat; constants; and where things are."""

    once: NDArray[np.int32]
    """What is computed for the user,"""
    each: NDArray[np.int32]
    """and for the candidates."""
    inputs: NDArray[np.int32]
    """By input: its `Kind`, its place, its width. [I, 3]"""
    constants: Sequence[tuple[int, NDArray[np.float32]]]
    """Their places among the user's numbers, and their values, flat."""
    user: int
    """Numbers of the user, constants included;"""
    rows: int
    """of a candidate;"""
    result: int
    """the score's place among them."""


class HeadCode:
    """A program as it is written."""

    def __init__(self) -> None:
        self._rows: dict[bool, list[list[int]]] = {False: [], True: []}
        """Instructions, by whether they are the candidates'."""
        self._places: list[list[int]] = []
        """By instruction of the candidates, its fields that are places of theirs."""
        self._rooms: list[tuple[int, int]] = []
        """Place and size of each value of the candidates."""
        self._used = {False: 0, True: 0}
        self._constants: dict[int, NDArray[np.float32]] = {}
        """By place."""
        self._inputs: list[tuple[int, int, int]] = []

    def finished(self, result: Value) -> HeadProgram:
        """The program. `result` is a number of each candidate."""
        each = self._rows[True]
        touched = [[row[field] for field in fields] for row, fields in zip(each, self._places, strict=True)]
        keep = sum(kind == Kind.OF_CANDIDATES for kind, _, _ in self._inputs)
        place_of, rows = reused_rooms(self._rooms, touched, keep, result.place)
        for row, fields in zip(each, self._places, strict=True):
            for field in fields:
                row[field] = place_of(row[field])
        return HeadProgram(
            once=_flat(self._rows[False]),
            each=_flat(each),
            inputs=np.array(self._inputs, np.int32),
            constants=list(self._constants.items()),
            user=self._used[False],
            rows=rows,
            result=place_of(result.place),
        )

    def new(self, *, wide: bool, shape: Sequence[int], lead: int = 0) -> Value:
        """Room for a value."""
        value = Value(wide, self._used[wide], tuple(shape), strides_of(shape), lead)
        if wide:
            self._rooms.append((value.place, prod(shape)))
        self._used[wide] += prod(shape) if wide else -(-prod(shape) // ROOM) * ROOM
        if self._used[wide] > MOST_NUMBERS:
            raise NotReadable("more numbers than a program has")
        return value

    def constant(self, array: NDArray[Any]) -> Value:
        """A constant."""
        value = self.new(wide=False, shape=array.shape)
        self._constants[value.place] = array.reshape(-1)
        return value

    def input(self, given: Input) -> Value:
        """Room for the next input of the graph."""
        wide, cells = given.shape[0] == CANDIDATES, given.dtype == "int64"
        shape = [1 if size == CANDIDATES else int(size) for size in given.shape]
        if given.dtype != ("int64" if wide and cells else "float32") or min(shape) < 1:
            raise NotReadable(f"{given.name} of {given.dtype} {given.shape}")
        if cells:
            value, kind = Value(True, len(self._inputs), tuple(shape), strides_of(shape), cells=True), Kind.CELLS
        else:
            value, kind = self.new(wide=wide, shape=shape), Kind.OF_CANDIDATES if wide else Kind.OF_USER
        self._inputs.append((kind, value.place, prod(shape)))
        return value

    def binary(self, op: Op, a: Value, b: Value) -> Value:
        """Of two values, each repeated along axes that it does not have."""
        rank, wide = max(a.rank, b.rank), a.wide or b.wide
        leads = {rank - value.rank + value.lead for value in (a, b) if value.wide}
        if len(leads) > 1 or (wide and op in _OF_USER_ONLY):
            raise NotReadable(f"{op.name} of candidates with others")
        lead = leads.pop() if wide else 0
        axes = [axes_of(value, rank) for value in (a, b)]
        if any(n > 1 for of in axes for n, _ in of[:lead]):
            raise NotReadable("an axis before the candidates'")
        if (
            wide
            and len({of[lead][0] for of, value in zip(axes, (a, b), strict=True) if value.wide or of[lead][0] > 1}) > 1
        ):
            raise NotReadable(f"{op.name} along the candidates")
        sizes = []
        for (n, _), (m, _) in zip(axes[0][lead:], axes[1][lead:], strict=True):
            if n != m and 1 not in (n, m):
                raise NotReadable(f"{op.name} of {a.shape} and {b.shape}")
            sizes.append(max(n, m))
        out = self.new(wide=wide, shape=sizes, lead=lead)
        self._on_each(op, out, a, b, [[step if n > 1 else 0 for n, step in of[lead:]] for of in axes])
        return out

    def each(self, op: Op, a: Value, into: Value | None = None) -> Value:
        """Of each number of a value."""
        out = self.new(wide=a.wide, shape=a.shape, lead=a.lead) if into is None else into
        self._on_each(op, out, a, a, [a.strides, a.strides])
        return out

    def for_each(self, a: Value, sizes: Sequence[int], lead: int) -> Value:
        """A user's value as one of each candidate. `sizes`: from the candidates' axis on; 1: as the value's."""
        axes = axes_of(a, lead + len(sizes))
        own = axes[lead:]
        fits = len(own) == len(sizes) and all(n == 1 for n, _ in axes[: lead + 1])
        if not fits or any(n not in (1, size) and size != 1 for (n, _), size in zip(own, sizes, strict=True)):
            raise NotReadable(f"{a.shape} for each candidate as {list(sizes)}")
        out = self.new(wide=True, shape=[max(n, size) for (n, _), size in zip(own, sizes, strict=True)], lead=lead)
        steps = [step if n > 1 else 0 for n, step in own]
        self._on_each(Op.COPY, out, a, a, [steps, steps])
        return out

    def over(self, op: Op, a: Value, index: int) -> Value:
        """A sum, a length or a softmax along an axis, which stays: of one number, or in a softmax as it was."""
        if not a.wide and op in _OF_CANDIDATES_ONLY:
            raise NotReadable(f"{op.name} of the user")
        sizes = [1 if axis == index and op is not Op.SOFTMAX else n for axis, n in enumerate(a.shape)]
        out = self.new(wide=a.wide, shape=sizes, lead=a.lead)
        axes = [[n, step, along, 0] for n, step, along in zip(a.shape, out.strides, a.strides, strict=True)]
        self._instruct(op, out, [*(axis for at, axis in enumerate(axes) if at != index), axes[index]], a, a)
        return out

    def product(self, lefts: Sequence[Value], rights: Sequence[Value], summand: Value | None) -> Value:
        """Of matrices, the right one the user's. Both may be joined of parts: their sum is computed piece by piece."""
        if any(part.cells or len(part.shape) != 2 for part in lefts) or any(
            part.wide or len(part.shape) != 2 for part in rights
        ):
            raise NotReadable("a product of other things than matrices")
        rights = [part if part.strides[1] == 1 or part.shape[1] == 1 else self.each(Op.COPY, part) for part in rights]
        first = lefts[0]
        if first.wide:
            rights = [self._in_columns(part) for part in rights]
        out = self.new(wide=first.wide, shape=(first.shape[0], rights[0].shape[1]), lead=first.lead)
        pieces = pieces_of(lefts, rights)
        fields = [Op.PRODUCT, out.place, *out.shape, *_summand(summand, out), len(pieces)]
        read = [1 + len(fields) + _PIECE * number for number in range(len(pieces))]
        if summand is not None and summand.wide:
            read.append(_SUMMAND)
        self._add([*fields, *(number for piece in pieces for number in piece)], out, read)
        return out

    def _in_columns(self, matrix: Value) -> Value:
        """A constant stored again in groups of `GROUP` columns, so that a product reads it in one direction."""
        numbers = self._constants.get(matrix.place)
        inner, columns = matrix.shape
        if numbers is None or not matrix.contiguous or numbers.size != inner * columns:
            return matrix
        padded = np.zeros((inner, -(-columns // GROUP) * GROUP), np.float32)
        padded[:, :columns] = numbers.reshape(inner, columns)
        stored = self.constant(padded.reshape(inner, -1, GROUP).swapaxes(0, 1))
        return replace(matrix, place=stored.place, strides=(GROUP, 1), group=GROUP * inner)

    def gather(self, value: Value, cells: Value) -> Value:
        """The user's numbers [N] or [N, S] at the candidates' cells [A]. → [A] or [A, S]"""
        if not cells.cells or value.wide or len(value.shape) > 2 or len(cells.shape) != 2 or cells.shape[0] != 1:
            raise NotReadable("cells of another kind")
        out = self.new(wide=True, shape=(*cells.shape, *value.shape[1:]), lead=cells.lead)
        count, numbers, step = cells.shape[1], *(*value.shape[1:], 1)[:1], *(*value.strides[1:], 0)[:1]
        axes = [[value.shape[0], 0, value.strides[0], 0], [count, numbers, 0, 0], [numbers, 1, step, 0]]
        self._instruct(Op.GATHER, out, axes, value, cells)
        return out

    def _on_each(self, op: Op, out: Value, a: Value, b: Value, strides: Sequence[Sequence[int]]) -> None:
        """An instruction on each number, along as few axes as there can be."""
        if a.cells or b.cells:
            raise NotReadable("arithmetic with cells")
        axes: list[list[int]] = []
        for n, *steps in zip(out.shape, out.strides, *strides, strict=True):
            if n == 1:
                continue
            if axes and all(outer == n * inner for outer, inner in zip(axes[-1][1:], steps, strict=True)):
                axes[-1] = [axes[-1][0] * n, *steps]
            else:
                axes.append([n, *steps])
        self._instruct(op, out, axes, a, b)

    def _instruct(self, op: Op, out: Value, axes: Sequence[Sequence[int]], a: Value, b: Value) -> None:
        """`axes`: the size of each, and its strides in result and operands."""
        if len(axes) > _AXES:
            raise NotReadable(f"{op.name} along {len(axes)} axes")
        padded = [*[[1, 0, 0, 0]] * (_AXES - len(axes)), *axes]
        fields = [op, out.place, a.place, b.place, a.wide, b.wide, *(axis[f] for f in range(4) for axis in padded)]
        self._add(fields, out, [field for field, value in ((3, a), (4, b)) if value.wide and not value.cells])

    def _add(self, fields: Sequence[int], out: Value, read: Sequence[int]) -> None:
        """`read`: which fields are places of the candidates that it reads."""
        self._rows[out.wide].append([1 + len(fields), *map(int, fields)])
        if out.wide:
            self._places.append([2, *read])


def _summand(value: Value | None, out: Value) -> list[int]:
    """Where a product's summand is, whose it is, and its strides."""
    if value is None:
        return [0, 0, 0, 0]
    if value.rank > out.rank or value.cells or (value.wide and (not out.wide or value.lead != out.lead)):
        raise NotReadable("a summand of another shape")
    axes = axes_of(value, out.rank)[out.lead :]
    for (n, _), size, along in zip(axes, out.shape, (out.wide, False), strict=True):
        if n != size if along and value.wide else n not in ((1,) if along else (1, size)):
            raise NotReadable("a summand of another size")
    return [value.place, 1 + value.wide, *(step if n > 1 else 0 for n, step in axes)]


_SUMMAND = 5
"""The field of a product that is its summand's place."""


def _flat(rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.array([number for row in rows for number in row], np.int32)
