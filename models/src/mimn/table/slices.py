"""AUC of trained rows by slice and by how negatives are drawn.

    python -m mimn.table.slices models/plans/ledger.toml [--part test]

For each row and fold of a plan whose run is finished: all targets, those that the user had bought before and those that
are new, each with negatives by popularity over the whole data set and by popularity in the four weeks before the target
(`mimn.data.negatives`). Validation users by default; `--part test` opens the test users. The record is
`slices-<part>.csv` in the plan's `records`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.bundle.item_table import ItemTable
from mimn.config import ConfigError
from mimn.data.events import DataError, Events
from mimn.data.fields import FittedFields
from mimn.data.instances import Instances, stored_instances
from mimn.data.negatives import NegativeRule, Sampling
from mimn.data.split import Part
from mimn.data.vocabulary import EmbeddingIds
from mimn.event_fields import EventFields
from mimn.nn.checkpoint import CheckpointError, load_model
from mimn.scoring import predict
from mimn.table.plan import Cell, cells, read_plan
from mimn.table.trials import write_csv

SAMPLINGS: tuple[Sampling, ...] = ("popularity", "recent")
NEGATIVES: dict[Part, int] = {"train": 1, "validation": 4, "test": 1}
"""As in training's choice of an epoch, and as in the table."""


def bought_before(events: Events, instances: Instances) -> NDArray[np.bool_]:
    """Whether the user of each instance had its item before. [n]"""
    return np.array(
        [
            bool((events.item_id[begin:end] == item).any())
            for begin, end, item in zip(instances.begin, instances.end, instances.item, strict=True)
        ]
    )


def slices(cell: Cell, folder: Path, part: Part) -> list[dict[str, Any]]:
    """The lines of one finished run.

    Raises:
        ConfigError, DataError, CheckpointError: the run or its data cannot be read.
    """
    settings = cell.config.data
    data = run.load_data(settings)
    rule = NegativeRule(SAMPLINGS, settings.negatives_exclude)
    instances = stored_instances(data.prepared.folder, data.events, settings.fold, rule).of(part)
    model, ids = load_model(folder / run.MODEL), EmbeddingIds.load(folder)
    if cell.config.training.compile:
        model.compile_steps()
    table = None if model.config.ledger is None else ItemTable.load(folder)
    request = None
    if model.fields is not None:
        request = EventFields.of(data.prepared, data.train_users, FittedFields.load(folder)).request
    before = bought_before(data.events, instances)
    negatives, found = NEGATIVES[part], []
    for length in cell.lengths:
        scores = predict(
            model,
            ids,
            data.events,
            instances,
            samplings=dict.fromkeys(SAMPLINGS, negatives),
            length=length,
            table=table,
            request=request,
        )
        for sampling in SAMPLINGS:
            by_target = scores[sampling].reshape(len(instances), -1).astype(np.float64)
            labels = instances.candidates(sampling, negatives).label.reshape(by_target.shape)
            for name, mask in (("all", np.ones(len(before), np.bool_)), ("bought before", before), ("new", ~before)):
                if mask.any():
                    auc = metrics.auc(labels[mask].reshape(-1), by_target[mask].reshape(-1))
                    found.append(
                        {
                            "dataset": cell.dataset,
                            "row": cell.key,
                            "fold": cell.fold,
                            "length": length,
                            "negatives": sampling,
                            "targets": name,
                            "count": int(mask.sum()),
                            "auc": round(auc, 5),
                        }
                    )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a plan's finished runs by slice; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.slices", description="AUC by slice.")
    parser.add_argument("plan", type=Path, help="TOML file, see models/plans")
    parser.add_argument("--part", choices=("validation", "test"), default="validation", help="(default: validation)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        plan, found = read_plan(options.plan), []
        for cell in cells(plan):
            folder = Path(plan.runs) / cell.run_folder
            if (folder / run.METRICS).exists():
                found += slices(cell, folder, options.part)
                print(f"{cell.title}: {len(cell.lengths)} lengths", flush=True)
            else:
                print(f"{cell.title}: no finished run")
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    target = Path(plan.records) / f"slices-{options.part}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_csv(target, found)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
