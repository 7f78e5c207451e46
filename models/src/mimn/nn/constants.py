"""Functions of weights that a bundle holds as constants, with the same bits on every processor.

A state's fingerprint covers the bytes of step graph, initial state and vectors. PyTorch's own functions round
differently from one instruction set to the next, so with them one checkpoint would have several fingerprints. Here
each value is rounded once from a precise one, or is a chain of single float32 operations in a fixed order.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn.nn.addressing import TINY
from mimn.nn.cell import Cell, MimnCell
from mimn.nn.fields import ModelFields

Floats = NDArray[np.float32]
DIGITS = 40
SATURATED = 20.0
"""Far above this argument a `Decimal` overflows; the tangent is 1 in float32 from 10 on."""
LANES = 8
"""Sums of squares are made in so many partial sums: PyTorch's order, with which earlier bundles were written."""


def initial_blocks(cell: Cell) -> dict[str, Floats]:
    """`cell.initial_blocks`, as a bundle stores them."""
    blocks = {name: value.detach().numpy() for name, value in cell.initial_blocks().items()}
    if isinstance(cell, MimnCell):
        blocks |= {"read": tanh(cell.initial_read), "memory": tanh(cell.initial_memory)}
    return blocks


def slot_directions(cell: MimnCell) -> Floats:
    """The directions of the static keys of the slots: [m, D], each row of length 1; a key of zeros stays zero."""
    keys = tanh(cell.slot_keys)
    padded = np.pad(keys * keys, ((0, 0), (0, -keys.shape[1] % LANES)))
    lanes = reduce(np.add, np.moveaxis(padded.reshape(len(keys), -1, LANES), 1, 0))
    squares = reduce(np.add, lanes.T)
    inverse: Floats = np.float32(1) / np.sqrt(np.maximum(squares, np.float32(TINY)))
    return keys * inverse[:, np.newaxis]


def tanh(weights: Tensor) -> Floats:
    """The hyperbolic tangent of each weight, correctly rounded. [...] → [...] float32

    In decimal arithmetic, whose rounding is specified: an `exp` of floats is one of the processor's.
    """
    values = weights.detach().cpu().numpy().clip(-SATURATED, SATURATED)
    with localcontext(prec=DIGITS):
        exact = [float(1 - 2 / ((2 * Decimal(value)).exp() + 1)) for value in values.ravel().tolist()]
    return np.array(exact, np.float32).reshape(values.shape)


def item_vectors(table: Tensor, fields: ModelFields | None) -> Floats:
    """Every item's vector by row, as `ModelFields.item_embeddings` makes it. [rows, E] → [rows, E]"""
    vectors: Floats = table.detach().numpy()
    if fields is None:
        return vectors
    own: Floats = vectors[fields.id_rows(torch.arange(len(vectors))).numpy()]
    if not fields.with_members:
        return own
    first = fields.get_buffer("member_first").numpy()
    sizes = np.diff(first)
    group = np.flatnonzero(sizes)
    if not len(group):
        return own
    # In float64 the sums are as good as exact, and the only rounding is the one to float32.
    members = vectors[fields.get_buffer("member_rows").numpy()].astype(np.float64)
    means = np.add.reduceat(members, first[group], axis=0) / sizes[group, np.newaxis]
    made = own.copy()
    made[group] = (own[group] + means).astype(np.float32)
    return made
