"""Evaluate a run on the test impressions: figures into the run's `metrics.json`, scores and a picture next to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.calibration import FROM_LABELS, Method, Prior
from mimn.data.labelled import Labelled
from mimn.data.prepared import Prepared
from mimn.evaluate import note_evaluation, save_predictions
from mimn.impressions.figures import RESAMPLES, Rows, figures
from mimn.impressions.later import LaterData
from mimn.impressions.measured import LATER, MEASURED
from mimn.impressions.progressive import Labels, progressive
from mimn.impressions.trained import Fitted, Predicted, RunFault, Scorer, TrainedRun
from mimn.training.disk import named_if_full

log = logging.getLogger("mimn.evaluate")

HISTORY_EDGES = (0, 1, 20, 50, 100, 200, 500, 1000)
"""Slices by history: none, 1 to 19 events, 20 to 49 and so on."""
SLICED = ("categorical",)
"""Kinds of context fields whose values are slices."""
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
        RunFault: the run's calibration is damaged, or may have been fitted on these impressions.
        DiskFull: what was found has no room.
    """
    fitted = trained.fitted()
    if fitted is not None and fitted.length not in (None, length):
        log.warning(
            "the calibrator was fitted to scores on the latest %d events, and these are on the latest %d: for a "
            "calibrator of them, calibrate with --length %d first",
            fitted.length,
            length,
            length,
        )
    predicted = trained.predict("test", length)
    shown = trained.data.labelled.impressions
    if fitted is not None and fitted.on is not None and fitted.on.validates(shown.time_ms[predicted.occasions.rows]):
        raise RunFault(
            f"the calibration of {trained.folder} was fitted on later data, to labels of the time of these test "
            "impressions, so it may know their clicks: calibrate again, without --on or on data with other cuts, or "
            f"measure on data whose `validate_until` is {fitted.on.validated_until} or later"
        )
    probabilities = probabilities_of(trained, predicted, length, fitted)
    users = shown.user_id[predicted.occasions.rows]
    rows = Rows(predicted.labels, predicted.scores, probabilities, users, predicted.weights)
    result: dict[str, Any] = {"overall": figures(rows, resamples), "slices": {}}
    for family, name, mask in slices(trained, predicted):
        result["slices"].setdefault(family, {})[name] = figures(rows.where(mask), resamples)
    if fitted is not None:
        result[MEASURED] = fitted.sha256
    predictions: dict[str, NDArray[Any]] = {
        "user_id": users.astype(np.uint64),
        "item_id": shown.item_id[predicted.occasions.rows].astype(np.uint64),
        "time_ms": shown.time_ms[predicted.occasions.rows],
        "label": predicted.labels,
        **{name: values.astype(np.float32) for name, values in probabilities.items()},
    }
    with named_if_full(trained.folder, "evaluate again"):
        folder = trained.folder if trained.later is None else trained.folder / LATER / trained.later.key
        folder.mkdir(parents=True, exist_ok=True)
        save_predictions(folder / run.PREDICTIONS.format(length=length), predictions)
        draw(rows, result["slices"]["history"], folder / PICTURE.format(length=length), trained.config.name)
        if trained.later is None:
            note_evaluation(trained.folder, length, result)
        else:
            _note_later(trained.folder, trained.later, length, result)
    return result


def _note_later(folder: Path, later: LaterData, length: int, found: dict[str, Any]) -> None:
    """Write figures of later data beside those of the run's own."""

    def noted(record: dict[str, Any]) -> None:
        kept = record.setdefault(LATER, {}).setdefault(later.key, msgspec.to_builtins(later) | {"evaluation": {}})
        kept["evaluation"][str(length)] = found

    run.update_json(folder / run.METRICS, noted)


def probabilities_of(
    scorer: Scorer, predicted: Predicted, length: int, fitted: Fitted | None
) -> dict[str, NDArray[np.float64]]:
    """The test scores as probabilities of each kind. [n] each

    `raw`: as they are; `prior`, if negatives were left out: corrected for that; `calibrated`, after `calibrate`; and
    `progressive`, if that was by a method that looks at labels.
    """
    rate = scorer.kept
    kinds = {"raw": predicted.scores}
    if rate < 1.0:
        kinds["prior"] = Prior(rate).apply(predicted.scores)
    if fitted is not None:
        kinds["calibrated"] = fitted.calibration.apply(predicted.scores)
        if fitted.asked in FROM_LABELS:
            kinds["progressive"] = _progressive(scorer, predicted, fitted.asked, length)
    return kinds


def _progressive(scorer: Scorer, predicted: Predicted, method: Method, length: int) -> NDArray[np.float64]:
    """Probabilities by a calibrator that is fitted again before every day (month) of the test. [n]"""
    both = [scorer.predict("validation", length), predicted]
    shown = scorer.data.labelled.impressions
    rows = np.concatenate([one.occasions.rows for one in both])
    past = Labels(
        np.concatenate([one.scores for one in both]),
        np.concatenate([one.labels for one in both]),
        np.concatenate([one.weights for one in both]),
        shown.time_ms[rows],
        shown.seen_ms[rows],
        shown.known_ms[rows],
    )
    train = scorer.data.rows("train")
    clicks = train[shown.label[train] == 1]
    time_ms = shown.time_ms[predicted.occasions.rows]
    return progressive(
        past,
        predicted.scores,
        time_ms,
        (mask for _, _, mask in _days(time_ms)),
        method=method,
        start=Prior(scorer.kept),
        delays_ms=shown.seen_ms[clicks] - shown.time_ms[clicks],
    )


def slices(trained: TrainedRun, predicted: Predicted) -> Iterator[tuple[str, str, Mask]]:
    """Family, name and rows of every slice that has any. The history is that of the log, whatever the model reads."""
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
    fields = prepared.description.fields.context
    columns = {f"context.{name}": of for name, of in data.impressions.context.items() if fields[name].kind in SLICED}
    columns |= {f"slice.{name}": of for name, of in data.impressions.slices.items()}
    for said, column in columns.items():
        name, codes = said.partition(".")[2], column[rows]
        found, counts = np.unique(codes, return_counts=True)
        for code in found[np.argsort(-counts, kind="stable")[:MOST_VALUES]].tolist():
            text = prepared.texts.get(name, {}).get(code, f"#{code:016x}") if code else "missing"
            yield said, text, codes == code


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
