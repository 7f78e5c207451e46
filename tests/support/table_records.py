"""Records of made-up rows: predictions of a chosen quality, and floors in which only counting has a chosen quality."""

from __future__ import annotations

from typing import Any

import numpy as np

from mimn import metrics
from mimn.data.split import FOLDS
from mimn.table.floors import FLOORS
from mimn.table.records import FLOOR_ROW, Record, arrays_sha256

USERS, PER_USER = 40, 5


def noise(fold: int) -> np.ndarray:
    """The noise that all rows of a fold share."""
    return np.random.default_rng(fold).normal(size=2 * USERS * PER_USER)


def label() -> np.ndarray:
    return np.tile([1, 0], USERS * PER_USER)


def of_quality(fold: int, quality: float) -> np.ndarray:
    """Predictions that separate the labels better for a higher `quality`."""
    scores: np.ndarray = (1.0 / (1.0 + np.exp(-noise(fold) - quality * (label() - 0.5)))).astype(np.float32)
    return scores


def figures(fold: int, scores: np.ndarray) -> dict[str, Any]:
    auc = metrics.auc(label(), scores.astype(np.float64))
    by_history = {"20+": {"rows": len(scores), "pcoc": 1.0}}
    return {
        "auc": auc, "gauc": auc, "logloss": 0.6, "normalized_entropy": 0.9, "pcoc": 1.0, "pcoc_by_history": by_history,
    }  # fmt: skip


def floors(quality: float, folds: range = range(FOLDS)) -> Record:
    """Floors: counting has the given quality, the others have none."""
    record = Record("complete_journey", FLOOR_ROW, FLOOR_ROW)
    for fold in folds:
        scores = {name: of_quality(fold, quality if name == "counts" else -0.5) for name in FLOORS}
        arrays = {f"200_{name}": value for name, value in scores.items()} | {
            "user": np.repeat(np.arange(USERS), PER_USER) + 1000 * fold,
            "events": np.tile(np.array([30, 60, 100, 500, 2000]), USERS),
            "bought": np.tile(np.array([0, 1, 0, 2, 5]) > 0, USERS),
        }
        found = {name: figures(fold, value) for name, value in scores.items()}
        record.put(fold, fold_record({"200": {"popularity": found, "uniform": found}}, arrays, fold), arrays)
    return record


def model(
    key: str, quality: float, folds: range = range(FOLDS), state: int | None = 100, validation: float | None = 0.7
) -> Record:
    """A row of the table; one that nothing was chosen for by validation users, as a ceiling, has `validation` None."""
    record = Record("complete_journey", key, f"the {key}")
    for fold in folds:
        scores = of_quality(fold, quality)
        found = {"popularity": figures(fold, scores), "uniform": figures(fold, scores)}
        one = fold_record({"200": found}, {"200": scores}, fold)
        one |= {"state_bytes": state, "targets_per_cpu_s": 10.0}
        if validation is not None:
            one["validation_auc"] = validation + 0.1 * fold
        record.put(fold, one, {"200": scores})
    return record


def fold_record(evaluation: dict[str, Any], arrays: dict[str, np.ndarray], fold: int) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "data_sha256": "d" * 64,
        "instances_sha256": f"{fold}" * 64,
        "commit": "abc",
        "cpu_s": 3.0,
        "ranks_sha256": arrays_sha256(arrays),
    }
