"""Fit a calibrator to a run's scores of the validation impressions, which training did not learn from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mimn import run
from mimn.baselines import state_bytes
from mimn.calibration import FROM_LABELS, UNCALIBRATED, Calibration, Method, fit
from mimn.impressions.long_histories import LONG_HISTORIES, long_histories
from mimn.impressions.measured import evaluation_of, note_measured, outdated
from mimn.impressions.trained import CALIBRATION, Fitted, RunFault, Scorer, TrainedRun
from mimn.training.disk import named_if_full

log = logging.getLogger("mimn.calibrate")
MANY = 0.01
"""Share of impressions with longer histories than are read, from which on it is said."""


def calibrate(trained: TrainedRun, method: Method, length: int, *, clock: Callable[[], float] = time.time) -> Fitted:
    """The calibrator by `method`, written into the run as `calibration.json`.

    `prior` undoes the down-sampling of negatives, in the files and in training, and looks at no impression.

    Raises:
        CalibrationError: it cannot be fitted; the file stays as it was.
        DiskFull: it has no room.
    """
    data = trained.data.labelled
    rows = trained.data.rows("validation")
    longer = float((data.end[rows] - data.begin[rows] > length).mean())
    if trained.config.history and longer >= MANY and state_bytes(trained.config.architecture) is not None:
        log.warning(
            "%.0f %% of the validation impressions have more than the latest %d events, which are read here; a served "
            "state has folded all: name a larger --length",
            100 * longer,
            length,
        )
    still = int((data.impressions.known_ms[rows] > clock() * 1000).sum())
    if method in FROM_LABELS and still:
        log.warning(
            "%d validation impressions can still be clicked, and count as unclicked until then: name an earlier "
            "`validate_until`",
            still,
        )
    read = length if method in FROM_LABELS else None
    on = trained.later if method in FROM_LABELS else None
    fitted = Fitted(method, calibrated(trained, method, length), read, on)
    replaced = _replaced(trained)
    with named_if_full(trained.folder, "calibrate again"):
        run.update_json(trained.folder / run.METRICS, lambda record: note_measured(record, replaced))
        run.write_json(trained.folder / CALIBRATION, fitted.told())
        note_long_histories(trained, fitted.calibration)
    for old in outdated(evaluation_of(run.finished(trained.folder), on), fitted):
        log.warning(
            "figures and predictions on the latest %s events are those of an earlier calibrator: evaluate again with "
            "%s--length %s",
            old,
            "" if on is None else "--on and ",
            old,
        )
    return fitted


def _replaced(trained: TrainedRun) -> Fitted | None:
    """The calibrator before this one; None also if its file is damaged, which calibrating again repairs."""
    try:
        return trained.fitted()
    except RunFault:
        return None


def note_long_histories(trained: TrainedRun, fitted: Calibration) -> None:
    """Write into the run's `metrics.json` what the calibrator makes of the longest histories, and warn if it is wrong
    there. Without a calibrator a score is no probability."""
    found = None if fitted == UNCALIBRATED else long_histories(trained, fitted)
    if found is not None and found.warning is not None:
        log.warning(found.warning)

    def noted(record: dict[str, Any]) -> None:
        record.pop(LONG_HISTORIES, None)
        if found is not None:
            record[LONG_HISTORIES] = msgspec.to_builtins(found)

    run.update_json(trained.folder / run.METRICS, noted)


def calibrated(scorer: Scorer, method: Method, length: int) -> Calibration:
    """The calibrator by `method` of what gives scores.

    Raises:
        CalibrationError: it cannot be fitted.
    """
    predicted = scorer.predict("validation", length)
    return fit(method, predicted.scores, predicted.labels.astype(float), predicted.weights, rate=scorer.kept)
