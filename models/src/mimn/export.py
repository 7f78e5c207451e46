"""Export: writes a trained model as a bundle, or nothing if the computations of the model disagree.

    python -m mimn.export --run RUN_FOLDER --output bundles --name retail --version 1
    python -m mimn.export --run RUN_FOLDER_OF_DIEN --events 1000 --output bundles --name retail-dien --version 1
    python -m mimn.export --again OLD_BUNDLE --weights model.safetensors --output bundles --name retail --version 1
    python -m mimn.export --untrained --items 3600 --categories 40 --output bundles --name random --version 1

A run of DIN or DIEN becomes a bundle of kind `sequence`, whose states are lists of a user's last events.

`--again` makes new graphs with the current code for a bundle that was exported before, and keeps its ids and training
record.

The untrained form has the sizes of a real bundle but meaningless scores: for load tests and for developing services.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimn.baselines import ModelConfig, model_config
from mimn.bundle import (
    ActionSpec,
    BlockSpec,
    BundleError,
    EmbeddingTable,
    Golden,
    IdSketch,
    ItemTable,
    ItemTableSpec,
    LedgerSpec,
    Reads,
    SketchSpec,
    StateSpec,
    load_bundle,
    write_bundle,
)
from mimn.bundle.golden import StepFunction
from mimn.bundle.item_table import STATISTICS
from mimn.bundle.manifest import LEDGER_RULE, SKETCH_RULE, check_countable
from mimn.config import ConfigError, MimnConfig, cell_layout, state_layout
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.checkpoint import CheckpointError, load_model, untrained
from mimn.nn.graphs import OPSET, head_graph, sequence_head_graph, step_graph
from mimn.nn.model import ClickModel, MimnModel
from mimn.parity import Graph, ParityError, check_parity
from mimn.reference import Reference
from mimn.sequence_parity import check_sequence_parity
from mimn.state.actions import NAMES, ActionName, Actions
from mimn.state.event_list import EventList
from mimn.state.layout import BlockType, LayoutError
from mimn.state.ledger import count_events, rest_of
from mimn.state.sketch import DAY_MS

Ids = NDArray[np.uint64]

MODEL_FILE, METRICS_FILE = "model.safetensors", "metrics.json"
ITEM_IDS_FILE, CATEGORY_IDS_FILE = "items.ids.npy", "categories.ids.npy"
GOLDEN_DRAWN, GOLDEN_USERS, GOLDEN_EVENTS, GOLDEN_CANDIDATES = 16, 4, 20, 9
EVENTS = 1000
"""T: how many events the lists of a sequence bundle keep."""
GOLDEN_TIMES = (1_700_000_000_000, 1_700_000_000_000 + 100 * DAY_MS)


class ExportError(Exception):
    """A model that cannot become a bundle; the message says why and what to do."""


def export_bundle(
    model: MimnModel,
    item_ids: Ids,
    category_ids: Ids,
    output: str | Path,
    *,
    name: str,
    version: str,
    state_dtype: BlockType = "float32",
    training: dict[str, Any] | None = None,
    table: ItemTable | None = None,
) -> Path:
    """Write the bundle `<output>/<name>/<version>` and return its path.

    Args:
        model: in any mode; it is not changed.
        item_ids, category_ids: [n] rising; id i has row i + 1 of the model's table.
        output: the folder of all bundles.
        name, version: of the bundle.
        state_dtype: how the recurrent part of a state is stored.
        training: information about the run for the manifest.
        table: of items, needed with a ledger.

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
    items, categories = _tables(model, item_ids, category_ids)
    layout, sketch = state_layout(config, state_dtype), config.sketch
    reads = _reads(config, table)
    actions = None if model.actions is None else model.actions.value
    with _evaluation(model):
        step_onnx, step_spec = None, None
        if config.variant != "ledger":
            step_onnx, step_spec = step_graph(model, cell_layout(config, state_dtype))
        head_onnx, head_spec = head_graph(model, layout)
        check_parity(model, layout, step_onnx, head_onnx)
        blocks = {name: value.numpy() for name, value in model.cell.initial_blocks().items()}
        blank = {block.name: np.zeros(block.shape, np.float32) for block in layout.blocks}
        initial = layout.round(layout.flatten(blank | blocks))
        reference = Reference(config, {key: value.numpy() for key, value in model.state_dict().items()}, state_dtype)
    return write_bundle(
        output,
        name=name,
        version=version,
        state=StateSpec(
            "ledger" if step_spec is None else "recurrent",
            tuple(BlockSpec(b.name, b.shape, b.dtype) for b in layout.blocks),
        ),
        step=step_spec,
        head=head_spec,
        step_onnx=step_onnx,
        head_onnx=head_onnx,
        initial_state=initial,
        items=items,
        categories=categories,
        ledger=None if reads is None else LedgerSpec(LEDGER_RULE, reads.ledger.buckets, reads.ledger.ways),
        item_table=None if reads is None else (ItemTableSpec(reads.groups, config.ledger_types), reads.table),
        golden=golden_cases(
            reference,
            (count_events if step_onnx is None else Graph(step_onnx), Graph(head_onnx)),
            (items, categories),
            initial,
            actions,
            ledger=reads,
        ),
        sketch=None
        if sketch is None
        else SketchSpec(SKETCH_RULE, sketch.category_cells, sketch.item_cells, sketch.half_lives),
        actions=action_specs(actions),
        context=config.context_features,
        opset=OPSET,
        model=asdict(config),
        training=training or {},
    )


def _reads(config: MimnConfig, table: ItemTable | None) -> Reads | None:
    if config.ledger is None:
        return None
    if table is None:
        raise ExportError("a model with a ledger is exported with the table of items of its run")
    try:
        table.check()
    except ValueError as error:
        raise ExportError(str(error)) from error
    if table.types.shape[1] != len(config.ledger_types):
        raise ExportError(f"the table of items has {table.types.shape[1]} kinds of types, not {config.ledger_types}")
    return Reads(config.ledger, table, config.read_groups)


def drawn_table(config: ModelConfig, item_ids: Ids, random: np.random.Generator) -> ItemTable | None:
    """A table of items with random values, for untrained models; None without a ledger."""
    if config.ledger is None:
        return None
    shape = len(item_ids) + 1
    return ItemTable(
        ids=item_ids,
        statistics=random.gamma(2.0, 1.0, (shape, len(STATISTICS))).astype(np.float32),
        types=random.integers(0, 9, (shape, len(config.ledger_types)), dtype=np.int32),
        vectors=random.normal(size=(shape, config.ledger_vectors)).astype(np.float32),
    )


def export_sequence(
    model: BaselineModel,
    item_ids: Ids,
    category_ids: Ids,
    output: str | Path,
    *,
    name: str,
    version: str,
    events: int = EVENTS,
    training: dict[str, Any] | None = None,
) -> Path:
    """Write the bundle `<output>/<name>/<version>` of DIN or DIEN, whose states are lists, and return its path.

    Args:
        model: in any mode; it is not changed.
        item_ids, category_ids: [n] rising; id i has row i + 1 of the model's table.
        output: the folder of all bundles.
        name, version: of the bundle.
        events: T, how many of a user's last events a list keeps.
        training: information about the run for the manifest.

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
    items, categories = _tables(model, item_ids, category_ids)
    for what, table in (("items", items), ("categories", categories)):
        check_countable(what, len(table.vectors))
    rule = EventList(events)
    with _evaluation(model):
        try:
            head_onnx, head_spec = sequence_head_graph(model)
        except TypeError as error:
            raise ExportError(f"{error}: export a run of variant 'din', 'dien', 'paper' or 'pooling'") from error
        check_sequence_parity(model, rule, head_onnx)
        golden = sequence_golden_cases(rule, Graph(head_onnx), (items, categories), actions)
    layout = rule.layout
    return write_bundle(
        output,
        name=name,
        version=version,
        state=StateSpec("sequence", tuple(BlockSpec(b.name, b.shape, b.dtype) for b in layout.blocks)),
        step=None,
        head=head_spec,
        step_onnx=None,
        head_onnx=head_onnx,
        initial_state=np.zeros(layout.floats, np.float32),
        items=items,
        categories=categories,
        golden=golden,
        actions=action_specs(actions),
        context=(),
        opset=OPSET,
        model=asdict(model.config),
        training=training or {},
    )


def _tables(model: ClickModel, item_ids: Ids, category_ids: Ids) -> tuple[EmbeddingTable, EmbeddingTable]:
    """The embedding tables of items and categories.

    Raises:
        ExportError: ids that do not match the tables.
    """
    tables = []
    for what, ids, table in (("item", item_ids, model.items), ("category", category_ids, model.categories)):
        if len(ids) + 1 != table.num_embeddings:
            raise ExportError(
                f"{len(ids)} {what} ids do not fit a table of {table.num_embeddings} rows (one more than ids): "
                "take the id files of the run that trained the model"
            )
        tables.append(EmbeddingTable(ids, table.weight.detach().numpy()))
        tables[-1].check(f"{what}s")
    return tables[0], tables[1]


def action_specs(actions: Actions | None) -> dict[ActionName, ActionSpec] | None:
    """The manifest's `actions`; None for a model to which all events are alike."""
    if actions is None:
        return None
    specs: dict[ActionName, ActionSpec] = {}
    for at in np.flatnonzero(actions.named).tolist():
        vector = None if actions.vector is None else actions.vector[at]
        learned = vector is not None and bool(vector.any())
        specs[NAMES[at]] = ActionSpec(
            float(actions.weight[at]), tuple(vector.tolist()) if learned and vector is not None else None
        )
    return specs


def draw_actions(random: np.random.Generator, actions: Actions | None, *shape: int) -> NDArray[np.uint8] | None:
    """Folded actions, each at least once; None for a model to which all events are alike."""
    if actions is None:
        return None
    folded = np.flatnonzero(actions.folded).astype(np.uint8)
    drawn = folded[random.integers(len(folded), size=shape)]
    drawn[..., : len(folded)] = folded
    return drawn


def draw_ids(random: np.random.Generator, table: EmbeddingTable, *shape: int) -> Ids:
    """Ids of the table, a tenth of them unknown."""
    known = table.ids[random.integers(len(table.ids), size=shape)] if len(table.ids) else np.zeros(shape, np.uint64)
    return np.where(random.random(shape) < 0.1, np.uint64(2**64 - 1), known)


def sequence_golden_cases(
    rule: EventList, head: Graph, tables: tuple[EmbeddingTable, EmbeddingTable], actions: Actions | None = None
) -> Golden:
    """Some histories, a tenth of their ids unknown, with their lists and the graph's scores for them."""
    items, categories = tables
    random = np.random.default_rng(0)
    history = [draw_ids(random, table, GOLDEN_USERS, GOLDEN_EVENTS) for table in tables]
    candidates = [draw_ids(random, table, GOLDEN_CANDIDATES) for table in tables]

    def vectors(item_rows: NDArray[np.intp], category_rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.concatenate([items.vectors[item_rows], categories.vectors[category_rows]], -1)

    asked = vectors(items.rows(candidates[0]), categories.rows(candidates[1]))
    states = np.zeros((GOLDEN_USERS, rule.layout.floats), np.float32)
    for t in range(GOLDEN_EVENTS):
        rows = [table.rows(ids[:, t]) for table, ids in zip(tables, history, strict=True)]
        states = rule.append(np.stack(rows, -1).astype(np.float32), states)

    def scores(state: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = rule.read(state)
        real = vectors(rows[:, 0], rows[:, 1]) if len(rows) else np.zeros((1, asked.shape[1]), np.float32)
        return head(asked, real, np.array([len(rows)]))

    return Golden(
        items=history[0],
        categories=history[1],
        states=states,
        candidate_items=candidates[0],
        candidate_categories=candidates[1],
        context=np.zeros((GOLDEN_USERS, 0), np.float32),
        scores=np.stack([scores(state) for state in states]),
        cold_scores=scores(np.zeros_like(states[0])),
        actions=draw_actions(random, actions, GOLDEN_USERS, GOLDEN_EVENTS),
    )


def golden_cases(
    reference: Reference,
    graphs: tuple[StepFunction, Graph],
    tables: tuple[EmbeddingTable, EmbeddingTable],
    initial: NDArray[np.float32],
    actions: Actions | None = None,
    *,
    ledger: Reads | None = None,
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
    config = reference.config
    sketch = None if config.sketch is None else IdSketch(config.sketch, categories, actions)
    done = None if done is None else done[clearest]
    words = 0 if ledger is None else ledger.ledger.words
    rest = rest_of(config.sketch, config.ledger)
    for t in range(GOLDEN_EVENTS):
        states[:, rest] = step(np.ascontiguousarray(events[clearest, t]), np.ascontiguousarray(states[:, rest]))
    candidates = draw_ids(random, items, GOLDEN_CANDIDATES), draw_ids(random, categories, GOLDEN_CANDIDATES)
    context = random.normal(size=(GOLDEN_USERS, len(config.context_features))).astype(np.float32)
    times = now = None
    reads: list[tuple[NDArray[Any], ...]] = [()] * GOLDEN_USERS
    if sketch is not None or ledger is not None:
        times = np.sort(random.integers(*GOLDEN_TIMES, size=(GOLDEN_USERS, GOLDEN_EVENTS)))
        times[:, ::6] -= 3 * DAY_MS  # some late
        now = np.array([GOLDEN_TIMES[1]] * GOLDEN_USERS) + random.integers(9 * DAY_MS, size=GOLDEN_USERS)
        for t in range(GOLDEN_EVENTS):
            ids = history[0][clearest, t], history[1][clearest, t]
            if sketch is not None:
                plain = states[:, : states.shape[1] - words]
                acts = np.zeros(GOLDEN_USERS, np.uint8) if done is None else done[:, t]
                sketch.sketch.add(plain, sketch.addresses(*ids), sketch.moments(times[:, t], acts))
            if ledger is not None:
                ledger.ledger.add(states, ledger.ledger.keys(ids[0]), times[:, t])
    if sketch is not None and now is not None:
        addresses = sketch.addresses(*candidates)
        reads = [(addresses, moment[np.newaxis]) for moment in sketch.sketch.moments(now)]

    def scores(
        state: NDArray[np.float32], row: NDArray[np.float32], read: tuple[NDArray[Any], ...], now_ms: int
    ) -> NDArray[np.float32]:
        seen = state[np.newaxis, : len(state) - words]
        of_ledger = [] if ledger is None else [ledger.read(ledger.ledger.of(state), candidates[0], now_ms)]
        return head(vectors(*candidates), seen, *read, *of_ledger, *([row[np.newaxis]] if len(row) else []))

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
    )


@contextmanager
def _evaluation(model: ClickModel) -> Iterator[None]:
    """`model` without dropout, batch statistics and gradients; its mode is restored afterwards."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


def export_any(
    model: ClickModel,
    item_ids: Ids,
    category_ids: Ids,
    output: Path,
    *,
    name: str,
    version: str,
    state_dtype: BlockType,
    events: int,
    training: dict[str, Any],
    table: ItemTable | None = None,
) -> Path:
    """The bundle of a model of any variant.

    Raises: as `export_bundle` and `export_sequence`.
    """
    if isinstance(model, BaselineModel):
        if state_dtype != "float32":
            raise ExportError(
                f"--state-dtype {state_dtype}: a list of events holds row numbers, which float16 would round away; "
                "leave it out"
            )
        return export_sequence(
            model, item_ids, category_ids, output, name=name, version=version, events=events, training=training
        )
    if not isinstance(model, MimnModel):
        raise TypeError(f"{type(model).__name__} is a kind of model that export does not know")
    return export_bundle(
        model,
        item_ids,
        category_ids,
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        training=training,
        table=table,
    )


def export_run(
    run: Path, output: Path, name: str, version: str, state_dtype: BlockType, *, events: int = EVENTS
) -> Path:
    """Export the model in a training run's folder; returns the bundle's path.

    Raises:
        ExportError, ParityError, BundleError, LayoutError, CheckpointError: as the names say.
    """
    if not run.is_dir():
        raise ExportError(f"--run: {run} is not a folder: give the folder that the training command printed")
    model = load_model(run / MODEL_FILE)
    return export_any(
        model,
        _ids(run / ITEM_IDS_FILE),
        _ids(run / CATEGORY_IDS_FILE),
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        events=events,
        training=_metrics(run / METRICS_FILE),
        table=None if model.config.ledger is None else _item_table(run),
    )


def _item_table(folder: Path) -> ItemTable:
    try:
        return ItemTable.load(folder)
    except ValueError as error:
        raise ExportError(str(error)) from error


def export_again(old: Path, weights: Path, output: Path, *, name: str, version: str, state_dtype: BlockType) -> Path:
    """Export a bundle's model again with the current code, given the file with its weights; returns the new path.

    Raises:
        ExportError, ParityError, BundleError, LayoutError, CheckpointError: as the names say.
    """
    before = load_bundle(old)
    return export_any(
        load_model(weights),
        before.items.ids,
        before.categories.ids,
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        events=EventList.of(before.layout).capacity if before.manifest.state.kind == "sequence" else EVENTS,
        training=dict(before.manifest.training),
        table=None if before.reads is None else before.reads.table,
    )


def untrained_model(config: ModelConfig, items: int, categories: int, seed: int) -> ClickModel:
    """A model of `config` before training, with the given numbers of items and categories."""
    torch.manual_seed(seed)
    return untrained(config, items + 1, categories + 1)


def _ids(path: Path) -> Ids:
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as an array of ids: {error}") from error
    return np.asarray(ids).astype(np.uint64)


def _metrics(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    return metrics if isinstance(metrics, dict) else {"metrics": metrics}


def _config(path: Path | None) -> ModelConfig:
    if path is None:
        return MimnConfig()
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config: {path} cannot be read as TOML: {error}") from error
    return model_config(table.get("model", {}))


def _untrained(args: argparse.Namespace) -> ClickModel:
    return untrained_model(_config(args.config), args.items, args.categories, args.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mimn.export", description="Write a model as a bundle for serving.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="folder of a training run")
    source.add_argument("--again", type=Path, metavar="BUNDLE", help="a bundle whose model is exported again")
    source.add_argument("--untrained", action="store_true", help="a model with random weights")
    parser.add_argument("--output", type=Path, required=True, help="folder of all bundles")
    parser.add_argument("--name", required=True, help="name of the bundle")
    parser.add_argument("--version", required=True, help="version of the bundle; must not exist yet")
    parser.add_argument("--state-dtype", choices=("float32", "float16"), default="float32", help="(default: float32)")
    parser.add_argument(
        "--events", type=int, default=EVENTS, help=f"DIN and DIEN: last events that a list keeps (default: {EVENTS})"
    )
    parser.add_argument("--weights", type=Path, help="with --again: the model.safetensors of the bundle's model")
    random = parser.add_argument_group("with --untrained")
    random.add_argument("--config", type=Path, help="TOML file with a [model] table (default: the default sizes)")
    random.add_argument("--items", type=int, default=3600, help="ids 1 to ITEMS (default: 3600)")
    random.add_argument("--categories", type=int, default=40, help="ids 1 to CATEGORIES (default: 40)")
    random.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args(arguments)
    if (args.again is None) != (args.weights is None):
        parser.error("--again and --weights go together: a bundle holds only graphs, not the weights")
    torch.set_num_threads(1)
    try:
        if args.run is not None:
            path = export_run(args.run, args.output, args.name, args.version, args.state_dtype, events=args.events)
        elif args.again is not None:
            path = export_again(
                args.again,
                args.weights,
                args.output,
                name=args.name,
                version=args.version,
                state_dtype=args.state_dtype,
            )
        else:
            model, ids = _untrained(args), np.arange(1, args.items + 1, dtype=np.uint64)
            path = export_any(
                model,
                ids,
                np.arange(1, args.categories + 1, dtype=np.uint64),
                args.output,
                name=args.name,
                version=args.version,
                state_dtype=args.state_dtype,
                events=args.events,
                training={"untrained": True, "seed": args.seed},
                table=drawn_table(model.config, ids, np.random.default_rng(args.seed)),
            )
    except (ExportError, ParityError, BundleError, LayoutError, ConfigError, CheckpointError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
