"""Export of a model whose state a step graph updates (MIMN, pooling, GRU4REC, …), or that has a ledger alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimn.baselines import BaselineConfig, folded_blocks, step_layout, user_layout
from mimn.bundle import (
    About,
    BlockSpec,
    EmbeddingTable,
    FieldData,
    Golden,
    HeadData,
    IdSketch,
    ItemTableSpec,
    LedgerSpec,
    MembersSpec,
    Reads,
    SketchSpec,
    StateData,
    StateSpec,
    write_bundle,
)
from mimn.bundle.golden import StepFunction
from mimn.bundle.specs import LEDGER_RULE, SKETCH_RULE
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
    reads_of,
    tables,
)
from mimn.field_parity import check_fields_parity
from mimn.nn.constants import initial_blocks
from mimn.nn.graphs import OPSET, StateModel, head_graph, step_graph
from mimn.parity import Graph, check_parity
from mimn.reference import StateReference
from mimn.reference_baselines import reference_of
from mimn.state.actions import Actions
from mimn.state.layout import BlockType
from mimn.state.ledger import count_events, rest_of
from mimn.state.sketch import DAY_MS

GOLDEN_DRAWN = 16
SLOTS_OF = 4
"""With other numbers of slots, onnxruntime adds up some rows of a wave in another order (decision 131)."""
GOLDEN_TIMES = (1_700_000_000_000, 1_700_000_000_000 + 100 * DAY_MS)


def export_bundle(
    model: StateModel,
    item_ids: Ids,
    category_ids: Ids,
    output: str | Path,
    *,
    name: str,
    version: str,
    state_dtype: BlockType = "float32",
    facts: RunFacts = NO_RUN,
) -> Path:
    """Write the bundle `<output>/<name>/<version>` and return its path.

    Args:
        model: in any mode; it is not changed.
        item_ids, category_ids: [n] rising; id i has row i + 1 of the model's table.
        output: the folder of all bundles.
        name, version: of the bundle.
        state_dtype: how the recurrent part of a state is stored.
        facts: what the run says beside its model.

    Raises:
        ExportError: a variant that cannot be served, or ids or a table of items that do not match the model.
        ParityError: ONNX, PyTorch and the equations disagree; nothing is written.
        BundleError: the bundle exists already.
        LayoutError: float16 with an odd number of recurrent values.
    """
    config = model.config
    if config.variant == "official":
        raise ExportError(
            "variant 'official' cannot be served: it reproduces published code whose padded steps run through the cell "
            "and whose channel output belongs to the last step, so a user's score is not a function of a folded state; "
            "train variant 'paper'"
        )
    if isinstance(config, BaselineConfig):
        _check_folded(config)
        columns = model.category_columns(torch.zeros(1, dtype=torch.int64)).shape[-1]
        if columns and model.actions is not None and not model.actions.plain:
            raise ExportError(
                f"variant {config.variant!r} finds its slot in the event's vector, which weights or vectors of actions "
                "would change: give every folded action the weight 1 in `[actions]`, and train again"
            )
    if config.context_features and model.fields is not None:
        raise ExportError("a model has context_features or fields: describe the features as fields, [fields.context]")
    items, categories = tables(model, item_ids, category_ids)
    layout, sketch = user_layout(config, state_dtype), config.sketch
    reads = reads_of(config, facts)
    actions = None if model.actions is None else model.actions.value
    with evaluation(model):
        fields = field_data(model, facts.codes)
        step = None if config.variant == "ledger" else step_graph(model, step_layout(config, state_dtype))
        head = head_graph(model, layout)
        check_parity(model, layout, None if step is None else step.onnx, head.onnx)
        drawn = draw_requests(np.random.default_rng(1), fields.request, REQUESTS)
        check_fields_parity(model, fields, [*drawn, *limit_requests(fields.request)])
        blank = {block.name: np.zeros(block.shape, np.float32) for block in layout.blocks}
        initial = layout.round(layout.flatten(blank | initial_blocks(model.cell)))
        reference = reference_of(config, {key: value.numpy() for key, value in model.state_dict().items()}, state_dtype)
        graphs = count_events if step is None else Graph(step.onnx), Graph(head.onnx)
        golden = golden_cases(
            reference,
            graphs,
            (items, categories),
            initial,
            fields=fields,
            actions=actions,
            ledger=reads,
            features=len(config.context_features),
        )
    counters = ledger = item_table = members = None
    if sketch is not None:
        counters = SketchSpec(SKETCH_RULE, sketch.category_cells, sketch.item_cells, sketch.half_lives)
    if reads is not None:
        ledger = LedgerSpec(LEDGER_RULE, reads.ledger.buckets, reads.ledger.ways)
        item_table = (ItemTableSpec(reads.groups, config.ledger_types), reads.table) if reads.groups else None
        members = (MembersSpec(reads.members.half_lives), reads.members.index) if reads.members else None
    return write_bundle(
        output,
        name,
        version,
        state=StateData(
            spec=StateSpec(
                "ledger" if step is None else "recurrent",
                tuple(BlockSpec(b.name, b.shape, b.dtype) for b in layout.blocks),
            ),
            initial=initial,
            step=step,
            sketch=counters,
            ledger=ledger,
            actions=action_specs(actions),
            ids=facts.ids,
        ),
        head=HeadData(
            graph=head,
            context=config.context_features,
            fields=fields,
            item_table=item_table,
            members=members,
            calibration=facts.calibration,
            negatives_kept=facts.negatives_kept,
        ),
        tables=(items, categories),
        golden=golden,
        about=About(opset=OPSET, model=asdict(config), training=facts.training),
    )


def _check_folded(config: BaselineConfig) -> None:
    if not folded_blocks(config):
        raise ExportError(f"variant {config.variant!r} reads the events themselves: it has no state of constant size")
    if config.form == "official":
        raise ExportError(
            f"form 'official' of variant {config.variant!r} cannot be served: it reads sums over padded windows, which "
            "no folded state gives; train form 'paper'"
        )
    if config.variant in ("rum", "delta") and config.slots % SLOTS_OF:
        raise ExportError(
            f"{config.slots} slots of variant {config.variant!r} cannot be served: a state's last bits would depend on "
            f"who else is folded in the same run; train with a multiple of {SLOTS_OF}"
        )


def golden_cases(
    reference: StateReference,
    graphs: tuple[StepFunction, Graph],
    tables: tuple[EmbeddingTable, EmbeddingTable],
    initial: NDArray[np.float32],
    *,
    fields: FieldData,
    actions: Actions | None,
    ledger: Reads | None,
    features: int = 0,
) -> Golden:
    """Some histories, a tenth of their ids unknown, with the states and scores that the graphs compute for them. Every
    folded action occurs in each.

    Several histories are drawn, and those with the clearest choice of interest channels are used, so that rounding on
    another processor cannot change the choice.
    """
    step, head = graphs
    items, categories = tables
    random = np.random.default_rng(0)

    def vectors(item_ids: Ids, category_ids: Ids) -> NDArray[np.float32]:
        item_rows, category_rows = items.rows(item_ids), categories.rows(category_ids)
        return np.concatenate([items.vectors[item_rows], categories.vectors[category_rows]], -1)

    history = (
        draw_ids(random, items, GOLDEN_DRAWN, GOLDEN_EVENTS),
        draw_ids(random, categories, GOLDEN_DRAWN, GOLDEN_EVENTS),
    )
    events = vectors(history[0].reshape(-1), history[1].reshape(-1)).reshape(GOLDEN_DRAWN, GOLDEN_EVENTS, -1)
    done = draw_actions(random, actions, GOLDEN_DRAWN, GOLDEN_EVENTS)
    if actions is not None and done is not None:
        events = actions.apply(events.reshape(-1, events.shape[-1]), done.reshape(-1)).reshape(events.shape)
    gaps = [reference.fold(user, reference.initial())[1] for user in events.astype(np.float64)]
    clearest = np.sort(np.argsort(gaps, kind="stable")[-GOLDEN_USERS:])

    states = np.tile(initial, (GOLDEN_USERS, 1))
    config = reference.shared
    sketch = None if config.sketch is None else IdSketch(config.sketch, categories, actions)
    done = None if done is None else done[clearest]
    words = 0 if ledger is None else ledger.ledger.words
    rest = rest_of(config.sketch, config.ledger)
    for t in range(GOLDEN_EVENTS):
        states[:, rest] = step(np.ascontiguousarray(events[clearest, t]), np.ascontiguousarray(states[:, rest]))
    candidates = draw_ids(random, items, GOLDEN_CANDIDATES), draw_ids(random, categories, GOLDEN_CANDIDATES)
    context, requests = golden_requests(random, fields.request)
    if features:
        context = random.normal(size=(GOLDEN_USERS, features)).astype(np.float32)
    times = now = None
    reads: list[tuple[NDArray[Any], ...]] = [()] * GOLDEN_USERS
    if sketch is not None or ledger is not None:
        times = np.sort(random.integers(*GOLDEN_TIMES, size=(GOLDEN_USERS, GOLDEN_EVENTS)))
        times[:, ::6] -= 3 * DAY_MS  # some late
        now = np.array([GOLDEN_TIMES[1]] * GOLDEN_USERS) + random.integers(9 * DAY_MS, size=GOLDEN_USERS)
        for t in range(GOLDEN_EVENTS):
            ids = history[0][clearest, t], history[1][clearest, t]
            if sketch is not None:
                acts = np.zeros(GOLDEN_USERS, np.uint8) if done is None else done[:, t]
                plain = states[:, : states.shape[1] - words]
                sketch.sketch.add(plain, sketch.addresses(*ids), sketch.moments(times[:, t], acts))
            if ledger is not None:
                ledger.ledger.add(states, ledger.ledger.keys(ids[0]), times[:, t])
    if sketch is not None and now is not None:
        addresses = sketch.addresses(*candidates)
        reads = [(addresses, moment[np.newaxis]) for moment in sketch.sketch.moments(now)]

    item_rows, category_rows = items.rows(candidates[0]), categories.rows(candidates[1])
    asked = np.concatenate([fields.asked_items(items).vectors[item_rows], categories.vectors[category_rows]], -1)

    def scores(
        state: NDArray[np.float32], row: NDArray[np.float32], read: tuple[NDArray[Any], ...], now_ms: int
    ) -> NDArray[np.float32]:
        seen = state[np.newaxis, : len(state) - words]
        of_ledger = [] if ledger is None else [ledger.read(ledger.ledger.of(state), candidates[0], now_ms)]
        return head(asked, seen, *read, *of_ledger, *([row[np.newaxis]] if len(row) else []))

    at = [0] * GOLDEN_USERS if now is None else now.tolist()

    return Golden(
        items=history[0][clearest],
        categories=history[1][clearest],
        states=states,
        candidate_items=candidates[0],
        candidate_categories=candidates[1],
        context=context,
        scores=np.stack([scores(*case) for case in zip(states, context, reads, at, strict=True)]),
        cold_scores=scores(initial, np.zeros_like(context[0]), reads[0], at[0]),
        times=times,
        now=now,
        actions=done,
        requests=requests,
    )
