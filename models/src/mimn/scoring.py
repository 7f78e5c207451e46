"""Predictions of a trained model for instances, each from exactly the latest events before it, and their metrics.

With a sketch, each history is added to counters one event at a time by the code that UIC uses: an offline score equals
the score that RTP serves for the same events.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn import metrics
from mimn.bundle.item_table import ItemTable
from mimn.data.events import Events
from mimn.data.instances import Candidates, Instances, target_rows
from mimn.data.ledger_reads import LedgerReader, Questions, ledger_model
from mimn.data.negatives import Sampling
from mimn.data.touches import addresses_of, times_ms
from mimn.data.vocabulary import EmbeddingIds
from mimn.data.windows import histories
from mimn.event_fields import RequestOf
from mimn.nn.model import ClickModel
from mimn.nn.sketch import folded_counters, read_counters, sketch_reader

HISTORIES_PER_BATCH = 128
LENGTH_EDGES = (20, 50, 100, 200, 500, 1000)
"""PCOC is given for histories of 20 to 49 events, 50 to 99 and so on."""


@torch.inference_mode()
def predict(
    model: ClickModel,
    ids: EmbeddingIds,
    events: Events,
    instances: Instances,
    *,
    samplings: dict[Sampling, int],
    length: int,
    share: slice = slice(None),
    request: RequestOf | None = None,
    table: ItemTable | None = None,
) -> dict[Sampling, NDArray[np.float32]]:
    """The click probability of each row of `instances.candidates(sampling, negatives)`, by sampling.

    `samplings` gives the number of negatives for each sampling; each history is read once for all of them. A prediction
    does not depend on the other rows or their order. `share` computes only some of the batches of histories, and leaves
    0 in the other rows. `request` gives the fields of user and context, for a model that reads fields;
    `table` is the table of items of the model's run, for a model with a ledger.

    Raises:
        ValueError: a model with a ledger is given no table.
    """
    model.eval()
    device = model.items.weight.device

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    item_rows, category_rows = ids.item_rows(events.item_id), ids.category_rows(events.category_id)
    rows = {sampling: instances.candidates(sampling, negatives) for sampling, negatives in samplings.items()}
    sketch, counter_reader, times = model.config.sketch, sketch_reader(model.config), times_ms(events)
    addresses = None if sketch is None else addresses_of(sketch, ids, events.item_id, events.category_id)
    reader, of_ledger = None, ledger_model(model.config)
    if of_ledger is not None:
        if table is None:
            raise ValueError("a model with a ledger is read with its table of items")
        reader = LedgerReader([of_ledger.reads(table)], events)
    out = {sampling: np.zeros((len(instances), negatives + 1), np.float32) for sampling, negatives in samplings.items()}
    targets = None if request is None else target_rows(events, instances)
    order = np.argsort(np.minimum(instances.end - instances.begin, length), kind="stable")
    for start in range(0, len(order), HISTORIES_PER_BATCH)[share]:
        chosen = order[start : start + HISTORIES_PER_BATCH]
        item, category, lengths = histories(
            instances.begin[chosen], instances.end[chosen], item_rows, category_rows, length
        )
        # The rows of each history's events; after the end of a history any row is fine.
        at = (instances.end[chosen] - lengths)[:, np.newaxis] + np.arange(item.shape[1])
        at = np.minimum(at, len(events) - 1)
        actions = None if events.action is None else events.action[at].astype(np.int64)
        score = model.scorer(
            tensor(item), tensor(category), tensor(lengths), actions=None if actions is None else tensor(actions)
        )
        counters = None
        if sketch is not None and addresses is not None:
            weights = None if model.actions is None else model.actions.value.weight[actions]
            counters = folded_counters(sketch, addresses[at], times[at], lengths, weights)
        known: dict[str, Tensor | None] = {}
        if request is not None and targets is not None:
            known["context"] = model.request_vector(request(targets[chosen]).to(device))
        for sampling, candidates in rows.items():
            shape = out[sampling].shape
            items, categories = candidates.item.reshape(shape)[chosen], candidates.category.reshape(shape)[chosen]
            if counter_reader is not None and counters is not None:
                cells, now = (
                    addresses_of(counter_reader.sketch, ids, items, categories),
                    instances.timestamp[chosen] * events.unit_ms,
                )
                known["counts"] = read_counters(counter_reader, counters, cells, now).to(device)
            if reader is not None:
                now = instances.timestamp[chosen] * events.unit_ms
                asked = Questions(np.arange(len(chosen)), lengths, items, now)
                known["reads"] = tensor(reader.read(instances.end[chosen] - lengths, lengths, asked))
            scores = score(
                tensor(ids.item_rows(items.reshape(-1)).reshape(items.shape)),
                tensor(ids.category_rows(categories.reshape(-1)).reshape(items.shape)),
                **known,
            )
            out[sampling][chosen] = scores.cpu().numpy()
    return {sampling: scores.reshape(-1) for sampling, scores in out.items()}


def figures(
    instances: Instances, candidates: Candidates, predictions: NDArray[np.float32] | NDArray[np.float64]
) -> dict[str, Any]:
    """Every figure of a record: AUC on protocol B and A, GAUC, logloss, normalized entropy, PCOC."""
    labels, scores = candidates.label, predictions.astype(np.float64)
    last = instances.last[candidates.instance]
    grouped = metrics.group_auc(labels, scores, candidates.user_id)
    events = (instances.end - instances.begin)[candidates.instance]
    by_length = {}
    for low, high in zip(LENGTH_EDGES, (*LENGTH_EDGES[1:], np.inf), strict=True):
        mask = (events >= low) & (events < high)
        if mask.any():
            by_length[f"{low}+"] = {"rows": int(mask.sum()), "pcoc": metrics.pcoc(labels[mask], scores[mask])}
    return {
        "rows": len(labels),
        "auc": metrics.auc(labels, scores),
        "auc_protocol_a": metrics.auc(labels[last], scores[last]),
        "gauc": grouped.value,
        "gauc_share": grouped.share,
        "logloss": metrics.logloss(labels, scores),
        "normalized_entropy": metrics.normalized_entropy(labels, scores),
        "pcoc": metrics.pcoc(labels, scores),
        "pcoc_by_history": by_length,
    }
