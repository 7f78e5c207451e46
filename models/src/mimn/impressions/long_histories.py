"""Whether probabilities hold for users with longer histories than training's windows.

A window shows a head the counts of at most one and a half times `windows.length` events. A served state has folded all
of a user's events, so its counts can be far above every count of training, and the head guesses there (decision 181).
"""

from __future__ import annotations

import msgspec
import numpy as np

from mimn.baselines import state_bytes
from mimn.calibration import Calibration
from mimn.data.labelled import Occasions
from mimn.impressions.trained import Scorer

MOST_IMPRESSIONS = 256
"""Those with the longest histories are looked at: each reads all of its events."""
MOST_EVENTS = 10_000
"""Of a history, the latest are read. More would take gigabytes for a few users."""
LONG_HISTORIES = "long_histories"
"""Where `metrics.json` has them."""
WITHIN = 2.0
"""The factor by which predicted and seen clicks may differ without a warning."""
DEVIATIONS = 2.0
"""And by how many standard deviations of a Poisson count, so that chance alone seldom gives a warning."""


class LongHistories(msgspec.Struct, frozen=True, kw_only=True):
    """Clicks of the validation impressions with the longest histories, read whole."""

    more_than: int
    """Events; shorter histories fit into a window of training."""
    impressions: int
    clicks: int
    predicted: float
    """The sum of their probabilities, with those that the files lack."""

    @property
    def warning(self) -> str | None:
        """What an operator has to know; None if predicted and seen clicks agree, as far as chance lets them."""
        factor = self.predicted / max(self.clicks, 1)
        apart = abs(self.predicted - self.clicks)
        chance = DEVIATIONS * max(self.predicted, self.clicks, 1.0) ** 0.5
        if (1 / WITHIN <= factor <= WITHIN) or apart <= chance:
            return None
        return (
            f"histories of more than {self.more_than} events, read whole: {self.predicted:.1f} clicks predicted and "
            f"{self.clicks} seen, a factor of {factor:.2g}, on {self.impressions} validation impressions. Training's "
            "windows show no such counts, and a served state has them: for these users take scores as an order and not "
            "as probabilities"
        )


def long_histories(scorer: Scorer, calibration: Calibration) -> LongHistories | None:
    """What `calibration` makes of the longest histories; None if all fit into training's windows, or no state is
    served."""
    config, data = scorer.config, scorer.data.labelled
    if not config.history or state_bytes(config.architecture) is None:
        return None
    rows, more_than = scorer.data.rows("validation"), config.windows.length * 3 // 2
    events = data.end[rows] - data.begin[rows]
    longest = np.argsort(-events, kind="stable")[:MOST_IMPRESSIONS]
    chosen = np.sort(rows[longest[events[longest] > more_than]])
    if not len(chosen):
        return None
    alone = Occasions(data, chosen, np.arange(len(chosen)), np.ones(len(chosen), np.int64))
    clicked = data.impressions.label[chosen] == 1
    weights = np.where(clicked, 1.0, 1.0 / scorer.kept_in_files)
    predicted = weights @ calibration.apply(scorer.scores(alone, MOST_EVENTS))
    return LongHistories(
        more_than=more_than, impressions=len(chosen), clicks=int(clicked.sum()), predicted=float(predicted)
    )
