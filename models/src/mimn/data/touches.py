"""Events and candidates as the sketch sees them: which cells they add to, and when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimn.data.events import Events
from mimn.data.vocabulary import EmbeddingIds
from mimn.state.sketch import Sketch

Ints = NDArray[np.int64]


def addresses_of(sketch: Sketch, ids: EmbeddingIds, items: Ints, categories: Ints) -> Ints:
    """The cells of ids, whatever their shape. [...], [...] → [..., A]"""
    addresses = sketch.addresses_of(items.reshape(-1).astype(np.uint64), ids.category_rows(categories.reshape(-1)))
    return addresses.reshape(*items.shape, -1)


def times_ms(events: Events) -> Ints:
    """[n]: when each event happened, in ms, as in the log."""
    return events.timestamp * events.unit_ms
