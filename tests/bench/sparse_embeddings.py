"""What a training step costs against the number of items, and what a training holds in memory.

    PYTHONPATH=tests python -m bench.sparse_embeddings [--rows 10000 10000000] [--embeddings sparse] [--rounds 3]

Every size has the same model (pooling, DeepFM, 16 floats an item) and batches that touch the same number of distinct
items. Sizes alternate, each in a process of its own, which also saves a checkpoint as the trainer does. Printed: CPU
milliseconds a step (median of the rounds, and their range), and the largest resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimn.baselines import model_config
from mimn.nn.checkpoint import untrained
from mimn.nn.model import Batch
from mimn.training.checkpoint import Past, save_best, save_checkpoint
from mimn.training.optimizers import Optimizers
from mimn.training.settings import TrainingSettings

WINDOWS, EVENTS, OCCASIONS, CANDIDATES, DISTINCT, CATEGORIES = 32, 64, 12, 2, 2500, 1000
WARM, STEPS = 5, 40
MODEL = {
    "variant": "pooling", "memory_induction": False, "utilization": False, "embedding_dim": 16, "head": "deepfm",
    "head_units": [64, 32],
}  # fmt: skip


def batch(rows: int, rng: np.random.Generator) -> Batch:
    """A batch that touches `DISTINCT` items of a table with `rows` rows."""
    touched = np.unique(rng.integers(rows, size=2 * DISTINCT))
    touched = rng.permutation(touched)[:DISTINCT]

    def items(*shape: int) -> torch.Tensor:
        places = rng.permutation(np.arange(np.prod(shape)) % len(touched))
        return torch.from_numpy(touched[places].reshape(shape))

    def categories(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(CATEGORIES, size=shape))

    candidates = (WINDOWS, OCCASIONS, CANDIDATES)
    return Batch(
        items=items(WINDOWS, EVENTS),
        categories=categories(WINDOWS, EVENTS),
        lengths=torch.full((WINDOWS,), EVENTS),
        positions=torch.from_numpy(rng.integers(1, EVENTS + 1, size=candidates[:2])),
        candidate_items=items(*candidates),
        candidate_categories=categories(*candidates),
        labels=torch.from_numpy((rng.random(candidates) < 0.5).astype(np.float32)),
    )


def measured(rows: int, embeddings: str, steps: int) -> dict[str, Any]:
    """CPU milliseconds a step, and the process's largest resident memory in MiB after a checkpoint."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = untrained(model_config(MODEL), rows, CATEGORIES)
    optimizers = Optimizers(model, TrainingSettings(embeddings=embeddings))  # type: ignore[arg-type]  # a choice of the parser
    rng = np.random.default_rng(0)
    batches = [batch(rows, rng) for _ in range(WARM + steps)]
    began = 0.0
    for number, one in enumerate(batches):
        if number == WARM:
            began = time.process_time()
        optimizers.zero_grad()
        model.loss(one).total.backward()  # type: ignore[no-untyped-call]
        optimizers.clip(5.0)
        optimizers.step()
    cpu_ms = (time.process_time() - began) * 1000 / steps
    with tempfile.TemporaryDirectory() as folder:
        save_best(model, Path(folder) / "model.safetensors")
        save_checkpoint(Path(folder) / "checkpoint.safetensors", model, optimizers, Past([], 0), "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "cpu_ms": cpu_ms, "peak_mib": peak}


def main() -> None:
    """Measure all sizes; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--embeddings", choices=["dense", "sparse"], default="sparse")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--one", action="store_true", help="measure the first size in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.rows[0], options.embeddings, options.steps)))
        return
    found: dict[int, list[dict[str, Any]]] = {rows: [] for rows in options.rows}
    for _ in range(options.rounds):
        for rows, results in found.items():
            command = [sys.executable, "-m", "bench.sparse_embeddings", "--one", "--rows", str(rows)]
            command += ["--embeddings", options.embeddings, "--steps", str(options.steps)]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"{options.embeddings} embeddings, {DISTINCT} distinct items a step")
    for rows, results in found.items():
        cpu = sorted(one["cpu_ms"] for one in results)
        peak = max(one["peak_mib"] for one in results)
        print(f"{rows:>12,} items: {np.median(cpu):7.1f} ms a step ({cpu[0]:.1f} to {cpu[-1]:.1f}), {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
