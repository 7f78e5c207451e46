"""The named tensors of a state, their order, and how each is stored.

All computation uses a state as one flat float32 vector (the graphs take and return the whole vector). A block names a
piece of that vector and gives its stored type. The order comes from the bundle's manifest, so a new kind of block
changes the fingerprint but no code here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BlockType = Literal["float32", "float16", "uint32"]
"""`uint32` is a block of whole numbers. Its places in the flat vector hold their bits, not their values: such a block
is copied and viewed (`.view(np.uint32)`), never computed with."""
ItemSize: Mapping[str, int] = {"float32": 4, "float16": 2, "uint32": 4}

MAX_AXES = 8
"""Of a block. With thousands of axes the size of a block would have thousands of digits."""
MAX_FLOATS = 1 << 20
"""More values than any reasonable state has. A larger manifest is refused before any memory is allocated."""


class LayoutError(ValueError):
    """The blocks do not describe a state; the message names the block and the fix."""


@dataclass(frozen=True)
class Block:
    """One named tensor of the state: its shape and its stored type."""

    name: str
    shape: tuple[int, ...]
    dtype: BlockType = "float32"

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class StateLayout:
    """The blocks of a state, in order.

    Invariant: names are distinct, sizes are positive, and float16 blocks come before wider ones. So the stored bytes
    are at most two runs, and every wider value is aligned.
    """

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        wide = False
        for block in self.blocks:
            if not block.name or block.name in seen:
                raise LayoutError(f"block name {block.name!r} is empty or used twice: give each block its own name")
            seen.add(block.name)
            if len(block.shape) > MAX_AXES:
                raise LayoutError(f"block {block.name!r} has {len(block.shape)} axes: at most {MAX_AXES} are allowed")
            if not block.shape or min(block.shape) < 1:
                raise LayoutError(f"block {block.name!r} has shape {block.shape}: every axis must be at least 1")
            if block.dtype not in ItemSize:
                raise LayoutError(f"block {block.name!r} has dtype {block.dtype!r}: use float32, float16 or uint32")
            if block.dtype == "float16" and wide:
                raise LayoutError(f"block {block.name!r} is float16 behind a wider block: put float16 blocks first")
            wide = wide or block.dtype != "float16"
        if not self.blocks:
            raise LayoutError("a state needs at least one block")
        if self.floats > MAX_FLOATS:
            raise LayoutError(
                f"the blocks hold more than the {MAX_FLOATS} values that a state may have: make them smaller"
            )
        if self.half_floats % 2:
            raise LayoutError("the float16 blocks hold an odd number of values: pad one, so that float32 stays aligned")

    def __hash__(self) -> int:
        return hash((self.floats, self.stored_bytes))  # quick: every round looks up what was made for a layout

    @cached_property
    def floats(self) -> int:
        """F: values in the flat vector."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def half_floats(self) -> int:
        """How many of the leading values are stored as float16."""
        return sum(block.size for block in self.blocks if block.dtype == "float16")

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the stored tensors: 2 or 4 per value, padded to a multiple of 8."""
        raw = 2 * self.half_floats + 4 * (self.floats - self.half_floats)
        return -(-raw // 8) * 8

    def slices(self) -> Iterator[tuple[Block, slice]]:
        """Each block with its place in the flat vector."""
        start = 0
        for block in self.blocks:
            yield block, slice(start, start + block.size)
            start += block.size

    def view(self, tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The blocks of `tensors` [..., F] by name, each [..., *shape], as views."""
        return {
            block.name: tensors[..., place].reshape(*tensors.shape[:-1], *block.shape) for block, place in self.slices()
        }

    def flatten(self, blocks: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The flat vector [F] of named tensors; the inverse of `view` for one state.

        Raises:
            LayoutError: a block is missing or has another shape.
        """
        out = np.empty(self.floats, np.float32)
        for block, place in self.slices():
            if block.name not in blocks:
                raise LayoutError(f"block {block.name!r} is missing")
            value = blocks[block.name]
            if value.shape != block.shape:
                raise LayoutError(f"block {block.name!r} has shape {value.shape}, the layout says {block.shape}")
            out[place] = value.reshape(-1)
        return out

    def close(self, one: NDArray[np.float32], other: NDArray[np.float32], atol: float) -> bool:
        """Whether two states [F] hold the same: floats up to `atol`, whole numbers exactly."""
        return all(
            np.array_equal(one[place].view(np.uint32), other[place].view(np.uint32))
            if block.dtype == "uint32"
            else np.allclose(one[place], other[place], rtol=0, atol=atol)
            for block, place in self.slices()
        )

    def round(self, tensors: NDArray[np.float32]) -> NDArray[np.float32]:
        """`tensors` [..., F] with each value as it reads back after storage, float32."""
        if not self.half_floats:
            return tensors
        out = tensors.copy()
        out[..., : self.half_floats] = tensors[..., : self.half_floats].astype(np.float16)
        return out
