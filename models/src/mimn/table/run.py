"""The table of models: every row on every fold, cheapest answers first, until all are done or the time is up.

    python -m mimn.table [--plan models/plans/table.toml] [--cpu-minutes 60] [--list]

A plan (`mimn.table.plan`) names the rows and the settings that they share. The data of all rows is read before
anything is trained. A fold of a row that its record (`records`) has for the same configuration is not run again, and an
interrupted run continues after its last whole epoch: the command can be stopped and started at any time. One process,
one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mimn import run
from mimn.baselines import state_bytes
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data_set import DataSet, load_data
from mimn.evaluate import EvaluationFailed, evaluate, floor_figures
from mimn.metrics import UndefinedMetric
from mimn.run_config import RunConfig
from mimn.scoring import figures
from mimn.table import render
from mimn.table.boosting import BOOSTING_ROW, boosting
from mimn.table.floors import FLOORS
from mimn.table.plan import PLAN, Cell, Plan, check_data, open_cells, read_plan, record_of, remaining
from mimn.table.records import FLOOR_ROW, NoRecord, arrays_sha256, ranks, test_rows
from mimn.train import train
from mimn.training.command import resumable
from mimn.training.folder import TrainingFailed
from mimn.training.loop import Running


def run_cell(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Run one cell into its record; returns what the record says of it.

    Raises:
        ConfigError, DataError, TrainingFailed, EvaluationFailed, NoRecord: the cell cannot be run.
    """
    began = time.process_time()
    if cell.key == FLOOR_ROW:
        found, arrays = _floors(cell)
    elif cell.key == BOOSTING_ROW:
        found, arrays = _boosting(cell)
    else:
        found, arrays = _trained(cell, Path(plan.runs) / cell.run_folder)
    record = record_of(plan, cell)
    before = record.folds.get(cell.fold, {})
    spent = before["cpu_s"] if before.get("config_sha256") == cell.fingerprint else 0.0
    # A run that another command trained (`trials`) costs at least what its passes took.
    passes = sum(epoch["cpu_s"] for epoch in found.get("curve", ()))
    found |= {
        "config_sha256": cell.fingerprint,
        "ranks_sha256": arrays_sha256(arrays),
        "cpu_s": round(max(spent + time.process_time() - began, passes), 1),
    }
    record.put(cell.fold, found, arrays)
    # The record's configuration is that of its latest fold; each fold has the hash of its own.
    record.save(Path(plan.records), None if cell.key == FLOOR_ROW else _without_fold(cell).to_toml())
    return found


def _without_fold(cell: Cell) -> RunConfig:
    config = cell.config
    whole = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, fold=None))
    return whole.with_seed(config.training.seed - cell.fold)


def _floors(cell: Cell) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    data = load_data(cell.config.data)
    arrays, evaluation = test_rows(data), {}
    for length in cell.lengths:
        evaluation[str(length)], scores = floor_figures(data, length)
        arrays |= {f"{length}_{name}": ranks(scores[name]) for name in FLOORS}
    return _of_data(data) | {"evaluation": evaluation}, arrays


def _of_data(data: DataSet) -> dict[str, Any]:
    return {
        "data_sha256": data.events.sha256,
        "instances_sha256": data.instances.sha256,
        "unknown_targets": data.instances.unknown.tolist(),
        "commit": run.commit(),
    }


def _boosting(cell: Cell) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The ceiling. Its record has no `validation_auc`: it is no model to choose."""
    data = load_data(cell.config.data)
    test = data.instances.of("test")
    arrays, evaluation = {}, {}
    for length in cell.lengths:
        scores, _ = boosting(cell.config.architecture, data, test, dict.fromkeys(test.samplings, 1), length)
        evaluation[str(length)] = {
            sampling: figures(test, test.candidates(sampling), values) for sampling, values in scores.items()
        }
        arrays[str(length)] = ranks(scores["popularity"])
    return _of_data(data) | {"evaluation": evaluation, "state_bytes": None}, arrays


def _trained(cell: Cell, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Train and evaluate the cell in its run folder, continuing an earlier attempt."""
    # Each row compiles a different step under the same name: without a reset torch stops compiling after some rows.
    torch.compiler.reset()
    if not (folder / run.METRICS).exists():
        running = Running(progress_bar=sys.stderr.isatty())
        train(cell.config, folder, running, resume=(folder / run.CONFIG).exists())
    arrays: dict[str, NDArray[Any]] = {}
    for length in cell.lengths:
        known = msgspec.json.decode((folder / run.METRICS).read_bytes())["evaluation"]
        if str(length) not in known:
            evaluate(folder, length, parts=("test",), floors=False)
        with np.load(folder / run.PREDICTIONS.format(length=length), allow_pickle=False) as archive:
            arrays[str(length)] = ranks(archive["test_popularity"])
    found = msgspec.json.decode((folder / run.METRICS).read_bytes())
    found["evaluation"] = {str(length): found["evaluation"][str(length)]["test"] for length in cell.lengths}
    return found | {"state_bytes": state_bytes(cell.config.architecture)}, arrays


def main(arguments: list[str] | None = None) -> int:
    """Run a plan; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table", description="Run the table of models, row by row.")
    parser.add_argument("--plan", type=Path, default=PLAN, help=f"TOML file (default {PLAN})")
    parser.add_argument("--cpu-minutes", type=float, default=720.0, help="start no run after this many (default 720)")
    parser.add_argument("--list", action="store_true", help="only print what remains")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with resumable(ConfigError, DataError, TrainingFailed, EvaluationFailed, NoRecord, UndefinedMetric) as ended:
        plan = read_plan(options.plan)
        if not options.list:
            _run(plan, options.plan, options.cpu_minutes)
        lines = list(remaining(plan))
        print("\n".join(["remaining:", *lines] if lines else ["the table is complete"]))
    return ended.status


def run_open(plan: Plan, cpu_minutes: float) -> Iterator[Cell]:
    """Run the open cells of a plan, in its order, until the time is up; each, once it is in its record."""
    began = time.process_time()
    cells = open_cells(plan)
    check_data(cells)
    for cell in cells:
        if time.process_time() - began > 60.0 * cpu_minutes:
            print(f"{cpu_minutes:g} CPU minutes are used up")
            return
        found = run_cell(plan, cell)
        aucs = ", ".join(f"{length}: {_auc(cell, figures):.4f}" for length, figures in found["evaluation"].items())
        print(f"{cell.title}: test AUC {aucs} in {found['cpu_s']:.0f} CPU s", flush=True)
        yield cell


def _run(plan: Plan, path: Path, cpu_minutes: float) -> None:
    """Run the open cells. Rendering costs as much as a short run, so it is done once, at the end, even after an error.

    A command that was killed rendered nothing; the next one does.
    """
    written = (Path(plan.records) / render.TABLE).exists()
    try:
        for _ in run_open(plan, cpu_minutes):
            written = False
    finally:
        if not written and any(Path(plan.records).glob(f"*/*/{run.METRICS}")):
            render.write(Path(plan.records), path)


def _auc(cell: Cell, figures: dict[str, Any]) -> float:
    value: float = (figures["popularity"]["counts"] if cell.key == FLOOR_ROW else figures["popularity"])["auc"]
    return value


if __name__ == "__main__":
    sys.exit(main())
