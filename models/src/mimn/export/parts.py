"""What the exports of both kinds of bundle share: tables, fields, and what golden cases are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import copysign, exp, expm1, inf, nextafter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimn.baselines import ModelConfig
from mimn.bundle import ActionSpec, EmbeddingTable, FieldData, ItemTable, MemberIndex, Reads
from mimn.bundle.fields import FIRST, FieldSpec
from mimn.bundle.item_table import NO_TABLE
from mimn.bundle.members import MemberReads
from mimn.bundle.request_fields import FLOAT32_MAX, RequestFields, asked_for
from mimn.bundle.specs import IdKind
from mimn.calibration import UNCALIBRATED, Calibration
from mimn.nn.constants import item_vectors
from mimn.nn.model import ClickModel
from mimn.state.actions import NAMES, ActionName, Actions

Ids = NDArray[np.uint64]
GOLDEN_USERS, GOLDEN_EVENTS, GOLDEN_CANDIDATES = 4, 20, 9
REQUESTS = 20
"""Drawn requests whose encoding is compared."""
ROWS_AT_ONCE = 1 << 16


class ExportError(Exception):
    """A model that cannot become a bundle; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a training run says beside its model."""

    training: dict[str, Any] = field(default_factory=dict)
    """About the run, for readers of the manifest."""
    ids: IdKind = None
    """What the ids of its data set were."""
    codes: Mapping[str, Ids] = field(default_factory=dict)
    """Of listed fields: the codes of their values, rising."""
    table: ItemTable | None = None
    """Of items, for a model that reads it with its ledger."""
    members: MemberIndex | None = None
    """Of candidates, for a model with `member_reads`."""
    calibration: Calibration = UNCALIBRATED
    negatives_kept: float = 1.0
    """The share of unclicked impressions that training read, in the files and of the files."""


NO_RUN = RunFacts()


def tables(model: ClickModel, item_ids: Ids, category_ids: Ids) -> tuple[EmbeddingTable, EmbeddingTable]:
    """The embedding tables of items and categories.

    Raises:
        ExportError: ids that do not match the tables.
    """
    made = []
    for what, ids, table in (("item", item_ids, model.items), ("category", category_ids, model.categories)):
        if len(ids) + 1 != table.num_embeddings:
            raise ExportError(
                f"{len(ids)} {what} ids do not fit a table of {table.num_embeddings} rows (one more than ids): "
                "take the id files of the run that trained the model"
            )
        vectors = item_vectors(table.weight, model.fields) if what == "item" else table.weight.detach().numpy()
        if what == "category":
            columns = model.category_columns(torch.arange(len(vectors)))
            vectors = np.concatenate([vectors, columns.numpy()], -1)
        made.append(EmbeddingTable(ids, vectors))
        made[-1].check(f"{what}s")
    return made[0], made[1]


def field_data(model: ClickModel, codes: Mapping[str, Ids]) -> FieldData:
    """The fields of a model as a bundle has them; the model is in evaluation mode, without gradients.

    Raises:
        ExportError: the codes of a listed field are missing, or do not fit its table.
    """
    if model.fields is None:
        return FieldData()
    request, item = model.fields.request, model.fields.item
    for spec in request.specs:
        known = len(codes.get(spec.name, ()))
        if spec.listed and known != spec.rows - FIRST:
            raise ExportError(
                f"field {spec.name}: {known} values do not fit a table of {spec.rows} rows: take the files of the run "
                "that trained the model"
            )
    made = [request.table(spec.name).numpy() for spec in request.specs if spec.tabled]
    item_vectors = None
    if item.specs:
        every = torch.split(torch.arange(model.items.num_embeddings), ROWS_AT_ONCE)
        item_vectors = np.concatenate([_item_vectors(model, rows) for rows in every])
    return FieldData(
        (*request.specs, *item.specs),
        {spec.name: codes[spec.name] for spec in request.specs if spec.listed},
        np.concatenate(made) if made else np.empty((0, 1), np.float32),
        item_vectors,
    )


def _item_vectors(model: ClickModel, rows: torch.Tensor) -> NDArray[np.float32]:
    vectors = model.item_vector(rows)
    if vectors is None:
        raise ExportError("the model has no item fields")
    return np.asarray(vectors.numpy())


def reads_of(config: ModelConfig, facts: RunFacts) -> Reads | None:
    """What the head of a model with a ledger reads; None without one.

    Raises:
        ExportError: there is no table of items or no index of members, or it does not fit the model.
    """
    ledger, table, members = config.ledger, NO_TABLE, None
    if ledger is None:
        return None
    try:
        if config.read_groups:
            if facts.table is None:
                raise ExportError("a model with a ledger is exported with the table of items of its run")
            table = facts.table
            table.check()
            if table.types.shape[1] != len(config.ledger_types):
                raise ExportError(
                    f"the table of items has {table.types.shape[1]} kinds of types, not {config.ledger_types}"
                )
        if config.member_reads:
            if facts.members is None:
                raise ExportError("a model with member_reads is exported with the index of members of its run")
            facts.members.check(ledger)
            members = MemberReads(ledger, facts.members, config.member_half_lives)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return Reads(ledger, table, config.read_groups, members)


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


GIVEN_AND_KNOWN = ((0.9, 0.9), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
"""Of each four drawn requests: the chance that a field has a value, and that training knew it."""
BEYOND = 0.1
"""The share of drawn numbers that are moved by more than the width of their field's bounds."""
FURTHEST = 50.0
"""The largest logarithm of a drawn number."""
LIMITS = 16
"""Edges of one field whose encoding is compared, spread over all."""


def draw_requests(random: np.random.Generator, fields: RequestFields, count: int) -> list[dict[str, Any]]:
    """Requests with known, unknown and missing values. Each value is drawn by itself: none is a real user's request."""
    requests: list[dict[str, Any]] = []
    for number in range(count):
        given, known = GIVEN_AND_KNOWN[number % len(GIVEN_AND_KNOWN)]
        request: dict[str, Any] = {"user": {}, "context": {}}
        for spec in fields.specs:
            if asked_for(spec) and random.random() < given:
                request[spec.source][spec.name] = _draw_value(random, spec, known)
        requests.append(request)
    return requests


def limit_requests(fields: RequestFields) -> list[dict[str, Any]]:
    """Requests whose numbers lie at edges and bounds of their fields, just below them, and just above.

    There a number falls into another interval if its two readings differ in the last bit. Golden cases have none of
    these, because another machine's logarithm may have another last bit.
    """
    specs = [spec for spec in fields.specs if spec.kind == "numeric" and asked_for(spec)]
    values = {spec.name: list(_limits(spec)) for spec in specs}
    requests: list[dict[str, Any]] = []
    for at in range(max(map(len, values.values()), default=0)):
        request: dict[str, Any] = {"user": {}, "context": {}}
        for spec in specs:
            if at < len(values[spec.name]):
                request[spec.source][spec.name] = values[spec.name][at]
        requests.append(request)
    return requests


def _limits(spec: FieldSpec) -> Iterator[float]:
    every = np.array(spec.edges or spec.bounds or ())
    chosen = every[np.unique(np.linspace(0, len(every) - 1, LIMITS).round().astype(np.int64))] if len(every) else every
    for x in chosen.tolist():
        value = _before_transform(spec, x)
        for near in (nextafter(value, -inf), value, nextafter(value, inf)):
            if abs(near) <= (1.0 if spec.past_rate else FLOAT32_MAX):
                yield near


def _before_transform(spec: FieldSpec, x: float) -> float:
    """The number that the field's transform makes x of, up to rounding; of a past rate at most 1, as of all rates."""
    if spec.past_rate:
        return exp(min(x, 0.0))
    return x if spec.transform == "none" else copysign(expm1(min(abs(x), FURTHEST)), x)


def _draw_value(random: np.random.Generator, spec: FieldSpec, known: float) -> Any:
    if spec.kind == "numeric" and spec.edges:
        at = int(random.integers(len(spec.edges) + 1))
        ends = (spec.edges[0] - 1.0, *spec.edges, spec.edges[-1] + 1.0)
        return _before_transform(spec, ends[at] / 2 + ends[at + 1] / 2)
    if spec.kind == "numeric":
        x = random.normal(spec.mean, spec.deviation)
        if spec.bounds is not None and random.random() < BEYOND:
            x += float(random.choice((-1, 1))) * (1.0 + spec.bounds[1] - spec.bounds[0])
        drawn = _before_transform(spec, x)
        return drawn if spec.transform == "log" else round(drawn, 3)
    if spec.kind == "multi":
        return [_draw_category(random, spec, known) for _ in range(1 + int(random.integers(3)))]
    return _draw_category(random, spec, known)


def _draw_category(random: np.random.Generator, spec: FieldSpec, known: float) -> str | int:
    if random.random() < known and spec.whole:
        return int(random.integers(spec.rows - FIRST))
    if random.random() < known and spec.examples:
        return str(random.choice(spec.examples))
    return f"value-{random.integers(1000)}"


def golden_requests(
    random: np.random.Generator, fields: RequestFields
) -> tuple[NDArray[np.float32], NDArray[np.str_] | None]:
    """The requests of the golden users: encoded [n, K], and as JSON [n]; without fields [n, 0] and None."""
    if not fields.specs:
        return np.zeros((GOLDEN_USERS, 0), np.float32), None
    drawn = draw_requests(random, fields, GOLDEN_USERS)
    encoded = np.stack([fields.vector(**request).values for request in drawn])
    return encoded, np.array([json.dumps(request, sort_keys=True) for request in drawn])


@contextmanager
def evaluation(model: ClickModel) -> Iterator[None]:
    """`model` without dropout, batch statistics and gradients; its mode is restored afterwards."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)
