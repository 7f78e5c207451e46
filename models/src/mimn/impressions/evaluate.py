"""Evaluate a run on the test impressions: figures into the run's `metrics.json`, scores and a picture next to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.calibration import Method, Piecewise, Platt
from mimn.data.labelled import Labelled
from mimn.data.prepared import Prepared
from mimn.evaluate import save_predictions
from mimn.impressions.figures import RESAMPLES, Rows, figures
from mimn.impressions.progressive import Labels, progressive
from mimn.impressions.trained import Predicted, TrainedRun

HISTORY_EDGES = (0, 1, 20, 50, 100, 200, 500, 1000)
"""Slices by history: none, 1 to 19 events, 20 to 49 and so on."""
MOST_VALUES = 20
"""Of a context field, the values with the most impressions are slices."""
MOST_DAYS = 31
"""More days than these are grouped by month."""
PICTURE = "evaluation-{length}.png"

Mask = NDArray[np.bool_]


def evaluate(trained: TrainedRun, length: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The figures of the run on the latest `length` events before each test impression; also written into the run.

    Overall and by slice: history length, new and known items, values of context fields, and day after day.

    Raises:
        RunFault: the run's calibration is damaged.
    """
    predicted, calibration = trained.predict("test", length), trained.calibration()
    probabilities = {"raw": predicted.scores}
    if calibration is not None:
        probabilities["calibrated"] = calibration.apply(predicted.scores)
    if isinstance(calibration, Platt | Piecewise):
        method: Method = "platt" if isinstance(calibration, Platt) else "piecewise"
        probabilities["progressive"] = _progressive(trained, predicted, method, length)
    shown = trained.data.labelled.impressions
    users = shown.user_id[predicted.occasions.rows]
    rows = Rows(predicted.labels, predicted.scores, probabilities, users, predicted.weights)
    result: dict[str, Any] = {"overall": figures(rows, resamples), "slices": {}}
    for family, name, mask in slices(trained, predicted):
        result["slices"].setdefault(family, {})[name] = figures(rows.where(mask), resamples)
    save_predictions(
        trained.folder / run.PREDICTIONS.format(length=length),
        {name: values.astype(np.float32) for name, values in probabilities.items()},
    )
    draw(rows, result["slices"]["history"], trained.folder / PICTURE.format(length=length), trained.config.name)
    trained.record.setdefault("evaluation", {})[str(length)] = result
    run.write_json(trained.folder / run.METRICS, trained.record)
    return result


def _progressive(trained: TrainedRun, predicted: Predicted, method: Method, length: int) -> NDArray[np.float64]:
    """Probabilities by a calibrator that is fitted again before every day (month) of the test. [n]"""
    both = [trained.predict("validation", length), predicted]
    times = [trained.data.labelled.impressions.time_ms[one.occasions.rows] for one in both]
    past = Labels(
        np.concatenate([one.scores for one in both]),
        np.concatenate([one.labels for one in both]),
        np.concatenate([one.weights for one in both]),
        np.concatenate(times) + trained.window_ms,
    )
    return progressive(past, predicted.scores, times[1], (mask for _, _, mask in _days(times[1])), method)


def slices(trained: TrainedRun, predicted: Predicted) -> Iterator[tuple[str, str, Mask]]:
    """Family, name and rows of every slice that has any."""
    data, rows = trained.data.labelled, predicted.occasions.rows
    events = data.end[rows] - data.begin[rows]
    for low, high in zip(HISTORY_EDGES, (*HISTORY_EDGES[1:], None), strict=True):
        name = "0" if high == 1 else f"{low}+" if high is None else f"{low}-{high - 1}"
        mask = events >= low if high is None else (events >= low) & (events < high)
        if mask.any():
            yield "history", name, mask
    items, _ = trained.reader.candidates(rows)
    if trained.model.fields is not None:
        items = trained.model.fields.id_rows(items)
    known = items.numpy() > 0
    for name, mask in (("known", known), ("new", ~known)):
        if mask.any():
            yield "item", name, mask
    yield from _context(trained.data.prepared, data, rows)
    yield from _days(data.impressions.time_ms[rows])


def _context(prepared: Prepared, data: Labelled, rows: NDArray[np.int64]) -> Iterator[tuple[str, str, Mask]]:
    for name, field in prepared.description.fields.context.items():
        if field.kind != "categorical":
            continue
        codes = data.impressions.context[name][rows]
        found, counts = np.unique(codes, return_counts=True)
        for code in found[np.argsort(-counts, kind="stable")[:MOST_VALUES]].tolist():
            text = prepared.texts.get(name, {}).get(code, f"#{code:016x}") if code else "missing"
            yield f"context.{name}", text, codes == code


def _days(time_ms: NDArray[np.int64]) -> Iterator[tuple[str, str, Mask]]:
    times = time_ms.astype("datetime64[ms]")
    days = times.astype("datetime64[D]")
    if len(np.unique(days)) > MOST_DAYS:
        days = times.astype("datetime64[M]")
    for day in np.unique(days):
        yield "day" if days.dtype == "datetime64[D]" else "month", str(day), days == day


def draw(rows: Rows, by_history: dict[str, Any], path: Path, title: str) -> None:
    """Reliability, the scores' distribution, and AUC by history length, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for name, p in rows.probabilities.items():
        bins = metrics.reliability(rows.labels, p, rows.weights)
        seen = bins[bins[:, 1] > 0]  # a bin without clicks has no place on a log scale
        left.plot(seen[:, 0], seen[:, 1], marker=".", label=name)
        edges = np.logspace(-6, 0, 61)
        middle.hist(np.clip(p, 1e-6, 1.0), edges, weights=rows.weights, histtype="step", label=name)
    left.plot([1e-6, 1], [1e-6, 1], color="gray", linewidth=0.8)
    left.set(title=title, xlabel="mean predicted probability", ylabel="click rate", xscale="log", yscale="log")
    middle.set(xlabel="predicted probability", ylabel="impressions", xscale="log", yscale="log")
    left.legend()
    middle.legend()
    known = {name: of["auc"] for name, of in by_history.items() if "value" in of["auc"]}
    values = [auc["value"] for auc in known.values()]
    low = [auc["value"] - auc.get("low", auc["value"]) for auc in known.values()]
    high = [auc.get("high", auc["value"]) - auc["value"] for auc in known.values()]
    spread = np.maximum(np.array([low, high]).reshape(2, -1), 0.0)
    right.errorbar(range(len(known)), values, spread, fmt="o", capsize=3)
    right.set_xticks(range(len(known)), list(known))
    right.set(xlabel="events of history", ylabel="AUC")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
