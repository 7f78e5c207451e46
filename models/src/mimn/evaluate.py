"""Evaluate a trained run on the test users: figures go into the run's `metrics.json`, predictions next to it.

    python -m mimn.evaluate --run runs/x [--length 200] [--description dataset.toml]

Everything was chosen on validation users before; this is the first reading of the test users. The floors are computed
on the same rows, so that a model's figures always stand next to those of counting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimn import run, run_files
from mimn.bundle.item_table import ItemTable
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data.fields import FittedFields
from mimn.data.split import Part
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import DataSet, description_of, load_data
from mimn.enough_targets import check_any
from mimn.event_fields import EventFields
from mimn.nn.checkpoint import CheckpointError, load_model
from mimn.run_config import read_config
from mimn.scoring import figures, predict
from mimn.table.floors import floor_predictions
from mimn.training.disk import named_if_full
from mimn.whole_file import writing

EVALUATED: tuple[Part, ...] = ("validation", "test")


class EvaluationFailed(Exception):
    """A run that cannot be evaluated; the message says why and what to do."""


def evaluate(
    folder: Path,
    length: int,
    *,
    parts: tuple[Part, ...] = EVALUATED,
    floors: bool = True,
    description: Path | None = None,
) -> dict[str, Any]:
    """The figures of the run in `folder` at the latest `length` events; also written into its `metrics.json`.

    `description` is where that of the data set is now, if it has moved or was named relative to another folder.
    `floors` are the same for all models of a split; a caller that already has them leaves them out.

    Raises:
        EvaluationFailed: the folder holds no finished run, or the data is not what it was trained on.
        ConfigError, DataError, CheckpointError: a file of the run or of the data set cannot be used, or a part of it
            has no instances.
        DiskFull: what was found has no room.
    """
    torch.set_num_threads(1)
    if length < 1:
        raise EvaluationFailed(f"length must be at least 1, not {length}")
    try:
        record = run_files.whole(folder)
    except run.NoFinishedRun as error:
        raise EvaluationFailed(str(error)) from error
    config = read_config(folder / run.CONFIG)
    config = config.with_description(description_of(config.data.description, description))
    data = load_data(config.data)
    needed: list[Part] = [*parts, *(["train", "test"] if floors else [])]  # type: ignore[list-item]  # literals of Part
    for part in needed:
        check_any(data, part, "no figure can be computed")
    record_of = {"prepared_sha256": data.prepared.sha256} | record  # runs of earlier versions do not say it
    for name, value in (
        ("data_sha256", data.events.sha256),
        ("instances_sha256", data.instances.sha256),
        ("prepared_sha256", data.prepared.sha256),
    ):
        if record_of.get(name) != value:
            raise EvaluationFailed(f"{folder}: {name} is not that of the data now: train again on this data")
    model, ids = load_model(folder / run.MODEL), EmbeddingIds.load(folder)
    if config.training.compile:
        model.compile_steps()
    table = None if model.config.ledger is None else ItemTable.load(folder)
    request = None
    if model.fields is not None:
        request = EventFields.of(data.prepared, data.train_users, FittedFields.load(folder)).request
    result: dict[str, Any] = {}
    stored: dict[str, NDArray[np.float32]] = {}
    for part in parts:
        instances = data.instances.of(part)
        samplings = instances.samplings
        predictions = predict(
            model,
            ids,
            data.events,
            instances,
            samplings=dict.fromkeys(samplings, 1),
            length=length,
            request=request,
            table=table,
        )
        result[part] = {
            sampling: figures(instances, instances.candidates(sampling), predictions[sampling])
            for sampling in samplings
        }
        stored |= {f"{part}_{sampling}": predictions[sampling] for sampling in samplings}
    if floors:
        result["floors"], floor_scores = floor_figures(data, length)
        stored |= {f"test_popularity_{name}": scores for name, scores in floor_scores.items()}
    result["predictions_sha256"] = predictions_sha256(stored)
    with named_if_full(folder, "evaluate again"):
        save_predictions(folder / run.PREDICTIONS.format(length=length), stored)
        note_evaluation(folder, length, result)
    return result


def note_evaluation(folder: Path, length: int, found: dict[str, Any]) -> None:
    """Write what was found at the latest `length` events into the `metrics.json` of the run in `folder`.

    Raises:
        OSError, ValueError: the file cannot be read or written.
    """

    def noted(record: dict[str, Any]) -> None:
        record.setdefault("evaluation", {})[str(length)] = found

    run.update_json(folder / run.METRICS, noted)


def floor_figures(
    data: DataSet, length: int
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, NDArray[np.float32]]]:
    """Each floor's figures on the test users by sampling, and its predictions with popularity negatives."""
    test = data.instances.of("test")
    by_sampling: dict[str, dict[str, dict[str, Any]]] = {}
    scores = {}
    for sampling in test.samplings:
        predicted = floor_predictions(
            data.events, data.vocabulary, data.instances.of("train"), test, sampling=sampling, length=length
        )
        by_sampling[sampling] = {
            floor.name: figures(test, test.candidates(sampling), floor.predictions) for floor in predicted
        }
        if sampling == "popularity":
            scores = {floor.name: floor.predictions.astype(np.float32) for floor in predicted}
    return by_sampling, scores


def predictions_sha256(arrays: dict[str, NDArray[np.float32]]) -> str:
    """sha256 over the arrays' little-endian bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name], "<f4").tobytes())
    return digest.hexdigest()


def save_predictions(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a plain .npz archive, whole or not at all."""
    with writing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes the keywords for flags


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.evaluate", description="Evaluate a trained run.")
    parser.add_argument("--run", type=Path, required=True, help="run folder that mimn.train wrote")
    parser.add_argument("--length", type=int, default=200, help="number of latest events to read (default 200)")
    parser.add_argument("--description", type=Path, help="where the description is now, if it has moved")
    options = parser.parse_args(arguments)
    try:
        result = evaluate(options.run, options.length, description=options.description)
    except (EvaluationFailed, ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
