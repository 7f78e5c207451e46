"""Floors of the impression table: logistic regression and gradient boosting, measured against and never served.

They are given what a head reads of a candidate, and no embedding: the reads of its members in a ledger, the counters of
its category, and the fields with their past rates, all as of the impression. A plan's row says how much history that
is. With every event, and a ledger so large that no item makes room for another, it is the raw history: a state of
constant size that is read as well as this has lost nothing by its size.

The strength of the penalty, or the number of trees, is the one with the lowest log loss on the validation impressions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.calibration import Prior
from mimn.config import ConfigError
from mimn.data.labelled import Occasions
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.trained import Scorer
from mimn.nn.sketch import SketchReader, Touches, window_counts


class FloorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a row of a plan a floor."""

    learner: Literal["logistic_regression", "gradient_boosting"]
    fields: tuple[str, ...] | None = None
    """The fields that it reads; None: all that models read."""


PENALTIES = tuple(10.0**exponent for exponent in range(-5, 2))
"""C of the logistic regression, rising: the inverse of the penalty's strength."""
TREES, LEARNING_RATE, LEAVES, LEAST_ROWS, L2 = 300, 0.05, 4, 200, 5.0
EVERY = 10
"""The number of trees is a multiple of this."""
MOST_ROWS = 255
"""A field with more values than a tree can tell apart is left out of boosting."""
TOGETHER = 8
"""Histories that are counted together."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """What is said of n impressions."""

    numbers: NDArray[np.float32]
    """[n, Q]: reads, counters, then scalar fields and past rates."""
    rows: NDArray[np.int64]
    """[n, S]: of the tabled fields with one value, the row of each."""


class ValueReader:
    """Reads the values of impressions, by the same vocabulary and meaning of the fields as a model."""

    def __init__(self, data: ImpressionData, config: ImpressionConfig, fields: Collection[str] | None = None) -> None:
        """`fields`: the names of those that are read; None: all.

        Raises:
            ConfigError: there is no such field, or it is a list of values.
        """
        known, fitted = data.known_ids(config.min_count), data.fit_fields()
        self._sketch = config.architecture.sketch
        self._reader = ImpressionReader(data, known.ids, fitted, config)
        self._items = self._reader.item_values()
        single = [spec for spec in fitted.specs if spec.kind != "multi"]
        if unknown := sorted(set(fields or ()) - {spec.name for spec in single}):
            raise ConfigError(f"fields must be of {', '.join(spec.name for spec in single)}, not {unknown[0]}")
        of_item = [spec for spec in fitted.of("item") if not spec.tabled]
        self._rated = [place for place, spec in enumerate(of_item) if spec.past_rate]
        # Of all scalars, and of all with rows: those that are read.
        self._numbers, self._rows = (
            [fields is None or spec.name in fields for spec in single if spec.tabled == tabled]
            for tabled in (False, True)
        )

    def of(self, occasions: Occasions, length: int) -> Values:
        """The values of `occasions.rows`, on the latest `length` events before each. Lists of values are left out."""
        rows, reader = occasions.rows, self._reader
        items, _ = reader.candidates(rows)
        of_item, request = self._items.at(items), reader.request(rows, np.ones(len(rows), np.bool_))
        rates, reads = reader.item_rates(rows), reader.reads(rows, length)
        if rates is not None:
            of_item.numbers[:, self._rated] = rates
        scalars = torch.cat([request.numbers, of_item.numbers], -1)[:, self._numbers]
        numbers = [self._counters(occasions, length), scalars]
        return Values(
            torch.cat(numbers if reads is None else [reads, *numbers], -1).numpy(),
            torch.cat([request.rows, of_item.rows], -1)[:, self._rows].numpy(),
        )

    def _counters(self, occasions: Occasions, length: int) -> torch.Tensor:
        """What a head reads of the counters, from exact sums over the history. → [rows, R]"""
        if self._sketch is None:
            return torch.zeros((len(occasions.rows), 0))
        read = SketchReader(self._sketch)
        out = torch.zeros((len(occasions.rows), read.width))
        time_ms = occasions.labelled.impressions.time_ms
        past = np.minimum(occasions.end - occasions.begin, length)
        order = np.argsort(past, kind="stable")
        for at in range(0, len(order), TOGETHER):
            chosen = order[at : at + TOGETHER]
            history = self._reader.history(occasions.end[chosen] - past[chosen], past[chosen])
            width = int(occasions.size[chosen].max())
            impressions, real = occasions.impressions(chosen, width)
            touches = Touches(
                addresses=torch.from_numpy(history.cells),
                times=torch.from_numpy(history.times_ms),
                candidate_addresses=torch.from_numpy(self._reader.cells(impressions)[:, np.newaxis]),
                now=torch.from_numpy(time_ms[impressions[:, :1]]),
                weights=None if history.weights is None else torch.from_numpy(history.weights),
            )
            counts = read(window_counts(self._sketch, touches, torch.from_numpy(past[chosen, np.newaxis])))[:, 0]
            place = occasions.first[chosen, np.newaxis] + np.arange(width)
            out[torch.from_numpy(place[real > 0])] = counts[torch.from_numpy(real > 0)]
        return out


@dataclass(frozen=True)
class Chosen:
    """A fitted predictor, and how it was chosen."""

    predict: Any
    """From `Values` to probabilities. [n] → [n]"""
    said: str
    """What was chosen, for the page."""
    tried: int
    """How many predictors validation chose from."""
    place: int
    """Which of them it is, from 1."""
    parameters: int


@dataclass(frozen=True)
class Floor(Scorer):
    """A fitted floor."""

    config: ImpressionConfig
    data: ImpressionData
    reader: ValueReader
    chosen: Chosen
    cpu_s: float

    def scores(self, occasions: Occasions, length: int) -> Floats:
        """As `Scorer.scores`."""
        scores: Floats = self.chosen.predict(self.reader.of(occasions, length))
        return scores

    @property
    def training(self) -> dict[str, Any]:
        """As `Scorer.training`."""
        return {
            "commit": run.commit(),
            "cpu_s": round(self.cpu_s, 1),
            "epochs": self.chosen.tried,
            "best_epoch": self.chosen.place,
            "parameters": self.chosen.parameters,
            "chosen": self.chosen.said,
        }


def fit_floor(floor: FloorSettings, config: ImpressionConfig, data: ImpressionData) -> Floor:
    """Fit a floor on the train impressions, of the unclicked ones on the configured share.

    Raises:
        ConfigError: as `ValueReader`.
    """
    began, length = time.process_time(), config.training.validation_length
    reader, shown = ValueReader(data, config, floor.fields), data.labelled.impressions
    parts = [data.labelled.occasions(part, history=config.history) for part in ("train", "validation")]
    labels = [shown.label[part.rows].astype(np.int64) for part in parts]
    rng, kept = np.random.default_rng(config.training.seed), config.windows.negatives_kept
    some = (labels[0] == 1) | (rng.random(len(labels[0])) < kept)
    values, validation = (reader.of(part, length) for part in parts)
    train = Values(values.numbers[some], values.rows[some])

    def loss(scores: Floats) -> float:
        return metrics.logloss(labels[1], Prior(kept).apply(scores))

    choose = _logistic_regression if floor.learner == "logistic_regression" else _gradient_boosting
    weights = shown.weight[parts[0].rows][some].astype(np.float64)
    chosen = choose(train, labels[0][some], weights, _Validation(validation, loss))
    return Floor(config, data, reader, chosen, time.process_time() - began)


@dataclass(frozen=True)
class _Validation:
    values: Values
    loss: Callable[[Floats], float]


def _logistic_regression(train: Values, labels: NDArray[np.int64], weights: Floats, validation: _Validation) -> Chosen:
    """On standardized numbers, and a column for each value of a field."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    mean, deviation = train.numbers.mean(0, dtype=np.float64), train.numbers.std(0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)
    encoder = OneHotEncoder(handle_unknown="ignore").fit(train.rows) if train.rows.shape[1] else None

    def columns(values: Values) -> Any:
        numbers = csr_matrix((values.numbers - mean) / scale)
        return numbers if encoder is None else hstack([numbers, encoder.transform(values.rows)], format="csr")

    def fitted(penalty: float) -> Any:
        return LogisticRegression(C=penalty, max_iter=1000).fit(of_train, labels, weights)

    of_train, of_validation = columns(train), columns(validation.values)
    losses = [validation.loss(fitted(penalty).predict_proba(of_validation)[:, 1]) for penalty in PENALTIES]
    best = int(np.argmin(losses))
    model = fitted(PENALTIES[best])
    return Chosen(
        lambda values: model.predict_proba(columns(values))[:, 1],
        f"C = {PENALTIES[best]:g}",
        len(PENALTIES),
        best + 1,
        model.coef_.size + 1,
    )


def _gradient_boosting(train: Values, labels: NDArray[np.int64], weights: Floats, validation: _Validation) -> Chosen:
    from sklearn.ensemble import HistGradientBoostingClassifier

    few = np.array([len(np.unique(column)) <= MOST_ROWS for column in train.rows.T], np.bool_)
    numbers = train.numbers.shape[1]

    def columns(values: Values) -> NDArray[np.float32]:
        return np.concatenate([values.numbers, values.rows[:, few].astype(np.float32)], -1)

    of_train = columns(train)
    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST_ROWS,
        l2_regularization=L2,
        categorical_features=list(range(numbers, of_train.shape[1])),
        early_stopping=False,
        random_state=0,
    ).fit(of_train, labels, weights)

    def stages(values: Values) -> Iterator[Floats]:
        return (scores[:, 1] for scores in model.staged_predict_proba(columns(values)))

    losses = [validation.loss(scores) for scores in islice(stages(validation.values), EVERY - 1, None, EVERY)]
    best = int(np.argmin(losses)) + 1
    return Chosen(
        lambda values: next(islice(stages(values), best * EVERY - 1, None)),
        f"{best * EVERY} trees",
        len(losses),
        best,
        best * EVERY * LEAVES,
    )
