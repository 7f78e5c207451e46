"""How fast MIMN's encoder trains, against the encoder as one would first write it.

    python tests/bench/encoder.py [--length 100] [--batch 128] [--rounds 5]

A sample is one history through the encoder and back. The kinds take turns within one process on one thread; what counts
is processor seconds. Of the ratio to the port, the median of the rounds is given, and the ratio of the two best passes:
other load on the machine only ever adds. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.eager_port import EagerPort
from mimn.config import MimnConfig
from mimn.nn import native
from mimn.nn.cell import MimnCell, unroll

Encoder = Callable[[Tensor], Tensor]


def encoder(cell: MimnCell) -> Encoder:
    """The last states of histories, as training takes them. [B, T, D] → [B, F]"""
    return lambda events: unroll(cell, events, cell.initial(len(events)))[:, -1]


def native_encoder(cell: MimnCell) -> Encoder:
    """The same by the compiled recurrence, as training takes them where it can."""

    def encode(events: Tensor) -> Tensor:
        B, T, _ = events.shape
        return native.states_at(cell, events, cell.initial(B), torch.full((B, 1), T)).squeeze(1)

    return encode


def processor_s(encode: Encoder, events: Tensor) -> float:
    """Processor seconds of one pass forward and back."""
    inputs = events.clone().requires_grad_(True)
    began = time.process_time()
    torch.autograd.backward(encode(inputs).square().sum())
    return time.process_time() - began


def measure(batch: int, length: int, rounds: int) -> dict[str, dict[str, float]]:
    """Samples a processor second of each kind, and how many times the port's that is."""
    torch.manual_seed(0)
    cell = MimnCell(MimnConfig(embedding_dim=18, controller_units=36))
    kinds: dict[str, Encoder] = {"eager port": EagerPort(cell), "cell": encoder(cell)}
    if native.library(torch.float32) is not None:
        kinds["compiled recurrence"] = native_encoder(cell)
    events = torch.randn(batch, length, 36) * 0.3
    for encode in kinds.values():
        processor_s(encode, events[:, :20])
    seconds = [{name: processor_s(encode, events) for name, encode in kinds.items()} for _ in range(rounds)]
    best = {name: min(s[name] for s in seconds) for name in kinds}
    return {
        "samples_per_cpu_s": {name: round(batch / statistics.median(s[name] for s in seconds), 1) for name in kinds},
        "times_the_port": {
            name: round(statistics.median(s["eager port"] / s[name] for s in seconds), 2) for name in kinds
        },
        "times_the_port_best_passes": {name: round(best["eager port"] / best[name], 2) for name in kinds},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of MIMN's encoder in training.")
    parser.add_argument("--length", type=int, default=100, help="events a history (default 100)")
    parser.add_argument("--batch", type=int, default=128, help="histories a pass (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each kind, in turns (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(options.batch, options.length, options.rounds), indent=2))


if __name__ == "__main__":
    main()
