"""Trials: candidates for rows of the table, judged only on validation users.

    python -m mimn.table.trials models/plans/sizes.toml

The plan has the format of the table's plan (`plan`): the rows of a stage are trained on each of its folds, for all
epochs, and evaluated at each of its lengths; the other rows of a stage are compared with the first one. The record, in
the plan's `records`, is `trials.csv` (one line a run and length), `differences.csv` (95 % intervals over the users) and
`trials.png` (AUC against the bytes of a user's state). Finished runs are not repeated, and test users are
never read.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.bundle.item_table import ItemTable
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import DataSet, load_data
from mimn.nn.checkpoint import CheckpointError, load_model
from mimn.scoring import predict
from mimn.table.plan import CONFIG_OF, Cell, Plan, cells, read_plan
from mimn.train import VALIDATION_NEGATIVES, train
from mimn.training.command import resumable
from mimn.training.folder import TrainingFailed
from mimn.training.loop import Running

SCORES = "trial-{length}.npy"
RESAMPLES = 2000


@dataclass(frozen=True)
class Outcome:
    """A trained cell."""

    cell: Cell
    found: dict[str, Any]
    """The metrics of its run."""
    scores: dict[int, NDArray[np.float32]]
    """Validation predictions by length: for each instance the positive, then its four popularity negatives."""
    aucs: dict[int, float]


def run_trial(plan: Plan, cell: Cell) -> Outcome:
    """Train the cell, unless its run is finished, and score the fold's validation users.

    Raises:
        ConfigError, DataError, TrainingFailed, CheckpointError: the cell cannot be trained or read.
    """
    folder = Path(plan.runs) / cell.run_folder
    torch.compiler.reset()
    if not (folder / run.METRICS).exists():
        running = Running(progress_bar=sys.stderr.isatty())
        train(cell.config, folder, running, resume=(folder / run.CONFIG).exists())
    data = load_data(cell.config.data)
    for length in cell.lengths:
        if not (folder / SCORES.format(length=length)).exists():
            np.save(folder / SCORES.format(length=length), _score(cell, folder, data, length))
    scores = {length: np.load(folder / SCORES.format(length=length), allow_pickle=False) for length in cell.lengths}
    labels = _rows(data).label
    aucs = {length: metrics.auc(labels, values.astype(np.float64)) for length, values in scores.items()}
    return Outcome(cell, msgspec.json.decode((folder / run.METRICS).read_bytes()), scores, aucs)


def _score(cell: Cell, folder: Path, data: DataSet, length: int) -> NDArray[np.float32]:
    model, ids = load_model(folder / run.MODEL), EmbeddingIds.load(folder)
    if cell.config.training.compile:
        model.compile_steps()
    instances = data.instances.of("validation")
    samplings: dict[Any, int] = {"popularity": VALIDATION_NEGATIVES}
    table = None if model.config.ledger is None else ItemTable.load(folder)
    return predict(model, ids, data.events, instances, samplings=samplings, length=length, table=table)["popularity"]


def _rows(data: DataSet) -> Any:
    return data.instances.of("validation").candidates("popularity", VALIDATION_NEGATIVES)


def lines(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """`trials.csv`: a line for each run and length; a run that belongs to two stages has one line."""
    found = {
        (one.cell.dataset, one.cell.key, one.cell.fold, length): {
            "dataset": one.cell.dataset,
            "row": one.cell.key,
            "name": one.cell.config.name,
            "fold": one.cell.fold,
            "state_bytes": one.found["state_bytes"],
            "epochs": one.found["epochs"],
            "best_epoch": one.found["best_epoch"],
            "length": length,
            "validation_auc": round(auc, 5),
            "training_cpu_s": round(sum(epoch["cpu_s"] for epoch in one.found["curve"])),
            "config_sha256": one.cell.fingerprint[:16],
            "commit": one.found["commit"],
        }
        for one in outcomes
        for length, auc in one.aucs.items()
    }
    return list(found.values())


def differences(plan: Plan, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """`differences.csv`: each row of a stage minus the stage's first row, averaged over the folds that both have."""
    by_cell = {
        (one.cell.dataset, one.cell.key, one.cell.fold, length): one for one in outcomes for length in one.cell.lengths
    }
    found = []
    for stage in plan.stages:
        for key, length in itertools.product(stage.rows[1:], stage.lengths):
            pairs = [
                (by_cell[stage.dataset, key, fold, length], by_cell[stage.dataset, stage.rows[0], fold, length])
                for fold in stage.folds
            ]
            interval = metrics.interval(
                statistics.fmean(ours.aucs[length] - theirs.aucs[length] for ours, theirs in pairs),
                np.mean([_resampled(ours, length) - _resampled(theirs, length) for ours, theirs in pairs], axis=0),
            )
            found.append(
                {
                    "dataset": stage.dataset,
                    "difference": f"{key} - {stage.rows[0]}",
                    "length": length,
                    "folds": len(pairs),
                    "auc": round(interval.difference, 5),
                    "low": round(interval.low, 5),
                    "high": round(interval.high, 5),
                }
            )
    return found


def _resampled(one: Outcome, length: int) -> NDArray[np.float64]:
    rows = _rows(load_data(one.cell.config.data))
    scores = one.scores[length].astype(np.float64)
    return metrics.resampled_aucs(rows.label, scores, rows.user_id, seed=one.cell.fold, resamples=RESAMPLES)


def draw(plan: Plan, outcomes: Sequence[Outcome], path: Path) -> None:
    """AUC against bytes: a point for each run, and for each stage and length a line through the means of the folds.

    A stage whose rows all have the same size gets no line.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    known = lines(outcomes)
    for stage, length in itertools.product(plan.stages, sorted({line["length"] for line in known})):
        aucs: dict[int, list[float]] = {}
        for line in known:
            if line["row"] in stage.rows and line["length"] == length and line["state_bytes"] is not None:
                aucs.setdefault(line["state_bytes"], []).append(line["validation_auc"])
        if len(aucs) > 1:
            sizes = sorted(aucs)
            means = [statistics.fmean(aucs[size]) for size in sizes]
            (drawn,) = axes.plot(np.array(sizes) / 1024, means, label=f"{stage.rows[0]}, {length:,} events")
            for size in sizes:
                axes.plot([size / 1024] * len(aucs[size]), aucs[size], ".", color=drawn.get_color())
    axes.set(xlabel="KiB a user", ylabel="validation AUC")
    if axes.lines:
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with the same keys; without rows no file is written."""
    rows = list(rows)
    if rows:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def write_record(plan: Plan, outcomes: Sequence[Outcome]) -> Path:
    """The record of the outcomes; returns its folder."""
    folder = Path(plan.records)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "trials.csv", lines(outcomes))
    write_csv(folder / "differences.csv", differences(plan, outcomes))
    draw(plan, outcomes, folder / "trials.png")
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Run the trials of a plan; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.trials", description="Try models on validation users.")
    parser.add_argument("plan", type=Path, help="TOML file, see models/plans")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with resumable(ConfigError, DataError, TrainingFailed, CheckpointError) as ended:
        plan, outcomes = read_plan(options.plan), []
        for cell in (cell for cell in cells(plan) if cell.key not in CONFIG_OF):
            outcomes.append(run_trial(plan, cell))
            aucs = ", ".join(f"{length}: {auc:.4f}" for length, auc in outcomes[-1].aucs.items())
            print(f"{cell.title}: validation AUC {aucs}", flush=True)
        print(f"wrote {write_record(plan, outcomes)}")
    return ended.status


if __name__ == "__main__":
    sys.exit(main())
