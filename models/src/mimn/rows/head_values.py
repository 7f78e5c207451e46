"""The values of a head program: places with shapes and strides, as in numpy, so that cutting, reshaping, turning and
joining them cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from mimn.rows.onnx_file import NotReadable

GROUP = 8
"""Columns of a product that are summed together, as in head.c."""


@dataclass(frozen=True, slots=True)
class Value:
    """Numbers of the user, or of each candidate."""

    wide: bool
    """Whether it is the candidates'."""
    place: int
    shape: tuple[int, ...]
    """For candidates: what the candidates' axis of the graph has for one of them (4 of [4 C, W]), and the axes behind
    it."""
    strides: tuple[int, ...]
    lead: int = 0
    """Axes, of one, before the candidates'."""
    cells: bool = False
    """Not numbers: the places of cells, in the input of this `place`."""
    group: int = GROUP
    """Of a matrix on the right of a product: from `GROUP` columns to the next."""

    @property
    def rank(self) -> int:
        """Axes in the graph."""
        return self.lead + len(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie one behind another."""
        return all(
            n == 1 or have == want
            for n, have, want in zip(self.shape, self.strides, strides_of(self.shape), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Joined:
    """Values that the graph joins along an axis, as long as nothing needs them side by side."""

    parts: tuple[Value, ...]
    axis: int


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Of numbers that lie one behind another."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def entries_of(value: Value) -> list[int | None]:
    """By axis of the graph, which of the value's it is; None: of one, before the candidates'."""
    return [*[None] * value.lead, *range(len(value.shape))]


def arranged(value: Value, entries: Sequence[int | None]) -> Value:
    """The value with its axes in another order, and new axes of one (None).

    Raises:
        NotReadable: the candidates' axis is missing, or another one comes before it.
    """
    lead = list(entries).index(0) if value.wide and 0 in entries else 0
    if value.wide and (0 not in entries or any(entry is not None for entry in entries[:lead])):
        raise NotReadable("the candidates' axis is not the first")
    axes = [(1, 0) if entry is None else (value.shape[entry], value.strides[entry]) for entry in entries[lead:]]
    return replace(value, shape=tuple(n for n, _ in axes), strides=tuple(step for _, step in axes), lead=lead)


def axes_of(value: Value, rank: int) -> list[tuple[int, int]]:
    """Size and stride of each axis of the graph, with `rank` axes."""
    own = list(zip(value.shape, value.strides, strict=True))
    return [(1, 0)] * (rank - len(own)) + own


def index_of(value: Value, axis: int) -> int:
    """Which of a value's axes an axis of the graph is.

    Raises:
        NotReadable: it is the candidates', or one before it.
    """
    index = axis % value.rank - value.lead
    if value.wide and index < 1:
        raise NotReadable("an operation along the candidates")
    return index


def piece_of(value: Value, index: int, begin: int, end: int) -> Value:
    """From `begin` to `end` of an axis."""
    if value.cells:
        raise NotReadable("some of the cells")
    shape = list(value.shape)
    shape[index] = end - begin
    return replace(value, place=value.place + begin * value.strides[index], shape=tuple(shape))


def parts_of(value: Value | Joined, axis: int) -> list[Value]:
    """The parts of what is joined along this axis of two; none of others."""
    if not isinstance(value, Joined) or value.axis != axis % value.parts[0].rank:
        return []
    return list(value.parts)


def pieces_of(lefts: Sequence[Value], rights: Sequence[Value]) -> list[tuple[int, ...]]:
    """A product's sum, cut where a part of one of its sides ends: place and strides of left, place, stride and group
    of right, and how many numbers."""
    ends = [set(np.cumsum([part.shape[axis] for part in parts]).tolist()) for parts, axis in ((lefts, 1), (rights, 0))]
    if max(ends[0]) != max(ends[1]):
        raise NotReadable("sizes of a product")
    pieces: list[tuple[int, ...]] = []
    begin = 0
    for end in sorted(ends[0] | ends[1]):
        left, of_left = _part_at(lefts, 1, begin)
        right, of_right = _part_at(rights, 0, begin)
        pieces.append((
            left.place + of_left * left.strides[1], left.strides[0], left.strides[1],
            right.place + of_right * right.strides[0], right.strides[0], right.group, end - begin,
        ))  # fmt: skip
        begin = end
    return pieces


def _part_at(parts: Sequence[Value], axis: int, at: int) -> tuple[Value, int]:
    """The part that holds a place of the joined axis, and which place of the part that is."""
    for part in parts:
        if at < part.shape[axis]:
            return part, at
        at -= part.shape[axis]
    raise NotReadable("sizes of a product")
