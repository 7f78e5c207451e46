"""The table of models: every row on every fold, cheapest answers first, until all is done or the time is up.

    python -m mimn.table [--plan models/configs/table.toml] [--cpu-minutes 60] [--list]

A plan names the rows and the settings that all of them share. A fold of a row that its record (`mimn.records`) has for the
same configuration is not run again, and a run that was interrupted goes on at the end of its last epoch: the command can
be ended and started at any time. One process, one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
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
from mimn.data.split import FOLDS
from mimn.evaluate import EvaluationFailed, evaluate, floor_figures
from mimn.floors import FLOORS as FLOOR_NAMES
from mimn.records import Record, NoRecord, arrays_sha256, test_rows
from mimn.records import FLOORS
from mimn.run import RunConfig
from mimn.train import TrainingFailed, train

PLAN = Path("models/configs/table.toml")


class Variation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row that is another row's configuration with other fields of `[model]`."""

    config: str
    name: str
    model: dict[str, Any]


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows that are run together: all of them on one fold, then on the next."""

    dataset: str
    rows: tuple[str, ...]
    """`floors`, a variation, or X for the configuration `<dataset>_X.toml`."""
    lengths: tuple[int, ...] = (200,)
    """Each trained model is evaluated on the latest so many events."""
    folds: tuple[int, ...] = tuple(range(FOLDS))


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan file."""

    records: str
    """Folder of the records."""
    runs: str
    """Folder of the run folders, models included."""
    stages: tuple[Stage, ...]
    training: dict[str, Any] = {}
    """Fields of `[training]` that all rows have instead of their own."""
    windows: dict[str, Any] = {}
    variations: dict[str, Variation] = {}


@dataclass(frozen=True)
class Cell:
    """One row on one fold."""

    dataset: str
    key: str
    fold: int
    lengths: tuple[int, ...]
    config: RunConfig
    """Of the row, its fold set. The floors have one for its data alone."""

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the cell's figures, the code aside."""
        text = repr(self.config.data) if self.key == FLOORS else self.config.to_toml()
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def title(self) -> str:
        """What the cell is called while it runs."""
        return f"{self.dataset} {self.key}, fold {self.fold}"


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        ConfigError: it cannot be read, or a field is unknown, missing or of the wrong type; the message names it.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Plan)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


def cells(plan: Plan, configs: Path) -> list[Cell]:
    """The cells of a plan in the order in which they are run; configurations are read from the folder `configs`.

    Raises:
        ConfigError: a configuration cannot be used, or the rows of a data set differ in their data.
    """
    found = []
    for stage in plan.stages:
        rows = {key: _row_config(plan, configs, stage.dataset, key) for key in stage.rows}
        if len({config.data for config in rows.values()}) > 1:
            raise ConfigError(f"the rows of {stage.dataset} differ in [data]: they cannot be compared")
        for fold in stage.folds:
            found += [Cell(stage.dataset, key, fold, stage.lengths, _of_fold(rows[key], fold)) for key in stage.rows]
    return found


def _row_config(plan: Plan, configs: Path, dataset: str, key: str) -> RunConfig:
    variation = plan.variations.get(key)
    source = "pooling" if key == FLOORS else key if variation is None else variation.config
    path = configs / f"{dataset}_{source}.toml"
    config = run.read_config(path)
    changes: dict[str, Any] = {
        "training": msgspec.to_builtins(config.training) | plan.training,
        "windows": msgspec.to_builtins(config.windows) | plan.windows,
    }
    if variation is not None:
        changes |= {"name": variation.name, "model": config.model | variation.model}
    changed = msgspec.convert(msgspec.to_builtins(config) | changes, RunConfig)
    return run.decode_config(changed.to_toml(), f"{path} in the plan's row {key!r}")


def _of_fold(config: RunConfig, fold: int) -> RunConfig:
    """The configuration on one fold, which is the run's seed as well."""
    data = msgspec.structs.replace(config.data, fold=fold)
    return msgspec.structs.replace(config, data=data).with_seed(fold)


def open_cells(plan: Plan, configs: Path) -> list[Cell]:
    """The cells whose figures no record has, or has for another configuration.

    Raises:
        ConfigError, NoRecord: the plan, a configuration or a record cannot be used.
    """
    return [cell for cell in cells(plan, configs) if not _is_done(_record_of(plan, cell), cell)]


def _record_of(plan: Plan, cell: Cell) -> Record:
    folder = Path(plan.records) / cell.dataset / cell.key
    if (folder / run.METRICS).exists():
        return Record.load(folder)
    return Record(cell.dataset, cell.key, "floors" if cell.key == FLOORS else cell.config.name)


def _is_done(record: Record, cell: Cell) -> bool:
    known = record.folds.get(cell.fold, {})
    return known.get("config_sha256") == cell.fingerprint and set(map(str, cell.lengths)) <= set(known["evaluation"])


def run_cell(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Run one cell into its record; returns what the record says of it.

    Raises:
        ConfigError, DataError, TrainingFailed, EvaluationFailed, NoRecord: the cell cannot be run.
    """
    began = time.process_time()
    found, arrays = _floors(cell) if cell.key == FLOORS else _trained(cell, Path(plan.runs) / run_folder(cell))
    found |= {
        "config_sha256": cell.fingerprint,
        "predictions_sha256": arrays_sha256(arrays),
        "cpu_s": round(time.process_time() - began, 1),
    }
    record = _record_of(plan, cell)
    record.put(cell.fold, found, arrays)
    # The record's configuration is the one that its latest fold ran with; what each ran with is in its hash.
    record.save(Path(plan.records), None if cell.key == FLOORS else _without_fold(cell.config).to_toml())
    return found


def run_folder(cell: Cell) -> str:
    """Where a cell's run is, under the plan's `runs`; another configuration is another folder."""
    return f"{cell.dataset}/{cell.key}/fold{cell.fold}-{cell.fingerprint[:8]}"


def _without_fold(config: RunConfig) -> RunConfig:
    return msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, fold=None)).with_seed(0)


def _floors(cell: Cell) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    data = run.load_data(cell.config.data)
    arrays, evaluation = test_rows(data), {}
    for length in cell.lengths:
        evaluation[str(length)], scores = floor_figures(data, length)
        arrays |= {f"{length}_{name}": scores[name] for name in FLOOR_NAMES}
    found = {
        "data_sha256": data.events.sha256,
        "instances_sha256": data.instances.sha256,
        "unknown_targets": data.instances.unknown.tolist(),
        "commit": run.commit(),
        "evaluation": evaluation,
    }
    return found, arrays


def _trained(cell: Cell, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Train and evaluate the cell in its run folder, going on where an earlier attempt ended."""
    if not (folder / run.METRICS).exists():
        try:
            train(cell.config, folder, resume=(folder / run.CONFIG).exists(), progress_bar=sys.stderr.isatty())
        finally:
            # The next row's step is other code under the same name: without this torch would stop compiling at some.
            torch.compiler.reset()
    arrays: dict[str, NDArray[Any]] = {}
    for length in cell.lengths:
        known = msgspec.json.decode((folder / run.METRICS).read_bytes())["evaluation"]
        if str(length) not in known:
            evaluate(folder, length, parts=("test",), floors=False)
        with np.load(folder / run.PREDICTIONS.format(length=length), allow_pickle=False) as archive:
            arrays[str(length)] = archive["test_popularity"]
    found = msgspec.json.decode((folder / run.METRICS).read_bytes())
    found["evaluation"] = {str(length): found["evaluation"][str(length)]["test"] for length in cell.lengths}
    return found | {"state_bytes": state_bytes(cell.config.architecture)}, arrays


def remaining(plan: Plan, configs: Path) -> Iterator[str]:
    """What is still to be run, a line for each row."""
    rows: dict[tuple[str, str], list[int]] = {}
    for cell in open_cells(plan, configs):
        rows.setdefault((cell.dataset, cell.key), []).append(cell.fold)
    for (dataset, key), folds in rows.items():
        yield f"{dataset} {key}: fold{'s' if folds[1:] else ''} {', '.join(map(str, folds))}"


def main(arguments: list[str] | None = None) -> int:
    """Run a plan; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table", description="Run the table of models, row by row.")
    parser.add_argument("--plan", type=Path, default=PLAN, help=f"TOML file (default {PLAN})")
    parser.add_argument("--cpu-minutes", type=float, default=720.0, help="begin no run after so many (default 720)")
    parser.add_argument("--list", action="store_true", help="only print what remains")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        plan = read_plan(options.plan)
        configs, began = options.plan.parent, time.process_time()
        for cell in [] if options.list else open_cells(plan, configs):
            if time.process_time() - began > 60.0 * options.cpu_minutes:
                print(f"{options.cpu_minutes:g} CPU minutes are used up")
                break
            found = run_cell(plan, cell)
            aucs = ", ".join(f"{length}: {_auc(cell, figures):.4f}" for length, figures in found["evaluation"].items())
            print(f"{cell.title}: test AUC {aucs} in {found['cpu_s']:.0f} CPU s", flush=True)
        lines = list(remaining(plan, configs))
        print("\n".join(["remaining:", *lines] if lines else ["the table is complete"]))
    except (ConfigError, DataError, TrainingFailed, EvaluationFailed, NoRecord) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _auc(cell: Cell, figures: dict[str, Any]) -> float:
    value: float = (figures["popularity"]["counts"] if cell.key == FLOORS else figures["popularity"])["auc"]
    return value


if __name__ == "__main__":
    sys.exit(main())
