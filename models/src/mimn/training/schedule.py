"""When training ends, which epoch is kept and how fast the next one learns: functions of the curve so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mimn.training.settings import TrainingSettings


class Measure(msgspec.Struct, frozen=True):
    """What chooses the epoch."""

    name: str
    """A key of `Epoch.validation`."""
    higher_is_better: bool


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the curve."""

    loss: float
    """Mean weighted click loss over the epoch's labels, in nats; with fewer negatives kept, of those kept."""
    validation: dict[str, float]
    """Figures on the validation part, by name."""
    counts: dict[str, int]
    """What the epoch read, by name: `targets` and `events`, or `impressions`."""
    cpu_s: float
    """CPU seconds of the training passes of all processes, without validation."""

    def row(self) -> dict[str, Any]:
        """The epoch as `metrics.json` holds it, without levels."""
        validation = {f"validation_{name}": value for name, value in self.validation.items()}
        return {"loss": self.loss, **validation, **self.counts, "cpu_s": self.cpu_s}


@dataclass
class Schedule:
    """The curve of a run, and what follows from it. Epochs are numbered from 1; a warm run's start is epoch 0."""

    settings: TrainingSettings
    measure: Measure
    curve: list[Epoch] = field(default_factory=list)
    start: dict[str, float] | None = None
    """Of a warm run: figures on the validation part before the first step."""

    @property
    def validations(self) -> dict[int, dict[str, float]]:
        """Figures on the validation part, by the number of their epoch."""
        begun = {} if self.start is None else {0: self.start}
        return begun | {number: epoch.validation for number, epoch in enumerate(self.curve, 1)}

    @property
    def _goodness(self) -> dict[int, float]:
        sign = 1.0 if self.measure.higher_is_better else -1.0
        return {number: sign * found[self.measure.name] for number, found in self.validations.items()}

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, the first of equals; 0 also before there is any."""
        goodness = self._goodness
        return max(goodness, key=goodness.__getitem__, default=0)

    @property
    def best_auc(self) -> float:
        """AUC of the best epoch on the validation part; NaN where it is not among the figures."""
        return self.validations[self.best_epoch].get("auc", math.nan)

    @property
    def last_is_best(self) -> bool:
        """Whether there is an epoch after the start, and the last one is better than all before it."""
        return 0 < self.best_epoch == len(self.curve)

    @property
    def over(self) -> bool:
        """Whether training ends here: all epochs done, or `patience` of them without a better one."""
        done = len(self.curve)
        return done >= self.settings.most_epochs or done - self.best_epoch >= self.settings.patience

    @property
    def learning_rate(self) -> float:
        """Of the next epoch: lowered after every epoch, with `epochs = "auto"` after those that were not the best."""
        lowered = len(self.curve)
        if self.settings.epochs == "auto":
            best = -math.inf
            for number, found in self._goodness.items():
                lowered -= number > 0 and found > best
                best = max(best, found)
        return self.settings.learning_rate * self.settings.learning_rate_decay**lowered
