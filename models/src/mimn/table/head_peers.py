"""Compares the field heads with a package that also has them: two programs, same rows, fields, sizes and optimizer.

    python -m mimn.table.head_peers --output models/experiments/peers

As `mimn.table.peers` does for the models of sequences: the protocol's train instances of one fold, with another of
their four popularity negatives each epoch, each with its latest 20 events and the fields of the description. Both sides
read the item, its category, the mean of the events and every field, as vectors of one width. `<dataset>_heads.csv` and
`.json` give the difference of the test AUCs, with a 95 % interval over users and seeds.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mimn import run
from mimn.config import ConfigError, HeadName, MimnConfig
from mimn.data.events import DataError
from mimn.data.instances import MIN_HISTORY, Instances, target_rows
from mimn.data.split import PARTS
from mimn.data.vocabulary import KnownIds
from mimn.data_set import DataSet, load_data
from mimn.event_fields import EventFields, fit_event_fields, known_ids
from mimn.nn.checkpoint import untrained
from mimn.nn.fields import FieldValues, ModelFields
from mimn.nn.model import Batch, ClickModel
from mimn.run_config import RunConfig, read_config
from mimn.table.peers import (
    CONFIGS,
    PEERS,
    Rows,
    batch_of,
    compared,
    environment,
    export_rows,
    fit,
    scores_of,
)

HEADS: tuple[HeadName, ...] = (
    "mlp",
    "fnn",
    "pnn_inner",
    "pnn_outer",
    "wide_deep",
    "deepfm",
    "dcn",
    "dcn_v2",
    "nfm",
    "afm",
)
"""What both sides have. No package that we know has Deep Crossing for PyTorch."""
SIZES: dict[str, Any] = {"embedding_dim": 8, "head_units": (64, 32)}
PROGRAM = PEERS / "deepctr_heads.py"


def thinned(data: DataSet, targets: int, seed: int) -> DataSet:
    """The data set with at most `targets` train instances, drawn at random."""
    train = np.flatnonzero(data.instances.part == PARTS.index("train"))
    left_out = np.random.default_rng(seed).permutation(train)[targets:]
    return replace(data, instances=data.instances.select(~np.isin(np.arange(len(data.instances)), left_out)))


def rows_with_fields(config: RunConfig, data: DataSet, known: KnownIds, fields: EventFields) -> Rows:
    """`export_rows`, and the rows of all fields' values in their tables.

    train_request [n, S], test_request [r, S]: user and context · item_values [items + 1, G] · embedding_rows
    [items + 1]: the row of an item's own embedding · field_names, field_rows [S + G]: the tables

    Raises:
        DataError: a field is multi-valued or a number without intervals, which the two sides read differently.
    """
    if any(not spec.tabled or spec.kind == "multi" for spec in fields.fitted.specs):
        raise DataError(f"{data.name}: only categorical fields, crosses and intervals can be compared")
    config = msgspec.structs.replace(config, model=config.model | SIZES)
    rows = export_rows(config, data, known.ids, length=MIN_HISTORY, targets=len(data.instances))
    values = fields.model(config.architecture, known).get_buffer("item_rows").numpy()
    for part in ("train", "test"):
        instances: Instances = data.instances.of(part)
        rows[f"{part}_request"] = fields.request(target_rows(data.events, instances)).rows.numpy()
    specs = [*fields.fitted.of("user"), *fields.fitted.of("context"), *fields.fitted.of("item")]
    rows |= {
        "item_values": values,
        "embedding_rows": known.embedding_rows,
        "field_names": np.array([spec.name for spec in specs]),
        "field_rows": np.array([spec.rows for spec in specs]),
    }
    return rows


def train_ours(head: HeadName, rows: Rows, fields: EventFields, known: KnownIds, seed: int) -> NDArray[np.float32]:
    """Scores of the test rows by our head, trained on the same rows as the package's. → [r, 2]

    FNN begins with the tables that a factorization machine learned on the same epochs.
    """
    torch.manual_seed(seed)
    model = _model(head, rows, fields, known)
    if head == "fnn":
        machine = _model("fm", rows, fields, known)
        fit(machine, rows, _batch)
        tables = {name: value for name, value in machine.state_dict().items() if not name.startswith("head.")}
        model.load_state_dict(tables, strict=False)
    fit(model, rows, _batch)
    return scores_of(model, rows, lambda chosen: model.request_vector(_request(rows["test_request"][chosen])))


def _model(head: HeadName, rows: Rows, fields: EventFields, known: KnownIds) -> ClickModel:
    config = MimnConfig.pooling(head=head, **SIZES)
    tables: ModelFields = fields.model(config, known)
    return untrained(config, int(rows["item_rows"]), int(rows["category_rows"]), tables)


def _batch(rows: Rows, chosen: NDArray[np.int64], items: NDArray[np.int64], categories: NDArray[np.int64]) -> Batch:
    request = _request(rows["train_request"][chosen, np.newaxis])
    return replace(batch_of(rows, chosen, items, categories), request=request)


def _request(rows: NDArray[np.int64]) -> FieldValues:
    return FieldValues(rows=torch.from_numpy(rows), lists=(), numbers=torch.zeros(*rows.shape[:-1], 0))


def train_theirs(
    python: Path, heads: Sequence[str], rows: Path, seeds: Sequence[int]
) -> dict[str, list[NDArray[np.float32]]]:
    """Scores of the test rows by the package's models, one for each seed. → [r, 2] each, by head"""
    command = [str(python), str(PROGRAM), str(rows), str(rows.parent), ",".join(heads), ",".join(map(str, seeds))]
    subprocess.run(command, check=True)
    return {
        head: [np.load(rows.parent / f"{head}-{seed}.npy", allow_pickle=False).reshape(-1, 2) for seed in seeds]
        for head in heads
    }


def compare(heads: Sequence[HeadName], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each head.

    Raises:
        ConfigError, DataError: the configuration or the data set cannot be used.
        subprocess.CalledProcessError: the package's environment cannot be made, or its training fails.
    """
    runs: Path = options.runs
    runs.mkdir(parents=True, exist_ok=True)
    python = environment(runs / "environment")
    config = read_config(CONFIGS / f"{options.dataset}_pooling.toml").with_seed(options.fold)
    settings = msgspec.structs.replace(config.data, fold=options.fold, description=str(options.description))
    data = thinned(load_data(settings), options.targets, options.fold)
    known = known_ids(data.vocabulary, data.prepared, config.data.min_users)
    fitted = fit_event_fields(data.prepared, data.train_users)
    fields = EventFields.of(data.prepared, data.train_users, fitted)
    rows = rows_with_fields(config, data, known, fields)
    file = runs / f"{options.dataset}-heads-{options.fold}.npz"
    np.savez(file, **rows)  # type: ignore[arg-type]  # as in evaluate
    test = data.instances.of("test").candidates("popularity")
    theirs = train_theirs(python, heads, file, options.seeds)
    lines = []
    for head in heads:
        sides = [train_ours(head, rows, fields, known, seed) for seed in options.seeds], theirs[head]
        flat = [[scores.reshape(-1).astype(np.float64) for scores in side] for side in sides]
        line = {
            "head": head,
            "package": (PEERS / "requirements.txt").read_text("utf-8").split()[-1],
            "dataset": data.name,
            "fold": options.fold,
            "train_positives": len(rows["train_items"]),
            "test_rows": len(test.label),
            "commit": run.commit(),
        } | compared(test.label, test.user_id, *flat)
        print(line, flush=True)
        lines.append(line)
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Compare; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.head_peers", description="Our heads and a package's.")
    parser.add_argument("--dataset", default="complete_journey", help="X of models/configs/X_pooling.toml")
    parser.add_argument(
        "--description",
        type=Path,
        default=Path("models/datasets/complete-journey-fields.toml"),
        help="with fields (%(default)s)",
    )
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", type=int, default=8_000, help="at most this many train positives (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"), help="rows, scores and the environment")
    parser.add_argument("--output", type=Path, required=True, help="folder of the record")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        lines = compare(options.heads, options)
    except (ConfigError, DataError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    run.write_json(options.output / f"{options.dataset}_heads.json", lines)
    with (options.output / f"{options.dataset}_heads.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
