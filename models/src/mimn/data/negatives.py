"""How negatives are drawn: from which distribution, and which items a negative must not be.

Three distributions. `popularity` draws items in proportion to the train users' events of the whole data set: popularity
alone then says little, and the figure measures what a history adds. `uniform` draws from the train users' items, all
alike. `recent` draws in proportion to the train users' events of the four weeks before the target: over a whole year an
item that is out of season when the target happens gives itself away, and a model can gain from that alone.

Two exclusions. `basket` excludes the items of the target's own basket: right where people repeat, as in groceries,
since a negative may then be an item that the user bought before, as the positive may. `history` also excludes every
item in the user's history: right where nothing repeats, as with films. Every positive is new to its user there, so a
drawn item that is not new gives itself away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mimn.data.events import Events
from mimn.data.vocabulary import Vocabulary

Sampling = Literal["popularity", "uniform", "recent"]
Exclusion = Literal["basket", "history"]

RECENT_MS = 28 * 86_400_000
"""Four weeks."""


@dataclass(frozen=True)
class NegativeRule:
    """What the negatives of a data set are."""

    samplings: tuple[Sampling, ...] = ("popularity", "uniform")
    """Each instance has negatives of each. Training draws from the first, which also chooses the epoch."""
    exclude: Exclusion = "basket"

    def __post_init__(self) -> None:
        if "popularity" not in self.samplings or len(set(self.samplings)) != len(self.samplings):
            raise ValueError(
                f"samplings must be distinct and include 'popularity', which the tables compare, not {self.samplings}"
            )


class Pool:
    """The train users' items or events, to draw from by one sampling.

    With `recent`, the entries of a target at time t are the events in [t - 28 days, t): nothing at t or later.
    """

    def __init__(
        self, sampling: Sampling, events: Events, vocabulary: Vocabulary, train_users: NDArray[np.bool_]
    ) -> None:
        self.sampling = sampling
        self.entries = vocabulary.event_items
        """Places in `vocabulary.items`; each entry of a target's `spans` is equally likely."""
        self._times: NDArray[np.int64] | None = None
        self._recent = RECENT_MS // events.unit_ms
        if sampling == "uniform":
            self.entries = np.arange(len(vocabulary.items))
        elif sampling == "recent":
            times = events.timestamp[train_users[events.user_index]]
            # Events of one second are sorted by item, so that the order of users has no effect.
            order = np.lexsort([vocabulary.event_items, times])
            self._times, self.entries = times[order], vocabulary.event_items[order]

    def spans(self, timestamps: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First entry, and last + 1, that targets at `timestamps` [n] draw from; equal where there is no entry."""
        if self._times is None:
            return np.zeros(len(timestamps), np.int64), np.full(len(timestamps), len(self.entries))
        return (
            np.searchsorted(self._times, timestamps - self._recent, side="left"),
            np.searchsorted(self._times, timestamps, side="left"),
        )

    def draw(self, timestamps: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A place in `vocabulary.items` for each target, at random. [n] → [n]

        A target without entries of its own gets one of all entries.
        """
        entries = rng.integers(len(self.entries), size=len(timestamps))
        if self._times is not None:
            first, end = self.spans(timestamps)
            known = first < end
            entries[known] = rng.integers(first[known], end[known])
        drawn: NDArray[np.int64] = self.entries[entries]
        return drawn
