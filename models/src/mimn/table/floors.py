"""Predictors without a network: what popularity and counting give. A model that stays below them has learnt nothing.

Each floor is fitted on the train users' instances and predicts for any rows; all read the same latest `length` events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mimn.data.events import Events
from mimn.data.instances import Candidates, Instances
from mimn.data.negatives import Sampling
from mimn.data.vocabulary import Vocabulary

FEATURES = ("item_popularity", "category_popularity", "item_count", "category_share", "last_category")
FLOORS = {
    "constant": (),
    "popularity": ("item_popularity",),
    "counts": ("item_popularity", "category_popularity", "item_count", "category_share"),
    "last_category": ("last_category",),
}
"""Each floor: a logistic regression on these features."""


@dataclass(frozen=True)
class FloorPrediction:
    """One floor's predictions for the rows of some instances."""

    name: str
    predictions: NDArray[np.float64]
    """[r], in the order of `Instances.candidates`."""


def features(
    events: Events, vocabulary: Vocabulary, instances: Instances, candidates: Candidates, length: int
) -> NDArray[np.float64]:
    """What counting knows of each candidate: [r, 5], in the order of `FEATURES`.

    log1p of the train events of its item and of its category, log1p of how often the item is among the latest `length`
    events of the history, the category's share of them, and whether the very last event has its category.
    """
    out = np.zeros((len(candidates.item), len(FEATURES)))
    out[:, 0] = np.log1p(vocabulary.popularity(candidates.item))
    out[:, 1] = np.log1p(vocabulary.category_popularity(candidates.category))
    for row, (i, item, category) in enumerate(
        zip(candidates.instance, candidates.item, candidates.category, strict=True)
    ):
        history = slice(max(int(instances.begin[i]), int(instances.end[i]) - length), int(instances.end[i]))
        categories = events.category_id[history]
        out[row, 2] = np.log1p(np.count_nonzero(events.item_id[history] == item))
        out[row, 3] = np.count_nonzero(categories == category) / len(categories)
        out[row, 4] = categories[-1] == category
    return out


def floor_predictions(
    events: Events,
    vocabulary: Vocabulary,
    train: Instances,
    other: Instances,
    *,
    sampling: Sampling,
    length: int,
) -> list[FloorPrediction]:
    """Every floor of `FLOORS`, fitted on `train` and predicting the rows of `other`."""
    fit_rows, rows = train.candidates(sampling), other.candidates(sampling)
    fit_features = features(events, vocabulary, train, fit_rows, length)
    other_features = features(events, vocabulary, other, rows, length)
    predictions = []
    for name, chosen in FLOORS.items():
        columns = [FEATURES.index(feature) for feature in chosen]
        if columns:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0))
            model.fit(fit_features[:, columns], fit_rows.label)
            predicted = model.predict_proba(other_features[:, columns])[:, 1]
        else:
            predicted = np.full(len(rows.label), fit_rows.label.mean())
        predictions.append(FloorPrediction(name, predicted))
    return predictions
