"""When training ends, which epoch is kept and how fast the next one learns: functions of the curve so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from mimn.run import TrainingSettings


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
    """The curve of a run, and what follows from it."""

    settings: TrainingSettings
    measure: Measure
    curve: list[Epoch] = field(default_factory=list)

    @property
    def _goodness(self) -> list[float]:
        sign = 1.0 if self.measure.higher_is_better else -1.0
        return [sign * epoch.validation[self.measure.name] for epoch in self.curve]

    @property
    def best_epoch(self) -> int:
        """Index in the curve of the best epoch, the first of equals."""
        return int(np.argmax(self._goodness))

    @property
    def last_is_best(self) -> bool:
        """Whether the epoch that ended last is better than all before it."""
        return self.best_epoch + 1 == len(self.curve)

    @property
    def over(self) -> bool:
        """Whether training ends here: all epochs done, or `patience` of them without a better one."""
        done = len(self.curve)
        return done >= self.settings.most_epochs or (done > 0 and done - 1 - self.best_epoch >= self.settings.patience)

    @property
    def learning_rate(self) -> float:
        """Of the next epoch: lowered after every epoch, with `epochs = "auto"` after those that were not the best."""
        lowered = len(self.curve)
        if self.settings.epochs == "auto":
            found = self._goodness
            lowered -= sum(one > max(found[:at], default=-np.inf) for at, one in enumerate(found))
        return self.settings.learning_rate * self.settings.learning_rate_decay**lowered
