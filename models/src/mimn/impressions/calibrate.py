"""Fit a calibrator to a run's scores of the validation impressions, which training did not learn from."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from mimn.baselines import state_bytes
from mimn.calibration import Calibration, Method, fit
from mimn.impressions.trained import CALIBRATION, Scorer, TrainedRun

log = logging.getLogger("mimn.calibrate")
MANY = 0.01
"""Share of impressions with longer histories than are read, from which on it is said."""


def calibrate(trained: TrainedRun, method: Method, length: int) -> Calibration:
    """The calibrator by `method`, written into the run as `calibration.json`.

    `prior` undoes the down-sampling of negatives, in the files and in training, and looks at no impression.

    Raises:
        CalibrationError: it cannot be fitted; the file stays as it was.
    """
    data = trained.data.labelled
    rows = trained.data.rows("validation")
    longer = float((data.end[rows] - data.begin[rows] > length).mean())
    if trained.config.history and longer >= MANY and state_bytes(trained.config.architecture) is not None:
        log.warning(
            "%.0f %% of the validation impressions have more than the latest %d events, which are read here; a served "
            "state has folded all: raise training.validation_length, or name a larger --length",
            100 * longer,
            length,
        )
    fitted = calibrated(trained, method, length)
    _write(trained.folder / CALIBRATION, fitted)
    return fitted


def calibrated(scorer: Scorer, method: Method, length: int) -> Calibration:
    """The calibrator by `method` of what gives scores.

    Raises:
        CalibrationError: it cannot be fitted.
    """
    predicted = scorer.predict("validation", length)
    return fit(method, predicted.scores, predicted.labels.astype(float), predicted.weights, rate=scorer.kept)


def _write(path: Path, calibration: Calibration) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)))
    partial.replace(path)
