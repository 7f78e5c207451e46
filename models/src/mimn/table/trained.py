"""The models that `run` left in the plans' run folders, loaded for what is asked of them afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mimn import run
from mimn.bundle.item_table import ItemTable
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import DataSet, load_data
from mimn.nn.checkpoint import load_model
from mimn.nn.model import ClickModel
from mimn.table.compare import TRAINED_LONG
from mimn.table.plan import Cell, planned, read_plan
from mimn.table.records import row_of


@dataclass(frozen=True)
class Trained:
    """One training of a row on one fold, with its model loaded."""

    row: str
    cell: Cell
    model: ClickModel
    ids: EmbeddingIds
    data: DataSet
    table: ItemTable | None
    """Of a model with a ledger."""


def trained(plans: Iterable[Path], dataset: str, rows: Collection[str], runs: Path | None = None) -> Iterator[Trained]:
    """The trained cells of some rows of plans, row by row, each as it was trained longest. Rows without any trained
    fold are left out; the others use the folds that all of them have, because some folds are easier than others.

    Raises:
        ConfigError, DataError, CheckpointError: a file cannot be read.
    """
    found: dict[str, list[tuple[Path, Cell]]] = {key: [] for row in rows for key in (row, row + TRAINED_LONG)}
    for planned_folder, cell in planned(read_plan(plan) for plan in plans).items():
        folder, row = planned_folder if runs is None else runs / cell.run_folder, row_of(cell.key, found)
        if cell.dataset == dataset and row in found and (folder / run.METRICS).exists():
            found[row].append((folder, cell))
    some = {row: of for row in rows if (of := found[row + TRAINED_LONG] or found[row])}
    common = set.intersection(*({cell.fold for _, cell in of} for of in some.values())) if some else set()
    data: dict[int, DataSet] = {}
    for row, of in some.items():
        for folder, cell in of:
            if cell.fold not in common:
                continue
            if cell.fold not in data:
                data[cell.fold] = load_data(cell.config.data)
            model = load_model(folder / run.MODEL)
            if cell.config.training.compile:
                model.compile_steps()
            table = None if model.config.ledger is None else ItemTable.load(folder)
            yield Trained(row, cell, model, EmbeddingIds.load(folder), data[cell.fold], table)
