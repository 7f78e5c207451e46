"""How fast MIMN's encoder trains, against the encoder as one would first write it.

    python tests/bench/encoder.py [--length 100] [--batch 128] [--rounds 5]

A sample is one history through the encoder and back. The kinds take turns within one process on one thread; what counts
is processor seconds, and of the rounds the median ratio. Prints JSON.
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
from mimn.nn.cell import MimnCell, unroll
from mimn.nn.compilation import compiled, compiler

Encoder = Callable[[Tensor], Tensor]


def encoder(cell: MimnCell) -> Encoder:
    """The last states of histories, as training takes them. [B, T, D] → [B, F]"""
    return lambda events: unroll(cell, events, cell.initial(len(events)))[:, -1]


def copy_of(cell: MimnCell) -> MimnCell:
    """Another cell with the same weights."""
    copied = MimnCell(cell.config)
    copied.load_state_dict(cell.state_dict())
    return copied


def processor_s(encode: Encoder, events: Tensor) -> float:
    """Processor seconds of one pass forward and back."""
    inputs = events.clone().requires_grad_(True)
    began = time.process_time()
    torch.autograd.backward(encode(inputs).square().sum())
    return time.process_time() - began


def measure(batch: int, length: int, rounds: int) -> dict[str, object]:
    """Samples a processor second of each kind, and the median of its ratios to the port's in the same round."""
    torch.manual_seed(0)
    cell = MimnCell(MimnConfig(embedding_dim=18, controller_units=36))
    fast = copy_of(cell)
    fast.step = compiled(fast.step)  # type: ignore[method-assign]  # what torch.compile is for
    kinds: dict[str, Encoder] = {"eager port": EagerPort(cell), "cell": encoder(cell)}
    if compiler():
        kinds["compiled cell"] = encoder(fast)
    events = torch.randn(batch, length, 36) * 0.3
    for encode in kinds.values():
        processor_s(encode, events)
    seconds = [{name: processor_s(encode, events) for name, encode in kinds.items()} for _ in range(rounds)]
    return {
        "batch": batch,
        "length": length,
        "samples_per_cpu_s": {name: round(batch / statistics.median(s[name] for s in seconds), 1) for name in kinds},
        "times_the_port": {
            name: round(statistics.median(s["eager port"] / s[name] for s in seconds), 2) for name in kinds
        },
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
