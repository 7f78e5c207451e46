"""Which calibrator the figures of an evaluation are of: `calibrate` may have fitted another one since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimn.calibration import UNCALIBRATED
from mimn.impressions.later import LaterData
from mimn.impressions.trained import Fitted

LATER = "later"
"""Where `metrics.json` has the figures of later data, beside the `evaluation` of the run's own."""
MEASURED = "calibration_sha256"
"""Where an evaluation in `metrics.json` has the sha256 of the calibrator that it measured."""
KINDS = ("calibrated", "progressive")
"""The kinds of probabilities that depend on the calibrator; `progressive` on its method alone."""
NO_CALIBRATOR = Fitted("none", UNCALIBRATED)
"""What a run without a calibrator has: scores stay as they are."""


def evaluation_of(record: Mapping[str, Any], later: LaterData | None) -> Mapping[str, Any]:
    """What `metrics.json` says of some later data, or of the run's own, by length."""
    of_data = record if later is None else record.get(LATER, {}).get(later.key, {})
    found: Mapping[str, Any] = of_data.get("evaluation", {})
    return found


def outdated(evaluation: Mapping[str, Any], fitted: Fitted | None) -> list[str]:
    """The lengths whose evaluations are of another calibrator than `fitted`, the run's now.

    One without a calibrator has no such figures, and one of an earlier version does not say which it measured before
    `calibrate` notes it.
    """
    now = (fitted or NO_CALIBRATOR).sha256
    return [length for length, found in evaluation.items() if found.get(MEASURED, now) != now]


def note_measured(record: dict[str, Any], fitted: Fitted | None) -> None:
    """Note in evaluations of earlier versions which calibrator they measured: `fitted`, before another replaces it."""
    for found in record.get("evaluation", {}).values():
        if "calibrated" in found.get("overall", {}):
            found.setdefault(MEASURED, (fitted or NO_CALIBRATOR).sha256)


def overall(evaluation: Mapping[str, Any], fitted: Fitted | None) -> dict[str, Any]:
    """The figures of all test impressions by length, without those of another calibrator than `fitted`."""
    old = outdated(evaluation, fitted)
    return {
        length: {kind: of for kind, of in found["overall"].items() if kind not in KINDS}
        if length in old
        else found.get("overall")
        for length, found in evaluation.items()
    }
