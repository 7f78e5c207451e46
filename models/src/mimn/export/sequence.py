"""Export of DIN, DIEN and pooling over lists: bundles whose states are a user's last events."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import (
    About,
    BlockSpec,
    EmbeddingTable,
    FieldData,
    Golden,
    HeadData,
    StateData,
    StateSpec,
    write_bundle,
)
from mimn.bundle.manifest import check_countable
from mimn.export.parts import (
    GOLDEN_CANDIDATES,
    GOLDEN_EVENTS,
    GOLDEN_USERS,
    NO_RUN,
    REQUESTS,
    ExportError,
    Ids,
    RunFacts,
    action_specs,
    draw_actions,
    draw_ids,
    draw_requests,
    evaluation,
    field_data,
    golden_requests,
    limit_requests,
    tables,
)
from mimn.field_parity import check_fields_parity
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.graphs import OPSET, sequence_head_graph
from mimn.parity import Graph
from mimn.sequence_parity import check_sequence_parity
from mimn.state.actions import Actions
from mimn.state.event_list import EventList

EVENTS = 1000
"""T: how many events the lists of a sequence bundle keep."""


def export_sequence(
    model: BaselineModel,
    item_ids: Ids,
    category_ids: Ids,
    output: str | Path,
    *,
    name: str,
    version: str,
    events: int = EVENTS,
    facts: RunFacts = NO_RUN,
) -> Path:
    """Write the bundle `<output>/<name>/<version>` of DIN or DIEN, whose states are lists, and return its path.

    Args:
        model: in any mode; it is not changed.
        item_ids, category_ids: [n] rising; id i has row i + 1 of the model's table.
        output: the folder of all bundles.
        name, version: of the bundle.
        events: T, how many of a user's last events a list keeps.
        facts: what the run says beside its model.

    Raises:
        ExportError: a variant that cannot be served, ids that do not match the tables, `events` below 1, or actions
            that differ by more than being folded or not.
        ParityError: ONNX and PyTorch disagree; nothing is written.
        BundleError: the bundle exists already, or a vocabulary is too large for a list.
    """
    if events < 1:
        raise ExportError(f"a list of {events} events keeps nothing: keep at least 1")
    if model.config.ledger is not None:
        raise ExportError("a list of events goes without a ledger: train with ledger_buckets = 0")
    if model.actions is not None and not model.actions.plain:
        raise ExportError(
            "a list of events holds no actions, so a model that reads them differently cannot be served: give every "
            "action that is folded the weight 1 in `[actions]`, and train again"
        )
    actions = None if model.actions is None else model.actions.value
    items, categories = tables(model, item_ids, category_ids)
    for what, table in (("items", items), ("categories", categories)):
        check_countable(what, len(table.vectors))
    rule = EventList(events)
    with evaluation(model):
        fields = field_data(model, facts.codes)
        try:
            head = sequence_head_graph(model)
        except TypeError as error:
            raise ExportError(
                f"{error}: export a run of variant 'din' or 'dien', or of one with a state (models/README.md)"
            ) from error
        check_sequence_parity(model, rule, head.onnx)
        drawn = draw_requests(np.random.default_rng(1), fields.request, REQUESTS)
        check_fields_parity(model, fields, [*drawn, *limit_requests(fields.request)])
        golden = sequence_golden_cases(rule, Graph(head.onnx), (items, categories), fields, actions)
    layout = rule.layout
    return write_bundle(
        output,
        name,
        version,
        state=StateData(
            spec=StateSpec("sequence", tuple(BlockSpec(b.name, b.shape, b.dtype) for b in layout.blocks)),
            initial=np.zeros(layout.floats, np.float32),
            actions=action_specs(actions),
            ids=facts.ids,
        ),
        head=HeadData(
            graph=head,
            fields=fields,
            calibration=facts.calibration,
            negatives_kept=facts.negatives_kept,
        ),
        tables=(items, categories),
        golden=golden,
        about=About(opset=OPSET, model=asdict(model.config), training=facts.training),
    )


def sequence_golden_cases(
    rule: EventList,
    head: Graph,
    tables: tuple[EmbeddingTable, EmbeddingTable],
    fields: FieldData,
    actions: Actions | None = None,
) -> Golden:
    """Some histories, a tenth of their ids unknown, with their lists and the graph's scores for them."""
    items, categories = tables
    random = np.random.default_rng(0)
    history = [draw_ids(random, table, GOLDEN_USERS, GOLDEN_EVENTS) for table in tables]
    candidates = [draw_ids(random, table, GOLDEN_CANDIDATES) for table in tables]

    item_rows, category_rows = items.rows(candidates[0]), categories.rows(candidates[1])
    asked = np.concatenate([fields.asked_items(items).vectors[item_rows], categories.vectors[category_rows]], -1)
    context, requests = golden_requests(random, fields.request)
    states = np.zeros((GOLDEN_USERS, rule.layout.floats), np.float32)
    for t in range(GOLDEN_EVENTS):
        rows = [table.rows(ids[:, t]) for table, ids in zip(tables, history, strict=True)]
        states = rule.append(np.stack(rows, -1).astype(np.float32), states)

    def scores(state: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = rule.read(state)
        real = np.zeros((max(len(rows), 1), items.width + categories.width), np.float32)
        real[: len(rows), : items.width] = items.vectors[rows[:, 0]]
        real[: len(rows), items.width :] = categories.vectors[rows[:, 1]]
        return head(asked, real, np.array([len(rows)]), *([row[np.newaxis]] if len(row) else []))

    return Golden(
        items=history[0],
        categories=history[1],
        states=states,
        candidate_items=candidates[0],
        candidate_categories=candidates[1],
        context=context,
        scores=np.stack([scores(*case) for case in zip(states, context, strict=True)]),
        cold_scores=scores(np.zeros_like(states[0]), np.zeros_like(context[0])),
        actions=draw_actions(random, actions, GOLDEN_USERS, GOLDEN_EVENTS),
        requests=requests,
    )
