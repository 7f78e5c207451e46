"""Actions: what the user did to an item, and what that makes of the event.

    x = weight * (item vector ++ category vector) + vector

An action has either a weight, or weight 1 and a learned vector. The weight is also what the event adds to the counters
of a sketch. Training, evaluation, export and UIC use this one rule; the step graph reads its result and knows nothing
of actions. A candidate has no action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ActionName = Literal["unspecified", "view", "click", "cart", "favorite", "purchase"]
NAMES: tuple[ActionName, ...] = ("unspecified", "view", "click", "cart", "favorite", "purchase")
"""By number: enum Action of the behavior event, without its prefix."""
LARGEST_WEIGHT = 8.0
"""A counter holds float16 values and adds at most twice the weight at once (`mimn.state.sketch`). With this weight it
stops at 32,768, because the next values that float16 has are farther away than what is added."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Actions:
    """The actions that a model names, as arrays by number. A pure value."""

    named: NDArray[np.bool_]
    """[6]: whether the model names the action. An event with another action is not an event for this model."""
    weight: Floats
    """[6]: 0 where the action is not folded, or not named."""
    vector: Floats | None = None
    """[6, D]: added to the event's vector; None: no action has one."""

    @classmethod
    def of(cls, weights: Mapping[ActionName, float], vectors: Mapping[ActionName, Floats] | None = None) -> Actions:
        """Named actions with their weights, and the vectors [D] of those that have one."""
        named, weight = np.zeros(len(NAMES), np.bool_), np.zeros(len(NAMES), np.float32)
        for name, value in weights.items():
            named[NAMES.index(name)], weight[NAMES.index(name)] = True, value
        if not vectors:
            return cls(named, weight)
        vector = np.zeros((len(NAMES), len(next(iter(vectors.values())))), np.float32)
        for name, row in vectors.items():
            vector[NAMES.index(name)] = row
        return cls(named, weight, vector)

    @property
    def folded(self) -> NDArray[np.bool_]:
        """[6]: which actions are folded. One that is named and not folded is wanted noise: left out, and counted."""
        return self.weight > 0

    @cached_property
    def _folded_numbers(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.folded).tolist())

    def fold_all(self, actions: NDArray[np.integer]) -> bool:
        """Whether all of these numbers, which may be any, are of folded actions. [k]"""
        return self._folded_numbers.issuperset(actions.tolist())

    @property
    def plain(self) -> bool:
        """Whether all folded events are alike: the rule then changes no vector."""
        return self.vector is None and bool((self.weight[self.folded] == 1.0).all())

    def apply(self, vectors: Floats, actions: NDArray[np.integer]) -> Floats:
        """Events as the step graph reads them. [k, D], [k] numbers of folded actions → [k, D]"""
        events: Floats = vectors * self.weight[actions][:, np.newaxis]
        return events if self.vector is None else events + self.vector[actions]
