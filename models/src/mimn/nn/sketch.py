"""The sketch in training, in evaluation and in the head: the values of a candidate's cells, and what the head reads.

Training builds no counters. A cell holds a sum over the events that added to it (`mimn.state.sketch`), and a candidate
reads only a few cells. So training sums over the events before a candidate that share a cell with it. These sums are
exact. Served counters are rounded to float16 at every event, so evaluation adds events to counters one by one with the
code that UIC uses, and reads them with the code that is in `head.onnx`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mimn.config import SharedConfig
from mimn.state.sketch import DAY_MS, Sketch


@dataclass(frozen=True, kw_only=True)
class Touches:
    """Cells and times for B windows of T events, each with P occasions of C candidates."""

    addresses: Tensor
    """[B, T, A] int64: the cells that each event adds to."""
    times: Tensor
    """[B, T] int64, ms."""
    candidate_addresses: Tensor
    """[B, P, C, A] int64: the cells that each candidate reads."""
    now: Tensor
    """[B, P] int64, ms: the time of each occasion; not before its events."""
    weights: Tensor | None = None
    """[B, T] float32: what each event counts; None: 1."""

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


class SketchReader(nn.Module):
    """Computes what a head reads from the sketch. Has no weights."""

    def __init__(self, sketch: Sketch, limit: float = 0.0) -> None:
        """`limit`: what a user's counters of one half-life may add up to; larger ones are scaled down. 0: no limit."""
        super().__init__()
        self.sketch, self.limit = sketch, limit
        self.width = len(sketch.half_lives) * ((sketch.category_cells > 0) + (sketch.item_cells > 0))

    def forward(self, counts: Tensor) -> Tensor:
        """log1p of the category's cell, then of the smaller of the item's two cells. [..., A, S] → [..., R]"""
        pieces = []
        if self.sketch.category_cells:
            pieces.append(counts[..., 0, :])
        if self.sketch.item_cells:
            pieces.append(torch.minimum(counts[..., -2, :], counts[..., -1, :]))
        return torch.log1p(torch.cat(pieces, -1))

    def counts(self, state: Tensor, addresses: Tensor, now: Tensor) -> Tensor:
        """The values of a user's counters for candidates, decayed to a given time, as `head.onnx` computes them.

        state [1, F], flat; addresses [C, A]; now [1, 2, S] (`Sketch.moments`) → [1, C, A, S]. A time before the
        counters' period counts as the beginning of that period.
        """
        S, N = len(self.sketch.half_lives), self.sketch.cells
        counters = state[0, : S * N].view(S, N)
        gone = (now[0, 0] - state[0, -S:]).clamp_min(0.0)
        scale = torch.exp2(-gone) / now[0, 1]
        if self.limit:
            scale = scale * within(self.limit, counters[:, : self.sketch.row].sum(-1) * scale)
        return (counters[:, addresses].permute(1, 2, 0) * scale).unsqueeze(0)


def sketch_reader(config: SharedConfig) -> SketchReader | None:
    """What reads the sketch of a model of `config`; None without one."""
    return None if config.sketch is None else SketchReader(config.sketch, config.sketch_limit)


def within(limit: float, total: Tensor) -> Tensor:
    """The factor that makes `total` at most `limit`, above 0. [...] → [...], 1 where it is below"""
    return limit / total.clamp_min(limit)


def window_counts(sketch: Sketch, touches: Touches, positions: Tensor, limit: float = 0.0) -> Tensor:
    """The counter values for each candidate at its time, if each user's first event is the first of the window.

    positions [B, P] int64: how many of the window's events precede each occasion; `limit` as in `SketchReader` →
    [B, P, C, A, S]
    """
    T = touches.times.shape[1]
    before = torch.arange(T, device=positions.device) < positions.unsqueeze(-1)
    age = (touches.now.unsqueeze(-1) - touches.times.unsqueeze(-2)).to(torch.float32) / DAY_MS
    weights = torch.stack(
        [before * (torch.exp2(-age.clamp_min(0.0) / days) if days else 1.0) for days in sketch.half_lives], -1
    )
    if touches.weights is not None:
        weights = weights * touches.weights[:, None, :, None]
    if limit:
        weights = weights * within(limit, weights.sum(-2, keepdim=True))
    events, candidates = touches.addresses.permute(2, 0, 1), touches.candidate_addresses.permute(3, 0, 1, 2)
    same = (candidates.unsqueeze(-1) == events.unsqueeze(2).unsqueeze(2)).to(weights.dtype)
    return (same @ weights).permute(1, 2, 3, 0, 4)


def folded_counters(
    sketch: Sketch,
    addresses: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    lengths: NDArray[np.int64],
    weights: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The counters and periods of B users after their events, added one by one as UIC does.

    addresses [B, T, A]; times_ms [B, T]; lengths [B]: row b has events at 0 to lengths[b] - 1; weights [B, T]: what
    each event counts → [B, S * N + S], a state without its other blocks
    """
    B, T = times_ms.shape
    states = np.zeros((B, sketch.values + len(sketch.half_lives)), np.float32)
    counted = None if weights is None else weights.reshape(-1)
    moments = sketch.moments(times_ms.reshape(-1), counted).reshape(B, T, 2, -1)
    for t in range(int(lengths.max(initial=0))):
        sketch.add(states, addresses[:, t], moments[:, t], t < lengths)
    return states


def read_counters(
    reader: SketchReader, states: NDArray[np.float32], addresses: NDArray[np.int64], now_ms: NDArray[np.int64]
) -> Tensor:
    """The values of the counters of B users for candidates, as `head.onnx` reads them.

    states [B, F]; addresses [B, C, A]; now_ms [B] → [B, C, A, S]
    """
    moments = torch.from_numpy(reader.sketch.moments(now_ms)).unsqueeze(1)
    users = zip(torch.from_numpy(states).unsqueeze(1), torch.from_numpy(addresses), moments, strict=True)
    return torch.cat([reader.counts(state, cells, now) for state, cells, now in users])
