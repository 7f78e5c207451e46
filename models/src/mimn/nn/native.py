"""MIMN's recurrence in C++: the same states and gradients as the cell's steps, several times as fast.

When training starts, the machine's compiler builds `recurrence.cpp` for this processor, which takes some seconds. This
module decides where it can be used (a C++ compiler, tensors in main memory, a cell whose switches it supports);
`mimn.nn.cell` defines the step.
"""

from __future__ import annotations

import ctypes
import logging
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimn.nn import addressing
from mimn.nn.cell import Cell, MimnCell
from mimn.nn.compilation import compiler

log = logging.getLogger("mimn.train")

SOURCE = "recurrence.cpp"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
REAL = {torch.float32: "float", torch.float64: "double"}


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled recurrence for a type, built once per process; None if that fails (the log says why)."""
    path = compiler()
    if path is None:
        log.warning("no C++ compiler found: training is several times slower; install g++ or set CXX")
        return None
    with tempfile.TemporaryDirectory(prefix="mimn-") as folder:
        built = Path(folder) / "recurrence.so"
        with resources.as_file(resources.files("mimn.nn") / SOURCE) as source:
            result = subprocess.run(
                [path, *FLAGS, f"-DREAL={REAL[dtype]}", "-o", str(built), str(source)],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        if result.returncode:
            log.warning("%s cannot build %s: training is several times slower: %s", path, SOURCE, result.stderr[-500:])
            return None
        loaded = ctypes.CDLL(str(built))
    loaded.kept_values.restype = ctypes.c_int64
    loaded.kept_values.argtypes = [ctypes.c_int64] * 3
    return loaded


def known(cell: Cell) -> bool:
    """Whether the compiled recurrence supports the cell's switches: all of variant `paper` except rebalance `shift`."""
    return isinstance(cell, MimnCell) and not cell.config.shifts


def usable(cell: Cell, events: Tensor) -> bool:
    """Whether the compiled recurrence can fold these events with this cell."""
    return known(cell) and events.device.type == "cpu" and events.dtype in REAL and library(events.dtype) is not None


def states_at(cell: MimnCell, events: Tensor, state: Tensor, positions: Tensor) -> Tensor:
    """The states after `positions` events each; differentiable once, with respect to everything but the counts.

    Only every sixteenth state is kept for the backward pass, and no step after a user's last position is computed.

    [B, T, D], [B, F], [B, P] int64 of 0 to T → [B, P, F]

    Raises:
        ValueError: wrong shapes, types or positions, with which C++ would read out of bounds.
    """
    config, B = cell.config, len(events)
    if events.shape[2:] != (config.width,) or state.shape != (B, cell.layout.floats) or positions.shape[:-1] != (B,):
        raise ValueError(
            f"events {tuple(events.shape)}, state {tuple(state.shape)} and positions {tuple(positions.shape)} must be "
            f"[B, T, {config.width}], [B, {cell.layout.floats}] and [B, P]"
        )
    nothing = events.new_empty(0)
    transfer = (cell.transfer.weight, cell.transfer.bias) if config.transfers else (nothing, nothing)
    grus = [cell.controller, *([cell.channel] if config.memory_induction else [])]
    controller, *channel = [(gru.event, gru.side, gru.gates, gru.candidate, gru.bias) for gru in grus]
    weights = (
        *controller,
        cell.controls.weight,
        cell.controls.bias,
        addressing.direction(cell.keys()),
        *transfer,
        *(channel[0] if channel else [nothing] * 5),
    )
    switches = (config.memory_induction, config.utilization, config.transfers, config.bounded_writes)
    sizes = (config.slots, config.width, config.controller_units, *(int(switch) for switch in switches))
    result: Tensor = _Recurrence.apply(sizes, events, state, positions, *weights)  # type: ignore[no-untyped-call]
    return result


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sizes: tuple[int, ...], events: Tensor, state: Tensor, positions: Tensor, *weights: Tensor
    ) -> Tensor:
        (B, T, _), F, P = events.shape, state.shape[1], positions.shape[1]
        if {tensor.dtype for tensor in (state, *weights)} != {events.dtype} or positions.dtype != torch.int64:
            raise ValueError(f"state and weights must be {events.dtype} like the events, positions int64")
        if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) <= T:
            raise ValueError(f"positions must be 0 to {T}, the number of events")
        sizes = (B, T, P, *sizes)
        histories = (events.contiguous(), state.contiguous(), *torch.sort(positions, dim=1, stable=True))
        weights = tuple(weight.contiguous() for weight in weights)
        out, kept = events.new_empty(B, P, F), None
        if any(ctx.needs_input_grad):
            kept = events.new_empty(_loaded(events.dtype).kept_values(*sizes[:2], F))
        _run(
            "forward", sizes, events.dtype, [*histories, out, kept, None, None, None, *weights, *[None] * len(weights)]
        )
        ctx.sizes = sizes
        ctx.save_for_backward(kept, *histories, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, *rest = ctx.saved_tensors
        histories, weights = rest[:4], rest[4:]
        gradients = [torch.zeros_like(tensor) for tensor in (*histories[:2], *weights)]
        tensors = [*histories, None, kept, gradient.contiguous(), *gradients[:2], *weights, *gradients[2:]]
        _run("backward", ctx.sizes, gradient.dtype, tensors)
        return None, *gradients[:2], None, *gradients[2:]


def _run(way: str, sizes: tuple[int, ...], dtype: torch.dtype, tensors: Sequence[Tensor | None]) -> None:
    """Call one of the library's functions; sizes and tensors in the order of its enumerations."""
    function = getattr(_loaded(dtype), way)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    function((ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_void_p * len(pointers))(*pointers))


def _loaded(dtype: torch.dtype) -> ctypes.CDLL:
    loaded = library(dtype)
    if loaded is None:
        raise RuntimeError("the compiled recurrence could not be built: ask `usable` first")
    return loaded
