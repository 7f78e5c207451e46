"""What a trained model predicts for impressions, each on exactly the latest events before it.

With a sketch, each history is added to counters one event at a time by the code that UIC folds with, and training-only
fields are missing: an offline score is the score that serving would give.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn.data.labelled import Occasions
from mimn.impressions.data import ImpressionReader
from mimn.nn.model import ClickModel
from mimn.nn.sketch import folded_counters, read_counters, sketch_reader

HISTORIES_PER_BATCH = 128


@torch.inference_mode()
def predict(
    model: ClickModel, reader: ImpressionReader, occasions: Occasions, length: int, share: slice = slice(None)
) -> NDArray[np.float64]:
    """The model's score of each impression in `occasions.rows`, on the latest `length` events before it. → [rows]

    The order of the impressions and the other impressions do not influence a score. `share` computes only some of the
    batches of histories, and leaves 0 in the other rows.
    """
    model.eval()
    device, counters = model.items.weight.device, sketch_reader(model.config)
    out = np.zeros(len(occasions.rows))
    past = np.minimum(occasions.end - occasions.begin, length)
    order = np.argsort(past, kind="stable")
    for at in range(0, len(order), HISTORIES_PER_BATCH)[share]:
        chosen = order[at : at + HISTORIES_PER_BATCH]
        history = reader.history(occasions.end[chosen] - past[chosen], past[chosen])
        events = (torch.from_numpy(of).to(device) for of in (history.items, history.categories, history.lengths))
        actions = None if history.actions is None else torch.from_numpy(history.actions).to(device)
        score = model.scorer(*events, actions=actions)
        width = int(occasions.size[chosen].max())
        impressions, real = occasions.impressions(chosen, width)
        items, categories = (rows.to(device) for rows in reader.candidates(impressions))
        known: dict[str, Tensor | None] = {}
        request = reader.request(impressions[:, 0], np.ones(len(chosen), np.bool_)).to(device)
        known["context"] = model.request_vector(request)
        if counters is not None and history.cells is not None:
            folded = folded_counters(counters.sketch, history.cells, history.times_ms, history.lengths, history.weights)
            now = occasions.labelled.impressions.time_ms[impressions[:, 0]]
            known["counts"] = read_counters(counters, folded, reader.cells(impressions), now).to(device)
        for name, read in (
            ("reads", reader.reads(impressions, length)),
            ("item_rates", reader.item_rates(impressions)),
        ):
            known[name] = None if read is None else read.to(device)
        scores = score(items, categories, **known).cpu().numpy()
        place = occasions.first[chosen, np.newaxis] + np.arange(width)
        out[place[real > 0]] = scores[real > 0]
    return out
