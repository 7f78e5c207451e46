"""How long a history a head takes for real: as long as training shows it.

A window shows a head the counts of at most one and a half times `windows.length` events. A served state has folded all
of a user's events, so its counts can be far above every count of training, and what a head makes of them is a guess. So
a head reads a longer history as one of the longest that training shows often enough, of the same kind: its counters
are scaled down together (`mimn.nn.sketch`), which keeps their ratios, and the number of events ends there.

Training reads with the same limits, and so does `head.onnx`. They are no part of a state.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mimn.baselines import ModelConfig
from mimn.data.description import weights_of
from mimn.data.labelled import OccasionSampler
from mimn.impressions.data import ImpressionData
from mimn.state.actions import Actions

SHOWN = 0.99
"""The share of training's occasions with a history that are within the limits."""


def limited(model: ModelConfig, data: ImpressionData, sampler: OccasionSampler, seed: int) -> ModelConfig:
    """`model` with the limits that the windows of one epoch give; a limit that it names already stays.

    Args:
        sampler: of the train part's windows, those that training draws.
        seed: of the windows that are looked at.
    """
    if model.count_limit and (model.sketch_limit or model.sketch is None):
        return model
    first, behind = sampler.histories(np.random.default_rng(seed))
    counted = np.concatenate([[0.0], np.cumsum(_weights(data))])
    return replace(
        model,
        count_limit=model.count_limit or _usual(behind - first),
        sketch_limit=model.sketch_limit or (0.0 if model.sketch is None else _usual(counted[behind] - counted[first])),
    )


def _weights(data: ImpressionData) -> NDArray[np.float64]:
    """What each event adds to counters. [n]"""
    rules, action = data.prepared.description.action_rules, data.labelled.events.action
    if not rules or action is None:
        return np.ones(len(data.labelled.events))
    return Actions.of(weights_of(rules)).weight[action].astype(np.float64)


def _usual(shown: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """What `SHOWN` of the histories have at most; 0, which is no limit, if there are none."""
    some = shown[shown > 0]
    return float(np.quantile(some, SHOWN, method="higher")) if len(some) else 0.0
