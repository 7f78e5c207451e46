"""Models with fields become bundles that score by the equations, on any state, under any head.

Export itself compares ONNX, PyTorch and the equations, and refuses a bundle in which they differ.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.write_bundles import (
    CATEGORY_IDS,
    CODES,
    ITEM_IDS,
    REQUEST_FIELDS,
    TINY_DIEN,
    TINY_DIN,
    WITH_FIELDS,
    tiny_model,
)
from loadtest.budgets.fields import export as export_of_budget
from mimn.baselines import BaselineConfig, ModelConfig
from mimn.bundle import load_bundle
from mimn.bundle.fields import FIRST, FieldEncoder, FieldSpec, Transform
from mimn.bundle.graph import open_head, open_step
from mimn.bundle.request_fields import RequestFields
from mimn.config import MimnConfig
from mimn.data.number_intervals import LOWEST
from mimn.export import ExportError, RunFacts, export_any
from mimn.export.parts import REQUESTS, draw_requests, evaluation, field_data, limit_requests
from mimn.field_parity import check_fields_parity, field_values
from mimn.nn.heads import HEADS
from mimn.nn.model import ClickModel
from mimn.parity import ParityError
from mimn.rows.library import library

pytestmark = pytest.mark.torch

MIMN = MimnConfig(embedding_dim=4, controller_units=6, slots=3, attention_units=(5, 3), head_units=(7, 5))
POOLING = MimnConfig.pooling(embedding_dim=4, history_product=True, head_units=(7, 5), sketch_category_cells=6)
NOT_COMPILED = ("afm", "pnn_inner")
SOME_ONLY = dict.fromkeys(set(HEADS) - {"deepfm", "afm", "dcn_v2"}, pytest.mark.full)
"""Heads that others stand for in `make test`."""
REQUEST = {"user": {"city": "Rome", "income": 3e4}, "context": {"hour": 5, "tags": ["7", "other"], "page": "p"}}


def exported(model: ClickModel, folder: Path, facts: RunFacts = WITH_FIELDS) -> Path:
    return export_any(
        model, ITEM_IDS, CATEGORY_IDS, folder, name="f", version="1", state_dtype="float32", events=9, facts=facts
    )


def with_head(config: MimnConfig | BaselineConfig, head: str) -> ModelConfig:
    return type(config).from_mapping(asdict(config) | {"head": head})


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(with_head(POOLING, head), marks=SOME_ONLY.get(head, ())) for head in ("paper", *HEADS)),
        with_head(MIMN, "dcn"),
        with_head(TINY_DIN, "deepfm"),
        with_head(TINY_DIEN, "wide_deep"),
        *(pytest.param(with_head(config, "paper"), marks=pytest.mark.full) for config in (MIMN, TINY_DIN, TINY_DIEN)),
        pytest.param(with_head(replace(POOLING, sketch_limit=2.0, count_limit=2.0), "deepfm"), marks=pytest.mark.full),
    ],
    ids=lambda config: f"{config.variant} {config.head}",
)
def test_fields_are_served_with_the_trained_numbers(config: ModelConfig, tmp_path: Path) -> None:
    model = tiny_model(config, with_fields=True)
    bundle = load_bundle(exported(model, tmp_path))
    head, step, golden = open_head(bundle), open_step(bundle), bundle.golden
    if library() is not None:
        assert head.compiled == (bundle.event_list is None and config.head not in NOT_COMPILED)
    golden.verify_request(bundle.request.vector)
    golden.verify_step(step, bundle.events, bundle.initial_state, bundle.sketch)
    golden.verify_head(head, bundle.candidates, bundle.initial_state, bundle.sketch)
    # The same by the code that evaluation runs, from raw values to a score.
    items, categories = golden.items[:1], golden.categories[:1]
    rows = [torch.from_numpy(table.rows(ids[0]).copy()) for table, ids in
            ((bundle.items, items), (bundle.categories, categories))]  # fmt: skip
    asked = [torch.from_numpy(table.rows(ids).copy()) for table, ids in
             ((bundle.items, golden.candidate_items), (bundle.categories, golden.candidate_categories))]  # fmt: skip
    if bundle.sketch is not None or bundle.event_list is not None:
        return  # their counters and lists are compared elsewhere
    with evaluation(model):
        score = model.scorer(rows[0].unsqueeze(0), rows[1].unsqueeze(0), torch.tensor([len(rows[0])]))
        vector = model.request_vector(field_values(REQUEST_FIELDS, CODES, REQUEST))
        assert vector is not None
        want = score(*(of.unsqueeze(0) for of in asked), context=vector.unsqueeze(0))[0].numpy()
    got = head(
        bundle.candidates(golden.candidate_items, golden.candidate_categories),
        golden.states[0],
        bundle.request.vector(**REQUEST).values,
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_head_with_fields_whose_budget_is_measured_is_compiled(tmp_path: Path) -> None:
    """Beside a ledger, and of the demo's sizes: what it multiplies is not rounded away from the graph's scores."""
    head = open_head(load_bundle(export_of_budget(tmp_path)))
    assert head.compiled == (library() is not None)


def test_an_item_without_an_embedding_of_its_own_has_the_unknown_items_and_its_fields(tmp_path: Path) -> None:
    bundle = load_bundle(exported(tiny_model(POOLING, with_fields=True), tmp_path))
    assert np.array_equal(bundle.items.vectors[9], bundle.items.vectors[0])
    assert not np.array_equal(bundle.asked_items.vectors[9], bundle.asked_items.vectors[0])
    assert np.array_equal(bundle.asked_items.vectors[:, -4:], bundle.items.vectors)


def test_the_values_of_another_run_are_refused(tmp_path: Path) -> None:
    facts = replace(WITH_FIELDS, codes={**CODES, "city": CODES["city"][:2]})
    with pytest.raises(ExportError, match="field city: 2 values do not fit a table of 5 rows"):
        exported(tiny_model(POOLING, with_fields=True), tmp_path, facts)
    assert not list(tmp_path.iterdir())


def test_tables_in_another_order_are_found_by_the_comparison() -> None:
    model = tiny_model(POOLING, with_fields=True)
    with evaluation(model):
        data = field_data(model, CODES)
    check_fields_parity(model, data, [REQUEST])
    named = r"field user.city: 'Rome' is \[.*\] in serving and \[.*\] in training\. That is a defect"
    with pytest.raises(ParityError, match=named):
        check_fields_parity(model, replace(data, vectors=data.vectors[::-1]), [REQUEST])


def test_an_interval_that_is_read_otherwise_is_found_at_its_edge_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a serving whose edges differ in the last bit, which drawn numbers do not show."""
    model = tiny_model(POOLING, with_fields=True)
    with evaluation(model):
        data = field_data(model, CODES)
    edges_and_bounds = limit_requests(data.request)
    drawn = draw_requests(np.random.default_rng(1), data.request, REQUESTS)
    check_fields_parity(model, data, [*drawn, *edges_and_bounds])
    interval = FieldEncoder.interval
    monkeypatch.setattr(FieldEncoder, "interval", lambda self, value: interval(self, float(np.nextafter(value, -1e9))))
    check_fields_parity(model, data, drawn)
    with pytest.raises(ParityError, match=r"field user.age: 18.0 is \["):
        check_fields_parity(model, data, edges_and_bounds)


def test_drawn_past_rates_are_shares() -> None:
    """Also those of a model whose mean rate is near 1: a program that reads the bundle refuses others."""
    rate = FieldSpec(
        name="r", source="user", kind="numeric", transform="log", past_rate=True, mean=-0.2, bounds=(-0.5, 0.0)
    )
    fields = RequestFields([rate], {}, np.zeros((0, 1), np.float32))
    drawn = [*draw_requests(np.random.default_rng(0), fields, 200), *limit_requests(fields)]
    values = [one["user"]["r"] for one in drawn if "r" in one["user"]]
    assert max(values) == 1.0
    assert min(values) > 0.0
    for one in drawn:
        fields.vector(**one)


@pytest.mark.parametrize("transform", ["none", "log1p"])
def test_golden_numbers_lie_inside_their_intervals_and_limits_on_both_sides(transform: Transform) -> None:
    """Another machine's logarithm, with another last bit, must not refuse a bundle."""

    def numeric(name: str, **changes: object) -> FieldSpec:
        plain = {"name": name, "source": "context", "kind": "numeric", "transform": transform}
        return FieldSpec(**(plain | changes))  # type: ignore[arg-type]

    edges = (0.0, 0.5, 7.0)
    specs = [
        numeric("a", rows=len(edges) + 1 + FIRST, edges=edges),
        numeric("one", rows=2 + FIRST, edges=(LOWEST,)),
        numeric("b", bounds=(-1.0, 2.0)),
    ]
    fields = RequestFields(specs, {}, np.zeros((sum(spec.rows for spec in specs), 1), np.float32))
    divided, limits = FieldEncoder(specs[0]), [one["context"] for one in limit_requests(fields)]
    drawn = [
        one["context"]["a"] for one in draw_requests(np.random.default_rng(0), fields, 100) if "a" in one["context"]
    ]
    assert {divided.interval(value) for value in drawn} == set(range(FIRST, specs[0].rows))
    apart = np.abs(divided.transformed(np.array(drawn))[:, None] - np.array(edges))
    assert apart.min() > 0.1
    assert {divided.interval(one["a"]) for one in limits if "a" in one} == set(range(FIRST, specs[0].rows))
    within = {FieldEncoder(specs[2]).transformed(np.array([one["b"]]))[0] for one in limits if "b" in one}
    assert min(within) <= -1.0
    assert max(within) >= 2.0
    for one in limits:
        fields.vector({}, one)
