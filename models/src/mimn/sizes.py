"""What a larger state buys: AUC against the bytes of a user's state, for sketches of several sizes.

    python -m mimn.sizes --config POOLING_SKETCH.toml --config MIMN_SKETCH.toml --item-cells 0 128 512 960 \\
        --seeds 0 1 --runs runs/sizes --output models/experiments/<date>_<dataset>_sizes

Every configuration is trained with every number of item counters and every seed, for all of its epochs: none stops
early, so that a curve is not one of patience. Read are validation users alone, at two lengths. The output is
`sizes.csv` (one row a run), `differences.csv` (the configurations with the same counters against the first one:
seed-averaged predictions, resampled by user) and `sizes.png`. Runs that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn import metrics, run, train
from mimn.baselines import state_bytes
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data.vocabulary import EmbeddingIds
from mimn.nn.checkpoint import load_model
from mimn.run import DataSet, RunConfig
from mimn.scoring import predict
from mimn.train import VALIDATION_NEGATIVES, TrainingFailed

LENGTHS = (200, 1000)
Scores = dict[tuple[str, int, int, int], NDArray[np.float32]]
"""Validation predictions by name, item cells, seed and length."""


def resized(config: RunConfig, item_cells: int, seed: int) -> RunConfig:
    """`config` with that many counters a row of items, trained to its last epoch."""
    training = msgspec.structs.replace(config.training, seed=seed, patience=config.training.epochs)
    return msgspec.structs.replace(config, model=config.model | {"sketch_item_cells": item_cells}, training=training)


def sweep(
    configs: Sequence[RunConfig], item_cells: Sequence[int], seeds: Sequence[int], runs: Path
) -> tuple[list[dict[str, Any]], Scores, DataSet]:
    """One row a run, the cheapest first, and what each run predicts for the validation users."""
    rows: list[dict[str, Any]] = []
    scores: Scores = {}
    data = run.load_data(configs[0].data)
    for seed, config, cells in itertools.product(seeds, configs, item_cells):
        one = resized(config, cells, seed)
        folder = runs / f"{config.name.replace(' ', '-').replace(',', '')}_{cells}_{seed}"
        if not (folder / run.METRICS).exists():
            train.train(one, folder, resume=(folder / run.CONFIG).exists())
        record = msgspec.json.decode((folder / run.METRICS).read_bytes())
        row = {
            "model": config.name,
            "item_cells": cells,
            "seed": seed,
            "state_bytes": state_bytes(one.architecture),
            "best_epoch": record["best_epoch"],
            "commit": record["commit"],
        }
        model, ids = load_model(folder / run.MODEL), EmbeddingIds.load(folder)
        if one.training.compile:
            model.compile_steps()
        for length in LENGTHS:
            instances = data.instances.of("validation")
            samplings: dict[Any, int] = {"popularity": VALIDATION_NEGATIVES}
            predictions = predict(model, ids, data.events, instances, samplings=samplings, length=length)["popularity"]
            scores[config.name, cells, seed, length] = predictions
            labels = instances.candidates("popularity", VALIDATION_NEGATIVES).label
            row[f"validation_auc_{length}"] = round(metrics.auc(labels, predictions.astype(np.float64)), 5)
        rows.append(row)
        print(row, flush=True)
    return rows, scores, data


def differences(
    names: Sequence[str], item_cells: Sequence[int], seeds: Sequence[int], scores: Scores, data: DataSet
) -> list[dict[str, Any]]:
    """Each configuration minus the first one, with the same counters, and its 95 % interval over the users."""
    rows = data.instances.of("validation").candidates("popularity", VALIDATION_NEGATIVES)
    result = []
    for name, cells, length in itertools.product(names[1:], item_cells, LENGTHS):
        one, other = (
            np.mean([scores[each, cells, seed, length] for seed in seeds], 0).astype(np.float64)
            for each in (name, names[0])
        )
        interval = metrics.auc_difference(rows.label, one, other, rows.user_id, resamples=500)
        result.append(
            {
                "difference": f"{name} - {names[0]}",
                "item_cells": cells,
                "length": length,
                "seeds": len(seeds),
                "auc": round(interval.difference, 5),
                "low": round(interval.low, 5),
                "high": round(interval.high, 5),
            }
        )
    return result


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """AUC against bytes: a line a model and length through the mean of the seeds, each run a point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for (name, length), color in zip(
        itertools.product(dict.fromkeys(row["model"] for row in rows), LENGTHS), itertools.count()
    ):
        points: dict[int, list[float]] = {}
        for row in rows:
            if row["model"] == name:
                points.setdefault(row["state_bytes"], []).append(row[f"validation_auc_{length}"])
        sizes = sorted(points)
        means = [float(np.mean(points[size])) for size in sizes]
        axes.plot(np.array(sizes) / 1024, means, color=f"C{color}", label=f"{name}, {length} events")
        for size in sizes:
            axes.plot([size / 1024] * len(points[size]), points[size], ".", color=f"C{color}")
    axes.set(xlabel="KiB a user", ylabel="validation AUC")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with the same keys."""
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> int:
    """Sweep; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.sizes", description="AUC against the bytes of a state.")
    parser.add_argument(
        "--config", type=Path, action="append", required=True, help="with a sketch; several may be given"
    )
    parser.add_argument("--item-cells", type=int, nargs="+", required=True, help="counters in each of the item rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the record")
    options = parser.parse_args(arguments)
    try:
        configs = [run.read_config(path) for path in options.config]
        rows, scores, data = sweep(configs, options.item_cells, options.seeds, options.runs)
    except (ConfigError, DataError, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(options.output / "sizes.csv", rows)
    draw(rows, options.output / "sizes.png")
    if configs[1:]:
        names = [config.name for config in configs]
        write_csv(
            options.output / "differences.csv", differences(names, options.item_cells, options.seeds, scores, data)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
