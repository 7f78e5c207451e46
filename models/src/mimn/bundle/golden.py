"""Golden cases: a few histories with the states and scores that the exporting process computed for them.

Whoever loads a bundle folds them through its own runtime before serving, so that a wrong library version or a wrong
file is found at start and not in a click-through rate; the same runs warm the runtime up.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

StepFunction = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""(events [B, D], state [B, F]) → state [B, F]"""
HeadFunction = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""(candidates [C, D], state [F], context [K]) → scores [C]"""
VectorFunction = Callable[[NDArray[np.uint64], NDArray[np.uint64]], NDArray[np.float32]]
"""(item ids [k], category ids [k]) → vectors [k, D]"""

TOLERANCE = 1e-5
"""Absolute, and relative to the value."""
HALF = 1e-2
"""The same for the states of a float16 bundle: a value that lies between two float16 numbers may be rounded to
either side by another processor, and the difference is carried on."""


class GoldenMismatch(Exception):
    """This process computes other numbers than the one that exported the bundle."""


@dataclass(frozen=True)
class Golden:
    """n users with T events each, and C candidates scored for each of them."""

    items: NDArray[np.uint64]
    """[n, T]"""
    categories: NDArray[np.uint64]
    """[n, T]"""
    states: NDArray[np.float32]
    """[n, F], after the T events."""
    candidate_items: NDArray[np.uint64]
    """[C]"""
    candidate_categories: NDArray[np.uint64]
    """[C]"""
    context: NDArray[np.float32]
    """[n, K]"""
    scores: NDArray[np.float32]
    """[n, C]"""
    cold_scores: NDArray[np.float32]
    """[C], on the initial state with an all-zero context."""
    half_floats: int = 0
    """Of the layout, not stored here: how many leading values of a state are stored as float16."""

    def to_bytes(self) -> bytes:
        """An uncompressed .npz archive of plain arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in ARRAYS})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, half_floats: int = 0) -> Golden:
        """Raises ValueError or KeyError when the archive is not one of ours."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return cls(**{name: archive[name] for name in ARRAYS}, half_floats=half_floats)

    def verify_step(self, step: StepFunction, vectors: VectorFunction, initial: NDArray[np.float32]) -> None:
        """Fold the histories with `step` and compare.

        Raises:
            GoldenMismatch: a state differs by more than 1e-5 + 1e-5 * |x| (1e-2 in a float16 bundle).
        """
        state = np.tile(initial, (len(self.items), 1))
        for t in range(self.items.shape[1]):
            state = step(vectors(self.items[:, t], self.categories[:, t]), state)
        _compare("state", state, self.states, HALF if self.half_floats else TOLERANCE)

    def verify_head(self, head: HeadFunction, vectors: VectorFunction, initial: NDArray[np.float32]) -> None:
        """Score the candidates with `head` and compare.

        Raises:
            GoldenMismatch: a score differs by more than 1e-5 + 1e-5 * |x|.
        """
        candidates = vectors(self.candidate_items, self.candidate_categories)
        for state, context, scores in zip(self.states, self.context, self.scores, strict=True):
            _compare("score", head(candidates, state, context), scores)
        _compare("cold score", head(candidates, initial, np.zeros_like(self.context[0])), self.cold_scores)


ARRAYS = tuple(field.name for field in fields(Golden) if field.name != "half_floats")


def _compare(what: str, got: NDArray[np.float32], want: NDArray[np.float32], tolerance: float = TOLERANCE) -> None:
    if got.shape != want.shape:
        raise GoldenMismatch(f"golden {what} has shape {got.shape}, expected {want.shape}")
    excess = np.abs(got - want) - tolerance * (1 + np.abs(want))
    if not bool(np.all(excess <= 0)):
        raise GoldenMismatch(
            f"golden {what} differs by {float(np.max(np.abs(got - want))):.3g}: this onnxruntime does not reproduce "
            "the exporting one; export the bundle with this version, or install that one"
        )
