"""What callers of the scoring service will notice of another bundle, as far as the manifests and the
candidates that have members tell. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Manifest
from mimn.bundle.fields import FieldSpec
from mimn.bundle.manifest import HEAD
from mimn.bundle.request_fields import asked_for
from mimn.calibration import Calibration, Uncalibrated, sigmoid

_VALUES = {"categorical": "a category", "multi": "a list of categories", "numeric": "a number"}
_SCORES = sigmoid(np.linspace(-16.0, 16.0, 641))
"""At which calibrators are compared: in logits, because most click rates are far below 1 %."""
_SAME = 0.01
"""Up to this share of the smaller one, two click probabilities count as equal."""
_FEW = 0.5
"""Below this share of candidates that keep members, these may be of another table than was meant."""


def changes(old: Manifest, new: Manifest) -> Iterator[str]:
    """What is different in answers and requests once `new` serves in the place of `old`, a sentence each."""
    before, after = (not isinstance(one.calibration, Uncalibrated) for one in (old, new))
    if before and not after:
        yield "answers lose `calibrated: true`: a score orders candidates, and is no click probability any more"
    if after and not before:
        yield "answers get `calibrated: true`: a score is a click probability, and no longer of the size that it was"
    if before and after and old.files[HEAD] == new.files[HEAD]:  # another head gives the same request another score
        yield from _recalibrated(old.calibration, new.calibration)
    reads, will_read = _asked(old), _asked(new)
    if added := sorted(will_read.keys() - reads.keys()):
        yield f"requests may send {', '.join(added)}: a request without them is scored as one that lacks these values"
    if gone := sorted(reads.keys() - will_read.keys()):
        yield f"requests need not send {', '.join(gone)} any more: the new model ignores what they say"
    for name in sorted(reads.keys() & will_read.keys()):
        was, will_be = reads[name].kind, will_read[name].kind
        if was != will_be and (was, will_be) != ("categorical", "multi"):  # a category alone is as good as a list
            yield (
                f"requests must send {name}, if at all, as {_VALUES[will_be]} in the place of {_VALUES[was]}: until "
                "they do, and after a rollback, a value of the other kind is ignored, except that a whole number is "
                "also read as a category"
            )


def fewer_members(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> Iterator[str]:
    """That most candidates that stand for others no longer will; `old` and `new`: those of each bundle. [n], [m]"""
    kept = int(np.isin(old, new).sum())
    if kept < _FEW * len(old):
        yield (
            f"{len(old) - kept} of {len(old)} candidates lose their members and are scored as ones that stand for "
            f"nothing else ({len(new)} have members now): if they are still shown, export with the `[members]` that "
            "name them"
        )


def _recalibrated(old: Calibration, new: Calibration) -> Iterator[str]:
    """That another calibrator answers for the same head, by the score at which the two differ most."""
    was, will_be = old.apply(_SCORES), new.apply(_SCORES)
    apart = np.maximum(will_be, was) / np.minimum(will_be, was) - 1.0
    at = int(apart.argmax())
    if apart[at] > _SAME:
        yield (
            "answers are calibrated in another way: click probabilities may be of another size, most where the model "
            f"gives {_SCORES[at]:.2g}: {will_be[at]:.4g} in the place of {was[at]:.4g}"
        )


def _asked(manifest: Manifest) -> dict[str, FieldSpec]:
    """What a request may give, by its full name."""
    return {f"{spec.source}.{spec.name}": spec for spec in manifest.request_fields if asked_for(spec)}
