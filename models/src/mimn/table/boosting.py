"""Gradient boosting on what the whole raw history says of a candidate: measured against, never served.

It is given the values that a head reads of a ledger (`mimn.bundle.reads`), but of a ledger so large that no item has to
make room for another: counts, ages, gaps and types of every distinct item of the history, and vectors of all of them.
A state of constant size that is read as well as this has lost nothing by its size.

Train users are read with tables that leave their group out, as in training. The number of trees is the one with the
highest AUC on validation users, four negatives a positive. Values that only say when an item was sold are left out:
negatives that are drawn from a whole year give themselves away by them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from mimn import metrics
from mimn.baselines import ModelConfig
from mimn.data.instances import NEGATIVES, Candidates, Instances
from mimn.data.ledger_reads import LedgerReader, Questions, ledger_model, make_fold_tables, make_table
from mimn.data.negatives import Sampling
from mimn.data_set import DataSet

BOOSTING_ROW = "boosting"
"""Key of its rows in plans; what it reads is that of the data set's `pooling_ledger`."""
BOOSTING_NAME = "gradient boosting on the raw history"
BUCKETS = 1024
"""Of the ledger that it reads: room for 8,192 distinct items."""
HISTORIES_TOGETHER = 512
TREES, LEARNING_RATE, LEAVES, LEAST_ROWS, L2 = 400, 0.05, 31, 40, 5.0
EVERY = 10
"""The number of trees is a multiple of this."""


def boosting(
    config: ModelConfig, data: DataSet, instances: Instances, samplings: dict[Sampling, int], length: int
) -> tuple[dict[Sampling, NDArray[np.float32]], float]:
    """Fit it on the train users' instances at the latest `length` events and score the rows of `instances`.

    `config` has a ledger, whose size is not used. Returns the probability of each row of
    `instances.candidates(sampling, negatives)` by sampling, as `mimn.scoring.predict`, and the validation AUC.

    Raises:
        DataError: the items have no field of a kind of types.
        ValueError: the configuration has no ledger.
    """
    model = ledger_model(replace(config, ledger_buckets=BUCKETS))
    if model is None:
        raise ValueError("boosting reads what a ledger's configuration names: it needs ledger_buckets above 0")
    side = data.prepared.side("item")
    groups, tables = make_fold_tables(model, data.events, data.train_users, side)
    in_training = LedgerReader([model.reads(table) for table in tables], data.events, groups)
    later = LedgerReader([model.reads(make_table(model, data.events, data.train_users, side))], data.events)
    train, validation = data.instances.of("train"), data.instances.of("validation")
    sampling = train.samplings[0]
    classifier = HistGradientBoostingClassifier(
        max_iter=TREES,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST_ROWS,
        l2_regularization=L2,
        early_stopping=False,
        random_state=0,
    )
    unit_ms = data.events.unit_ms
    rows = train.candidates(sampling, NEGATIVES)
    classifier.fit(_values(in_training, unit_ms, train, rows, length), rows.label)
    rows = validation.candidates(sampling, NEGATIVES)
    stages = classifier.staged_predict_proba(_values(later, unit_ms, validation, rows, length))
    aucs = {
        trees: metrics.auc(rows.label, scores[:, 1].astype(np.float64))
        for trees, scores in enumerate(stages, 1)
        if trees % EVERY == 0
    }
    best = max(aucs, key=lambda trees: aucs[trees])
    found = {}
    for name, negatives in samplings.items():
        rows = instances.candidates(name, negatives)
        stages = classifier.staged_predict_proba(_values(later, unit_ms, instances, rows, length))
        found[name] = next(scores for trees, scores in enumerate(stages, 1) if trees == best)[:, 1].astype(np.float32)
    return found, aucs[best]


def _values(
    reader: LedgerReader, unit_ms: int, instances: Instances, candidates: Candidates, length: int
) -> NDArray[np.float32]:
    """What the reader reads for each row of an instance's candidates. → [r, R]"""
    items = candidates.item.reshape(len(instances), -1)
    lengths = np.minimum(instances.end - instances.begin, length)
    start, now = instances.end - lengths, instances.timestamp * unit_ms
    out = np.empty((*items.shape, reader.width), np.float32)
    order = np.argsort(lengths, kind="stable")
    for at in range(0, len(order), HISTORIES_TOGETHER):
        rows = order[at : at + HISTORIES_TOGETHER]
        asked = Questions(np.arange(len(rows)), lengths[rows], items[rows], now[rows])
        out[rows] = reader.read(start[rows], lengths[rows], asked)
    return out.reshape(-1, reader.width)
