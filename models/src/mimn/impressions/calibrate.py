"""Fit a calibrator to a run's scores of the validation impressions, which training did not learn from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mimn.calibration import Calibration, Method, fit
from mimn.impressions.trained import CALIBRATION, Scorer, TrainedRun
from mimn.whole_file import writing


def calibrate(trained: TrainedRun, method: Method, length: int) -> Calibration:
    """The calibrator by `method`, written into the run as `calibration.json`.

    `prior` undoes the down-sampling of negatives, in the files and in training, and looks at no impression.

    Raises:
        CalibrationError: it cannot be fitted; the file stays as it was.
    """
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
    with writing(path) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)))
