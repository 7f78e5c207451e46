"""Two computations of DIN or DIEN must agree before a sequence bundle is written: `head.onnx` and PyTorch.

The PyTorch code is the one that training and evaluation use; it truncates nothing and computes nothing ahead. Scores
are compared at the lengths where something changes: no event, one event, the boundaries of the padded lengths, a full
list, and a list that has dropped events.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mimn.bundle.graph import LENGTHS, padded_length
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.fields import request_width
from mimn.parity import BATCHES, TOLERANCE, Graph, ParityError, with_item_fields
from mimn.state.event_list import EventList

PAST_CAPACITY = 5
"""By how many events the longest history exceeds T."""


def lengths(capacity: int) -> list[int]:
    """Lengths of the compared histories, rising; the last is longer than a list of `capacity`."""
    edges = (0, 1, 2, 7, LENGTHS[0], LENGTHS[0] + 1, LENGTHS[-1], LENGTHS[-1] + 1)
    return sorted({*(length for length in edges if length <= capacity), capacity, capacity + PAST_CAPACITY})


def check_sequence_parity(model: BaselineModel, rule: EventList, head_onnx: bytes) -> float:
    """The largest difference between the graph (on lists built by appending) and PyTorch (on the last events).

    Args:
        model: in evaluation mode.
        rule: of the lists.
        head_onnx: the graph.

    Raises:
        ParityError: a difference beyond the tolerance.
    """
    head, random, largest = Graph(head_onnx), np.random.default_rng(0), 0.0
    tables = model.items.num_embeddings, model.categories.num_embeddings
    for n, length in enumerate(lengths(rule.capacity)):
        events = np.stack([random.integers(rows, size=length) for rows in tables], -1)
        asked = np.stack([random.integers(rows, size=BATCHES[n % len(BATCHES)]) for rows in tables], -1)
        context = random.normal(size=(1, request_width(model.fields))).astype(np.float32)
        state = np.zeros((1, rule.layout.floats), np.float32)
        for event in events.astype(np.float32):
            state = rule.append(event[np.newaxis], state)
        got = _by_graph(model, head, (rule, state[0]), asked, context)
        want = by_pytorch(model, events[-rule.capacity :], asked, context)
        difference = np.abs(got - want) if got.shape == want.shape else np.full(1, np.inf)
        # In this form a NaN on either side also counts as a difference.
        if not bool(np.all(difference <= TOLERANCE * (1 + np.abs(want)))):
            raise ParityError(
                f"scores of {len(asked)} candidates after {length} events: ONNX and PyTorch differ by "
                f"{float(np.max(difference)):.3g}, allowed are {TOLERANCE:g} + {TOLERANCE:g} * |x|"
            )
        largest = max(largest, float(np.max(difference)))
    return largest


def by_pytorch(
    model: BaselineModel, events: NDArray[np.intp], asked: NDArray[np.intp], context: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The scores as evaluation computes them. Rows of the tables: [n, 2], [C, 2]; the request's fields [1, K] → [C]"""
    # A window needs an event; which one does not matter if no event is real.
    window = torch.from_numpy(events if len(events) else np.zeros((1, 2), np.intp)).unsqueeze(0)
    candidates = torch.from_numpy(asked).unsqueeze(0)
    with torch.no_grad():
        score = model.scorer(window[..., 0], window[..., 1], torch.tensor([len(events)]))
        known = {} if context is None or not context.size else {"context": torch.from_numpy(context)}
        scores: NDArray[np.float32] = score(candidates[..., 0], candidates[..., 1], **known)[0].numpy()
    return scores


def _by_graph(
    model: BaselineModel,
    head: Graph,
    history_of: tuple[EventList, NDArray[np.float32]],
    asked: NDArray[np.intp],
    context: NDArray[np.float32],
) -> NDArray[np.float32]:
    rule, state = history_of
    rows = rule.read(state)
    history = np.zeros((padded_length(len(rows), rule.capacity), model.config.width), np.float32)
    history[: len(rows)] = _vectors(model, rows)
    candidates = with_item_fields(model, _vectors(model, asked), asked[:, 0])
    return head(candidates, history, np.array([len(rows)]), *([context] if context.size else []))


def _vectors(model: BaselineModel, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    with torch.no_grad():
        vectors: NDArray[np.float32] = model.vectors(*torch.from_numpy(rows).unbind(-1)).numpy()
    return vectors
